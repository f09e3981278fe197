/* Owns the routed experts, backward. The weights of all experts are packed once a call; then three
 * passes over a block of rows grouped by expert:
 *  items:    dh = Wd^T dy, d_weight = <dh, h>, SwiGLU's gradient, dx of each slot;
 *  weights:  d_gate, d_up, d_down, each element one chain over the expert's rows ascending;
 *  combine:  dx += the row's slots, ascending.
 * h is computed again from the saved gate and up. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/moe_group.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/swiglu.h"

#include <stdatomic.h>
#include <string.h>

#define N_MATRICES ((size_t)3) /* gate, up, down */

/* The backward pass of one block of rows. Buffers are by position. */
struct moe_job {
    struct moe_ffn_backward_args args; /* of this block's rows */
    struct moe_groups groups;
    atomic_size_t next_item, next_weights;
    size_t n_parts;          /* output ranges each weight gradient is cut into */
    float *x, *dy, *dx;      /* (n_slots, d) */
    float *h;                /* (n_slots, f), times the slot's weight */
    float *d_gate, *d_up;    /* (n_slots, f) */
    float *dh;               /* (a thread's item, f) */
    float *converted;        /* (a thread's item, row_words) as products of BF16 read rows */
    float *gate, *up, *down; /* packed for the gradients' products, expert after expert */
    size_t stride_d, stride_f, row_words;
    float *joined; /* of a thread: (n_threads, joined_words) for the weights' gradients in BF16 */
    size_t joined_words;
    size_t words_d, words_f; /* of a packed expert's gate or up; of its down */
};

static void gather_item(const struct moe_job *job, const struct moe_item *item)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    for (size_t position = item->begin; position < item->end; position++) {
        const size_t row = job->groups.slot_at[position] / args->top_k;
        memcpy(job->x + position * job->stride_d, args->x + row * args->x_stride,
               args->d * sizeof(float));
        memcpy(job->dy + position * job->stride_d, args->dy + row * args->dy_stride,
               args->d * sizeof(float));
    }
}

/* One slot: from dh (of the unweighted output) to d_weight, d_gate, d_up and the weighted h. */
static void slot_gradient(const struct moe_job *job, size_t position, const float *dh)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const size_t slot = job->groups.slot_at[position];
    const size_t f = args->f;
    const size_t at = position * job->stride_f;
    const float *const saved = args->saved_gate_up + slot * 2 * f;
    const f32x16 weight = vec_set1(args->weights[slot]);
    f32x16 product = vec_zero();
    for (size_t i = 0; i < f; i += SIMD_LANES) {
        const size_t left = f - i;
        const size_t n = left < SIMD_LANES ? left : SIMD_LANES;
        const f32x16 dh_i = vec_load_n(dh + i, n);
        const struct swiglu_gradient g = swiglu_gradient_vector(
            vec_load_n(saved + i, n), vec_load_n(saved + f + i, n), vec_mul(weight, dh_i));
        product = vec_fma(dh_i, g.h, product);
        vec_store_n(job->h + at + i, vec_mul(weight, g.h), n);
        vec_store_n(job->d_gate + at + i, g.d_gate, n);
        vec_store_n(job->d_up + at + i, g.d_up, n);
    }
    args->d_weights[slot] = vec_sum(product);
}

/* y (rows of the item, n_out) = x . w^T; accumulate: added to y. */
static void item_product(const struct moe_job *job, struct gemm_block block, float *converted)
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

static void run_item(const struct moe_job *job, const struct moe_item *item, size_t thread_index)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const size_t begin = item->begin;
    float *const dh = job->dh + thread_index * MOE_ITEM_ROWS * job->stride_f;
    float *const converted = job->converted + thread_index * MOE_ITEM_ROWS * job->row_words;
    gather_item(job, item);
    const struct gemm_block to_dh = {
        .x = job->dy + begin * job->stride_d,
        .x_stride = job->stride_d,
        .w = job->down + item->expert * job->words_f,
        .y = dh,
        .y_stride = job->stride_f,
        .n_rows = item->end - begin,
        .n_in = args->d,
        .n_out = args->f,
    };
    item_product(job, to_dh, converted);
    for (size_t position = begin; position < item->end; position++) {
        slot_gradient(job, position, dh + (position - begin) * job->stride_f);
    }
    struct gemm_block to_dx = {
        .x = job->d_gate + begin * job->stride_f,
        .x_stride = job->stride_f,
        .w = job->gate + item->expert * job->words_d,
        .y = job->dx + begin * job->stride_d,
        .y_stride = job->stride_d,
        .n_rows = item->end - begin,
        .n_in = args->f,
        .n_out = args->d,
    };
    item_product(job, to_dx, converted);
    to_dx.x = job->d_up + begin * job->stride_f;
    to_dx.w = job->up + item->expert * job->words_d;
    to_dx.accumulate = true;
    item_product(job, to_dx, converted);
}

