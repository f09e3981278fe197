/* Owns attention's gradient in chains of fma; see attention_gradient.h. */
#include "kernels/cpu/simd/attention_gradient.h"

#include <string.h>

static size_t place(const struct attention_args *f, float *scratch, struct gradient_workspace *w)
{
    const size_t pairs = max_pairs(group_heads(f)), width = key_width(f);
    const bool is_inside = values_are_in_keys(f);
    size_t n = 0;

    *w = (struct gradient_workspace){.q_stride = width, .d_out_stride = f->value_dim};
    w->keys = gradient_part(scratch, &n, width * KEY_BLOCK);
    w->values = is_inside ? w->keys : gradient_part(scratch, &n, f->value_dim * KEY_BLOCK);
    w->values += is_inside && scratch != NULL ? f->value_at * KEY_BLOCK : 0;
    w->p = gradient_part(scratch, &n, pairs * SCORE_STRIDE);
    w->ds = gradient_part(scratch, &n, pairs * SCORE_STRIDE);
    w->q = gradient_part(scratch, &n, pairs * width);
    w->dq = gradient_part(scratch, &n, pairs * width);
    w->d_out = gradient_part(scratch, &n, pairs * f->value_dim);
    w->lse = gradient_part(scratch, &n, pairs);
    w->dot = gradient_part(scratch, &n, pairs);
    w->gathered = gradient_part(scratch, &n, gathered_floats(f));
    w->d_page = gradient_part(scratch, &n, page_floats(f));
    return n;
}

static void gather(const struct attention_backward_args *a, const struct chunk *c,
                   struct gradient_workspace *w)
{
    const struct attention_args *f = &a->forward;
    const size_t group = group_heads(f), v = f->value_dim;

    for (size_t pair = 0; pair < c->n_rows * group; pair++) {
        const size_t row = pair_row(c, pair, group), head = pair_head(c, pair, group);
        const size_t at = row * f->out_stride + head * v;
        gather_rounded_query(f, row, head, w->q + pair * w->q_stride);
        memcpy(w->d_out + pair * w->d_out_stride, a->d_out + at, v * sizeof(float));
        w->lse[pair] = f->lse[row * f->n_heads + head];
        w->dot[pair] = dot_product(a->d_out + at, f->out + at, v);
    }
}

/* Transposed copies of the keys and values that have none yet. */
static void prepare_block(const struct attention_args *f, const struct chunk *c,
                          struct gradient_workspace *w, size_t first_key, size_t n_keys)
{
    const size_t width = key_width(f);
    struct key_rows keys, values;
    size_t end;
    const size_t done = prepare_keys(c, first_key, n_keys, &w->prepared, &end);

    if (end == done) {
        return;
    }
    locate_block(f, c, first_key, end, w->gathered, &keys, &values);
    for (size_t k = done; k < end; k += KV_STEP_TOKENS) {
        const size_t step = k / KV_STEP_TOKENS, n = smaller(end - k, KV_STEP_TOKENS);
        ISA(tile_transpose_step)(keys.steps[step], n, keys.stride, width, w->keys + k, KEY_BLOCK);
        if (!values_are_in_keys(f)) {
            ISA(tile_transpose_step)
            (values.steps[step], n, values.stride, f->value_dim, w->values + k, KEY_BLOCK);
        }
    }
    w->key_rows = keys;
}

/* Scores and dA of pairs that see n keys of the block at most. */
static void score_rows(const struct attention_args *f, const struct gradient_workspace *w,
                       size_t pair, size_t n_pairs, size_t n)
{
    const float *keys[1] = {w->keys}, *values[1] = {w->values};
    struct tile_product product = {.x = w->q + pair * w->q_stride,
                                   .x_row_stride = w->q_stride,
                                   .x_k_stride = 1,
                                   .blocks = keys,
                                   .block_rows = key_width(f),
                                   .w_stride = KEY_BLOCK,
                                   .y = w->p + pair * SCORE_STRIDE,
                                   .y_stride = SCORE_STRIDE,
                                   .n_rows = n_pairs,
                                   .n_k = key_width(f),
                                   .n_columns = whole_lanes(n)};

    ISA(tile_multiply)(&product);
    product.x = w->d_out + pair * w->d_out_stride;
    product.x_row_stride = w->d_out_stride;
    product.blocks = values;
    product.block_rows = product.n_k = f->value_dim;
    product.y = w->ds + pair * SCORE_STRIDE;
    ISA(tile_multiply)(&product);
}

