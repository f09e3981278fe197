/* Owns the gradients of some rows of one expert: of dy to dh, of SwiGLU, to x, and what the
 * weights' gradients are products of. */
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/moe_backward.h"
#include "kernels/cpu/simd/swiglu.h"

#include <string.h>

static void ask_for(const float *row, size_t n)
{
    for (size_t i = 0; i < n; i += SIMD_LANES) {
        __builtin_prefetch(row + i, 0, 2);
    }
}

static void gather_item(const struct moe_backward_job *job, const struct moe_rows *rows,
                        const struct moe_item *item)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    for (size_t position = item->begin; position < item->end; position++) {
        const size_t row = job->groups.slot_at[position] / args->top_k;
        const size_t at = (position - rows->first) * job->stride_d;
        if (position + MOE_ROWS_AHEAD < item->end) {
            const size_t ahead = job->groups.slot_at[position + MOE_ROWS_AHEAD] / args->top_k;
            ask_for(args->x + ahead * args->x_stride, args->d);
            ask_for(args->dy + ahead * args->dy_stride, args->d);
        }
        memcpy(rows->x + at, args->x + row * args->x_stride, args->d * sizeof(float));
        memcpy(rows->dy + at, args->dy + row * args->dy_stride, args->d * sizeof(float));
    }
}

/* One slot: from dh (of the unweighted output) to d_weight, d_gate, d_up and the weighted h. */
static void slot_gradient(const struct moe_backward_job *job, const struct moe_rows *rows,
                          size_t position, const float *dh)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const size_t slot = job->groups.slot_at[position];
    const size_t f = args->f;
    const size_t at = (position - rows->first) * job->stride_f;
    const float *const saved = args->saved_gate_up + slot * 2 * f;
    const f32x16 weight = vec_set1(args->weights[slot]);
    f32x16 product = vec_zero();
    for (size_t i = 0; i < f; i += SIMD_LANES) {
        const size_t n = lanes_left(i, f);
        const f32x16 dh_i = lanes_load(dh + i, n);
        const struct swiglu_gradient g = swiglu_gradient_vector(
            lanes_load(saved + i, n), lanes_load(saved + f + i, n), vec_mul(weight, dh_i));
        product = vec_fma(dh_i, g.h, product);
        lanes_store(rows->h + at + i, vec_mul(weight, g.h), n);
        lanes_store(rows->d_gate + at + i, g.d_gate, n);
        lanes_store(rows->d_up + at + i, g.d_up, n);
    }
    args->d_weights[slot] = vec_sum(product);
}

static void item_gradients(const struct moe_backward_job *job, const struct moe_rows *rows,
                           const struct moe_item *item, const float *dh)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    for (size_t position = item->begin; position < item->end; position++) {
        if (position + MOE_ROWS_AHEAD < item->end) {
            const size_t slot = job->groups.slot_at[position + MOE_ROWS_AHEAD];
            ask_for(args->saved_gate_up + slot * 2 * args->f, 2 * args->f);
        }
        slot_gradient(job, rows, position, dh + (position - item->begin) * job->stride_f);
    }
}

/* y (rows of the item, n_out) = x . w^T; accumulate: added to y. */
static void item_product(const struct moe_backward_job *job, struct gemm_block block,
                         float *converted)
{
    const enum precision precision = job->args.precision;
    block.precision = precision;
    if (precision != PRECISION_F32) {
        const float *const x = block.x;
        for (size_t i = 0; i < block.n_rows; i++) {
            ISA(gemm_convert)
            (precision, x + i * block.x_stride, block.n_in, converted + i * job->row_words);
        }
        block.x = converted;
        block.x_stride = job->row_words;
    }
    ISA(gemm_block)(&block);
}

void ISA(moe_item_gradients)(const struct moe_backward_job *job, const struct moe_rows *rows,
                             const struct moe_item *item, size_t thread_index)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const size_t at = item->begin - rows->first;
    float *const dh = job->dh + thread_index * MOE_ITEM_ROWS * job->stride_f;
    float *const converted = job->converted + thread_index * MOE_ITEM_ROWS * job->row_words;
    const float *const gate = job->gate + item->expert * job->words_d;
    const float *const up = job->up + item->expert * job->words_d;
    const struct gemm_block to_dh = {
        .x = rows->dy + at * job->stride_d,
        .x_stride = job->stride_d,
        .w = job->down + item->expert * job->words_f,
        .next = gate,
        .y = dh,
        .y_stride = job->stride_f,
        .n_rows = item->end - item->begin,
        .n_in = args->d,
        .n_out = args->f,
    };
    struct gemm_block to_dx = {
        .x = rows->d_gate + at * job->stride_f,
        .x_stride = job->stride_f,
        .w = gate,
        .next = up,
        .is_fetched = true,
        .y = job->dx + item->begin * job->stride_d,
        .y_stride = job->stride_d,
        .n_rows = item->end - item->begin,
        .n_in = args->f,
        .n_out = args->d,
    };
    gather_item(job, rows, item);
    item_product(job, to_dh, converted);
    item_gradients(job, rows, item, dh);
    item_product(job, to_dx, converted);
    to_dx.x = rows->d_up + at * job->stride_f;
    to_dx.w = up;
    to_dx.next = NULL;
    to_dx.accumulate = true;
    item_product(job, to_dx, converted);
}

struct dw_block ISA(moe_weight_gradient)(const struct moe_backward_job *job,
                                         const struct moe_rows *rows, const struct moe_item *of,
                                         size_t matrix)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const size_t at = (of->begin - rows->first) / (job->has_pairs ? 2 : 1);
    const bool is_down = matrix == MOE_DOWN;
    struct dw_block block = {
        .n_rows = of->end - of->begin,
        .n_out = is_down ? args->d : args->f,
        .n_in = is_down ? args->f : args->d,
        .dw_stride = is_down ? args->f : args->d,
        .dy_stride = is_down ? job->stride_d : job->stride_f,
        .x_stride = is_down ? job->stride_f : job->stride_d,
        .precision = args->precision,
        .is_joined = job->has_pairs,
    };
    const float *const dy[MOE_N_MATRICES] = {rows->d_gate, rows->d_up, rows->dy};
    float *const dw[MOE_N_MATRICES] = {args->d_gate, args->d_up, args->d_down};
    block.dy = dy[matrix] + at * block.dy_stride;
    block.x = (is_down ? rows->h : rows->x) + at * block.x_stride;
    block.dw = dw[matrix] + of->expert * args->grad_stride;
    return block;
}
