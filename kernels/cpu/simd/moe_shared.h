/* Owns the shared experts of few rows, which threads take beside the routed ones (moe.c). */
#ifndef HONE_KERNELS_CPU_SIMD_MOE_SHARED_H
#define HONE_KERNELS_CPU_SIMD_MOE_SHARED_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/simd.h"

struct moe_shared_job {
    const struct moe_ffn_args *args; /* of a block's rows */
    struct moe_shared mlp;           /* of all rows */
    size_t row;                      /* where the block begins */
    const float *converted;          /* FP8: x of the block as products read it */
    size_t x_stride, h_stride;       /* words, as products read x and h */
};

/* Rows row .. row + n - 1 of the block. x: n x_stride of scratch; h: n rows of h_stride, and behind
 * MOE_ITEM_ROWS of these, unless the precision is F32, one row of floats. */
void ISA(moe_shared_rows)(const struct moe_shared_job *job, size_t row, size_t n, float *x,
                          float *h);

#endif
