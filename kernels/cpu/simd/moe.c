/* Owns the experts, forward. Rows are grouped by expert; an item of at most 48 of them is
 * gathered, multiplied by gate and up (panels interleaved, so that a tile holds both halves),
 * passed through SwiGLU while it is in the cache, and multiplied by down. Then each row sums its
 * slots in slot order. Every row's numbers depend on that row alone. Rows for products of BF16 are
 * rounded where they are gathered; for FP8, which takes longer, before, once for all of their
 * experts. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/moe_group.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/moe_shared.h"
#include "kernels/cpu/simd/swiglu.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

/* How many items of its share a thread, or others for it, have taken; alone on its cache line. */
struct taken {
    _Alignas(64) atomic_size_t n_items;
};

/* The forward pass of one block of rows. */
struct moe_job {
    struct moe_ffn_args args;     /* of this block's rows */
    struct moe_shared_job shared; /* of these too; mlp.f 0: none */
    struct moe_groups groups;
    struct taken *taken; /* (n_threads), and of the shared experts' items */
    float *out;          /* (n_slots, d) by position */
    size_t out_stride;
    float *converted; /* FP8: (n_rows, x_stride) x as products read it */
    float *work;      /* a thread: x, gate_up, h of an item, one row of h before it is converted */
    size_t x_stride, gate_up_stride, h_stride, work_floats; /* words */
    size_t shared_h_stride, h_at;                           /* h_at: where h begins in work */
};

/* The panels of gate and up alternate: columns [64 p, 64 p + 32) are gate, the next 32 up. */
static size_t gate_up_columns(size_t f)
{
    return (f + PANEL_COLUMNS - 1) / PANEL_COLUMNS * 2 * PANEL_COLUMNS;
}

/* h (f) from the interleaved halves; saved: NULL, or where gate (f) and up (f) are kept. */
static void interleaved_row(const float *gate_up, float *h, float *saved, size_t f)
{
    for (size_t i = 0; i < f; i += SIMD_LANES) {
        const size_t left = f - i;
        const size_t n = left < SIMD_LANES ? left : SIMD_LANES;
        const size_t at = i / PANEL_COLUMNS * 2 * PANEL_COLUMNS + i % PANEL_COLUMNS;
        const f32x16 gate = vec_load(gate_up + at);
        const f32x16 up = vec_load(gate_up + at + PANEL_COLUMNS);
        vec_store_n(h + i, swiglu_vector(gate, up), n);
        if (saved != NULL) {
            vec_store_n(saved + i, gate, n);
            vec_store_n(saved + f + i, up, n);
        }
    }
}

static void convert_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct moe_job *const job = context;
    const struct moe_ffn_args *const args = &job->args;
    size_t row = 0;
    size_t row_end = 0;
    pool_share(args->n_rows, thread_index, n_threads, &row, &row_end);
    for (; row < row_end; row++) {
        ISA(gemm_convert)
        (args->precision, args->x + row * args->x_stride, args->d,
         job->converted + row * job->x_stride);
    }
}

static void gather_item(const struct moe_job *job, const struct moe_item *item, float *x)
{
    const struct moe_ffn_args *const args = &job->args;
    for (size_t i = item->begin; i < item->end; i++) {
        const size_t row = job->groups.slot_at[i] / args->top_k;
        const float *const src = args->x + row * args->x_stride;
        if (args->precision == PRECISION_F32) {
            memcpy(x, src, args->d * sizeof(*x));
        } else if (args->precision == PRECISION_BF16) {
            ISA(gemm_convert)(args->precision, src, args->d, x);
        } else {
            memcpy(x, job->converted + row * job->x_stride, job->x_stride * sizeof(*x));
        }
        x += job->x_stride;
    }
}

/* gate_up of an item's rows -> h as the product by down reads it. spare: (f). */
static void hidden_rows(const struct moe_job *job, const struct moe_item *item,
                        const float *gate_up, float *h, float *spare)
{
    const struct moe_ffn_args *const args = &job->args;
    const size_t f = args->f;
    for (size_t i = item->begin; i < item->end; i++) {
        const size_t slot = job->groups.slot_at[i];
        float *const saved =
            args->saved_gate_up != NULL ? args->saved_gate_up + slot * 2 * f : NULL;
        if (args->precision == PRECISION_F32) {
            interleaved_row(gate_up, h, saved, f);
        } else {
            interleaved_row(gate_up, spare, saved, f);
            ISA(gemm_convert)(args->precision, spare, f, h);
        }
        gate_up += job->gate_up_stride;
        h += job->h_stride;
    }
}

static const float *gate_up_of(const struct moe_ffn_args *args, size_t expert)
{
    return args->w_gate_up + 2 * expert * packed_words(args->precision, args->d, args->f);
}

