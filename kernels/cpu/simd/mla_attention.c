/* Owns absorbed latent attention over the paged cache (model.md 6.2): decode, prefill and training
 * in one op.
 *
 * Order for one (row, head), which depends on key positions alone:
 *   scores: one fma chain over the rk + dr dimensions ascending, then times scale;
 *   softmax by key blocks of 128, ascending, online: maximum of the block, earlier sums rescaled by
 *   exp(old - new), block sum with key k in lane k % 16 and the fixed tree;
 *   values: one fma chain over keys ascending, at the end times 1 / sum.
 * Keys behind a row's own are never multiplied, so what a page holds there does not matter. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/attention_tile.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <math.h>
#include <string.h>

/* One thread's memory. P = pairs of a chunk, D = rk + dr. */
struct workspace {
    float *q;      /* (P, D) */
    float *scores; /* (P, KEY_BLOCK) */
    float *keys;   /* (D, KEY_BLOCK) transposed */
    float *max;    /* (P) */
    float *sum;    /* (P) */
};

struct attention_call {
    const struct mla_attention_args *args;
    float *scratch;
    size_t scratch_floats; /* a thread */
    size_t total_work;
};

/* Rows i .. i + n_rows - 1 of a span. */
struct chunk {
    const struct kv_span *span;
    size_t i, n_rows;
};

static size_t max_pairs(size_t n_heads)
{
    return chunk_rows(n_heads) * n_heads;
}

static size_t workspace_floats(const struct mla_attention_args *a)
{
    const size_t pairs = max_pairs(a->n_heads), width = a->rk + a->dr;
    const size_t n = pairs * (width + KEY_BLOCK + 2) + width * KEY_BLOCK;

    return (n + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES;
}

static struct workspace workspace_at(const struct mla_attention_args *a, float *scratch)
{
    const size_t pairs = max_pairs(a->n_heads), width = a->rk + a->dr;
    struct workspace w;

    w.keys = scratch;
    w.scores = w.keys + width * KEY_BLOCK;
    w.q = w.scores + pairs * KEY_BLOCK;
    w.max = w.q + pairs * width;
    w.sum = w.max + pairs;
    return w;
}

/* q of a chunk as adjacent rows [latent | rotary]; sums start empty. */
static void gather_queries(const struct mla_attention_args *a, const struct chunk *c,
                           struct workspace *w)
{
    const size_t width = a->rk + a->dr;

    for (size_t r = 0; r < c->n_rows; r++) {
        const size_t row = c->span->first_row + c->i + r;
        for (size_t head = 0; head < a->n_heads; head++) {
            float *q = w->q + (r * a->n_heads + head) * width;
            memcpy(q, a->q_latent + row * a->q_latent_stride + head * a->rk, a->rk * sizeof(float));
            memcpy(q + a->rk, a->q_rope + row * a->q_rope_stride + head * a->q_rope_head_stride,
                   a->dr * sizeof(float));
        }
    }
    for (size_t pair = 0; pair < c->n_rows * a->n_heads; pair++) {
        w->max[pair] = -INFINITY;
        w->sum[pair] = 0.0F;
    }
}

/* scores -> exp(scale s - max) of the n keys, in place; returns the factor for what was summed
 * before. Lanes behind n become 0. */
static float softmax_step(float *scores, size_t n, float scale, float *max, float *sum)
{
    const f32x16 lowest = vec_set1(-INFINITY), factor = vec_set1(scale);
    f32x16 best = lowest, total = vec_zero();

    for (size_t k = 0; k < n; k += SIMD_LANES) {
        const mask16 seen = mask_first(lanes_left(k, n));
        const f32x16 s = vec_select(seen, vec_mul(vec_load(scores + k), factor), lowest);
        vec_store(scores + k, s);
        best = vec_max(s, best);
    }
    const float block_max = vec_hmax(best), old_max = *max;
    const float new_max = block_max > old_max ? block_max : old_max;
    for (size_t k = 0; k < n; k += SIMD_LANES) {
        const mask16 seen = mask_first(lanes_left(k, n));
        const f32x16 e = vec_exp(vec_sub(vec_load(scores + k), vec_set1(new_max)));
        const f32x16 p = vec_select(seen, e, vec_zero());
        vec_store(scores + k, p);
        total = vec_add(total, p);
    }
    const bool keeps = new_max == old_max; /* exp(0) is 1 */
    const float rescale = keeps ? 1.0F : vec_hmax(vec_exp(vec_set1(old_max - new_max)));
    *sum = fmaf(*sum, rescale, vec_sum(total));
    *max = new_max;
    return rescale;
}

static void scale_row(float *x, size_t n, float factor)
{
    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        lanes_store(x + j, vec_mul(lanes_load(x + j, left), vec_set1(factor)), left);
    }
}

