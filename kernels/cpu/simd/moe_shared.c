/* Owns the shared experts' MLP on some rows, on the calling thread: the products and SwiGLU of a
 * dense MLP, so its bits. */
#include "kernels/cpu/simd/moe_shared.h"

#include "kernels/cpu/moe_group.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/swiglu.h"

#include <stdbool.h>

/* Rows of x as products read them; their stride to *stride. */
static const float *rows_of(const struct moe_shared_job *job, size_t row, size_t n, float *x,
                            size_t *stride)
{
    const struct moe_ffn_args *const args = job->args;
    *stride = job->x_stride;
    if (args->precision == PRECISION_F32) {
        *stride = args->x_stride;
        return args->x + row * args->x_stride;
    }
    if (args->precision == PRECISION_FP8) {
        return job->converted + row * job->x_stride;
    }
    for (size_t i = 0; i < n; i++) {
        ISA(gemm_convert)
        (args->precision, args->x + (row + i) * args->x_stride, args->d, x + i * job->x_stride);
    }
    return x;
}

/* gate and up -> h as the product by down reads it. spare: (f). */
static void hidden_rows(const struct moe_shared_job *job, const float *gate_up, size_t n, float *h,
                        float *spare)
{
    const bool is_plain = job->args->precision == PRECISION_F32;
    for (size_t i = 0; i < n; i++) {
        const float *const gate = gate_up + i * job->mlp.gate_up_stride;
        float *const at = h + i * job->h_stride;
        swiglu_row(gate, gate + job->mlp.up_at, is_plain ? at : spare, job->mlp.f);
        if (!is_plain) {
            ISA(gemm_convert)(job->args->precision, spare, job->mlp.f, at);
        }
    }
}

void ISA(moe_shared_rows)(const struct moe_shared_job *job, size_t row, size_t n, float *x,
                          float *h)
{
    const struct moe_ffn_args *const args = job->args;
    const struct moe_shared *const mlp = &job->mlp;
    float *const gate_up = mlp->gate_up + (job->row + row) * mlp->gate_up_stride;
    struct gemm_block up = {
        .w = mlp->w_gate_up,
        .next = mlp->w_down,
        .precision = args->precision,
        .y = gate_up,
        .y_stride = mlp->gate_up_stride,
        .n_rows = n,
        .n_in = args->d,
        .n_out = mlp->up_at + mlp->f,
    };
    up.x = rows_of(job, row, n, x, &up.x_stride);
    ISA(gemm_block)(&up);
    hidden_rows(job, gate_up, n, h, h + MOE_ITEM_ROWS * job->h_stride);
    const struct gemm_block down = {
        .x = h,
        .x_stride = job->h_stride,
        .w = mlp->w_down,
        .next = args->next,
        .is_fetched = true,
        .precision = args->precision,
        .y = args->y + row * args->y_stride,
        .y_stride = args->y_stride,
        .n_rows = n,
        .n_in = mlp->f,
        .n_out = args->d,
        .accumulate = true,
    };
    ISA(gemm_block)(&down);
}
