/* Attention and the paged cache, absorbed MLA and grouped heads: double oracle, numeric gradients,
 * and the same bits for any way of cutting a sequence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "tests/ops/op_fixture.h"

#include <math.h>

#define MAX_SPANS 8
#define SCALE 0.31F

/* n_kv 0: absorbed MLA, whose value is its key's first part. Else grouped heads, dr 0. n_selected
 * 0: every row sees all. */
struct shape {
    size_t n_heads, rk, dr;
    size_t n_kv;
    size_t n_selected;
};

static size_t entry_width(struct shape s)
{
    return s.n_kv == 0 ? s.rk + s.dr : 2 * s.n_kv * s.rk;
}

/* Where the key or the value of a query head begins in an entry. */
static size_t key_at(struct shape s, size_t head)
{
    return s.n_kv == 0 ? 0 : head / (s.n_heads / s.n_kv) * s.rk;
}

static size_t value_at(struct shape s, size_t head)
{
    return s.n_kv * s.rk + key_at(s, head);
}

/* Whole sequences packed one after another; rows of all operands are adjacent. */
struct attention_case {
    struct shape shape;
    size_t n_sequences, lengths[MAX_SPANS];
    size_t n_rows;
    float *q_latent, *q_rope, *entries, *d_out; /* entries: (T, entry_width) */
    int32_t *selected;                          /* (T, n_selected), or NULL */
};

/* Pages in an order that is not the tokens'. */
struct cache {
    struct kv_pages pages;
    int32_t *blocks[MAX_SPANS];
    size_t n_pages;
};

