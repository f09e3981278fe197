/* Owns the routed experts, backward. The weights of all experts are packed once a call; then for a
 * block of rows, grouped by expert:
 *  items:    dh = Wd^T dy, d_weight = <dh, h>, SwiGLU's gradient, dx of each slot;
 *  weights:  d_gate, d_up, d_down, each element one chain over the expert's rows ascending;
 *  combine:  dx += the row's slots, ascending.
 * h is computed again from the saved gate and up. Where there are experts enough, a thread takes a
 * whole one, and its weights' gradients follow its items while their rows are in the cache; else
 * threads share items, and then parts of weights. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/moe_group.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/swiglu.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#define N_MATRICES ((size_t)3) /* gate, up, down */
/* Rows of an expert between its items and its weights, so few that they stay in the second-level
 * cache beside those: even, for pairs. */
#define CHUNK_ROWS ((size_t)96)
/* Experts a thread from which on each is one thread's: less, and some would wait for the last. */
#define EXPERTS_A_THREAD ((size_t)4)
/* Rows that are asked for ahead: they lie anywhere. */
#define ROWS_AHEAD ((size_t)4)

/* What items leave to the weights' gradients, by position from `first` on. */
struct moe_rows {
    size_t first;
    float *x, *dy;            /* (rows, stride_d) */
    float *h, *d_gate, *d_up; /* (rows, stride_f); h times the slot's weight */
};

/* The backward pass of one block of rows. */
struct moe_job {
    struct moe_ffn_backward_args args; /* of this block's rows */
    struct moe_groups groups;
    atomic_size_t next_item, next_weights;
    size_t n_parts;          /* output ranges each weight gradient is cut into */
    float *dx;               /* (n_slots, d) by position */
    float *rows;             /* moe_rows of n_rows rows, of a thread that takes whole experts */
    float *dh;               /* (a thread's item, f) */
    float *converted;        /* (a thread's item, row_words) as products of BF16 read rows */
    float *gate, *up, *down; /* packed for the gradients' products, expert after expert */
    uint32_t *order;         /* (n_experts) the order in which experts are taken: longest first */
    size_t n_rows, stride_d, stride_f, row_words;
    float *joined; /* of a thread: (n_threads, joined_words) for the weights' gradients in BF16 */
    size_t joined_words;
    size_t words_d, words_f; /* of a packed expert's gate or up; of its down */
    bool takes_experts;
};

static size_t rows_floats(const struct moe_job *job)
{
    return job->n_rows * (2 * job->stride_d + 3 * job->stride_f);
}

static struct moe_rows rows_at(const struct moe_job *job, float *base, size_t first)
{
    struct moe_rows rows = {.first = first};
    rows.x = base;
    rows.dy = rows.x + job->n_rows * job->stride_d;
    rows.h = rows.dy + job->n_rows * job->stride_d;
    rows.d_gate = rows.h + job->n_rows * job->stride_f;
    rows.d_up = rows.d_gate + job->n_rows * job->stride_f;
    return rows;
}

static void ask_for(const float *row, size_t n)
{
    for (size_t i = 0; i < n; i += SIMD_LANES) {
        __builtin_prefetch(row + i, 0, 2);
    }
}

static void gather_item(const struct moe_job *job, const struct moe_rows *rows,
                        const struct moe_item *item)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    for (size_t position = item->begin; position < item->end; position++) {
        const size_t row = job->groups.slot_at[position] / args->top_k;
        const size_t at = (position - rows->first) * job->stride_d;
        if (position + ROWS_AHEAD < item->end) {
            const size_t ahead = job->groups.slot_at[position + ROWS_AHEAD] / args->top_k;
            ask_for(args->x + ahead * args->x_stride, args->d);
            ask_for(args->dy + ahead * args->dy_stride, args->d);
        }
        memcpy(rows->x + at, args->x + row * args->x_stride, args->d * sizeof(float));
        memcpy(rows->dy + at, args->dy + row * args->dy_stride, args->d * sizeof(float));
    }
}

/* One slot: from dh (of the unweighted output) to d_weight, d_gate, d_up and the weighted h. */
static void slot_gradient(const struct moe_job *job, const struct moe_rows *rows, size_t position,
                          const float *dh)
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

