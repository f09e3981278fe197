/* Owns attention's gradient in products of bfloat16 pairs; see attention_gradient.h. Scores are
 * those of the forward pass to the last bit; d_out, P and dS are rounded on their way into
 * products, and <d_out, out> is of the rounded d_out.
 *
 *   scores, dA   pairs of dimensions   x: rows of q and d_out as pairs     w: transposed words
 *   dq           pairs of keys         x: rows of dS as pairs              w: words of two keys
 *   d value, key pairs of rows         words of two rows of P and of dS, of d_out and of q
 *
 * Words of two rows of P take the place of the even one of p; those of dS the place of the odd one;
 * and rows of dS as pairs take their own. A last row without a partner has zeros beside it. */
#include "kernels/cpu/simd/attention_gradient.h"
#include "kernels/cpu/simd/attention_pairs.h"

/* Whether the words of values are the first of their keys. */
static bool values_begin_keys(const struct attention_args *f)
{
    return values_are_in_keys(f) && f->value_at == 0;
}

static size_t place(const struct attention_args *f, float *scratch, struct gradient_workspace *w)
{
    const size_t pairs = max_pairs(group_heads(f)), width = key_width(f), v = f->value_dim;
    const size_t n_twos = (pairs + 1) / 2;
    size_t n = 0;

    *w = (struct gradient_workspace){.q_stride = pair_row_words(width),
                                     .d_out_stride = pair_row_words(v),
                                     .joined_q = whole_lanes(width),
                                     .joined_d_out = whole_lanes(v)};
    w->keys = gradient_part(scratch, &n, half_words(width) * KEY_BLOCK);
    w->values =
        values_begin_keys(f) ? w->keys : gradient_part(scratch, &n, half_words(v) * KEY_BLOCK);
    w->key_pairs = gradient_part(scratch, &n, KEY_BLOCK / 2 * w->joined_q);
    w->p = gradient_part(scratch, &n, 2 * n_twos * SCORE_STRIDE);
    w->ds = gradient_part(scratch, &n, 2 * n_twos * SCORE_STRIDE);
    w->q = gradient_part(scratch, &n, 2 * n_twos * w->q_stride);
    w->d_out = gradient_part(scratch, &n, 2 * n_twos * w->d_out_stride);
    w->q_joined = gradient_part(scratch, &n, n_twos * w->joined_q);
    w->d_out_joined = gradient_part(scratch, &n, n_twos * w->joined_d_out);
    w->dq = gradient_part(scratch, &n, pairs * width);
    w->lse = gradient_part(scratch, &n, 2 * n_twos);
    w->dot = gradient_part(scratch, &n, 2 * n_twos);
    w->rows = gradient_part(scratch, &n, 2 * whole_lanes(width));
    w->gathered = gradient_part(scratch, &n, KEY_BLOCK * half_words(width > v ? width : v));
    w->d_page = gradient_part(scratch, &n, page_floats(f));
    return n;
}

/* A part of the query of a pair. */
static const float *query_part(const struct attention_args *f, const struct chunk *c, size_t pair,
                               bool is_rope)
{
    const size_t row = pair_row(c, pair, group_heads(f)), head = pair_head(c, pair, group_heads(f));

    return is_rope ? f->q_rope + row * f->q_rope_stride + head * f->q_rope_head_stride
                   : f->q + row * f->q_stride + head * f->q_head_stride;
}

/* Queries of pairs `pair` and the next one, if there is one, by parts: a second part that does not
 * begin with whole PAIR_VALUES is copied behind the first before. */
static void gather_queries(const struct attention_args *f, const struct chunk *c,
                           const struct gradient_workspace *w, size_t pair, bool is_alone)
{
    const size_t width = key_width(f), group = group_heads(f), odd = pair + (is_alone ? 0 : 1);
    float *const copy[2] = {w->rows, w->rows + whole_lanes(width)};
    struct pair_rows to = {.even = w->q + pair * w->q_stride,
                           .odd = w->q + (pair + 1) * w->q_stride,
                           .joined = w->q_joined + pair / 2 * w->joined_q};

    if (f->rope_dim > 0 && f->key_dim % PAIR_VALUES != 0) {
        gather_query(f, pair_row(c, pair, group), pair_head(c, pair, group), copy[0]);
        gather_query(f, pair_row(c, odd, group), pair_head(c, odd, group), copy[1]);
        pair_rows_convert(copy[0], is_alone ? NULL : copy[1], width, &to);
        return;
    }
    pair_rows_convert(query_part(f, c, pair, false), is_alone ? NULL : query_part(f, c, odd, false),
                      f->key_dim, &to);
    if (f->rope_dim > 0) {
        to.even += f->key_dim / 2 * PAIR_WORDS;
        to.odd += f->key_dim / 2 * PAIR_WORDS;
        to.joined += f->key_dim;
        pair_rows_convert(query_part(f, c, pair, true),
                          is_alone ? NULL : query_part(f, c, odd, true), f->rope_dim, &to);
    }
}

