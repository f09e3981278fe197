/* Owns softmax attention over the paged cache, absorbed MLA (model.md 6.2) and grouped heads alike:
 * decode, prefill and training in one op.
 *
 * Order for one (row, head), which depends on key positions alone:
 *   scores: one fma chain over the key's dimensions ascending, then times scale;
 *   softmax by key blocks of 128, ascending, online: maximum of the block, earlier sums rescaled by
 *   exp(old - new), block sum with key k in lane k % 16 and the fixed tree;
 *   values: one fma chain over keys ascending, at the end times 1 / sum.
 * With bfloat16 pages both chains are over pairs (attention_pairs.h); the sum is of exponentials
 * that are not rounded.
 * Keys behind a row's own are never multiplied, so what a page holds there does not matter. A row
 * with a selection goes alone over the selected keys, copied together: blocks are of 128 selected
 * ones, which are the same blocks while all are selected. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/attention_chunk.h"
#include "kernels/cpu/simd/attention_pairs.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <math.h>
#include <string.h>

/* Keys that are scored together: few enough to stay in the first cache, whole vectors of a tile. */
#define SCORE_KEYS ((size_t)64)

/* One thread's memory. P = pairs of a chunk, D = key_dim + rope_dim, V = value_dim. Under bfloat16
 * q and scores become rows of pairs, keys and values words of two. */
struct workspace {
    float *q;      /* (P, q_stride) */
    float *scores; /* (P, KEY_BLOCK) */
    float *keys;   /* (D, SCORE_KEYS) transposed */
    float *max;    /* (P) */
    float *sum;    /* (P) */
    float *gathered;
    float *values; /* bfloat16: (KEY_BLOCK / 2, V) pairs of keys, and the row of an odd last one */
    float *query;  /* bfloat16: one query, then zeros */
    size_t q_stride;
    const struct kv_span *next; /* whose keys come behind the chunk's, or NULL */
};

struct attention_call {
    const struct attention_args *args;
    float *scratch;
    size_t scratch_floats; /* a thread */
    size_t total_work;
};

static bool has_pairs(const struct attention_args *a)
{
    return a->pages.precision == PRECISION_BF16;
}

static size_t query_stride(const struct attention_args *a)
{
    return has_pairs(a) ? pair_row_words(key_width(a)) : key_width(a);
}

static float *part(float *scratch, size_t *at, size_t n)
{
    float *begin = scratch == NULL ? NULL : scratch + *at;

    *at += whole_lanes(n);
    return begin;
}

/* Returns the floats of a workspace; only counts when scratch is NULL. */
static size_t workspace_at(const struct attention_args *a, float *scratch, struct workspace *w)
{
    const size_t pairs = max_pairs(group_heads(a)), width = key_width(a);
    const size_t n_pair_rows = has_pairs(a) ? KEY_BLOCK / 2 + 1 : 0;
    size_t n = 0;

    w->q_stride = query_stride(a);
    w->keys = part(scratch, &n, width * SCORE_KEYS);
    w->scores = part(scratch, &n, pairs * KEY_BLOCK);
    w->q = part(scratch, &n, pairs * w->q_stride);
    w->max = part(scratch, &n, pairs);
    w->sum = part(scratch, &n, pairs);
    w->gathered = part(scratch, &n, gathered_floats(a));
    w->values = part(scratch, &n, n_pair_rows * whole_lanes(a->value_dim));
    w->query = part(scratch, &n, has_pairs(a) ? whole_lanes(width) + SIMD_LANES : 0);
    w->next = NULL;
    return n;
}

static size_t workspace_floats(const struct attention_args *a)
{
    struct workspace unused;

    return workspace_at(a, NULL, &unused);
}

/* Queries of a chunk as adjacent rows; sums start empty. */
static void gather_queries(const struct attention_args *a, const struct chunk *c,
                           struct workspace *w)
{
    const size_t group = group_heads(a), width = key_width(a);