/* next: the item that this thread will probably run after this one, or NULL. */
static void run_item(const struct moe_job *job, const struct moe_item *item,
                     const struct moe_item *next, float *work)
{
    const struct moe_ffn_args *const args = &job->args;
    const size_t d = args->d;
    const size_t f = args->f;
    const float *const w_down = args->w_down + item->expert * packed_words(args->precision, f, d);
    float *const x = work;
    float *const gate_up = x + MOE_ITEM_ROWS * job->x_stride;
    float *const h = work + job->h_at;
    gather_item(job, item, x);
    const struct gemm_block up = {
        .x = x,
        .x_stride = job->x_stride,
        .w = gate_up_of(args, item->expert),
        .next = w_down,
        .precision = args->precision,
        .y = gate_up,
        .y_stride = job->gate_up_stride,
        .n_rows = item->end - item->begin,
        .n_in = d,
        .n_out = gate_up_columns(f),
    };
    ISA(gemm_block)(&up);
    hidden_rows(job, item, gate_up, h, h + MOE_ITEM_ROWS * job->h_stride);
    const struct gemm_block down = {
        .x = h,
        .x_stride = job->h_stride,
        .w = w_down,
        .next = next != NULL ? gate_up_of(args, next->expert) : args->next,
        .is_fetched = true,
        .precision = args->precision,
        .y = job->out + item->begin * job->out_stride,
        .y_stride = job->out_stride,
        .n_rows = up.n_rows,
        .n_in = f,
        .n_out = d,
    };
    ISA(gemm_block)(&down);
}

/* The first item of thread `index`: shares have about equal rows. */
static size_t first_item(const struct moe_groups *groups, size_t index, size_t n_threads)
{
    const size_t position = groups->n_slots * index / n_threads;
    size_t i = 0;
    while (i < groups->n_items &&
           ((size_t)groups->items[i].begin + groups->items[i].end) / 2 < position) {
        i++;
    }
    return i;
}

/* What is left of the share of thread `owner`. Neighbours go through their shares towards each
 * other, so that whoever is done first takes what lies between. */
static void run_share(struct moe_job *job, size_t owner, size_t n_threads, float *work)
{
    const struct moe_item *const items = job->groups.items;
    const size_t begin = first_item(&job->groups, owner, n_threads);
    const size_t n = first_item(&job->groups, owner + 1, n_threads) - begin;
    const bool is_up = owner % 2 == 0;
    for (;;) {
        const size_t i = atomic_fetch_add(&job->taken[owner].n_items, 1);
        if (i >= n) {
            return;
        }
        const struct moe_item *const item = items + begin + (is_up ? i : n - 1 - i);
        run_item(job, item, i + 1 == n ? NULL : is_up ? item + 1 : item - 1, work);
    }
}

/* What is left of the shared experts' rows, a piece at a time. */
static void run_shared_items(struct moe_job *job, atomic_size_t *n_taken, float *work)
{
    const size_t n_rows = job->args.n_rows;
    for (;;) {
        const size_t row = atomic_fetch_add(n_taken, 1) * MOE_ITEM_ROWS;
        if (row >= n_rows) {
            return;
        }
        const size_t left = n_rows - row;
        ISA(moe_shared_rows)
        (&job->shared, row, left < MOE_ITEM_ROWS ? left : MOE_ITEM_ROWS, work, work + job->h_at);
    }
}

/* Its own share first: then a thread meets the same experts each time, and its cache may still have
 * them. */
static void items_task(void *context, size_t thread_index, size_t n_threads)
{
    struct moe_job *const job = context;
    float *const work = job->work + thread_index * job->work_floats;
    for (size_t i = 0; i < n_threads; i++) {
        run_share(job, (thread_index + i) % n_threads, n_threads, work);
    }
    if (job->shared.mlp.f > 0) { /* last: the caller, who began first, is the first to be done */
        run_shared_items(job, &job->taken[n_threads].n_items, work);
    }
}

static void combine_row(const struct moe_job *job, size_t row)
{
    const struct moe_ffn_args *const args = &job->args;
    const uint32_t *const positions = job->groups.position_of + row * args->top_k;
    const float *const weights = args->weights + row * args->top_k;
    float *const y = args->y + row * args->y_stride;
    for (size_t i = 0; i < args->d; i += SIMD_LANES) {
        const size_t left = args->d - i;
        const size_t n = left < SIMD_LANES ? left : SIMD_LANES;
        f32x16 sum = vec_zero();
        for (size_t k = 0; k < args->top_k; k++) {
            const float *const out = job->out + positions[k] * job->out_stride + i;
            sum = vec_fma(vec_set1(weights[k]), vec_load_n(out, n), sum);
        }
        vec_store_n(y + i, vec_add(vec_load_n(y + i, n), sum), n);
    }
}