static void items_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_job *const job = context;
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_item, 1);
        if (i >= job->groups.n_items) {
            return;
        }
        run_item(job, &job->groups.items[i], thread_index);
    }
}

/* The gradient of one matrix of one expert, all outputs. */
static struct dw_block weight_gradient(const struct moe_job *job, size_t expert, size_t matrix)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const size_t begin = job->groups.first[expert];
    const bool is_down = matrix == 2;
    struct dw_block block = {
        .n_rows = job->groups.first[expert + 1] - begin,
        .n_out = is_down ? args->d : args->f,
        .n_in = is_down ? args->f : args->d,
        .dw_stride = is_down ? args->f : args->d,
        .dy_stride = is_down ? job->stride_d : job->stride_f,
        .x_stride = is_down ? job->stride_f : job->stride_d,
        .precision = args->precision,
    };
    const float *const dy[N_MATRICES] = {job->d_gate, job->d_up, job->dy};
    float *const dw[N_MATRICES] = {args->d_gate, args->d_up, args->d_down};
    block.dy = dy[matrix] + begin * block.dy_stride;
    block.x = (is_down ? job->h : job->x) + begin * block.x_stride;
    block.dw = dw[matrix] + expert * args->grad_stride;
    return block;
}

static void weights_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_job *const job = context;
    const size_t n = job->args.n_experts * N_MATRICES * job->n_parts;
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_weights, 1);
        if (i >= n) {
            return;
        }
        const size_t part = i % job->n_parts;
        const size_t matrix = i / job->n_parts % N_MATRICES;
        struct dw_block block = weight_gradient(job, i / job->n_parts / N_MATRICES, matrix);
        const size_t begin = block.n_out * part / job->n_parts;
        const size_t end = block.n_out * (part + 1) / job->n_parts;
        block.dy += begin;
        block.dw += begin * block.dw_stride;
        block.n_out = end - begin;
        block.joined = job->joined + thread_index * job->joined_words;
        ISA(dw_block)(&block);
    }
}

static void combine_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct moe_job *const job = context;
    const struct moe_ffn_backward_args *const args = &job->args;
    size_t row = 0;
    size_t row_end = 0;
    pool_share(args->n_rows, thread_index, n_threads, &row, &row_end);
    for (; row < row_end; row++) {
        const uint32_t *const positions = job->groups.position_of + row * args->top_k;
        float *const dx = args->dx + row * args->dx_stride;
        for (size_t i = 0; i < args->d; i += SIMD_LANES) {
            const size_t left = args->d - i;
            const size_t n = left < SIMD_LANES ? left : SIMD_LANES;
            f32x16 sum = vec_load_n(dx + i, n);
            for (size_t k = 0; k < args->top_k; k++) {
                const float *const slot = job->dx + positions[k] * job->stride_d;
                sum = vec_add(sum, vec_load_n(slot + i, n));
            }
            vec_store_n(dx + i, sum, n);
        }
    }
}

static enum status run_block(struct backend *backend, struct moe_job *job)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    TRY(moe_groups_build(backend, args->indices, args->n_rows, args->top_k, args->n_experts,
                         &job->groups));
    const size_t work = 6 * job->groups.n_slots * args->d * args->f;
    atomic_init(&job->next_item, 0);
    atomic_init(&job->next_weights, 0);
    cpu_run(backend, work, items_task, job);
    cpu_run(backend, work, weights_task, job);
    cpu_run(backend, 2 * job->groups.n_slots * args->d, combine_task, job);
    moe_groups_release(backend, &job->groups);
    return STATUS_OK;
}

