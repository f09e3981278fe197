/* Owns how weights lie before they are multiplied: precisions, panels, and the arguments of the op
 * that packs. Matrices and letters are those of kernels/backend.h. */
#ifndef HONE_KERNELS_OP_PACKING_H
#define HONE_KERNELS_OP_PACKING_H

#include <stdbool.h>
#include <stddef.h>

#define PANEL_COLUMNS ((size_t)32)

/* How a packed matrix holds its weights, and with it the arithmetic of the products that read it:
 *  F32   floats, as above.
 *  BF16  x and w rounded to bfloat16 (nearest even, subnormals to zero); each output one chain over
 *        ascending pairs of k, acc = fma(x_even, w_even, fma(x_odd, w_odd, acc)), results that are
 *        subnormal become zero (vdpbf16ps; cpu.md 5.8); then bias and y as with floats, flushed
 *        alike.
 *  FP8   E4M3 codes with power-of-two scales: blocks of 128 x 128 of a weight, tiles of 128 of a
 * row of x (model.md 10.2, 10.3). Blocks of 128 of k ascending: y = fma(chain, sx sw, y), the chain
 * over pairs as above, exact products; then bias and y as with floats. */
enum precision { PRECISION_F32, PRECISION_BF16, PRECISION_FP8 };
#define FP8_BLOCK ((size_t)128)

/* Floats of a matrix packed for gemm: panels of 32 columns, zero-padded: w[n / 32][k][n % 32]. */
size_t packed_floats(size_t n_in, size_t n_out);
/* The same for any precision, in words of 4 bytes, which all strides of packed matrices count.
 * BF16: w[n / 32][k / 2][n % 32][2]. FP8: each panel its scales, then the codes of 32 columns, pair
 * by pair of k. */
size_t packed_words(enum precision precision, size_t n_in, size_t n_out);
/* Words of the scales of an FP8 panel, or of a row of x that it multiplies: one each FP8_BLOCK of
 * k, in whole cache lines. */
static inline size_t packed_scale_words(size_t n_in)
{
    return ((n_in + FP8_BLOCK - 1) / FP8_BLOCK + 15) / 16 * 16;
}

/* Copies an (n_out, n_in) weight into panels. transposed: src is (n_in, n_out) instead.
 * panel_stride: words from one panel of dst to the next, 0 = adjacent; twice that interleaves two
 * matrices (gate and up of an expert). */
struct pack_args {
    const float *src;
    size_t src_stride;
    size_t n_in, n_out;
    bool transposed;
    float *dst;
    size_t panel_stride;
    enum precision precision; /* of dst; a transposed matrix is F32 or BF16 */
    /* What the values are rounded to before: packed as F32 they are then those that a product of
     * that precision multiplies. FP8: blocks of the whole weight, of whose `whole_rows` rows src
     * begins at `row_at` (whole_rows 0: src is all of it). */
    enum precision rounding;
    size_t row_at, whole_rows;
    /* FP8: scales are amax / 448 as it comes, as in V3's checkpoints, not powers of two (which the
     * products do not ask for). */
    bool has_float_scales;
};

#endif
