/* Owns the embedding table's lookup and its gradient: one chain of additions per element over rows
 * ascending from the value already there, threads split over columns. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"

#include <string.h>

static void lookup_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct embedding_args *a = context;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        memcpy(a->out + row * a->out_stride, a->table + (size_t)a->ids[row] * a->d,
               a->d * sizeof(float));
    }
}

enum status ISA(op_embedding)(struct backend *backend, const struct embedding_args *args)
{
    struct embedding_args a = *args;

    cpu_run(backend, a.n_rows * a.d, lookup_task, &a);
    return STATUS_OK;
}

static void backward_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct embedding_backward_args *a = context;
    size_t begin, end;

    lanes_share(a->d, thread_index, n_threads, &begin, &end);
    for (size_t row = 0; row < a->n_rows; row++) {
        const float *src = a->d_out + row * a->d_out_stride;
        float *dst = a->d_table + (size_t)a->ids[row] * a->d;
        for (size_t j = begin; j < end; j++) {
            dst[j] += src[j];
        }
    }
}

enum status ISA(op_embedding_backward)(struct backend *backend,
                                       const struct embedding_backward_args *args)
{
    struct embedding_backward_args a = *args;

    cpu_run(backend, a.n_rows * a.d, backward_task, &a);
    return STATUS_OK;
}