static void item_gradients(const struct moe_job *job, const struct moe_rows *rows,
                           const struct moe_item *item, const float *dh)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    for (size_t position = item->begin; position < item->end; position++) {
        if (position + ROWS_AHEAD < item->end) {
            const size_t slot = job->groups.slot_at[position + ROWS_AHEAD];
            ask_for(args->saved_gate_up + slot * 2 * args->f, 2 * args->f);
        }
        slot_gradient(job, rows, position, dh + (position - item->begin) * job->stride_f);
    }
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

static void run_item(const struct moe_job *job, const struct moe_rows *rows,
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

static void items_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_job *const job = context;
    const struct moe_rows rows = rows_at(job, job->rows, 0);
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_item, 1);
        if (i >= job->groups.n_items) {
            return;
        }
        run_item(job, &rows, &job->groups.items[i], thread_index);
    }
}

/* The gradient of one matrix of one expert from positions begin to end, all outputs. */
static struct dw_block weight_gradient(const struct moe_job *job, const struct moe_rows *rows,
                                       const struct moe_item *of, size_t matrix)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const size_t at = of->begin - rows->first;
    const bool is_down = matrix == 2;
    struct dw_block block = {
        .n_rows = of->end - of->begin,
        .n_out = is_down ? args->d : args->f,
        .n_in = is_down ? args->f : args->d,
        .dw_stride = is_down ? args->f : args->d,
        .dy_stride = is_down ? job->stride_d : job->stride_f,
        .x_stride = is_down ? job->stride_f : job->stride_d,
        .precision = args->precision,
    };
    const float *const dy[N_MATRICES] = {rows->d_gate, rows->d_up, rows->dy};
    float *const dw[N_MATRICES] = {args->d_gate, args->d_up, args->d_down};
    block.dy = dy[matrix] + at * block.dy_stride;
    block.x = (is_down ? rows->h : rows->x) + at * block.x_stride;
    block.dw = dw[matrix] + of->expert * args->grad_stride;
    return block;
}

static struct moe_item whole_expert(const struct moe_job *job, size_t expert)
{
    const uint32_t *const first = job->groups.first;
    return (struct moe_item){(uint32_t)expert, first[expert], first[expert + 1]};
}

static void weights_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_job *const job = context;
    const struct moe_rows rows = rows_at(job, job->rows, 0);
    const size_t n = job->args.n_experts * N_MATRICES * job->n_parts;
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_weights, 1);
        if (i >= n) {
            return;
        }
        const size_t part = i % job->n_parts;
        const size_t matrix = i / job->n_parts % N_MATRICES;
        const struct moe_item expert = whole_expert(job, i / job->n_parts / N_MATRICES);
        struct dw_block block = weight_gradient(job, &rows, &expert, matrix);
        const size_t begin = block.n_out * part / job->n_parts;
        const size_t end = block.n_out * (part + 1) / job->n_parts;
        block.dy += begin;
        block.dw += begin * block.dw_stride;
        block.n_out = end - begin;
        block.joined = job->joined + thread_index * job->joined_words;
        ISA(dw_block)(&block);
    }
}

/* Some rows of an expert: items, then the weights' gradients. */
static void run_chunk(const struct moe_job *job, const struct moe_item *chunk, size_t thread_index)
{
    const struct moe_rows rows =
        rows_at(job, job->rows + thread_index * rows_floats(job), chunk->begin);
    const size_t n = chunk->end - chunk->begin;
    const size_t n_items = (n + MOE_ITEM_ROWS - 1) / MOE_ITEM_ROWS;
    for (size_t i = 0; i < n_items; i++) {
        const struct moe_item item = {chunk->expert, (uint32_t)(chunk->begin + n * i / n_items),
                                      (uint32_t)(chunk->begin + n * (i + 1) / n_items)};
        run_item(job, &rows, &item, thread_index);
    }
    struct dw_block gradients[N_MATRICES];
    for (size_t matrix = 0; matrix < N_MATRICES; matrix++) {
        gradients[matrix] = weight_gradient(job, &rows, chunk, matrix);
        gradients[matrix].joined = job->joined + thread_index * job->joined_words;
        gradients[matrix].next = matrix + 1 < N_MATRICES ? &gradients[matrix + 1] : NULL;
    }
    for (size_t matrix = 0; matrix < N_MATRICES; matrix++) {
        ISA(dw_block)(&gradients[matrix]);
    }
}