    for (size_t pair = 0; pair < c->n_rows * group; pair++) {
        float *const to = has_pairs(a) ? w->query : w->q + pair * w->q_stride;
        gather_query(a, pair_row(c, pair, group), pair_head(c, pair, group), to);
        if (has_pairs(a)) {
            ISA(pair_round)(to, width, w->q + pair * w->q_stride);
        }
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
    /* exp(0) is 1, and nothing was summed before the first block. */
    const bool keeps = new_max == old_max || old_max == -INFINITY;
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

/* The first head of row r of the chunk in out. */
static float *out_of(const struct attention_args *a, const struct chunk *c, size_t r)
{
    return a->out + (c->span->first_row + c->i + r) * a->out_stride +
           c->kv_head * group_heads(a) * a->value_dim;
}

/* Scores of one row of the chunk -> probabilities of n_keys keys; what was summed before shrinks.
 */
static void soften_row(const struct attention_args *a, struct workspace *w, size_t r, float *out,
                       size_t n_keys, bool is_first)
{
    const size_t group = group_heads(a), pair = r * group;

    for (size_t head = 0; head < group; head++) {
        const float rescale = softmax_step(w->scores + (pair + head) * KEY_BLOCK, n_keys, a->scale,
                                           &w->max[pair + head], &w->sum[pair + head]);
        if (!is_first && rescale != 1.0F) {
            scale_row(out + head * a->value_dim, a->value_dim, rescale);
        }
    }
}

/* Values of a block on their way to the results. */
struct block_values {
    const struct key_rows *rows; /* floats, or words of two values */
    size_t n_keys;
    bool is_first; /* results are assigned */
};

/* y (n_rows, V) from the probabilities x of n keys of the block. */
static void add_values(const struct attention_args *a, const struct block_values *values,
                       const float *x, float *y, size_t y_stride, size_t n_rows, size_t n)
{
    const struct tile_product product = {.x = x,
                                         .x_row_stride = KEY_BLOCK,
                                         .x_k_stride = 1,
                                         .blocks = values->rows->steps,
                                         .block_rows = KV_STEP_TOKENS,
                                         .w_stride = values->rows->stride,
                                         .y = y,
                                         .y_stride = y_stride,
                                         .n_rows = n_rows,
                                         .n_k = n,
                                         .n_columns = a->value_dim,
                                         .accumulate = !values->is_first};
    ISA(tile_multiply)(&product);
}

/* Key k of the block. */
static const float *row_of_key(const struct key_rows *rows, size_t k)
{
    return rows->steps[k / KV_STEP_TOKENS] + k % KV_STEP_TOKENS * rows->stride;
}

/* The same over pairs of keys, w->values holding those of the block. */
static void add_value_pairs(const struct attention_args *a, struct workspace *w,
                            const struct block_values *values, size_t pair, float *y,
                            size_t y_stride, size_t n_rows, size_t n)
{
    const size_t stride = whole_lanes(a->value_dim);
    float *last = w->values + KEY_BLOCK / 2 * stride;

    for (size_t r = 0; r < n_rows; r++) {
        float *row = w->scores + (pair + r) * KEY_BLOCK;
        ISA(pair_round)(row, n, row);
    }
    if (n % 2 != 0) {
        ISA(pair_zip)(row_of_key(values->rows, n - 1), NULL, a->value_dim, last);
    }
    const struct pair_product product = {.x = w->scores + pair * KEY_BLOCK,
                                         .x_stride = KEY_BLOCK,
                                         .w = w->values,
                                         .w_stride = stride,
                                         .last = n % 2 != 0 ? last : NULL,
                                         .y = y,
                                         .y_stride = y_stride,
                                         .n_rows = n_rows,
                                         .n_pairs = n / 2,
                                         .n_columns = a->value_dim,
                                         .accumulate = !values->is_first};
    ISA(pair_multiply)(&product);
}

static void zip_values(const struct attention_args *a, struct workspace *w,
                       const struct block_values *values)
{
    for (size_t k = 0; k + 1 < values->n_keys; k += 2) {
        ISA(pair_zip)
        (row_of_key(values->rows, k), row_of_key(values->rows, k + 1), a->value_dim,
         w->values + k / 2 * whole_lanes(a->value_dim));
    }
}

/* All rows of the chunk with the keys of the block from first_key on, scores given. */
static void attend_rows(const struct attention_args *a, const struct chunk *c, struct workspace *w,
                        size_t first_key, const struct block_values *values)
{
    const size_t group = group_heads(a), n_keys = values->n_keys;
    /* Rows that see the same keys are one product where their results are evenly spaced. */
    const bool is_joint = group == 1 && chunk_seen(c, 0) >= first_key + n_keys;
    const size_t step = is_joint ? c->n_rows : 1;

    for (size_t r = 0; r < c->n_rows; r++) {
        if (chunk_seen(c, r) > first_key) {
            soften_row(a, w, r, out_of(a, c, r), smaller(chunk_seen(c, r) - first_key, n_keys),
                       values->is_first);
        }
    }
    for (size_t r = 0; r < c->n_rows; r += step) {
        const size_t seen = chunk_seen(c, r);
        const size_t n = seen > first_key ? smaller(seen - first_key, n_keys) : 0;
        const size_t y_stride = is_joint ? a->out_stride : a->value_dim;

        if (n > 0 && has_pairs(a)) {
            add_value_pairs(a, w, values, r * group, out_of(a, c, r), y_stride, step * group, n);
        } else if (n > 0) {
            add_values(a, values, w->scores + r * group * KEY_BLOCK, out_of(a, c, r), y_stride,
                       step * group, n);
        }
    }
}

/* Asks for the step of key `token`, which is beyond the chunk's own keys when it is one of the next
 * span: memory answers later than the work on a block takes. */
static void fetch_ahead(const struct attention_args *a, const struct chunk *c,
                        const struct kv_span *next, size_t token)
{
    const bool goes_on = token < c->n_keys;
    const struct kv_span *span = goes_on ? c->span : next;
    const size_t at = goes_on ? token : token - c->n_keys;

    if (c->picked != NULL || c->kv_head > 0 || span == NULL ||
        at >= span->n_cached + span->n_rows) {
        return; /* the first KV head asks for all of them */
    }
    const char *step = (const char *)entry_of(&a->pages, span, at);
    const size_t n_bytes = KV_STEP_TOKENS * a->pages.entry_stride * sizeof(float);
    for (size_t i = 0; i < n_bytes; i += 64) {
        __builtin_prefetch(step + i, 0, 2);
    }
}

/* Scores of the chunk's pairs with n keys of a block, from key `at` on. */
static void score_keys(const struct attention_args *a, size_t n_pairs, struct workspace *w,
                       size_t at, size_t n)
{
    const size_t width = key_width(a);
    const float *transposed[1] = {w->keys};
    const struct tile_product product = {.x = w->q,
                                         .x_row_stride = width,
                                         .x_k_stride = 1,
                                         .blocks = transposed,
                                         .block_rows = width,
                                         .w_stride = SCORE_KEYS,
                                         .y = w->scores + at,
                                         .y_stride = KEY_BLOCK,
                                         .n_rows = n_pairs,
                                         .n_k = width,
                                         .n_columns = whole_lanes(n)};
    const struct pair_product pairs = {.x = w->q,
                                       .x_stride = w->q_stride,
                                       .w = w->keys,
                                       .w_stride = SCORE_KEYS,
                                       .y = w->scores + at,
                                       .y_stride = KEY_BLOCK,
                                       .n_rows = n_pairs,
                                       .n_pairs = half_words(width),
                                       .n_columns = whole_lanes(n)};

    if (has_pairs(a)) {
        ISA(pair_multiply)(&pairs);
    } else {
        ISA(tile_multiply)(&product);
    }
}

static void score_block(const struct attention_args *a, const struct chunk *c, struct workspace *w,
                        size_t first_key, size_t n_keys, const struct key_rows *keys)
{
    const size_t width = key_width(a);

    for (size_t k = 0; k < n_keys; k += KV_STEP_TOKENS) {
        const float *step = keys->steps[k / KV_STEP_TOKENS];
        const size_t at = k / SCORE_KEYS * SCORE_KEYS, end = k + KV_STEP_TOKENS;

        fetch_ahead(a, c, w->next, first_key + k + KEY_BLOCK);
        if (has_pairs(a)) {
            ISA(pair_transpose_step)(step, keys->stride, width, w->keys + k - at, SCORE_KEYS);
        } else {
            ISA(tile_transpose_step)(step, keys->stride, width, w->keys + k - at, SCORE_KEYS);
        }
        if (end - at == SCORE_KEYS || end >= n_keys) {
            score_keys(a, c->n_rows * group_heads(a), w, at, smaller(end, n_keys) - at);
        }
    }
}

/* Keys and values of a block as words of two values. */
static void locate_pairs(const struct attention_args *a, const struct chunk *c, size_t first_key,
                         size_t n_keys, struct workspace *w, struct key_rows *keys,
                         struct key_rows *values)
{
    struct key_part part = {first_key, n_keys, c->kv_head * a->kv_head_stride, key_width(a)};

    locate_words(&a->pages, c, &part, w->gathered, keys);
    if (values_are_in_keys(a) && a->value_at == 0) {
        *values = *keys;
        return;
    }
    part.at += a->value_at;
    part.width = a->value_dim;
    locate_words(&a->pages, c, &part, w->gathered + KEY_BLOCK * half_words(key_width(a)), values);
}

/* n_keys keys from first_key on, all rows of the chunk. */
static void attend_block(const struct attention_args *a, const struct chunk *c, struct workspace *w,
                         size_t first_key, size_t n_keys)
{
    struct key_rows keys, rows;
    const struct block_values values = {&rows, n_keys, first_key == 0};

    if (has_pairs(a)) {
        locate_pairs(a, c, first_key, n_keys, w, &keys, &rows);
        zip_values(a, w, &values);
    } else {
        locate_block(a, c, first_key, n_keys, w->gathered, &keys, &rows);
    }
    score_block(a, c, w, first_key, n_keys, &keys);
    attend_rows(a, c, w, first_key, &values);
}

static void finish_chunk(const struct attention_args *a, const struct chunk *c, struct workspace *w)
{
    const size_t group = group_heads(a), n_pairs = c->n_rows * group;

    for (size_t pair = 0; pair < n_pairs; pair++) {
        scale_row(out_of(a, c, pair / group) + pair % group * a->value_dim, a->value_dim,
                  1.0F / w->sum[pair]);
    }
    if (a->lse == NULL) {
        return;
    }
    for (size_t pair = 0; pair < n_pairs; pair += SIMD_LANES) {
        const size_t n = lanes_left(pair, n_pairs);
        const f32x16 log_sum = vec_log(lanes_load(w->sum + pair, n));
        lanes_store(w->max + pair, vec_add(lanes_load(w->max + pair, n), log_sum), n);
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        memcpy(a->lse + (c->span->first_row + c->i + r) * a->n_heads + c->kv_head * group,
               w->max + r * group, group * sizeof(float));
    }
}

static void attend_keys(const struct attention_args *a, const struct chunk *c, struct workspace *w)
{
    gather_queries(a, c, w);
    for (size_t first = 0; first < c->n_keys; first += KEY_BLOCK) {
        attend_block(a, c, w, first, smaller(c->n_keys - first, KEY_BLOCK));
    }
    finish_chunk(a, c, w);
}

static void attend_chunk(const struct attention_args *a, const struct chunk *c, struct workspace *w)
{
    if (!has_selection(a, c)) {
        attend_keys(a, c, w);
        return;
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        const struct chunk row = chunk_row(c, r, a->selected, a->n_selected);
        attend_keys(a, &row, w);
    }
}

/* The chunks of one place of a span, one a KV head, of which thread_index does its own. `before`:
 * work in front of them. */
static void attend_place(const struct attention_call *call, struct workspace *w,
                         const struct chunk *place, size_t before, size_t thread_index,
                         size_t n_threads)
{
    const struct attention_args *a = call->args;
    const size_t work = attention_work(a, place->span, place->i + place->n_rows) -
                        attention_work(a, place->span, place->i);
    struct chunk c = *place;

    for (; c.kv_head < a->n_kv_heads; c.kv_head++) {
        const size_t done = before * a->n_kv_heads + c.kv_head * work;
        if (work_owner(done, call->total_work * a->n_kv_heads, n_threads) == thread_index) {
            attend_chunk(a, &c, w);
        }
    }
}

/* Chunks in order; a thread takes those that begin in its share of the work. */
static void attention_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct attention_call *call = context;
    const struct attention_args *a = call->args;
    const size_t step = chunk_rows(group_heads(a));
    struct workspace w;
    size_t before = 0;

    (void)workspace_at(a, call->scratch + thread_index * call->scratch_floats, &w);
    if (has_pairs(a)) {
        memset(w.query, 0, (whole_lanes(key_width(a)) + SIMD_LANES) * sizeof(*w.query));
    }

    for (size_t s = 0; s < a->n_spans; s++) {
        const struct kv_span *span = &a->spans[s];
        for (size_t i = 0; i < span->n_rows; i += step) {
            const struct chunk c = chunk_at(span, i, step);
            w.next = i + step >= span->n_rows && s + 1 < a->n_spans ? span + 1 : NULL;
            attend_place(call, &w, &c, before + attention_work(a, span, i), thread_index,
                         n_threads);
        }
        before += attention_work(a, span, span->n_rows);
    }
}

enum status ISA(op_attention)(struct backend *backend, const struct attention_args *args)
{
    struct attention_call call = {.args = args, .scratch_floats = workspace_floats(args)};

    for (size_t s = 0; s < args->n_spans; s++) {
        call.total_work += attention_work(args, &args->spans[s], args->spans[s].n_rows);
    }
    TRY(cpu_scratch_acquire(backend, backend->n_threads * call.scratch_floats, sizeof(float),
                            &call.scratch));
    cpu_run(backend, call.total_work * args->n_heads * 2 * (key_width(args) + args->value_dim),
            attention_task, &call);
    cpu_scratch_release(backend, call.scratch);
    return STATUS_OK;
}
