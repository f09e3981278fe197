/* Owns the routed experts, backward: how the work is dealt to threads, and its memory. The weights
 * of all experts are packed once a call; then for a block of rows, grouped by expert:
 *  items:    dh = Wd^T dy, d_weight = <dh, h>, SwiGLU's gradient, dx of each slot;
 *  weights:  d_gate, d_up, d_down, each element one chain over the expert's rows ascending;
 *  combine:  dx += the row's slots, ascending.
 * h is computed again from the saved gate and up. Where there are experts enough, a thread takes a
 * whole one, and its weights' gradients follow its items while their rows are in the cache; else
 * threads share items, and then parts of weights. */
#include "kernels/cpu/simd/moe_backward.h"

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/lanes.h"

/* Rows of an expert between its items and its weights, so few that they stay in the second-level
 * cache beside those: even, for pairs, which take half the memory. */
#define CHUNK_ROWS ((size_t)96)
#define CHUNK_ROWS_PAIRS ((size_t)160)
/* Experts a thread from which on each is one thread's: less, and some would wait for the last. */
#define EXPERTS_A_THREAD ((size_t)4)

static void items_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_backward_job *const job = context;
    const struct moe_rows rows = moe_rows_at(job, job->rows, 0);
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_item, 1);
        if (i >= job->groups.n_items) {
            return;
        }
        ISA(moe_item_gradients)(job, &rows, &job->groups.items[i], thread_index);
    }
}

static struct moe_item whole_expert(const struct moe_backward_job *job, size_t expert)
{
    const uint32_t *const first = job->groups.first;
    return (struct moe_item){(uint32_t)expert, first[expert], first[expert + 1]};
}

static void weights_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_backward_job *const job = context;
    const struct moe_rows rows = moe_rows_at(job, job->rows, 0);
    const size_t n = job->args.n_experts * MOE_N_MATRICES * job->n_parts;
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_weights, 1);
        if (i >= n) {
            return;
        }
        const size_t part = i % job->n_parts;
        const size_t matrix = i / job->n_parts % MOE_N_MATRICES;
        const struct moe_item expert = whole_expert(job, i / job->n_parts / MOE_N_MATRICES);
        struct dw_block block = ISA(moe_weight_gradient)(job, &rows, &expert, matrix);
        const size_t begin = block.n_out * part / job->n_parts;
        const size_t end = block.n_out * (part + 1) / job->n_parts;
        block.dy += begin;
        block.dw += begin * block.dw_stride;
        block.n_out = end - begin;
        block.joined = job->joined + thread_index * job->joined_words;
        ISA(dw_block)(&block);
    }
}

/* Pairs [begin, end) of the rows, the last of which may be one row. */
static struct moe_item pairs_of_rows(const struct moe_item *rows, size_t begin, size_t end)
{
    const size_t last = rows->begin + 2 * end;
    return (struct moe_item){rows->expert, (uint32_t)(rows->begin + 2 * begin),
                             last < rows->end ? (uint32_t)last : rows->end};
}

/* Some rows of an expert: items, then the weights' gradients. */
static void run_chunk(const struct moe_backward_job *job, const struct moe_item *chunk,
                      size_t thread_index)
{
    const struct moe_rows rows =
        moe_rows_at(job, job->rows + thread_index * moe_rows_floats(job), chunk->begin);
    const size_t n_pairs = (chunk->end - chunk->begin + 1) / 2;
    const size_t n_items = (2 * n_pairs + MOE_ITEM_ROWS - 1) / MOE_ITEM_ROWS;
    for (size_t i = 0; i < n_items; i++) {
        const struct moe_item item =
            pairs_of_rows(chunk, n_pairs * i / n_items, n_pairs * (i + 1) / n_items);
        if (job->has_pairs) {
            ISA(moe_item_pairs)(job, &rows, &item, thread_index);
        } else {
            ISA(moe_item_gradients)(job, &rows, &item, thread_index);
        }
    }
    struct dw_block gradients[MOE_N_MATRICES];
    for (size_t matrix = 0; matrix < MOE_N_MATRICES; matrix++) {
        gradients[matrix] = ISA(moe_weight_gradient)(job, &rows, chunk, matrix);
        gradients[matrix].joined = job->joined + thread_index * job->joined_words;
        gradients[matrix].next = matrix + 1 < MOE_N_MATRICES ? &gradients[matrix + 1] : NULL;
    }
    for (size_t matrix = 0; matrix < MOE_N_MATRICES; matrix++) {
        ISA(dw_block)(&gradients[matrix]);
    }
}