static void combine_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct moe_job *const job = context;
    size_t row = 0;
    size_t row_end = 0;
    pool_share(job->args.n_rows, thread_index, n_threads, &row, &row_end);
    for (; row < row_end; row++) {
        combine_row(job, row);
    }
}

/* What rounding an element to a code is worth, in the units of CPU_WORK_MIN. */
#define CONVERSION_WORK ((size_t)12)

static enum status run_block(struct backend *backend, struct moe_job *job)
{
    const struct moe_ffn_args *const args = &job->args;
    TRY(moe_groups_build(backend, args->indices, args->n_rows, args->top_k, args->n_experts,
                         &job->groups));
    for (size_t i = 0; i <= backend->n_threads; i++) {
        atomic_init(&job->taken[i].n_items, 0);
    }
    if (args->precision == PRECISION_FP8) {
        cpu_run(backend, CONVERSION_WORK * args->n_rows * args->d, convert_task, job);
    }
    cpu_run(backend,
            6 * args->d * (job->groups.n_slots * args->f + args->n_rows * job->shared.mlp.f),
            items_task, job);
    cpu_run(backend, 2 * job->groups.n_slots * args->d, combine_task, job);
    moe_groups_release(backend, &job->groups);
    return STATUS_OK;
}

static enum status run_blocks(struct backend *backend, const struct moe_ffn_args *args,
                              struct moe_job *job)
{
    for (size_t row = 0; row < args->n_rows; row += MOE_BLOCK_ROWS) {
        const size_t left = args->n_rows - row;
        job->args = *args;
        job->args.n_rows = left < MOE_BLOCK_ROWS ? left : MOE_BLOCK_ROWS;
        job->args.x += row * args->x_stride;
        job->args.y += row * args->y_stride;
        job->args.indices += row * args->top_k;
        job->args.weights += row * args->top_k;
        if (args->saved_gate_up != NULL) {
            job->args.saved_gate_up += row * args->top_k * 2 * args->f;
        }
        job->shared.args = &job->args;
        job->shared.row = row;
        TRY(run_block(backend, job));
    }
    return STATUS_OK;
}

/* Words of a row of n floats as products of the precision read it. */
static size_t row_words(enum precision precision, size_t n)
{
    return precision == PRECISION_F32 ? cpu_padded_stride(n) : ISA(gemm_row_words)(precision, n);
}

/* Strides, and a thread's scratch. */
static struct moe_job plan_job(const struct moe_ffn_args *args)
{
    const size_t shared_f = args->shared != NULL ? args->shared->f : 0;
    const size_t widest_f = args->f > shared_f ? args->f : shared_f;
    const size_t spare_floats = args->precision == PRECISION_F32 ? 0 : cpu_padded_stride(widest_f);
    struct moe_job job = {
        .out_stride = cpu_padded_stride(args->d),
        .x_stride = row_words(args->precision, args->d),
        .gate_up_stride = cpu_padded_stride(gate_up_columns(args->f)),
        .h_stride = row_words(args->precision, args->f),
    };
    job.h_at = MOE_ITEM_ROWS * (job.x_stride + job.gate_up_stride);
    job.work_floats =
        job.h_at + MOE_ITEM_ROWS * row_words(args->precision, widest_f) + spare_floats;
    if (shared_f > 0) {
        job.shared = (struct moe_shared_job){.mlp = *args->shared,
                                             .x_stride = job.x_stride,
                                             .h_stride = row_words(args->precision, shared_f)};
    }
    return job;
}

enum status ISA(op_moe_ffn)(struct backend *backend, const struct moe_ffn_args *args)
{
    const size_t block_rows = args->n_rows < MOE_BLOCK_ROWS ? args->n_rows : MOE_BLOCK_ROWS;
    struct moe_job job = plan_job(args);
    const size_t out_floats = block_rows * args->top_k * job.out_stride;
    const size_t converted_floats =
        args->precision == PRECISION_FP8 ? block_rows * job.x_stride : 0;
    TRY(cpu_scratch_acquire(backend, backend->n_threads + 1, sizeof(*job.taken), &job.taken));
    enum status status = cpu_scratch_acquire(
        backend, out_floats + converted_floats + backend->n_threads * job.work_floats,
        sizeof(float), &job.out);
    if (status == STATUS_OK) {
        job.converted = job.out + out_floats;
        job.work = job.converted + converted_floats;
        job.shared.converted = job.converted;
        status = run_blocks(backend, args, &job);
        cpu_scratch_release(backend, job.out);
    }
    cpu_scratch_release(backend, job.taken);
    return status;
}