static size_t pages_of(size_t n_tokens)
{
    return (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

/* Of a row at position t: min(n_selected, t + 1) different positions up to t by chance, ascending.
 */
static void select_keys(size_t row, size_t t, size_t k, int32_t *selected)
{
    size_t n = 0;

    for (size_t key = 0; key <= t && n < k; key++) {
        const uint64_t number = row * 1000 + key;
        const size_t left = t + 1 - key;
        if (left <= k - n || hash_64(&number, sizeof(number)) % left < k - n) {
            selected[n++] = (int32_t)key;
        }
    }
    while (n < k) {
        selected[n++] = -1;
    }
}

static void make_selection(struct attention_case *c)
{
    const size_t k = c->shape.n_selected;
    size_t row = 0;

    assert_ok(memory_alloc(c->n_rows * k, sizeof(int32_t), &c->selected));
    for (size_t s = 0; s < c->n_sequences; s++) {
        for (size_t t = 0; t < c->lengths[s]; t++, row++) {
            select_keys(row, t, k, c->selected + row * k);
        }
    }
}

static void make_case(struct attention_case *c, struct shape shape, size_t n_sequences,
                      const size_t *lengths)
{
    *c = (struct attention_case){.shape = shape, .n_sequences = n_sequences};
    for (size_t s = 0; s < n_sequences; s++) {
        c->lengths[s] = lengths[s];
        c->n_rows += lengths[s];
    }
    c->q_latent = random_floats(c->n_rows * shape.n_heads * shape.rk, 1, 1.0F);
    c->q_rope = random_floats(c->n_rows * shape.n_heads * shape.dr, 2, 1.0F);
    c->entries = random_floats(c->n_rows * entry_width(shape), 3, 1.0F);
    c->d_out = random_floats(c->n_rows * shape.n_heads * shape.rk, 4, 1.0F);
    if (shape.n_selected > 0) {
        make_selection(c);
    }
}

static void drop_case(struct attention_case *c)
{
    memory_free(c->q_latent);
    memory_free(c->q_rope);
    memory_free(c->entries);
    memory_free(c->d_out);
    memory_free(c->selected);
}

/* Fresh slots hold NaN: what no token wrote must not be used. */
static void make_cache(const struct attention_case *c, float fresh, struct cache *cache)
{
    *cache = (struct cache){.pages = {.entry_stride = entry_width(c->shape) + 3}};
    for (size_t s = 0; s < c->n_sequences; s++) {
        cache->n_pages += pages_of(c->lengths[s]);
    }
    cache->pages.page_stride = KV_BLOCK_TOKENS * cache->pages.entry_stride + 5;
    cache->pages.data = new_floats(cache->n_pages * cache->pages.page_stride);
    for (size_t i = 0; i < cache->n_pages * cache->pages.page_stride; i++) {
        cache->pages.data[i] = fresh;
    }
    size_t next = 0;
    for (size_t s = 0; s < c->n_sequences; s++) {
        assert_ok(memory_alloc(pages_of(c->lengths[s]), sizeof(int32_t), &cache->blocks[s]));
        for (size_t p = 0; p < pages_of(c->lengths[s]); p++) {
            cache->blocks[s][p] = (int32_t)(cache->n_pages - 1 - next++);
        }
    }
}

static void drop_cache(const struct attention_case *c, struct cache *cache)
{
    memory_free(cache->pages.data);
    for (size_t s = 0; s < c->n_sequences; s++) {
        memory_free(cache->blocks[s]);
    }
}

static void copy_entries(struct backend *b, const struct attention_case *c,
                         const struct kv_span *spans, size_t n_spans, const struct cache *cache,
                         float *entries, bool to_pages)
{
    const size_t width = entry_width(c->shape);
    const size_t first = c->shape.n_kv == 0 ? c->shape.rk : c->shape.n_kv * c->shape.rk;
    assert_ok(b->ops->kv_copy(b, &(struct kv_copy_args){.latent = entries,
                                                        .latent_stride = width,
                                                        .rope_key = entries + first,
                                                        .rope_key_stride = width,
                                                        .spans = spans,
                                                        .n_spans = n_spans,
                                                        .pages = cache->pages,
                                                        .rk = first,
                                                        .dr = width - first,
                                                        .to_pages = to_pages}));
}

static struct attention_args forward_args(const struct attention_case *c, const struct cache *cache,
                                          const struct kv_span *spans, size_t n_spans, float *out)
{
    const struct shape s = c->shape;
    return (struct attention_args){.q = c->q_latent,
                                   .q_stride = s.n_heads * s.rk,
                                   .q_head_stride = s.rk,
                                   .q_rope = s.dr == 0 ? NULL : c->q_rope,
                                   .q_rope_stride = s.n_heads * s.dr,
                                   .q_rope_head_stride = s.dr,
                                   .pages = cache->pages,
                                   .spans = spans,
                                   .n_spans = n_spans,
                                   .out = out,
                                   .out_stride = s.n_heads * s.rk,
                                   .lse = out + c->n_rows * s.n_heads * s.rk,
                                   .n_heads = s.n_heads,
                                   .n_kv_heads = s.n_kv == 0 ? 1 : s.n_kv,
                                   .key_dim = s.rk,
                                   .rope_dim = s.dr,
                                   .kv_head_stride = s.n_kv == 0 ? 0 : s.rk,
                                   .value_at = s.n_kv * s.rk,
                                   .value_dim = s.rk,
                                   .scale = SCALE,
                                   .selected = c->selected,
                                   .n_selected = s.n_selected};
}

static size_t out_floats(const struct attention_case *c)
{
    return c->n_rows * c->shape.n_heads * (c->shape.rk + 1);
}

static void whole_spans(const struct attention_case *c, const struct cache *cache,
                        struct kv_span *spans)
{
    size_t row = 0;
    for (size_t s = 0; s < c->n_sequences; s++) {
        spans[s] = (struct kv_span){row, c->lengths[s], 0, cache->blocks[s]};
        row += c->lengths[s];
    }
}

static void run_whole(struct backend *b, const void *context, float *out)
{
    const struct attention_case *c = context;
    struct kv_span spans[MAX_SPANS];
    struct cache cache;

    make_cache(c, NAN, &cache);
    whole_spans(c, &cache, spans);
    copy_entries(b, c, spans, c->n_sequences, &cache, c->entries, true);
    const struct attention_args args = forward_args(c, &cache, spans, c->n_sequences, out);
    assert_ok(b->ops->attention(b, &args));
    drop_cache(c, &cache);
}

/* out then dq_latent, dq_rope, d_entries. */
static void run_backward(struct backend *b, const void *context, float *out)
{
    const struct attention_case *c = context;
    const size_t n_pairs = c->n_rows * c->shape.n_heads;
    float *const dq_latent = out + out_floats(c), *const dq_rope =
                                                      dq_latent + n_pairs * c->shape.rk;
    struct kv_span spans[MAX_SPANS];
    struct cache cache, d_cache;

    make_cache(c, NAN, &cache);
    make_cache(c, 0.0F, &d_cache);
    whole_spans(c, &cache, spans);
    copy_entries(b, c, spans, c->n_sequences, &cache, c->entries, true);
    const struct attention_backward_args args = {
        .forward = forward_args(c, &cache, spans, c->n_sequences, out),
        .d_out = c->d_out,
        .dq = dq_latent,
        .dq_rope = c->shape.dr == 0 ? NULL : dq_rope,
        .d_pages = d_cache.pages};
    assert_ok(b->ops->attention(b, &args.forward));
    assert_ok(b->ops->attention_backward(b, &args));
    copy_entries(b, c, spans, c->n_sequences, &d_cache, dq_rope + n_pairs * c->shape.dr, false);
    drop_cache(c, &d_cache);
    drop_cache(c, &cache);
}

/* The three differentiable operands as one vector: q_latent, q_rope, entries. */
struct oracle_view {
    const double *q_latent, *q_rope, *entries;
};

static struct oracle_view view_of(const struct attention_case *c, const double *x)
{
    const size_t n_pairs = c->n_rows * c->shape.n_heads;
    return (struct oracle_view){x, x + n_pairs * c->shape.rk,
                                x + n_pairs * (c->shape.rk + c->shape.dr)};
}

static double oracle_score(const struct attention_case *c, const struct oracle_view *v, size_t pair,
                           size_t key_row)
{
    const struct shape s = c->shape;
    const double *entry = v->entries + key_row * entry_width(s) + key_at(s, pair % s.n_heads);
    double dot = 0.0;

    for (size_t j = 0; j < s.rk; j++) {
        dot += v->q_latent[pair * s.rk + j] * entry[j];
    }
    for (size_t j = 0; j < s.dr; j++) {
        dot += v->q_rope[pair * s.dr + j] * entry[s.rk + j];
    }
    return (double)SCALE * dot;
}

static bool is_seen(const struct attention_case *c, size_t row, size_t position)
{
    const size_t k = c->shape.n_selected;

    for (size_t i = 0; i < k; i++) {
        if (c->selected[row * k + i] == (int32_t)position) {
            return true;
        }
    }
    return k == 0;
}

/* out (rk) of a pair that sees rows first .. last; returns the log-sum-exp. */
static double oracle_pair(const struct attention_case *c, const struct oracle_view *v, size_t pair,
                          size_t first, size_t last, double *out)
{
    const size_t width = entry_width(c->shape);
    const double *values = v->entries + value_at(c->shape, pair % c->shape.n_heads);
    double max = -HUGE_VAL, sum = 0.0;

    for (size_t key = first; key <= last; key++) {
        if (is_seen(c, last, key - first)) {
            max = fmax(max, oracle_score(c, v, pair, key));
        }
    }
    memset(out, 0, c->shape.rk * sizeof(*out));
    for (size_t key = first; key <= last; key++) {
        const double e =
            is_seen(c, last, key - first) ? exp(oracle_score(c, v, pair, key) - max) : 0.0;
        sum += e;
        for (size_t j = 0; j < c->shape.rk; j++) {
            out[j] += e * values[key * width + j];
        }
    }
    for (size_t j = 0; j < c->shape.rk; j++) {
        out[j] /= sum;
    }
    return max + log(sum);
}

/* out then lse of all rows, laid out as the op's. */
static void oracle_forward(const struct attention_case *c, const double *x, double *out)
{
    const struct oracle_view v = view_of(c, x);
    const size_t n_heads = c->shape.n_heads, n_pairs = c->n_rows * n_heads;
    size_t first = 0;

    for (size_t s = 0; s < c->n_sequences; s++) {
        for (size_t i = 0; i < c->lengths[s] * n_heads; i++) {
            const size_t pair = first * n_heads + i;
            out[n_pairs * c->shape.rk + pair] =
                oracle_pair(c, &v, pair, first, first + i / n_heads, out + pair * c->shape.rk);
        }
        first += c->lengths[s];
    }
}

static double oracle_loss_of(const double *x, const void *context)
{
    const struct attention_case *c = context;
    double *out = new_doubles(out_floats(c)), loss = 0.0;

    oracle_forward(c, x, out);
    for (size_t i = 0; i < c->n_rows * c->shape.n_heads * c->shape.rk; i++) {
        loss += (double)c->d_out[i] * out[i];
    }
    memory_free(out);
    return loss;
}

static double *operands(const struct attention_case *c, size_t *n)
{
    const size_t n_pairs = c->n_rows * c->shape.n_heads, width = entry_width(c->shape);
    double *x = new_doubles(n_pairs * (c->shape.rk + c->shape.dr) + c->n_rows * width), *at = x;

    for (size_t i = 0; i < n_pairs * c->shape.rk; i++) {
        *at++ = (double)c->q_latent[i];
    }
    for (size_t i = 0; i < n_pairs * c->shape.dr; i++) {
        *at++ = (double)c->q_rope[i];
    }
    for (size_t i = 0; i < c->n_rows * width; i++) {
        *at++ = (double)c->entries[i];
    }
    *n = (size_t)(at - x);
    return x;
}

static const struct shape shapes[] = {{1, 1, 2, 0, 0},  {3, 7, 2, 0, 0},   {4, 64, 16, 0, 0},
                                      {8, 17, 6, 0, 0}, {2, 127, 8, 0, 0}, {5, 129, 4, 0, 0},
                                      {70, 8, 2, 0, 0}, {8, 64, 32, 0, 0}};
/* MHA, GQA, MQA. */
static const struct shape grouped[] = {{1, 1, 0, 1, 0},   {4, 7, 0, 4, 0},   {6, 8, 0, 3, 0},
                                       {4, 17, 0, 1, 0},  {8, 64, 0, 2, 0},  {2, 127, 0, 2, 0},
                                       {6, 129, 0, 2, 0}, {70, 8, 0, 70, 0}, {130, 8, 0, 2, 0}};
/* The same with a selection. */
static const struct shape sparse[] = {
    {1, 1, 2, 0, 1}, {3, 7, 2, 0, 4}, {4, 64, 16, 0, 17}, {70, 8, 2, 0, 6}, {6, 8, 0, 3, 16}};

static void check_forward(struct shape shape, size_t n_sequences, const size_t *lengths)
{
    struct attention_case c;
    size_t n;

    make_case(&c, shape, n_sequences, lengths);
    float *got = new_floats(out_floats(&c));
    double *want = new_doubles(out_floats(&c)), *x = operands(&c, &n);
    run_everywhere(run_whole, &c, out_floats(&c), got);
    oracle_forward(&c, x, want);
    compare_to_double("out, lse", got, want, out_floats(&c), 1e-5);
    memory_free(x);
    memory_free(want);
    memory_free(got);
    drop_case(&c);
}

static void forward_agrees_with_the_oracle(void **state)
{
    static const size_t lengths[] = {1, 7, 17, 40};
    static const size_t long_lengths[] = {129, 140}; /* two key blocks */
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_forward(shapes[i], 4, lengths);
    }
    for (size_t i = 0; i < sizeof(grouped) / sizeof(grouped[0]); i++) {
        check_forward(grouped[i], 4, lengths);
    }
    for (size_t i = 0; i < sizeof(sparse) / sizeof(sparse[0]); i++) {
        check_forward(sparse[i], 4, lengths);
    }
    check_forward((struct shape){4, 17, 6, 0, 131}, 2, long_lengths);
    check_forward(shapes[2], 2, long_lengths);
    check_forward(shapes[3], 2, long_lengths);
    check_forward(grouped[1], 2, long_lengths);
    check_forward(grouped[4], 2, long_lengths);
}

static void check_gradient(struct shape shape, size_t n_sequences, const size_t *lengths)
{
    struct attention_case c;
    size_t n;

    make_case(&c, shape, n_sequences, lengths);
    double *x = operands(&c, &n), *want = new_doubles(n);
    float *got = new_floats(out_floats(&c) + n);
    run_everywhere(run_backward, &c, out_floats(&c) + n, got);
    numeric_gradient(oracle_loss_of, &c, x, n, want);
    compare_to_double("dq_latent, dq_rope, d_pages", got + out_floats(&c), want, n, 2e-5);
    memory_free(got);
    memory_free(want);
    memory_free(x);
    drop_case(&c);
}

static void gradient_agrees_with_differences(void **state)
{
    static const size_t lengths[] = {1, 17, 8};
    static const size_t long_lengths[] = {133};
    (void)state;
    check_gradient((struct shape){1, 1, 2, 0, 0}, 3, lengths);
    check_gradient((struct shape){3, 7, 2, 0, 0}, 3, lengths);
    check_gradient((struct shape){4, 17, 6, 0, 0}, 3, lengths);
    check_gradient((struct shape){1, 1, 2, 0, 0}, 1, long_lengths); /* two key blocks */
    check_gradient((struct shape){70, 2, 2, 0, 0}, 1, &lengths[2]);
    check_gradient((struct shape){1, 1, 0, 1, 0}, 1, long_lengths);
    check_gradient((struct shape){4, 7, 0, 4, 0}, 3, lengths);
    check_gradient((struct shape){6, 8, 0, 3, 0}, 3, lengths);
    check_gradient((struct shape){4, 17, 0, 1, 0}, 3, lengths);
    check_gradient((struct shape){140, 2, 0, 2, 0}, 1, &lengths[2]);
    check_gradient((struct shape){3, 7, 2, 0, 4}, 3, lengths);
    check_gradient((struct shape){4, 2, 0, 2, 5}, 3, lengths);
    check_gradient((struct shape){1, 1, 2, 0, 130}, 1, long_lengths);
}

/* The gradients of sequence s of a case, whose rows begin at `first`, alone and in its batch. */
static void check_alone(struct backend *b, const struct attention_case *c, size_t s, size_t first,
                        const float *all, float *alone)
{
    const struct shape shape = c->shape;
    const size_t q_width = shape.n_heads * shape.rk, r_width = shape.n_heads * shape.dr;
    const size_t width = entry_width(shape);
    struct attention_case one = {.shape = shape, .n_sequences = 1, .n_rows = c->lengths[s]};

    one.lengths[0] = c->lengths[s];
    one.q_latent = c->q_latent + first * q_width;
    one.q_rope = c->q_rope + first * r_width;
    one.entries = c->entries + first * width;
    one.d_out = c->d_out + first * q_width;
    one.selected = c->selected == NULL ? NULL : c->selected + first * shape.n_selected;
    run_backward(b, &one, alone);
    const float *got = alone + out_floats(&one), *want = all + out_floats(c);
    assert_same_bits("dq_latent", got, want + first * q_width, one.n_rows * q_width);
    got += one.n_rows * q_width;
    want += c->n_rows * q_width;
    assert_same_bits("dq_rope", got, want + first * r_width, one.n_rows * r_width);
    got += one.n_rows * r_width;
    want += c->n_rows * r_width + first * width;
    assert_same_bits("d_pages", got, want, one.n_rows * width);
}

static void check_batch(struct shape shape)
{
    static const size_t lengths[] = {40, 1, 23, 150, 17, 40, 39, 16};
    struct attention_case c;
    struct backend *b;
    size_t n, first = 0;

    make_case(&c, shape, MAX_SPANS, lengths);
    memory_free(operands(&c, &n));
    float *all = new_floats(out_floats(&c) + n), *alone = new_floats(out_floats(&c) + n);
    run_everywhere(run_backward, &c, out_floats(&c) + n, all);
    assert_ok(backend_open("cpu", 1, &b));
    for (size_t s = 0; s < MAX_SPANS; s++) {
        check_alone(b, &c, s, first, all, alone);
        first += lengths[s];
    }
    backend_close(b);
    memory_free(alone);
    memory_free(all);
    drop_case(&c);
}

static void gradient_of_a_sequence_does_not_depend_on_its_batch(void **state)
{
    (void)state;
    check_batch(shapes[2]);
    check_batch(grouped[4]);
    check_batch(grouped[5]);
    check_batch(sparse[2]);
}

/* Feeds every sequence in pieces of `step` rows, all sequences side by side. */
static void run_in_steps(struct backend *b, const struct attention_case *c, size_t step, float *out)
{
    struct kv_span whole[MAX_SPANS];
    struct cache cache;
    bool is_done = false;

    make_cache(c, NAN, &cache);
    whole_spans(c, &cache, whole);
    for (size_t at = 0; !is_done; at += step) {
        struct kv_span spans[MAX_SPANS];
        size_t n_spans = 0;
        for (size_t s = 0; s < c->n_sequences; s++) {
            if (at < c->lengths[s]) {
                const size_t left = c->lengths[s] - at;
                spans[n_spans++] = (struct kv_span){whole[s].first_row + at,
                                                    left < step ? left : step, at, cache.blocks[s]};
            }
        }
        copy_entries(b, c, spans, n_spans, &cache, c->entries, true);
        const struct attention_args args = forward_args(c, &cache, spans, n_spans, out);
        assert_ok(b->ops->attention(b, &args));
        is_done = n_spans == 0;
    }
    drop_cache(c, &cache);
}

static void check_steps(struct shape shape)
{
    static const size_t lengths[] = {40, 1, 23, 145, 17, 129, 128, 16};
    static const size_t steps[] = {1, 2, 7, 16, 17, 100, 128};
    struct attention_case c;

    make_case(&c, shape, MAX_SPANS, lengths);
    float *whole = new_floats(out_floats(&c)), *pieces = new_floats(out_floats(&c));
    run_everywhere(run_whole, &c, out_floats(&c), whole);
    for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
        struct backend *b;
        assert_ok(backend_open("cpu", 1 + k % 2, &b));
        run_in_steps(b, &c, steps[k], pieces);
        assert_same_bits("steps", pieces, whole, out_floats(&c));
        backend_close(b);
    }
    memory_free(pieces);
    memory_free(whole);
    drop_case(&c);
}