/* In chunks dealt evenly, in pairs. */
static void run_expert(const struct moe_job *job, size_t expert, size_t thread_index)
{
    const struct moe_item all = whole_expert(job, expert);
    const size_t n_pairs = (all.end - all.begin + 1) / 2;
    const size_t n_chunks = (2 * n_pairs + job->n_rows - 1) / job->n_rows;
    for (size_t i = 0; i < n_chunks; i++) {
        struct moe_item chunk = all;
        chunk.begin += (uint32_t)(n_pairs * i / n_chunks * 2);
        if (i + 1 < n_chunks) {
            chunk.end = all.begin + (uint32_t)(n_pairs * (i + 1) / n_chunks * 2);
        }
        run_chunk(job, &chunk, thread_index);
    }
}

static void experts_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_job *const job = context;
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_item, 1);
        if (i >= job->args.n_experts) {
            return;
        }
        run_expert(job, job->order[i], thread_index);
    }
}

static void order_experts(const struct moe_job *job)
{
    const uint32_t *const first = job->groups.first;
    for (size_t e = 0; e < job->args.n_experts; e++) {
        const uint32_t n = first[e + 1] - first[e];
        size_t i = e;
        for (; i > 0 && first[job->order[i - 1] + 1] - first[job->order[i - 1]] < n; i--) {
            job->order[i] = job->order[i - 1];
        }
        job->order[i] = (uint32_t)e;
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
            const size_t n = lanes_left(i, args->d);
            f32x16 sum = lanes_load(dx + i, n);
            for (size_t k = 0; k < args->top_k; k++) {
                const float *const slot = job->dx + positions[k] * job->stride_d;
                sum = vec_add(sum, lanes_load(slot + i, n));
            }
            lanes_store(dx + i, sum, n);
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
    if (job->takes_experts) {
        order_experts(job);
        cpu_run(backend, 2 * work, experts_task, job);
    } else {
        cpu_run(backend, work, items_task, job);
        cpu_run(backend, work, weights_task, job);
    }
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
    const size_t n_rows = job->takes_experts ? backend->n_threads : 1;
    job->n_rows = job->takes_experts ? CHUNK_ROWS : n_slots;
    const size_t n_words = n_slots * job->stride_d + n_rows * rows_floats(job) +
                           item_rows * (job->stride_f + job->row_words) +
                           backend->n_threads * job->joined_words +
                           args->n_experts * (2 * job->words_d + job->words_f + 1);
    TRY(cpu_scratch_acquire(backend, n_words, sizeof(float), &job->dx));
    job->rows = job->dx + n_slots * job->stride_d;
    job->dh = job->rows + n_rows * rows_floats(job);
    job->converted = job->dh + item_rows * job->stride_f;
    job->joined = job->converted + item_rows * job->row_words;
    job->gate = job->joined + backend->n_threads * job->joined_words;
    job->up = job->gate + args->n_experts * job->words_d;
    job->down = job->up + args->n_experts * job->words_d;
    job->order = (uint32_t *)(void *)(job->down + args->n_experts * job->words_f);
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
        .joined_words = ISA(dw_joined_words)(args->precision, widest, widest),
        .words_d = packed_words(args->precision, args->f, args->d),
        .words_f = packed_words(args->precision, args->d, args->f),
        .takes_experts = args->n_experts >= EXPERTS_A_THREAD * backend->n_threads,
    };
    if (args->precision != PRECISION_F32) {
        job.row_words = ISA(gemm_row_words)(args->precision, widest);
    }
    TRY(acquire_buffers(backend, args, &job));
    enum status status = pack_experts(backend, args, &job);
    if (status == STATUS_OK) {
        status = run_blocks(backend, args, &job);
    }
    cpu_scratch_release(backend, job.dx);
    return status;
}
