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
#include "kernels/cpu/simd/attention_block.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <math.h>
#include <string.h>

/* Pairs of a chunk for whom zipping values each time is cheaper than a copy of the zipped ones. */
#define ZIPPING_PAIRS_MAX ((size_t)16)

struct attention_call {
    const struct attention_args *args;
    float *scratch;
    size_t scratch_floats; /* a thread */
    size_t total_work;
};

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
    w->pace = (struct fetch_pace){0};
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
                                         .n_columns = whole_lanes(n),
                                         .pace = w->pace};
    const struct pair_product pairs = {.x = w->q,
                                       .x_stride = w->q_stride,
                                       .w = w->keys,
                                       .w_stride = SCORE_KEYS,
                                       .y = w->scores + at,
                                       .y_stride = KEY_BLOCK,
                                       .n_rows = n_pairs,
                                       .n_pairs = half_words(width),
                                       .n_columns = whole_lanes(n),
                                       .pace = w->pace};

    if (has_pairs(a)) {
        ISA(pair_multiply)(&pairs);
    } else {
        ISA(tile_multiply)(&product);
    }
}

/* Lines for each unit of the products (FETCH_UNIT rows of w, a tile), so that a block of keys asks
 * for as many as it reads. */
static size_t pace_lines(const struct attention_args *a, size_t n_pairs)
{
    const size_t n_words = has_pairs(a) ? half_words(key_width(a)) : key_width(a);
    const size_t n_tiles = (n_pairs + 3) / 4;
    const size_t n_scores = (n_words + FETCH_UNIT - 1) / FETCH_UNIT * (KEY_BLOCK / SCORE_KEYS);
    const size_t n_values =
        (a->value_dim + 63) / 64 * (KEY_BLOCK / FETCH_UNIT) / (has_pairs(a) ? 2 : 1);
    const size_t n_units = n_tiles * (n_scores + n_values);

    return n_units == 0 ? 0 : (fetch_step_lines(a) * STEPS_PER_BLOCK + n_units - 1) / n_units;
}

static void score_block(const struct attention_args *a, const struct chunk *c, struct workspace *w,
                        size_t n_keys, const struct key_rows *keys)
{
    const size_t width = key_width(a), n_pairs = c->n_rows * group_heads(a);

    for (size_t k = 0; k < n_keys; k += KV_STEP_TOKENS) {
        const float *step = keys->steps[k / KV_STEP_TOKENS];
        const size_t at = k / SCORE_KEYS * SCORE_KEYS, end = k + KV_STEP_TOKENS;
        const size_t n = smaller(KV_STEP_TOKENS, n_keys - k);

        if (has_pairs(a)) {
            ISA(pair_transpose_step)(step, n, keys->stride, width, w->keys + k - at, SCORE_KEYS);
        } else {
            ISA(tile_transpose_step)(step, n, keys->stride, width, w->keys + k - at, SCORE_KEYS);
        }
        if (end - at == SCORE_KEYS || end >= n_keys) {
            score_keys(a, n_pairs, w, at, smaller(end, n_keys) - at);
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

/* Whether values of bfloat16 are zipped by the products: few rows read them. */
static bool zips_in_product(const struct attention_args *a, const struct chunk *c)
{
    return PAIRS_FROM_ROWS && a->value_dim % PAIR_VALUES == 0 &&
           c->n_rows * group_heads(a) <= ZIPPING_PAIRS_MAX;
}

/* n_keys keys from first_key on, all rows of the chunk. */
static void attend_block(const struct attention_args *a, const struct chunk *c, struct workspace *w,
                         size_t first_key, size_t n_keys)
{
    struct key_rows keys, rows;
    const struct block_values values = {&rows, n_keys, first_key == 0, zips_in_product(a, c)};

    if (has_pairs(a)) {
        locate_pairs(a, c, first_key, n_keys, w, &keys, &rows);
        if (!values.is_direct) {
            ISA(attention_zip)(a, w, &values);
        }
    } else {
        locate_block(a, c, first_key, n_keys, w->gathered, &keys, &rows);
    }
    w->pace.n_lines = pace_lines(a, c->n_rows * group_heads(a));
    if (w->pace.fetch != NULL) {
        w->pace.fetch->allowed += whole_lanes(n_keys) / KV_STEP_TOKENS * fetch_step_lines(a);
    }
    score_block(a, c, w, n_keys, &keys);
    ISA(attention_values)(a, c, w, first_key, &values);
}

static void attend_keys(const struct attention_args *a, const struct chunk *c, struct workspace *w)
{
    gather_queries(a, c, w);
    for (size_t first = 0; first < c->n_keys; first += KEY_BLOCK) {
        attend_block(a, c, w, first, smaller(c->n_keys - first, KEY_BLOCK));
    }
    ISA(attention_finish)(a, c, w);
}

static void attend_chunk(const struct attention_args *a, const struct chunk *c, struct workspace *w,
                         struct key_fetch *fetch)
{
    w->pace.fetch = has_selection(a, c) ? NULL : fetch;
    if (!has_selection(a, c)) {
        attend_keys(a, c, w);
        return;
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        const struct chunk row = chunk_row(c, r, a->selected, a->n_selected);
        attend_keys(a, &row, w);
    }
}

/* Chunks in order; a thread takes those that begin in its share of the work. */
static void attention_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct attention_call *call = context;
    const struct attention_args *a = call->args;
    struct chunk_list list = {.args = a,
                              .n_rows = chunk_rows(group_heads(a)),
                              .total_work = call->total_work,
                              .thread_index = thread_index,
                              .n_threads = n_threads};
    struct workspace w;
    struct key_fetch fetch;
    struct chunk c;

    (void)workspace_at(a, call->scratch + thread_index * call->scratch_floats, &w);
    if (has_pairs(a)) {
        memset(w.query, 0, (whole_lanes(key_width(a)) + SIMD_LANES) * sizeof(*w.query));
    }
    ISA(fetch_begin)(&fetch, &list);
    while (ISA(chunk_list_next)(&list, &c)) {
        attend_chunk(a, &c, &w, &fetch);
    }
}

/* One chunk cannot be shared. */
static bool is_one_chunk(const struct attention_args *a)
{
    return a->n_spans == 1 && a->n_kv_heads == 1 &&
           a->spans[0].n_rows <= chunk_rows(group_heads(a));
}

enum status ISA(op_attention)(struct backend *backend, const struct attention_args *args)
{
    struct attention_call call = {.args = args, .scratch_floats = workspace_floats(args)};
    const size_t key_work = args->n_heads * 2 * (key_width(args) + args->value_dim);

    for (size_t s = 0; s < args->n_spans; s++) {
        call.total_work += attention_work(args, &args->spans[s], args->spans[s].n_rows);
    }
    TRY(cpu_scratch_acquire(backend, backend->n_threads * call.scratch_floats, sizeof(float),
                            &call.scratch));
    cpu_run(backend, is_one_chunk(args) ? 0 : call.total_work * key_work, attention_task, &call);
    cpu_scratch_release(backend, call.scratch);
    return STATUS_OK;
}
