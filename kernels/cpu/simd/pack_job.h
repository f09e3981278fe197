/* Owns what the two halves of packing share: pack.c deals panels out to threads and copies plain
 * floats, pack_rounded.c makes the panels that are rounded or coded. */
#ifndef HONE_KERNELS_CPU_SIMD_PACK_JOB_H
#define HONE_KERNELS_CPU_SIMD_PACK_JOB_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/simd.h"

/* One matrix to pack. */
struct pack_job {
    struct pack_args args;
    enum precision rounding;
    size_t first_panel, n_panels;        /* of all jobs of a call, ascending */
    size_t first_scale, n_scales;        /* FP8 alone, like panels */
    size_t n_rows, n_columns;            /* of src as it is stored */
    size_t first_block, n_column_blocks; /* blocks of the whole weight that src touches */
    size_t panel_stride;                 /* words */
    float *scales;                       /* (row blocks, n_column_blocks); FP8 alone */
};

/* Everything but scales and what counts the jobs before. */
void ISA(pack_job_plan)(const struct pack_args *args, struct pack_job *out);
/* scales[index]. */
void ISA(pack_job_scale)(const struct pack_job *job, size_t index);
/* Panel `panel` of a job that rounds. */
void ISA(pack_job_panel)(const struct pack_job *job, size_t panel);

/* n columns from `column` on of n_k of k from `k` on, k-major, PANEL_COLUMNS apart: of a src that
 * has k along its rows, and of a transposed one. */
void ISA(pack_turn)(const struct pack_args *args, size_t column, size_t n, size_t k, size_t n_k,
                    float *dst);
void ISA(pack_rows)(const struct pack_args *args, size_t column, size_t n, size_t k, size_t n_k,
                    float *dst);

#endif
