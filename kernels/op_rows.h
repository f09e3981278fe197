/* Owns the arguments of ops that take the rows of a batch one by one: embeddings, norms, rotations,
 * the gated unit, and rows that are gathered or added. */
#ifndef HONE_KERNELS_OP_ROWS_H
#define HONE_KERNELS_OP_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* out[row] = table[ids[row]]; ids are in range (the caller checks). */
struct embedding_args {
    const float *table; /* (V, d) */
    const int32_t *ids;
    float *out;
    size_t out_stride;
    size_t n_rows, d;
};
/* d_table[ids[row]] += d_out[row], rows ascending. */
struct embedding_backward_args {
    const int32_t *ids;
    const float *d_out;
    size_t d_out_stride;
    float *d_table;
    size_t n_rows, d;
};

/* y = w * x * rstd, rstd = (mean(x^2) + eps)^(-1/2) (model.md 4.1), for each of n_heads pieces of d
 * that lie side by side in a row. In place is legal. */
struct rms_norm_args {
    const float *x;
    size_t x_stride;
    const float *w; /* (d) */
    float *y;
    size_t y_stride;
    float *rstd; /* (n_rows, n_heads), or NULL */
    size_t n_rows, d;
    size_t n_heads; /* 0 counts as 1 */
    float eps;
};
/* dx = (or +=, accumulate) the gradient, dw += it, a row's heads ascending before the next row. */
struct rms_norm_backward_args {
    const float *x;
    size_t x_stride;
    const float *w;
    const float *rstd;
    const float *dy;
    size_t dy_stride;
    float *dx;
    size_t dx_stride;
    float *dw; /* NULL: not wanted */
    size_t n_rows, d;
    size_t n_heads; /* 0 counts as 1 */
    bool accumulate;
};

/* y = w (x - mean) rstd + b, rstd = (mean((x - mean)^2) + eps)^(-1/2) (model.md 4.2); or in place.
 */
struct layer_norm_args {
    const float *x;
    size_t x_stride;
    const float *w, *b;
    float *y;
    size_t y_stride;
    float *mean, *rstd; /* (n_rows), or both NULL */
    size_t n_rows, d;
    float eps;
};
/* dx is assigned, dw and db are added to. */
struct layer_norm_backward_args {
    const float *x;
    size_t x_stride;
    const float *w;
    const float *mean, *rstd;
    const float *dy;
    size_t dy_stride;
    float *dx; /* may be dy */
    size_t dx_stride;
    float *dw, *db;
    size_t n_rows, d;
};

/* Rotates x[row][head][0..dr) in place by the angles of positions[row] (model.md 5.3); the pair
 * layout is kept. cos and sin are (max_position, dr / 2), already times attention_factor. inverse:
 * the transpose, for the backward pass. */
struct rope_args {
    float *x;
    size_t row_stride, head_stride;
    const int32_t *positions;
    const float *cos_table, *sin_table;
    size_t n_rows, n_heads, dr;
    bool interleaved; /* pairs (2i, 2i+1); else (i, dr/2 + i) */
    bool inverse;
};

/* h = silu(gate) * up. */
struct swiglu_args {
    const float *gate, *up;
    size_t in_stride; /* of both */
    float *h;
    size_t h_stride;
    size_t n_rows, f;
};
struct swiglu_backward_args {
    const float *gate, *up;
    size_t in_stride;
    const float *dh;
    size_t dh_stride;
    float *d_gate, *d_up;
    size_t d_stride;
    size_t n_rows, f;
};

/* dst[i] = src[rows[i]], or (scatter_add) dst[rows[i]] += src[i], i ascending. */
struct rows_args {
    const float *src;
    size_t src_stride;
    const int32_t *rows;
    float *dst;
    size_t dst_stride;
    size_t n_rows, d;
};

#endif
