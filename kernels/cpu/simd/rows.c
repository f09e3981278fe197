/* Owns moving rows by index: gather, and scatter with addition (source rows ascending, threads
 * split over columns, since two sources may name one destination). */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"

#include <string.h>

static void gather_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct rows_args *a = context;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        memcpy(a->dst + i * a->dst_stride, a->src + (size_t)a->rows[i] * a->src_stride,
               a->d * sizeof(float));
    }
}

enum status ISA(op_gather_rows)(struct backend *backend, const struct rows_args *args)
{
    struct rows_args a = *args;

    cpu_run(backend, a.n_rows * a.d, gather_task, &a);
    return STATUS_OK;
}

static void scatter_add_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct rows_args *a = context;
    size_t begin, end;

    lanes_share(a->d, thread_index, n_threads, &begin, &end);
    for (size_t i = 0; i < a->n_rows; i++) {
        const float *src = a->src + i * a->src_stride;
        float *dst = a->dst + (size_t)a->rows[i] * a->dst_stride;
        for (size_t j = begin; j < end; j++) {
            dst[j] += src[j];
        }
    }
}

enum status ISA(op_scatter_add_rows)(struct backend *backend, const struct rows_args *args)
{
    struct rows_args a = *args;

    cpu_run(backend, a.n_rows * a.d, scatter_add_task, &a);
    return STATUS_OK;
}
