/* Spans behind cached tokens, as sequences with a prompt in common have them: the gradient reaches
 * the cached keys, and rows are copied to, and gathered from, the pages of several spans. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/attention_oracle.h"

/* The rows of each sequence from its first n_cached on; shorter sequences have none. */
struct tail_case {
    struct attention_case all;
    size_t n_cached;
};

static size_t tail_spans(const struct tail_case *t, const struct cache *cache,
                         struct kv_span *spans)
{
    struct kv_span whole[MAX_SPANS];
    size_t n = 0;

    whole_spans(t->all.n_sequences, t->all.lengths, cache, whole);
    for (size_t s = 0; s < t->all.n_sequences; s++) {
        if (whole[s].n_rows > t->n_cached) {
            spans[n++] =
                (struct kv_span){whole[s].first_row + t->n_cached, whole[s].n_rows - t->n_cached,
                                 t->n_cached, whole[s].blocks};
        }
    }
    return n;
}

/* As run_backward, which see, of the tails alone: what is cached gets gradients as keys only. */
static void run_tails(struct backend *b, const void *context, float *out)
{
    const struct tail_case *t = context;
    const struct attention_case *c = &t->all;
    const size_t n_pairs = c->n_rows * c->shape.n_heads;
    float *const dq_latent = out + out_floats(c), *const dq_rope =
                                                      dq_latent + n_pairs * c->shape.rk;
    struct kv_span whole[MAX_SPANS], spans[MAX_SPANS];
    struct cache cache, d_cache;

    make_cache(c, c->shape.cache, &cache);
    make_gradient_cache(c, &d_cache);
    whole_spans(c->n_sequences, c->lengths, &cache, whole);
    copy_entries(b, c, whole, c->n_sequences, &cache, c->entries, true);
    const size_t n_spans = tail_spans(t, &cache, spans);
    const struct attention_backward_args args = {.forward =
                                                     forward_args(c, &cache, spans, n_spans, out),
                                                 .d_out = c->d_out,
                                                 .dq = dq_latent,
                                                 .dq_rope = c->shape.dr == 0 ? NULL : dq_rope,
                                                 .d_pages = d_cache.pages,
                                                 .precision = c->products};
    assert_ok(b->ops->attention(b, &args.forward));
    assert_ok(b->ops->attention_backward(b, &args));
    copy_entries(b, c, whole, c->n_sequences, &d_cache, dq_rope + n_pairs * c->shape.dr, false);
    drop_cache(&d_cache);
    drop_cache(&cache);
}

/* Rows that no span has are no part of the loss. */
static void forget_heads_of_sequences(struct tail_case *t)
{
    const size_t width = t->all.shape.n_heads * t->all.shape.rk;
    size_t row = 0;

    for (size_t s = 0; s < t->all.n_sequences; s++) {
        for (size_t i = 0; i < t->all.lengths[s]; i++, row++) {
            if (i < t->n_cached) {
                memset(t->all.d_out + row * width, 0, width * sizeof(float));
            }
        }
    }
}

/* In pairs: sums of products whose factors are rounded to 8 bits. */
#define PAIRS_TOLERANCE 2e-2

static void check_tails(struct shape shape, size_t n_cached, size_t n_sequences,
                        const size_t *lengths)
{
    const bool has_pairs = shape.cache != PRECISION_F32;
    struct tail_case t = {.n_cached = n_cached};
    size_t n;

    make_case(&t.all, shape, n_sequences, lengths);
    t.all.products = shape.cache;
    forget_heads_of_sequences(&t);
    double *x = operands(&t.all, &n), *want = new_doubles(n);
    float *got = new_floats(out_floats(&t.all) + n);
    run_everywhere(run_tails, &t, out_floats(&t.all) + n, got);
    numeric_gradient(oracle_loss_of, &t.all, x, n, want);
    compare_to_double("dq_latent, dq_rope, d_pages", got + out_floats(&t.all), want, n,
                      has_pairs ? PAIRS_TOLERANCE : 2e-5);
    memory_free(got);
    memory_free(want);
    memory_free(x);
    drop_case(&t.all);
}

static void check_cached_keys(enum precision cache)
{
    static const size_t lengths[] = {2, 9, 19};
    static const size_t long_lengths[] = {131};

    for (size_t n_cached = 1; n_cached < 18; n_cached += n_cached < 8 ? 7 : 9) {
        check_tails((struct shape){3, 7, 2, 0, 0, cache}, n_cached, 3, lengths);
        check_tails((struct shape){6, 4, 0, 3, 0, cache}, n_cached, 3, lengths);
        check_tails((struct shape){3, 2, 2, 0, 4, cache}, n_cached, 3, lengths);
    }
    check_tails((struct shape){70, 1, 2, 0, 0, cache}, 8, 2, lengths);
    check_tails((struct shape){1, 1, 2, 0, 0, cache}, 127, 1, long_lengths);
    check_tails((struct shape){1, 1, 0, 1, 0, cache}, 129, 1, long_lengths);
    check_tails((struct shape){1, 1, 0, 1, 130, cache}, 129, 1, long_lengths);
}

static void gradient_reaches_cached_keys(void **state)
{
    (void)state;
    check_cached_keys(PRECISION_F32);
}

static void gradient_in_pairs_reaches_cached_keys(void **state)
{
    (void)state;
    check_cached_keys(PRECISION_BF16);
}

