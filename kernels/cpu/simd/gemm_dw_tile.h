/* Owns the tiles of weight gradients: R outputs by V vectors of inputs whose R * V sums stay in
 * registers while rows, or pairs of rows, pass. Plain tiles read floats; paired ones read words of
 * two rounded values (pairs.h) and are called between flush_begin and flush_end. */
#ifndef HONE_KERNELS_CPU_SIMD_GEMM_DW_TILE_H
#define HONE_KERNELS_CPU_SIMD_GEMM_DW_TILE_H

#include "kernels/cpu/simd/simd.h"

#include <stddef.h>

/* Rows that will be read after these, asked for a few lines at a time while tiles compute. */
struct dw_fetch {
    const float *row; /* the next one */
    size_t stride, n_rows;
    size_t at, width; /* floats: of the row so far, and in all */
};

/* dw (n_out, n_in) += the sum over n_steps rows (or pairs) of dy^T x. */
struct dw_columns {
    const float *dy;
    size_t dy_stride;
    const float *x; /* paired: whole vectors exist */
    size_t x_stride;
    float *dw;
    size_t dw_stride;
    size_t n_steps, n_in, n_out;
    struct dw_fetch next[2];
};
void ISA(dw_columns)(struct dw_columns *columns);
void ISA(dw_pair_columns)(struct dw_columns *columns);

#endif
