/* Owns softmax over the scores of a block of keys, and the sum of their values by it. */
#include "kernels/cpu/simd/attention_block.h"

#include <math.h>

/* Lanes of vector v that hold one of n keys. */
SIMD_INLINE size_t lanes_seen(size_t v, size_t n)
{
    return v * SIMD_LANES < n ? lanes_left(v * SIMD_LANES, n) : 0;
}

/* scores -> exp(scale s - max) of the n keys of up to n_vectors (constant after inlining) vectors,
 * in place, or rounded to pairs; returns the factor for what was summed before. Lanes behind n
 * become 0. */
SIMD_INLINE float soften_vectors(float *scores, size_t n, size_t n_vectors, float scale, float *max,
                                 float *sum, const bool rounds)
{
    const f32x16 lowest = vec_set1(-INFINITY), factor = vec_set1(scale);
    f32x16 best = lowest, total = vec_zero(), s[KEY_BLOCK / SIMD_LANES];

#pragma GCC unroll 8
    for (size_t v = 0; v < n_vectors; v++) {
        const mask16 seen = mask_first(lanes_seen(v, n));
        s[v] = vec_select(seen, vec_mul(vec_load(scores + v * SIMD_LANES), factor), lowest);
        best = vec_max(s[v], best);
    }
    const float block_max = vec_hmax(best), old_max = *max;
    const float new_max = block_max > old_max ? block_max : old_max;
#pragma GCC unroll 8
    for (size_t v = 0; v < n_vectors; v++) {
        const mask16 seen = mask_first(lanes_seen(v, n));
        const f32x16 e = vec_exp(vec_sub(s[v], vec_set1(new_max)));
        s[v] = vec_select(seen, e, vec_zero());
        total = vec_add(total, s[v]);
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < n_vectors; v += 2) {
        if (rounds) {
            pairs_store(scores + v * SIMD_LANES / 2 * PAIR_WORDS, s[v], s[v + 1]);
        } else {
            vec_store(scores + v * SIMD_LANES, s[v]);
            vec_store(scores + (v + 1) * SIMD_LANES, s[v + 1]);
        }
    }
    /* exp(0) is 1, and nothing was summed before the first block. */
    const bool keeps = new_max == old_max || old_max == -INFINITY;
    const float rescale = keeps ? 1.0F : vec_hmax(vec_exp(vec_set1(old_max - new_max)));
    *sum = fmaf(*sum, rescale, vec_sum(total));
    *max = new_max;
    return rescale;
}

typedef float softmax_function(float *scores, size_t n, float scale, float *max, float *sum);

static float softmax_step(float *scores, size_t n, float scale, float *max, float *sum)
{
    return 2 * n <= KEY_BLOCK
               ? soften_vectors(scores, n, KEY_BLOCK / SIMD_LANES / 2, scale, max, sum, false)
               : soften_vectors(scores, n, KEY_BLOCK / SIMD_LANES, scale, max, sum, false);
}

static float softmax_pairs(float *scores, size_t n, float scale, float *max, float *sum)
{
    return 2 * n <= KEY_BLOCK
               ? soften_vectors(scores, n, KEY_BLOCK / SIMD_LANES / 2, scale, max, sum, true)
               : soften_vectors(scores, n, KEY_BLOCK / SIMD_LANES, scale, max, sum, true);
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
    softmax_function *const soften = has_pairs(a) ? softmax_pairs : softmax_step;

    for (size_t head = 0; head < group; head++) {
        const float rescale = soften(w->scores + (pair + head) * KEY_BLOCK, n_keys, a->scale,
                                     &w->max[pair + head], &w->sum[pair + head]);
        if (!is_first && rescale != 1.0F) {
            scale_row(out + head * a->value_dim, a->value_dim, rescale);
        }
    }
}

/* Pairs of the chunk, all of which see the first n keys of the block, and their results. */
struct result_rows {
    float *y; /* (n_rows, V) */
    size_t y_stride;
    size_t pair, n_rows;
    size_t n;
};

static void add_values(const struct attention_args *a, const struct workspace *w,
                       const struct block_values *values, const struct result_rows *rows)
{
    const struct tile_product product = {.x = w->scores + rows->pair * KEY_BLOCK,
                                         .x_row_stride = KEY_BLOCK,
                                         .x_k_stride = 1,
                                         .blocks = values->rows->steps,
                                         .block_rows = KV_STEP_TOKENS,
                                         .w_stride = values->rows->stride,
                                         .y = rows->y,
                                         .y_stride = rows->y_stride,
                                         .n_rows = rows->n_rows,
                                         .n_k = rows->n,
                                         .n_columns = a->value_dim,
                                         .accumulate = !values->is_first,
                                         .pace = w->pace};
    ISA(tile_multiply)(&product);
}

/* Key k of the block. */
static const float *row_of_key(const struct key_rows *rows, size_t k)
{
    return rows->steps[k / KV_STEP_TOKENS] + k % KV_STEP_TOKENS * rows->stride;
}

/* The same over pairs of keys, w->values holding those of the block. */
static void add_value_pairs(const struct attention_args *a, const struct workspace *w,
                            const struct block_values *values, const struct result_rows *rows)
{
    const size_t stride = whole_lanes(a->value_dim);
    const bool is_odd = rows->n % 2 != 0, is_direct = values->is_direct;
    const float *scores = w->scores + rows->pair * KEY_BLOCK;
    float *last = w->values + KEY_BLOCK / 2 * stride;
    const struct pair_product product = {.x = scores,
                                         .x_stride = KEY_BLOCK,
                                         .w = w->values,
                                         .w_stride = stride,
                                         .last = is_odd ? last : NULL,
                                         .rows = is_direct ? values->rows : NULL,
                                         .is_odd = is_odd,
                                         .y = rows->y,
                                         .y_stride = rows->y_stride,
                                         .n_rows = rows->n_rows,
                                         .n_pairs = rows->n / 2,
                                         .n_columns = a->value_dim,
                                         .accumulate = !values->is_first,
                                         .pace = w->pace};

    if (is_odd && !is_direct) {
        ISA(pair_zip)(row_of_key(values->rows, rows->n - 1), NULL, a->value_dim, last);
    }
    ISA(pair_multiply)(&product);
}

void ISA(attention_zip)(const struct attention_args *a, struct workspace *w,
                        const struct block_values *values)
{
    const size_t stride = whole_lanes(a->value_dim);

    for (size_t k = 0; k + 1 < values->n_keys; k += KV_STEP_TOKENS) {
        const size_t n_pairs = smaller(values->n_keys - k, KV_STEP_TOKENS) / 2;
        ISA(pair_zip_step)
        (row_of_key(values->rows, k), values->rows->stride, n_pairs, a->value_dim,
         w->values + k / 2 * stride, stride);
    }
}

void ISA(attention_values)(const struct attention_args *a, const struct chunk *c,
                           struct workspace *w, size_t first_key, const struct block_values *values)
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
        const struct result_rows rows = {.y = out_of(a, c, r),
                                         .y_stride = is_joint ? a->out_stride : a->value_dim,
                                         .pair = r * group,
                                         .n_rows = step * group,
                                         .n = seen > first_key ? smaller(seen - first_key, n_keys)
                                                               : 0};

        if (rows.n > 0 && has_pairs(a)) {
            add_value_pairs(a, w, values, &rows);
        } else if (rows.n > 0) {
            add_values(a, w, values, &rows);
        }
    }
}

void ISA(attention_finish)(const struct attention_args *a, const struct chunk *c,
                           struct workspace *w)
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
