/* Owns rows of x as the tiles of BF16 and FP8 (gemm_pairs.c) read them: BF16 has its pairs; FP8 has
 * a scale each 128 of k, padded to whole cache lines, then the pairs of its rounded values. */
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/e4m3.h"
#include "kernels/cpu/simd/pairs.h"

#define PAIR_STORE (2 * SIMD_LANES) /* values that are stored at a time */

size_t ISA(gemm_row_words)(enum precision precision, size_t n_in)
{
    const size_t pairs = (n_in + PAIR_STORE - 1) / PAIR_STORE * SIMD_LANES * PAIR_WORDS;
    return cpu_padded_stride(pairs + (precision == PRECISION_FP8 ? packed_scale_words(n_in) : 0));
}

static void convert_bf16(const float *x, size_t n_in, float *row)
{
    size_t k = 0;
    for (; k + PAIR_STORE <= n_in; k += PAIR_STORE) {
        pairs_store(row + k / 2 * PAIR_WORDS, vec_load(x + k), vec_load(x + k + SIMD_LANES));
    }
    if (k < n_in) {
        const size_t n = lanes_left(k, n_in);
        const size_t n_second = n_in - k - n;
        pairs_store(row + k / 2 * PAIR_WORDS, vec_load_n(x + k, n),
                    n_second > 0 ? vec_load_n(x + k + SIMD_LANES, n_second) : vec_zero());
    }
}

/* x / scale rounded, n <= 128 values. */
static void convert_tile(const float *x, size_t n, f32x16 inverse, float *pairs)
{
    for (size_t k = 0; k < n; k += PAIR_STORE) {
        const size_t n_first = lanes_left(k, n);
        const size_t n_second = n - k > SIMD_LANES ? lanes_left(k + SIMD_LANES, n) : 0;
        const f32x16 first = lanes_load(x + k, n_first);
        const f32x16 second = n_second > 0 ? lanes_load(x + k + SIMD_LANES, n_second) : vec_zero();
        pairs_store(pairs + k / 2 * PAIR_WORDS, e4m3_round_scaled(vec_mul(first, inverse)),
                    e4m3_round_scaled(vec_mul(second, inverse)));
    }
}

/* Eight vectors, kept in registers from the largest magnitude to the rounding. */
static float convert_whole_tile(const float *x, float *pairs)
{
    f32x16 in[FP8_BLOCK / SIMD_LANES];
    f32x16 largest = vec_zero();
#pragma GCC unroll 8
    for (size_t i = 0; i < FP8_BLOCK / SIMD_LANES; i++) {
        in[i] = vec_load(x + i * SIMD_LANES);
        largest = vec_max(vec_abs(in[i]), largest);
    }
    const float scale = e4m3_scale(vec_hmax(largest));
    const f32x16 inverse = vec_set1(1.0F / scale);
#pragma GCC unroll 8
    for (size_t i = 0; i < FP8_BLOCK / SIMD_LANES; i += 2) {
        pairs_store(pairs + i / 2 * SIMD_LANES * PAIR_WORDS,
                    e4m3_round_scaled(vec_mul(in[i], inverse)),
                    e4m3_round_scaled(vec_mul(in[i + 1], inverse)));
    }
    return scale;
}

static void convert_fp8(const float *x, size_t n_in, float *row)
{
    float *const pairs = row + packed_scale_words(n_in);
    for (size_t k = 0; k < n_in; k += FP8_BLOCK) {
        float *const out = pairs + k / 2 * PAIR_WORDS;
        if (n_in - k >= FP8_BLOCK) {
            row[k / FP8_BLOCK] = convert_whole_tile(x + k, out);
        } else {
            const float scale = e4m3_scale(vec_hmax(e4m3_largest(vec_zero(), x + k, n_in - k)));
            const f32x16 inverse = vec_set1(1.0F / scale); /* exact: a power of two */
            row[k / FP8_BLOCK] = scale;
            convert_tile(x + k, n_in - k, inverse, out);
        }
    }
}

void ISA(gemm_convert)(enum precision precision, const float *x, size_t n_in, float *row)
{
    if (precision == PRECISION_FP8) {
        convert_fp8(x, n_in, row);
    } else {
        convert_bf16(x, n_in, row);
    }
}
