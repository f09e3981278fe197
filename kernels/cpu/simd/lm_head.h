/* Owns what both directions of the head share: how many rows' logits exist at a time, and the check
 * of targets. */
#ifndef HONE_KERNELS_CPU_SIMD_LM_HEAD_H
#define HONE_KERNELS_CPU_SIMD_LM_HEAD_H

#include "kernels/backend.h"

#define LM_HEAD_CHUNK_ROWS_MIN ((size_t)64)
#define LM_HEAD_CHUNK_ROWS_MAX ((size_t)1024)
#define LM_HEAD_CHUNK_FLOATS ((size_t)262144) /* 1 MiB of logits, if that is more rows */

/* Rows whose logits exist at a time where whole rows are needed. */
static inline size_t lm_head_chunk_rows(size_t vocab, size_t n_rows)
{
    size_t rows = LM_HEAD_CHUNK_FLOATS / vocab;

    rows = rows < LM_HEAD_CHUNK_ROWS_MIN ? LM_HEAD_CHUNK_ROWS_MIN : rows;
    rows = rows > LM_HEAD_CHUNK_ROWS_MAX ? LM_HEAD_CHUNK_ROWS_MAX : rows;
    return rows < n_rows ? rows : n_rows;
}

static inline enum status lm_head_check_targets(const struct lm_head_args *args)
{
    for (size_t row = 0; row < args->n_rows; row++) {
        if (args->targets[row] < 0 || (size_t)args->targets[row] >= args->vocab) {
            return status_set(STATUS_BAD_ARGUMENT, "target %d of row %zu is outside [0, %zu)",
                              args->targets[row], row, args->vocab);
        }
    }
    return STATUS_OK;
}

#endif