/* Adds one key block to one row of the chunk: n_keys of the block's keys are seen. */
static void add_values(const struct mla_attention_args *a, struct workspace *w, size_t pair,
                       float *out, size_t n_keys, bool is_first,
                       const float *const pages[PAGES_PER_BLOCK])
{
    for (size_t head = 0; head < a->n_heads; head++) {
        const float rescale = softmax_step(w->scores + (pair + head) * KEY_BLOCK, n_keys, a->scale,
                                           &w->max[pair + head], &w->sum[pair + head]);
        if (!is_first && rescale != 1.0F) {
            scale_row(out + head * a->rk, a->rk, rescale);
        }
    }
    const struct tile_product values = {.x = w->scores + pair * KEY_BLOCK,
                                        .x_row_stride = KEY_BLOCK,
                                        .x_k_stride = 1,
                                        .blocks = pages,
                                        .block_rows = KV_BLOCK_TOKENS,
                                        .w_stride = a->pages.entry_stride,
                                        .y = out,
                                        .y_stride = a->rk,
                                        .n_rows = a->n_heads,
                                        .n_k = n_keys,
                                        .n_columns = a->rk,
                                        .accumulate = !is_first};
    ISA(tile_multiply)(&values);
}

static float *out_of(const struct mla_attention_args *a, const struct chunk *c, size_t r)
{
    return a->out + (c->span->first_row + c->i + r) * a->out_stride;
}

/* n_keys keys from first_key on, all rows of the chunk. */
static void attend_block(const struct mla_attention_args *a, const struct chunk *c,
                         struct workspace *w, size_t first_key, size_t n_keys)
{
    const size_t width = a->rk + a->dr, seen_first = c->span->n_cached + c->i + 1;
    const float *pages[PAGES_PER_BLOCK];
    const float *keys[1] = {w->keys};

    list_pages(&a->pages, c->span, first_key, n_keys, pages);
    transpose_block(pages, n_keys, a->pages.entry_stride, width, w->keys);
    const struct tile_product scores = {
        .x = w->q,
        .x_row_stride = width,
        .x_k_stride = 1,
        .blocks = keys,
        .block_rows = width,
        .w_stride = KEY_BLOCK,
        .y = w->scores,
        .y_stride = KEY_BLOCK,
        .n_rows = c->n_rows * a->n_heads,
        .n_k = width,
        .n_columns = (n_keys + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES,
    };
    ISA(tile_multiply)(&scores);
    for (size_t r = 0; r < c->n_rows; r++) {
        if (seen_first + r > first_key) {
            add_values(a, w, r * a->n_heads, out_of(a, c, r),
                       smaller(seen_first + r - first_key, n_keys), first_key == 0, pages);
        }
    }
}

static void finish_chunk(const struct mla_attention_args *a, const struct chunk *c,
                         struct workspace *w)
{
    for (size_t pair = 0; pair < c->n_rows * a->n_heads; pair++) {
        float *out = out_of(a, c, pair / a->n_heads) + pair % a->n_heads * a->rk;
        scale_row(out, a->rk, 1.0F / w->sum[pair]);
    }
    if (a->lse == NULL) {
        return;
    }
    float *lse = a->lse + (c->span->first_row + c->i) * a->n_heads;
    for (size_t pair = 0; pair < c->n_rows * a->n_heads; pair += SIMD_LANES) {
        const size_t n = lanes_left(pair, c->n_rows * a->n_heads);
        const f32x16 log_sum = vec_log(lanes_load(w->sum + pair, n));
        lanes_store(lse + pair, vec_add(lanes_load(w->max + pair, n), log_sum), n);
    }
}

static void attend_chunk(const struct mla_attention_args *a, const struct chunk *c,
                         struct workspace *w)
{
    const size_t n_keys = c->span->n_cached + c->i + c->n_rows;

    gather_queries(a, c, w);
    for (size_t first = 0; first < n_keys; first += KEY_BLOCK) {
        attend_block(a, c, w, first, smaller(n_keys - first, KEY_BLOCK));
    }
    finish_chunk(a, c, w);
}

/* Chunks in order; a thread takes those that begin in its share of the work. */
static void attention_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct attention_call *call = context;
    const struct mla_attention_args *a = call->args;
    struct workspace w = workspace_at(a, call->scratch + thread_index * call->scratch_floats);
    size_t before = 0;

    for (size_t s = 0; s < a->n_spans; s++) {
        const struct kv_span *span = &a->spans[s];
        for (size_t i = 0; i < span->n_rows; i += chunk_rows(a->n_heads)) {
            const struct chunk c = {span, i, smaller(span->n_rows - i, chunk_rows(a->n_heads))};
            const size_t done = before + span_work(span, i);
            if (work_owner(done, call->total_work, n_threads) == thread_index) {
                attend_chunk(a, &c, &w);
            }
        }
        before += span_work(span, span->n_rows);
    }
}

enum status ISA(op_mla_attention)(struct backend *backend, const struct mla_attention_args *args)
{
    struct attention_call call = {.args = args, .scratch_floats = workspace_floats(args)};

    for (size_t s = 0; s < args->n_spans; s++) {
        call.total_work += span_work(&args->spans[s], args->spans[s].n_rows);
    }
    TRY(cpu_scratch_acquire(backend, backend->n_threads * call.scratch_floats, sizeof(float),
                            &call.scratch));
    cpu_run(backend, call.total_work * args->n_heads * (4 * args->rk + 2 * args->dr),
            attention_task, &call);
    cpu_scratch_release(backend, call.scratch);
    return STATUS_OK;
}
