/* Owns the arguments of the matrix products: forward, back to the inputs, back to the weights and
 * to the biases. Their order of additions is stated in kernels/backend.h. */
#ifndef HONE_KERNELS_OP_PRODUCTS_H
#define HONE_KERNELS_OP_PRODUCTS_H

#include "kernels/op_packing.h"

#include <stdbool.h>
#include <stddef.h>

#define GEMM_K_BLOCK ((size_t)64) /* short chains round less; 256 cost a quarter more error */

/* y[b] (n_rows, n_out) = x[b] (n_rows, n_in) . w[b]^T (+ bias), for b < n_batch (heads);
 * accumulate: added to y instead. */
struct gemm_args {
    const float *x;
    size_t x_stride;
    const float *w;           /* packed, adjacent panels */
    enum precision precision; /* of w */
    const float *bias;        /* (n_out) or NULL */
    const float *next;        /* packed weights that will be read after these, a hint; or NULL */
    float *y;
    size_t y_stride;
    size_t n_rows, n_in, n_out;
    size_t n_batch;                   /* 0 counts as 1 */
    size_t x_batch, w_batch, y_batch; /* floats, of w words, from one batch to the next */
    bool accumulate;
};

/* Rows of a weight as they lie in memory, for products backward: w (n, n_in) meets columns at .. at
 * + n - 1 of dy. FP8 rounding: blocks of the whole weight, as in pack_args. */
struct gemm_dx_part {
    const float *w;
    size_t n, at;
    size_t row_at, whole_rows;
};
#define GEMM_DX_PARTS ((size_t)3)
/* dx[b] (n_rows, n_in) = dy[b] (n_rows, n_out) . w[b], w one behind the other the parts, ascending;
 * columns of dy that no part meets must be finite and count for nothing. Weights are packed inside,
 * piece by piece; the bits are those of gemm on a transposed copy that pack made whole.
 * is_transposed: the only part is (n_in, n_out), dx = dy . w^T. */
struct gemm_dx_args {
    const float *dy;
    size_t dy_stride;
    struct gemm_dx_part parts[GEMM_DX_PARTS];
    size_t n_parts;
    size_t w_stride;
    bool is_transposed, accumulate;     /* accumulate: added to dx instead */
    enum precision precision, rounding; /* of the product, F32 or BF16; of the values of w */
    float *dx;
    size_t dx_stride;
    size_t n_rows, n_in, n_out;
    size_t n_batch;                     /* 0 counts as 1; more: one part */
    size_t dy_batch, w_batch, dx_batch; /* a part's row_at grows by w_batch / w_stride */
};

/* dw[b] (n_out, n_in) += sum over rows ascending of dy[row]^T x[row]. BF16: dy and x rounded, rows
 * in pairs 2 i, 2 i + 1 of the call (a last one alone), each element the chain of such products
 * over pairs that starts from the value already there: a batch may be cut behind an even number of
 * rows without changing a bit. */
struct gemm_dw_args {
    const float *dy;
    size_t dy_stride;
    const float *x;
    size_t x_stride;
    float *dw;
    size_t dw_stride;
    size_t n_rows, n_in, n_out;
    size_t n_batch;
    size_t dy_batch, x_batch, dw_batch;
    enum precision precision; /* of the products: F32 or BF16 */
};

/* db (n) += sum over rows ascending of dy (n_rows, n). */
struct column_sums_args {
    const float *dy;
    size_t dy_stride;
    float *db;
    size_t n_rows, n;
};

#endif
