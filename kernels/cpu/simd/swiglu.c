/* Owns SwiGLU of the dense layers, row by row. */
#include "kernels/cpu/simd/swiglu.h"

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

/* An exponential and a division make an element worth this many flop. */
#define ELEMENT_WORK ((size_t)32)

static void swiglu_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct swiglu_args *const args = context;
    size_t row = 0;
    size_t row_end = 0;
    pool_share(args->n_rows, thread_index, n_threads, &row, &row_end);
    for (; row < row_end; row++) {
        swiglu_row(args->gate + row * args->in_stride, args->up + row * args->in_stride,
                   args->h + row * args->h_stride, args->f);
    }
}

enum status ISA(op_swiglu)(struct backend *backend, const struct swiglu_args *args)
{
    struct swiglu_args copy = *args;
    cpu_run(backend, ELEMENT_WORK * args->n_rows * args->f, swiglu_task, &copy);
    return STATUS_OK;
}

static void swiglu_backward_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct swiglu_backward_args *const args = context;
    size_t row = 0;
    size_t row_end = 0;
    pool_share(args->n_rows, thread_index, n_threads, &row, &row_end);
    for (; row < row_end; row++) {
        const float *const gate = args->gate + row * args->in_stride;
        const float *const up = args->up + row * args->in_stride;
        const float *const dh = args->dh + row * args->dh_stride;
        float *const d_gate = args->d_gate + row * args->d_stride;
        float *const d_up = args->d_up + row * args->d_stride;
        for (size_t i = 0; i < args->f; i += SIMD_LANES) {
            const size_t left = args->f - i;
            const size_t n = left < SIMD_LANES ? left : SIMD_LANES;
            const struct swiglu_gradient out = swiglu_gradient_vector(
                vec_load_n(gate + i, n), vec_load_n(up + i, n), vec_load_n(dh + i, n));
            vec_store_n(d_gate + i, out.d_gate, n);
            vec_store_n(d_up + i, out.d_up, n);
        }
    }
}

enum status ISA(op_swiglu_backward)(struct backend *backend,
                                    const struct swiglu_backward_args *args)
{
    struct swiglu_backward_args copy = *args;
    cpu_run(backend, ELEMENT_WORK * args->n_rows * args->f, swiglu_backward_task, &copy);
    return STATUS_OK;
}