/* In chunks dealt evenly, in pairs. */
static void run_expert(const struct moe_backward_job *job, size_t expert, size_t thread_index)
{
    const struct moe_item all = whole_expert(job, expert);
    const size_t n_pairs = (all.end - all.begin + 1) / 2;
    const size_t n_chunks = (2 * n_pairs + job->n_rows - 1) / job->n_rows;
    for (size_t i = 0; i < n_chunks; i++) {
        const struct moe_item chunk =
            pairs_of_rows(&all, n_pairs * i / n_chunks, n_pairs * (i + 1) / n_chunks);
        run_chunk(job, &chunk, thread_index);
    }
}

static void experts_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_backward_job *const job = context;
    (void)n_threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->next_item, 1);
        if (i >= job->args.n_experts) {
            return;
        }
        run_expert(job, job->order[i], thread_index);
    }
}

static void order_experts(const struct moe_backward_job *job)
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
    const struct moe_backward_job *const job = context;
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

static enum status run_block(struct backend *backend, struct moe_backward_job *job)
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
                              struct moe_backward_job *job)
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
                                const struct moe_backward_job *job)
{
    struct pack_args *packs = NULL;
    TRY(cpu_scratch_acquire(backend, MOE_N_MATRICES * args->n_experts, sizeof(*packs), &packs));
    for (size_t i = 0; i < MOE_N_MATRICES * args->n_experts; i++) {
        const size_t expert = i / MOE_N_MATRICES, matrix = i % MOE_N_MATRICES;
        const bool is_down = matrix == MOE_DOWN;
        const float *const src[MOE_N_MATRICES] = {args->w_gate, args->w_up, args->w_down};
        float *const dst[MOE_N_MATRICES] = {job->gate, job->up, job->down};
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
    const enum status status = ISA(pack_all)(backend, packs, MOE_N_MATRICES * args->n_experts);
    cpu_scratch_release(backend, packs);
    return status;
}

/* Buffers of a block of rows, and the packed weights, in one piece of scratch. */
static enum status acquire_buffers(struct backend *backend,
                                   const struct moe_ffn_backward_args *args,
                                   struct moe_backward_job *job)
{
    const size_t block_rows = args->n_rows < MOE_BLOCK_ROWS ? args->n_rows : MOE_BLOCK_ROWS;
    const size_t n_slots = block_rows * args->top_k;
    const size_t item_rows = backend->n_threads * MOE_ITEM_ROWS;
    const size_t n_rows = job->takes_experts ? backend->n_threads : 1;
    const size_t converted_words = (job->has_pairs ? 2 : 1) * job->row_words;
    job->n_rows = job->has_pairs ? CHUNK_ROWS_PAIRS : CHUNK_ROWS;
    job->n_rows = job->takes_experts ? job->n_rows : n_slots;
    const size_t n_words = n_slots * job->stride_d + n_rows * moe_rows_floats(job) +
                           item_rows * (job->stride_f + converted_words) +
                           backend->n_threads * job->joined_words +
                           args->n_experts * (2 * job->words_d + job->words_f + 1);
    TRY(cpu_scratch_acquire(backend, n_words, sizeof(float), &job->dx));
    job->rows = job->dx + n_slots * job->stride_d;
    job->dh = job->rows + n_rows * moe_rows_floats(job);
    job->converted = job->dh + item_rows * job->stride_f;
    job->joined = job->converted + item_rows * converted_words;
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
    struct moe_backward_job job = {
        .n_parts = args->n_experts >= 2 * backend->n_threads ? 1 : backend->n_threads,
        .stride_d = cpu_padded_stride(args->d),
        .stride_f = cpu_padded_stride(args->f),
        .words_d = packed_words(args->precision, args->f, args->d),
        .words_f = packed_words(args->precision, args->d, args->f),
        .takes_experts = args->n_experts >= EXPERTS_A_THREAD * backend->n_threads,
    };
    job.has_pairs = job.takes_experts && args->precision != PRECISION_F32;
    if (!job.has_pairs) {
        job.joined_words = ISA(dw_joined_words)(args->precision, widest, widest);
    }
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