static enum status run_blocks(struct backend *backend, const struct moe_ffn_backward_args *args,
                              struct moe_job *job)
{
    for (size_t row = 0; row < args->n_rows; row += MOE_BLOCK_ROWS) {
        const size_t left = args->n_rows - row;
        job->args = *args;
        job->args.n_rows = left < MOE_BLOCK_ROWS ? left : MOE_BLOCK_ROWS;
        job->args.dy += row * args->dy_stride;
        job->args.x += row * args->x_stride;
        job->args.dx += row * args->dx_stride;
        job->args.indices += row * args->top_k;
        job->args.weights += row * args->top_k;
        job->args.d_weights += row * args->top_k;
        job->args.saved_gate_up += row * args->top_k * 2 * args->f;
        TRY(run_block(backend, job));
    }
    return STATUS_OK;
}

/* The weights of all experts, transposed as their gradients' products read them. */
static enum status pack_experts(struct backend *backend, const struct moe_ffn_backward_args *args,
                                const struct moe_job *job)
{
    struct pack_args *packs = NULL;
    TRY(cpu_scratch_acquire(backend, N_MATRICES * args->n_experts, sizeof(*packs), &packs));
    for (size_t i = 0; i < N_MATRICES * args->n_experts; i++) {
        const size_t expert = i / N_MATRICES, matrix = i % N_MATRICES;
        const bool is_down = matrix == 2;
        const float *const src[N_MATRICES] = {args->w_gate, args->w_up, args->w_down};
        float *const dst[N_MATRICES] = {job->gate, job->up, job->down};
        packs[i] = (struct pack_args){
            .src = src[matrix] + expert * args->w_stride,
            .src_stride = is_down ? args->f : args->d,
            .n_in = is_down ? args->d : args->f,
            .n_out = is_down ? args->f : args->d,
            .transposed = true,
            .dst = dst[matrix] + expert * (is_down ? job->words_f : job->words_d),
            .precision = args->precision,
            .rounding = args->rounding,
        };
    }
    const enum status status = ISA(pack_all)(backend, packs, N_MATRICES * args->n_experts);
    cpu_scratch_release(backend, packs);
    return status;
}

/* Buffers of a block of rows, and the packed weights, in one piece of scratch. */
static enum status acquire_buffers(struct backend *backend,
                                   const struct moe_ffn_backward_args *args, struct moe_job *job)
{
    const size_t block_rows = args->n_rows < MOE_BLOCK_ROWS ? args->n_rows : MOE_BLOCK_ROWS;
    const size_t n_slots = block_rows * args->top_k;
    const size_t item_rows = backend->n_threads * MOE_ITEM_ROWS;
    const size_t rows_f = 3 * n_slots + item_rows;
    const size_t n_words = 3 * n_slots * job->stride_d + rows_f * job->stride_f +
                           item_rows * job->row_words + backend->n_threads * job->joined_words +
                           args->n_experts * (2 * job->words_d + job->words_f);
    TRY(cpu_scratch_acquire(backend, n_words, sizeof(float), &job->x));
    job->dy = job->x + n_slots * job->stride_d;
    job->dx = job->dy + n_slots * job->stride_d;
    job->h = job->dx + n_slots * job->stride_d;
    job->d_gate = job->h + n_slots * job->stride_f;
    job->d_up = job->d_gate + n_slots * job->stride_f;
    job->dh = job->d_up + n_slots * job->stride_f;
    job->converted = job->dh + item_rows * job->stride_f;
    job->joined = job->converted + item_rows * job->row_words;
    job->gate = job->joined + backend->n_threads * job->joined_words;
    job->up = job->gate + args->n_experts * job->words_d;
    job->down = job->up + args->n_experts * job->words_d;
    return STATUS_OK;
}

enum status ISA(op_moe_ffn_backward)(struct backend *backend,
                                     const struct moe_ffn_backward_args *args)
{
    const size_t widest = args->d > args->f ? args->d : args->f;
    struct moe_job job = {
        .n_parts = args->n_experts >= 2 * backend->n_threads ? 1 : backend->n_threads,
        .stride_d = cpu_padded_stride(args->d),
        .stride_f = cpu_padded_stride(args->f),
        .words_d = packed_words(args->precision, args->f, args->d),
        .words_f = packed_words(args->precision, args->d, args->f),
    };
    if (args->precision != PRECISION_F32) {
        job.row_words = ISA(gemm_row_words)(args->precision, widest);
        job.joined_words = ISA(dw_joined_words)(args->precision, widest, widest);
    }
    TRY(acquire_buffers(backend, args, &job));
    enum status status = pack_experts(backend, args, &job);
    if (status == STATUS_OK) {
        status = run_blocks(backend, args, &job);
    }
    cpu_scratch_release(backend, job.x);
    return status;
}