static void prefill_chunks_and_decode_give_the_same_bits(void **state)
{
    (void)state;
    for (size_t i = 2; i < 5; i++) {
        check_steps(shapes[i]);
        check_steps(grouped[i]);
    }
    check_steps(grouped[5]); /* one query head a KV head */
    check_steps(sparse[2]);
    check_steps((struct shape){4, 17, 6, 0, 130});
}

static void a_selection_of_all_gives_the_bits_of_none(void **state)
{
    static const size_t lengths[] = {40, 150};
    struct attention_case c;
    struct backend *b;
    size_t n;
    (void)state;

    make_case(&c, shapes[2], 2, lengths);
    memory_free(operands(&c, &n));
    n += out_floats(&c);
    float *want = new_floats(n), *got = new_floats(n);
    assert_ok(backend_open("cpu", 2, &b));
    run_backward(b, &c, want);
    c.shape.n_selected = 150;
    make_selection(&c);
    run_backward(b, &c, got);
    assert_same_bits("all selected", got, want, n);
    backend_close(b);
    memory_free(got);
    memory_free(want);
    drop_case(&c);
}

static void a_part_can_be_stored_behind_the_others(void **state)
{
    float rows[3] = {1.0F, 2.0F, 3.0F}, back[3] = {0.0F};
    float page[KV_BLOCK_TOKENS * 4];
    const int32_t block = 0;
    const struct kv_span span = {0, 3, 0, &block};
    struct backend *b;
    (void)state;

    memset(page, 0, sizeof(page));
    assert_ok(backend_open("cpu", 1, &b));
    struct kv_copy_args args = {.latent = rows,
                                .latent_stride = 1,
                                .spans = &span,
                                .n_spans = 1,
                                .pages = {.data = page, .entry_stride = 4, .page_stride = 64},
                                .rk = 1,
                                .entry_at = 2,
                                .to_pages = true};
    assert_ok(b->ops->kv_copy(b, &args));
    for (size_t i = 0; i < sizeof(page) / sizeof(page[0]); i++) {
        const float want = i % 4 == 2 && i < 12 ? rows[i / 4] : 0.0F;
        assert_same_bits("page", &page[i], &want, 1);
    }
    args.latent = back;
    args.to_pages = false;
    assert_ok(b->ops->kv_copy(b, &args));
    assert_same_bits("read back", back, rows, 3);
    backend_close(b);
}

static void backward_refuses_cached_tokens(void **state)
{
    static const size_t length = 20;
    struct attention_case c;
    struct cache cache;
    struct kv_span span;
    struct backend *b;
    (void)state;

    make_case(&c, shapes[2], 1, &length);
    make_cache(&c, 0.0F, &cache);
    assert_ok(backend_open("cpu", 1, &b));
    span = (struct kv_span){0, 4, 16, cache.blocks[0]};
    const struct attention_backward_args args = {
        .forward = forward_args(&c, &cache, &span, 1, c.q_latent)};
    assert_status(b->ops->attention_backward(b, &args), STATUS_UNSUPPORTED, "16 cached");
    backend_close(b);
    drop_cache(&c, &cache);
    drop_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_oracle),
        cmocka_unit_test(gradient_agrees_with_differences),
        cmocka_unit_test(gradient_of_a_sequence_does_not_depend_on_its_batch),
        cmocka_unit_test(prefill_chunks_and_decode_give_the_same_bits),
        cmocka_unit_test(a_selection_of_all_gives_the_bits_of_none),
        cmocka_unit_test(a_part_can_be_stored_behind_the_others),
        cmocka_unit_test(backward_refuses_cached_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