/* <rounded d_out, out>. */
static float rounded_dot(const float *d_out, const float *out, size_t n)
{
    f32x16 sum = vec_zero();

    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        const f32x16 rounded = vec_round_bf16(lanes_load(d_out + j, left));
        sum = vec_fma(rounded, lanes_load(out + j, left), sum);
    }
    return vec_sum(sum);
}

/* Of the same two pairs what results bring. */
static void gather_results(const struct attention_backward_args *a, const struct chunk *c,
                           const struct gradient_workspace *w, size_t pair, bool is_alone)
{
    const struct attention_args *f = &a->forward;
    const size_t group = group_heads(f), v = f->value_dim;
    const struct pair_rows to = {.even = w->d_out + pair * w->d_out_stride,
                                 .odd = w->d_out + (pair + 1) * w->d_out_stride,
                                 .joined = w->d_out_joined + pair / 2 * w->joined_d_out};
    const float *d_out[2] = {NULL, NULL};

    for (size_t i = 0; i < (is_alone ? 1 : 2); i++) {
        const size_t row = pair_row(c, pair + i, group), head = pair_head(c, pair + i, group);
        const size_t at = row * f->out_stride + head * v;
        d_out[i] = a->d_out + at;
        w->lse[pair + i] = f->lse[row * f->n_heads + head];
        w->dot[pair + i] = rounded_dot(d_out[i], f->out + at, v);
    }
    pair_rows_convert(d_out[0], d_out[1], v, &to);
}

static void gather(const struct attention_backward_args *a, const struct chunk *c,
                   struct gradient_workspace *w)
{
    const size_t n_pairs = c->n_rows * group_heads(&a->forward);

    if (n_pairs % 2 != 0) {
        w->lse[n_pairs] = w->dot[n_pairs] = 0.0F;
    }
    for (size_t pair = 0; pair < n_pairs; pair += 2) {
        gather_queries(&a->forward, c, w, pair, pair + 1 == n_pairs);
        gather_results(a, c, w, pair, pair + 1 == n_pairs);
    }
}

/* Words of keys [done, end) of the block, transposed, and those of two keys. */
static void prepare_words(const struct key_rows *words, size_t width, size_t done, size_t end,
                          float *transposed, float *twos, size_t twos_stride)
{
    for (size_t k = done; k < end; k += KV_STEP_TOKENS) {
        const float *const step = words->steps[(k - done) / KV_STEP_TOKENS];
        const size_t n = smaller(end - k, KV_STEP_TOKENS);
        const float *const last = step + (n - 1) * words->stride;

        ISA(pair_transpose_step)(step, n, words->stride, width, transposed + k, KEY_BLOCK);
        if (twos == NULL) {
            continue;
        }
        ISA(pair_zip_step)
        (step, words->stride, n / 2, width, twos + k / 2 * twos_stride, twos_stride);
        if (n % 2 != 0) {
            ISA(pair_zip)(last, NULL, width, twos + (k + n) / 2 * twos_stride);
        }
    }
}

static void prepare_block(const struct attention_args *f, const struct chunk *c,
                          struct gradient_workspace *w, size_t first_key, size_t n_keys)
{
    const size_t width = key_width(f);
    struct key_rows words;
    size_t end;
    const size_t done = prepare_keys(c, first_key, n_keys, &w->prepared, &end);
    struct key_part part = {first_key + done, end - done, c->kv_head * f->kv_head_stride, width};

    if (end == done) {
        return;
    }
    locate_words(&f->pages, c, &part, w->gathered, &words);
    prepare_words(&words, width, done, end, w->keys, w->key_pairs, w->joined_q);
    if (!values_begin_keys(f)) {
        part.at += f->value_at;
        part.width = f->value_dim;
        locate_words(&f->pages, c, &part, w->gathered, &words);
        prepare_words(&words, f->value_dim, done, end, w->values, NULL, 0);
    }
}

/* The two rows of pairs 2 i and 2 i + 1, which see n[] of the keys: scores and dA -> words. */
static void soften_two(const struct attention_args *f, const struct gradient_workspace *w,
                       size_t pair, const size_t n[2], size_t n_keys)
{
    float *const p = w->p + pair * SCORE_STRIDE, *const ds = w->ds + pair * SCORE_STRIDE;
    const struct pair_terms terms[2] = {{f->scale, w->lse[pair], w->dot[pair]},
                                        {f->scale, w->lse[pair + 1], w->dot[pair + 1]}};

    for (size_t k = 0; k < n_keys; k += PAIR_VALUES) {
        f32x16 probability[2][2], d[2][2];
#pragma GCC unroll 2
        for (size_t r = 0; r < 2; r++) {
#pragma GCC unroll 2
            for (size_t h = 0; h < 2; h++) {
                const size_t at = k + h * SIMD_LANES;
                probability[r][h] = vec_load(p + r * SCORE_STRIDE + at);
                d[r][h] = vec_load(ds + r * SCORE_STRIDE + at);
                key_gradients(&probability[r][h], &d[r][h], at < n[r] ? lanes_left(at, n[r]) : 0,
                              &terms[r]);
            }
        }
#pragma GCC unroll 2
        for (size_t h = 0; h < 2; h++) {
            const size_t at = k + h * SIMD_LANES;
            vec_store(p + at, pairs_join(probability[0][h], probability[1][h]));
            vec_store(p + SCORE_STRIDE + at, pairs_join(d[0][h], d[1][h]));
        }
        pairs_store(ds + k / 2 * PAIR_WORDS, d[0][0], d[0][1]);
        pairs_store(ds + SCORE_STRIDE + k / 2 * PAIR_WORDS, d[1][0], d[1][1]);
    }
}