/* Where a cut falls between chunks, whole sequences and tails add the same products. */
static void check_tail_bits(enum precision cache)
{
    static const size_t lengths[] = {40, 150};
    struct tail_case t = {.n_cached = 32}; /* 4 heads: chunks of 16 rows */
    struct shape shape = shapes[2];
    struct backend *b;
    size_t n;

    shape.cache = cache;
    make_case(&t.all, shape, 2, lengths);
    t.all.products = cache;
    forget_heads_of_sequences(&t);
    memory_free(operands(&t.all, &n));
    float *whole = new_floats(out_floats(&t.all) + n), *tails = new_floats(out_floats(&t.all) + n);
    assert_ok(backend_open("cpu", 2, &b));
    run_backward(b, &t.all, whole);
    run_tails(b, &t, tails);
    for (size_t i = 0; i < n; i++) { /* a zero may have either sign: a product with zero is added */
        const float a = tails[out_floats(&t.all) + i], w = whole[out_floats(&t.all) + i];
        assert_true(a == w);
    }
    backend_close(b);
    memory_free(tails);
    memory_free(whole);
    drop_case(&t.all);
}

static void a_tail_has_the_bits_of_the_whole(void **state)
{
    (void)state;
    check_tail_bits(PRECISION_F32);
    check_tail_bits(PRECISION_BF16);
}

/* Rows 0 .. 6 belong to both sequences, with 1 and 18 rows of their own behind. */
#define SHARED_ROWS ((size_t)7)
#define ROW_WIDTH ((size_t)19)
#define FIRST_PART ((size_t)17)

struct copies {
    float *rows;
    size_t n_rows;
};

static void make_shared(struct attention_case *c, struct cache *cache, struct kv_span spans[4])
{
    *c = (struct attention_case){.shape = {1, FIRST_PART, 2, 0, 0, PRECISION_F32},
                                 .n_sequences = 2,
                                 .lengths = {8, 25},
                                 .n_rows = 33};
    make_cache(c, PRECISION_F32, cache);
    spans[0] = (struct kv_span){0, SHARED_ROWS, 0, cache->blocks[0]};
    spans[1] = (struct kv_span){7, 1, SHARED_ROWS, cache->blocks[0]};
    spans[2] = (struct kv_span){8, 18, SHARED_ROWS, cache->blocks[1]};
    spans[3] = (struct kv_span){0, SHARED_ROWS, 0, cache->blocks[1]};
}

/* out: what the pages then hold, sequence by sequence; then the rows with both sums added. */
static void run_shared(struct backend *b, const void *context, float *out)
{
    const struct copies *copies = context;
    struct attention_case c;
    struct cache cache;
    struct kv_span spans[4], whole[MAX_SPANS];

    make_shared(&c, &cache, spans);
    copy_entries(b, &c, spans, 4, &cache, copies->rows, true);
    whole_spans(c.n_sequences, c.lengths, &cache, whole);
    copy_entries(b, &c, whole, 2, &cache, out, false);
    float *sums = out + 33 * ROW_WIDTH;
    memcpy(sums, copies->rows, copies->n_rows * ROW_WIDTH * sizeof(float));
    assert_ok(b->ops->kv_copy(b, &(struct kv_copy_args){.latent = sums,
                                                        .latent_stride = ROW_WIDTH,
                                                        .rope_key = sums + FIRST_PART,
                                                        .rope_key_stride = ROW_WIDTH,
                                                        .spans = spans,
                                                        .n_spans = 4,
                                                        .pages = cache.pages,
                                                        .rk = FIRST_PART,
                                                        .dr = ROW_WIDTH - FIRST_PART,
                                                        .accumulate = true}));
    drop_cache(&cache);
}

static void rows_of_several_spans_are_copied_and_summed(void **state)
{
    const size_t n_rows = SHARED_ROWS + 1 + 18, own = 18 * ROW_WIDTH;
    struct copies copies = {random_floats(n_rows * ROW_WIDTH, 5, 1.0F), n_rows};
    float *out = new_floats((33 + n_rows) * ROW_WIDTH);
    const float *rows = copies.rows, *sums = out + 33 * ROW_WIDTH;
    (void)state;

    run_everywhere(run_shared, &copies, (33 + n_rows) * ROW_WIDTH, out);
    assert_same_bits("first sequence", out, rows, 8 * ROW_WIDTH);
    assert_same_bits("common part of the second", out + 8 * ROW_WIDTH, rows,
                     SHARED_ROWS * ROW_WIDTH);
    assert_same_bits("own part of the second", out + 15 * ROW_WIDTH, rows + 8 * ROW_WIDTH, own);
    for (size_t i = 0; i < n_rows * ROW_WIDTH; i++) {
        const float once = rows[i] + rows[i];
        const float want = i < SHARED_ROWS * ROW_WIDTH ? once + rows[i] : once;
        assert_same_bits("sum", &sums[i], &want, 1);
    }
    memory_free(out);
    memory_free(copies.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_reaches_cached_keys),
        cmocka_unit_test(gradient_in_pairs_reaches_cached_keys),
        cmocka_unit_test(a_tail_has_the_bits_of_the_whole),
        cmocka_unit_test(rows_of_several_spans_are_copied_and_summed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