/* Scores -> P and dA -> dS of one pair, which sees n of the n_keys keys. */
static void soften_pair(const struct attention_args *f, const struct gradient_workspace *w,
                        size_t pair, size_t n, size_t n_keys)
{
    const struct pair_terms terms = {f->scale, w->lse[pair], w->dot[pair]};
    float *p = w->p + pair * SCORE_STRIDE, *ds = w->ds + pair * SCORE_STRIDE;

    for (size_t k = 0; k < n_keys; k += SIMD_LANES) {
        f32x16 probability = vec_load(p + k), d = vec_load(ds + k);
        key_gradients(&probability, &d, k < n ? lanes_left(k, n) : 0, &terms);
        vec_store(p + k, probability);
        vec_store(ds + k, d);
    }
}

/* dq += dS . keys, of pairs that see n keys of the block at most. */
static void add_queries(const struct attention_args *f, const struct gradient_workspace *w,
                        size_t pair, size_t n_pairs, size_t n)
{
    const size_t width = key_width(f);
    const struct tile_product product = {.x = w->ds + pair * SCORE_STRIDE,
                                         .x_row_stride = SCORE_STRIDE,
                                         .x_k_stride = 1,
                                         .blocks = w->key_rows.steps,
                                         .block_rows = KV_STEP_TOKENS,
                                         .w_stride = w->key_rows.stride,
                                         .y = w->dq + pair * width,
                                         .y_stride = width,
                                         .n_rows = n_pairs,
                                         .n_k = n,
                                         .n_columns = width,
                                         .accumulate = true};

    ISA(tile_multiply)(&product);
}

static void add_block(const struct attention_args *f, const struct chunk *c,
                      struct gradient_workspace *w, size_t first_key, size_t n_keys)
{
    const size_t group = group_heads(f), step = rows_together(f);

    prepare_block(f, c, w, first_key, n_keys);
    for (size_t r = 0; r < c->n_rows; r += step) {
        const size_t end = smaller(r + step, c->n_rows), n_pairs = (end - r) * group;
        const size_t n = block_seen(c, end - 1, first_key, n_keys);

        score_rows(f, w, r * group, n_pairs, n);
        for (size_t pair = r * group; pair < end * group; pair++) {
            soften_pair(f, w, pair, block_seen(c, pair / group, first_key, n_keys), n_keys);
        }
        add_queries(f, w, r * group, n_pairs, n);
    }
}

static void add_keys(const struct attention_args *f, size_t n_pairs, struct gradient_workspace *w,
                     const struct key_gradient *to)
{
    const size_t at = to->skipped * SCORE_STRIDE + to->key;
    struct dw_columns value = {.dy = w->p + at,
                               .dy_stride = SCORE_STRIDE,
                               .x = w->d_out + to->skipped * w->d_out_stride,
                               .x_stride = w->d_out_stride,
                               .dw = to->d_value,
                               .dw_stride = to->value_stride,
                               .n_steps = n_pairs - to->skipped,
                               .n_in = f->value_dim,
                               .n_out = to->n};
    struct dw_columns key = {.dy = w->ds + at,
                             .dy_stride = SCORE_STRIDE,
                             .x = w->q + to->skipped * w->q_stride,
                             .x_stride = w->q_stride,
                             .dw = to->d_key,
                             .dw_stride = to->key_stride,
                             .n_steps = n_pairs - to->skipped,
                             .n_in = key_width(f),
                             .n_out = to->n};

    take_next(w, &value, &key);
    ISA(dw_columns)(&value);
    ISA(dw_columns)(&key);
}

const struct gradient_form ISA(gradient_in_floats) = {place, gather, add_block, add_keys};