/* Scores and dA of pairs that see n keys of the block at most. */
static void score_rows(const struct attention_args *f, const struct gradient_workspace *w,
                       size_t pair, size_t n_pairs, size_t n)
{
    struct pair_product product = {.x = w->q + pair * w->q_stride,
                                   .x_stride = w->q_stride,
                                   .w = w->keys,
                                   .w_stride = KEY_BLOCK,
                                   .y = w->p + pair * SCORE_STRIDE,
                                   .y_stride = SCORE_STRIDE,
                                   .n_rows = n_pairs,
                                   .n_pairs = half_words(key_width(f)),
                                   .n_columns = whole_lanes(n)};

    ISA(pair_multiply)(&product);
    product.x = w->d_out + pair * w->d_out_stride;
    product.x_stride = w->d_out_stride;
    product.w = w->values;
    product.y = w->ds + pair * SCORE_STRIDE;
    product.n_pairs = half_words(f->value_dim);
    ISA(pair_multiply)(&product);
}

/* dq += dS . keys, of pairs that see n keys of the block at most. */
static void add_queries(const struct attention_args *f, const struct gradient_workspace *w,
                        size_t pair, size_t n_pairs, size_t n)
{
    const size_t width = key_width(f);
    const struct pair_product product = {.x = w->ds + pair * SCORE_STRIDE,
                                         .x_stride = SCORE_STRIDE,
                                         .w = w->key_pairs,
                                         .w_stride = w->joined_q,
                                         .y = w->dq + pair * width,
                                         .y_stride = width,
                                         .n_rows = n_pairs,
                                         .n_pairs = half_words(n),
                                         .n_columns = width,
                                         .accumulate = true};

    ISA(pair_multiply)(&product);
}

static void add_block(const struct attention_args *f, const struct chunk *c,
                      struct gradient_workspace *w, size_t first_key, size_t n_keys)
{
    const size_t group = group_heads(f), step = rows_together(f), n_pairs = c->n_rows * group;

    prepare_block(f, c, w, first_key, n_keys);
    for (size_t r = 0; r < c->n_rows; r += step) {
        const size_t rows = smaller(c->n_rows - r, step);
        score_rows(f, w, r * group, rows * group, block_seen(c, r + rows - 1, first_key, n_keys));
    }
    for (size_t pair = 0; pair < n_pairs; pair += 2) {
        const size_t n[2] = {
            block_seen(c, pair / group, first_key, n_keys),
            pair + 1 < n_pairs ? block_seen(c, (pair + 1) / group, first_key, n_keys) : 0};
        soften_two(f, w, pair, n, n_keys);
    }
    for (size_t r = 0; r < c->n_rows; r += step) {
        const size_t rows = smaller(c->n_rows - r, step);
        add_queries(f, w, r * group, rows * group, block_seen(c, r + rows - 1, first_key, n_keys));
    }
}

static void add_keys(const struct attention_args *f, size_t n_pairs, struct gradient_workspace *w,
                     const struct key_gradient *to)
{
    const size_t skipped = to->skipped / 2;
    struct dw_columns value = {.dy = w->p + 2 * skipped * SCORE_STRIDE + to->key,
                               .dy_stride = 2 * SCORE_STRIDE,
                               .x = w->d_out_joined + skipped * w->joined_d_out,
                               .x_stride = w->joined_d_out,
                               .dw = to->d_value,
                               .dw_stride = to->value_stride,
                               .n_steps = (n_pairs + 1) / 2 - skipped,
                               .n_in = f->value_dim,
                               .n_out = to->n};
    struct dw_columns key = value;

    key.dy += SCORE_STRIDE;
    key.x = w->q_joined + skipped * w->joined_q;
    key.x_stride = w->joined_q;
    key.dw = to->d_key;
    key.dw_stride = to->key_stride;
    key.n_in = key_width(f);
    take_next(w, &value, &key);
    ISA(dw_pair_columns)(&value);
    ISA(dw_pair_columns)(&key);
}

const struct gradient_form ISA(gradient_in_pairs) = {place, gather, add_block, add_keys};
