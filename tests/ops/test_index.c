/* The indexer of sparse attention: scores against a double oracle, selections by rule, losses
 * against numeric gradients, and the same bits for any way of cutting a sequence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>

#define MAX_SPANS 4
#define SCALE 0.31F
#define COEFFICIENT 0.7F

/* Indexer: heads of dim, n_selected of each row; attention: main_heads with keys of width. */
struct shape {
    size_t heads, dim, n_selected, main_heads, width;
};

struct index_case {
    struct shape shape;
    size_t n_sequences, lengths[MAX_SPANS], n_rows, longest;
    float *q, *w, *main_q, *entries; /* entries: (T, width + dim) */
};

struct cache {
    struct kv_pages pages;
    int32_t *blocks[MAX_SPANS];
    size_t n_pages;
};

static size_t pages_of(size_t n_tokens)
{
    return (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

static size_t entry_width(const struct index_case *c)
{
    return c->shape.width + c->shape.dim;
}

static void make_case(struct index_case *c, struct shape shape, size_t n_sequences,
                      const size_t *lengths)
{
    *c = (struct index_case){.shape = shape, .n_sequences = n_sequences};
    for (size_t s = 0; s < n_sequences; s++) {
        c->lengths[s] = lengths[s];
        c->n_rows += lengths[s];
        c->longest = lengths[s] > c->longest ? lengths[s] : c->longest;
    }
    c->q = random_floats(c->n_rows * shape.heads * shape.dim, 1, 1.0F);
    c->w = random_floats(c->n_rows * shape.heads, 2, 1.0F);
    c->main_q = random_floats(c->n_rows * shape.main_heads * shape.width, 3, 1.0F);
    c->entries = random_floats(c->n_rows * entry_width(c), 4, 1.0F);
}

static void drop_case(struct index_case *c)
{
    memory_free(c->q);
    memory_free(c->w);
    memory_free(c->main_q);
    memory_free(c->entries);
}

/* Pages in an order that is not the tokens'. */
static void make_cache(const struct index_case *c, float fresh, struct cache *cache)
{
    size_t next = 0;

    *cache = (struct cache){.pages = {.entry_stride = entry_width(c) + 3}};
    for (size_t s = 0; s < c->n_sequences; s++) {
        cache->n_pages += pages_of(c->lengths[s]);
    }
    cache->pages.page_stride = KV_BLOCK_TOKENS * cache->pages.entry_stride + 5;
    cache->pages.data = new_floats(cache->n_pages * cache->pages.page_stride);
    for (size_t i = 0; i < cache->n_pages * cache->pages.page_stride; i++) {
        cache->pages.data[i] = fresh;
    }
    for (size_t s = 0; s < c->n_sequences; s++) {
        assert_ok(memory_alloc(pages_of(c->lengths[s]), sizeof(int32_t), &cache->blocks[s]));
        for (size_t p = 0; p < pages_of(c->lengths[s]); p++) {
            cache->blocks[s][p] = (int32_t)(cache->n_pages - 1 - next++);
        }
    }
}

static void drop_cache(const struct index_case *c, struct cache *cache)
{
    memory_free(cache->pages.data);
    for (size_t s = 0; s < c->n_sequences; s++) {
        memory_free(cache->blocks[s]);
    }
}

static void copy_entries(struct backend *b, const struct index_case *c, const struct kv_span *spans,
                         size_t n_spans, const struct cache *cache, float *entries, bool to_pages)
{
    const size_t width = entry_width(c);
    assert_ok(b->ops->kv_copy(b, &(struct kv_copy_args){.latent = entries,
                                                        .latent_stride = width,
                                                        .rope_key = entries + c->shape.width,
                                                        .rope_key_stride = width,
                                                        .spans = spans,
                                                        .n_spans = n_spans,
                                                        .pages = cache->pages,
                                                        .rk = c->shape.width,
                                                        .dr = c->shape.dim,
                                                        .to_pages = to_pages}));
}

static struct index_args index_args(const struct index_case *c, const struct cache *cache,
                                    const struct kv_span *spans, size_t n_spans, int32_t *selected)
{
    const struct shape s = c->shape;
    return (struct index_args){.q = c->q,
                               .q_stride = s.heads * s.dim,
                               .w = c->w,
                               .w_stride = s.heads,
                               .pages = cache->pages,
                               .key_at = s.width,
                               .spans = spans,
                               .n_spans = n_spans,
                               .n_heads = s.heads,
                               .dim = s.dim,
                               .scale = SCALE,
                               .selected = selected,
                               .n_selected = s.n_selected};
}

static void whole_spans(const struct index_case *c, const struct cache *cache,
                        struct kv_span *spans)
{
    size_t row = 0;
    for (size_t s = 0; s < c->n_sequences; s++) {
        spans[s] = (struct kv_span){row, c->lengths[s], 0, cache->blocks[s]};
        row += c->lengths[s];
    }
}

static size_t select_floats(const struct index_case *c)
{
    return c->n_rows * (c->longest + c->shape.n_selected);
}

/* Pieces of `step` rows, all sequences side by side: scores (T, longest) then selections as floats.
 */
static void select_in_steps(struct backend *b, const struct index_case *c, size_t step, float *out)
{
    const size_t n = c->n_rows * c->shape.n_selected;
    struct kv_span whole[MAX_SPANS], spans[MAX_SPANS];
    struct cache cache;
    int32_t *selected;

    make_cache(c, NAN, &cache);
    whole_spans(c, &cache, whole);
    assert_ok(memory_alloc(n, sizeof(*selected), &selected));
    for (size_t at = 0; at < c->longest; at += step) {
        size_t n_spans = 0;
        for (size_t s = 0; s < c->n_sequences; s++) {
            if (at < c->lengths[s]) {
                const size_t left = c->lengths[s] - at;
                spans[n_spans++] = (struct kv_span){whole[s].first_row + at,
                                                    left < step ? left : step, at, cache.blocks[s]};
            }
        }
        copy_entries(b, c, spans, n_spans, &cache, c->entries, true);
        struct index_args args = index_args(c, &cache, spans, n_spans, selected);
        args.scores = out;
        args.scores_stride = c->longest;
        assert_ok(b->ops->index_select(b, &args));
    }
    for (size_t i = 0; i < n; i++) {
        out[c->n_rows * c->longest + i] = (float)selected[i];
    }
    memory_free(selected);
    drop_cache(c, &cache);
}

static void run_select(struct backend *b, const void *context, float *out)
{
    const struct index_case *c = context;
    select_in_steps(b, c, c->longest, out);
}

/* x: q, w, index keys of all rows. */
struct oracle_view {
    const double *q, *w, *keys;
};

static struct oracle_view view_of(const struct index_case *c, const double *x)
{
    const size_t n_q = c->n_rows * c->shape.heads * c->shape.dim;
    return (struct oracle_view){x, x + n_q, x + n_q + c->n_rows * c->shape.heads};
}

static double oracle_score(const struct index_case *c, const struct oracle_view *v, size_t row,
                           size_t key)
{
    const struct shape s = c->shape;
    double score = 0.0;

    for (size_t h = 0; h < s.heads; h++) {
        double z = 0.0;
        for (size_t j = 0; j < s.dim; j++) {
            z += v->q[(row * s.heads + h) * s.dim + j] * v->keys[key * s.dim + j];
        }
        score += z > 0.0 ? z * v->w[row * s.heads + h] : 0.0;
    }
    return (double)SCALE * score;
}

static double *operands(const struct index_case *c, size_t *n)
{
    const struct shape s = c->shape;
    double *x = new_doubles(c->n_rows * (s.heads * s.dim + s.heads + s.dim)), *at = x;

    for (size_t i = 0; i < c->n_rows * s.heads * s.dim; i++) {
        *at++ = (double)c->q[i];
    }
    for (size_t i = 0; i < c->n_rows * s.heads; i++) {
        *at++ = (double)c->w[i];
    }
    for (size_t i = 0; i < c->n_rows * s.dim; i++) {
        *at++ = (double)c->entries[i / s.dim * entry_width(c) + s.width + i % s.dim];
    }
    *n = (size_t)(at - x);
    return x;
}

/* A key is selected exactly when fewer than n_selected keys are larger, or equal and before it. */
static void check_row(const float *scores, size_t n, const float *selected, size_t n_selected)
{
    size_t n_taken = 0;

    for (size_t i = 0; i < n; i++) {
        size_t n_better = 0;
        for (size_t j = 0; j < n; j++) {
            n_better += scores[j] > scores[i] || (scores[j] >= scores[i] && j < i);
        }
        if (n_better < n_selected) {
            assert_true(n_taken < n_selected);
            assert_int_equal((int)selected[n_taken], (int)i);
            n_taken++;
        }
    }
    for (; n_taken < n_selected; n_taken++) {
        assert_int_equal((int)selected[n_taken], -1);
    }
}

static void check_selection(struct shape shape, size_t n_sequences, const size_t *lengths)
{
    struct index_case c;
    size_t n, row = 0;

    make_case(&c, shape, n_sequences, lengths);
    float *got = new_floats(select_floats(&c));
    double *x = operands(&c, &n), *want = new_doubles(c.n_rows * c.longest);
    const struct oracle_view v = view_of(&c, x);
    run_everywhere(run_select, &c, select_floats(&c), got);
    for (size_t s = 0; s < n_sequences; s++) {
        const size_t first = row;
        for (size_t i = 0; i < lengths[s]; i++, row++) {
            for (size_t key = 0; key <= i; key++) {
                want[row * c.longest + key] = oracle_score(&c, &v, row, first + key);
            }
            check_row(got + row * c.longest, i + 1,
                      got + c.n_rows * c.longest + row * shape.n_selected, shape.n_selected);
        }
    }
    compare_to_double("scores", got, want, c.n_rows * c.longest, 2e-5);
    memory_free(want);
    memory_free(x);
    memory_free(got);
    drop_case(&c);
}

static const struct shape shapes[] = {
    {1, 1, 1, 1, 1}, {2, 7, 5, 1, 1}, {4, 16, 6, 1, 1}, {70, 8, 16, 1, 1}, {3, 129, 40, 1, 1}};

static void scores_agree_with_the_oracle_and_the_largest_are_selected(void **state)
{
    static const size_t lengths[] = {1, 17, 40, 150};
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_selection(shapes[i], 4, lengths);
    }
}

/* One head and whole numbers: ReLU makes many scores exactly 0, and many others equal. */
static void ties_go_to_the_lower_position(void **state)
{
    static const size_t lengths[] = {150};
    struct index_case c;
    struct backend *b;
    (void)state;

    make_case(&c, (struct shape){1, 1, 40, 1, 1}, 1, lengths);
    for (size_t i = 0; i < c.n_rows; i++) {
        c.q[i] = 1.0F;
        c.w[i] = i % 2 == 0 ? 1.0F : -1.0F; /* -1: clipped keys are the largest, and tie at zero */
        c.entries[i * 2 + 1] = (float)(i % 5) - 2.0F;
    }
    float *got = new_floats(select_floats(&c));
    assert_ok(backend_open("cpu", 2, &b));
    run_select(b, &c, got);
    for (size_t row = 0; row < c.n_rows; row++) {
        check_row(got + row * c.longest, row + 1, got + c.n_rows * c.longest + row * 40, 40);
    }
    backend_close(b);
    memory_free(got);
    drop_case(&c);
}

static void prefill_chunks_and_decode_select_the_same(void **state)
{
    static const size_t lengths[] = {40, 1, 145, 129};
    static const size_t steps[] = {1, 2, 7, 16, 17, 100, 128};
    (void)state;
    for (size_t i = 1; i < 4; i++) {
        struct index_case c;
        make_case(&c, shapes[i], 4, lengths);
        float *whole = new_floats(select_floats(&c)), *pieces = new_floats(select_floats(&c));
        run_everywhere(run_select, &c, select_floats(&c), whole);
        for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
            struct backend *b;
            assert_ok(backend_open("cpu", 1 + k % 2, &b));
            select_in_steps(b, &c, steps[k], pieces);
            assert_same_bits("steps", pieces, whole, select_floats(&c));
            backend_close(b);
        }
        memory_free(pieces);
        memory_free(whole);
        drop_case(&c);
    }
}

/* --- The loss. n_selected 0: over all keys. --- */

static size_t gradient_floats(const struct index_case *c)
{
    return c->n_rows * (c->shape.heads * c->shape.dim + c->shape.heads + c->shape.dim);
}

struct loss_run {
    struct backend *b;
    const struct index_case *c;
    struct cache cache, d_cache;
    struct kv_span spans[MAX_SPANS];
    float *out, *lse;
    int32_t *selected;
};

static struct attention_args attention_args(const struct loss_run *run)
{
    const struct shape s = run->c->shape;
    return (struct attention_args){.q = run->c->main_q,
                                   .q_stride = s.main_heads * s.width,
                                   .q_head_stride = s.width,
                                   .pages = run->cache.pages,
                                   .spans = run->spans,
                                   .n_spans = run->c->n_sequences,
                                   .out = run->out,
                                   .out_stride = s.main_heads * s.width,
                                   .lse = run->lse,
                                   .n_heads = s.main_heads,
                                   .n_kv_heads = 1,
                                   .key_dim = s.width,
                                   .value_dim = s.width,
                                   .scale = SCALE,
                                   .selected = run->selected,
                                   .n_selected = s.n_selected};
}

/* Selection (if any), attention, then the loss: loss (T), dq, dw, dk. */
static void compute_loss(struct loss_run *run, float *loss)
{
    const struct index_case *c = run->c;
    const struct backend_ops *ops = run->b->ops;
    const size_t n_q = c->n_rows * c->shape.heads * c->shape.dim;
    float *dq = loss + c->n_rows, *dw = dq + n_q, *dk = dw + c->n_rows * c->shape.heads;
    float *d_entries = new_floats(c->n_rows * entry_width(c));
    const struct index_args index =
        index_args(c, &run->cache, run->spans, c->n_sequences, run->selected);

    if (run->selected != NULL) {
        assert_ok(ops->index_select(run->b, &index));
    }
    const struct index_loss_args args = {.attention = attention_args(run),
                                         .index = index,
                                         .coefficient = COEFFICIENT,
                                         .loss = loss,
                                         .dq = dq,
                                         .dw = dw,
                                         .d_pages = run->d_cache.pages};
    assert_ok(ops->attention(run->b, &args.attention));
    assert_ok(ops->index_loss(run->b, &args));
    copy_entries(run->b, c, run->spans, c->n_sequences, &run->d_cache, d_entries, false);
    for (size_t i = 0; i < c->n_rows * c->shape.dim; i++) {
        const size_t row = i / c->shape.dim;
        dk[i] = d_entries[row * entry_width(c) + c->shape.width + i % c->shape.dim];
    }
    memory_free(d_entries);
}

static void run_loss(struct backend *b, const void *context, float *out)
{
    const struct index_case *c = context;
    struct loss_run run = {.b = b, .c = c};

    make_cache(c, NAN, &run.cache);
    make_cache(c, 0.0F, &run.d_cache);
    whole_spans(c, &run.cache, run.spans);
    copy_entries(b, c, run.spans, c->n_sequences, &run.cache, c->entries, true);
    run.out = new_floats(c->n_rows * c->shape.main_heads * c->shape.width);
    run.lse = new_floats(c->n_rows * c->shape.main_heads);
    if (c->shape.n_selected > 0) {
        assert_ok(memory_alloc(c->n_rows * c->shape.n_selected, sizeof(int32_t), &run.selected));
    }
    compute_loss(&run, out);
    memory_free(run.selected);
    memory_free(run.lse);
    memory_free(run.out);
    drop_cache(c, &run.d_cache);
    drop_cache(c, &run.cache);
}

/* Adds head h's probabilities of a row over the keys that `counts` marks. */
static void oracle_attention(const struct index_case *c, size_t row, size_t first, size_t h,
                             const bool *counts, double *target)
{
    const struct shape s = c->shape;
    double e[256], sum = 0.0;

    for (size_t key = first; key <= row; key++) {
        double dot = 0.0;
        for (size_t j = 0; j < s.width; j++) {
            dot += (double)c->main_q[(row * s.main_heads + h) * s.width + j] *
                   (double)c->entries[key * entry_width(c) + j];
        }
        e[key - first] = counts[key - first] ? exp((double)SCALE * dot) : 0.0;
        sum += e[key - first];
    }
    for (size_t k = 0; k <= row - first; k++) {
        target[k] += e[k] / sum / (double)s.main_heads;
    }
}

/* The keys a row's loss is over, from the float inputs: they do not move with x. */
static void oracle_counts(const struct index_case *c, size_t row, size_t first, bool *counts)
{
    size_t n;
    double *x = operands(c, &n);
    const struct oracle_view v = view_of(c, x);

    for (size_t i = first; i <= row; i++) {
        size_t n_better = 0;
        for (size_t j = first; j <= row; j++) {
            const double a = oracle_score(c, &v, row, j), b = oracle_score(c, &v, row, i);
            n_better += a > b || (a >= b && j < i);
        }
        counts[i - first] = c->shape.n_selected == 0 || n_better < c->shape.n_selected;
    }
    memory_free(x);
}

/* Targets of all rows, once: (T, longest), -1 where a key does not count. */
struct oracle_context {
    const struct index_case *c;
    double *targets;
};

static void make_targets(struct oracle_context *o)
{
    const struct index_case *c = o->c;
    size_t row = 0;

    o->targets = new_doubles(c->n_rows * c->longest);
    for (size_t s = 0; s < c->n_sequences; s++) {
        const size_t first = row;
        for (; row < first + c->lengths[s]; row++) {
            double *target = o->targets + row * c->longest;
            bool counts[256];
            oracle_counts(c, row, first, counts);
            for (size_t h = 0; h < c->shape.main_heads; h++) {
                oracle_attention(c, row, first, h, counts, target);
            }
            for (size_t k = 0; k <= row - first; k++) {
                target[k] = counts[k] ? target[k] : -1.0;
            }
        }
    }
}

static double oracle_row_loss(const struct oracle_context *o, const struct oracle_view *v,
                              size_t row, size_t first)
{
    const double *target = o->targets + row * o->c->longest;
    double sum = 0.0, loss = 0.0;

    for (size_t k = 0; k <= row - first; k++) {
        sum += target[k] < 0.0 ? 0.0 : exp(oracle_score(o->c, v, row, first + k));
    }
    for (size_t k = 0; k <= row - first; k++) {
        if (target[k] > 0.0) {
            const double logp = oracle_score(o->c, v, row, first + k) - log(sum);
            loss += target[k] * (log(target[k]) - logp);
        }
    }
    return loss;
}

static double oracle_loss_of(const double *x, const void *context)
{
    const struct oracle_context *o = context;
    const struct oracle_view v = view_of(o->c, x);
    size_t row = 0;
    double loss = 0.0;

    for (size_t s = 0; s < o->c->n_sequences; s++) {
        const size_t first = row;
        for (; row < first + o->c->lengths[s]; row++) {
            loss += (double)COEFFICIENT * oracle_row_loss(o, &v, row, first);
        }
    }
    return loss;
}

static void check_loss(struct shape shape, size_t n_sequences, const size_t *lengths)
{
    struct index_case c;
    struct oracle_context o = {.c = &c};
    size_t n;
    double loss = 0.0;

    make_case(&c, shape, n_sequences, lengths);
    make_targets(&o);
    double *x = operands(&c, &n), *want = new_doubles(n);
    float *got = new_floats(c.n_rows + n);
    assert_int_equal(n, gradient_floats(&c));
    run_everywhere(run_loss, &c, c.n_rows + n, got);
    for (size_t row = 0; row < c.n_rows; row++) {
        loss += (double)got[row] * (double)COEFFICIENT;
    }
    assert_true(fabs(loss - oracle_loss_of(x, &o)) < 1e-5 * (1.0 + fabs(loss)));
    numeric_gradient(oracle_loss_of, &o, x, n, want);
    compare_to_double("dq, dw, dk", got + c.n_rows, want, n, 2e-5);
    memory_free(got);
    memory_free(want);
    memory_free(x);
    memory_free(o.targets);
    drop_case(&c);
}

static void losses_and_gradients_agree_with_differences(void **state)
{
    static const size_t lengths[] = {1, 17, 8};
    static const size_t long_lengths[] = {133}; /* two key blocks */
    (void)state;
    check_loss((struct shape){1, 1, 0, 1, 1}, 1, long_lengths);
    check_loss((struct shape){2, 7, 0, 3, 5}, 3, lengths);
    check_loss((struct shape){4, 3, 0, 2, 17}, 3, lengths);
    check_loss((struct shape){2, 7, 4, 3, 5}, 3, lengths);
    check_loss((struct shape){4, 3, 6, 70, 2}, 2, lengths + 1);
    check_loss((struct shape){1, 1, 129, 1, 1}, 1, long_lengths);
}

static void the_loss_of_a_sequence_does_not_depend_on_its_batch(void **state)
{
    static const size_t lengths[] = {40, 1, 150, 23};
    struct index_case c;
    struct backend *b;
    size_t row = 0;
    (void)state;

    make_case(&c, (struct shape){4, 16, 20, 4, 24}, MAX_SPANS, lengths);
    const size_t n_q = c.shape.heads * c.shape.dim, heads = c.shape.heads, dim = c.shape.dim;
    float *all = new_floats(c.n_rows + gradient_floats(&c));
    float *alone = new_floats(c.n_rows + gradient_floats(&c));
    run_everywhere(run_loss, &c, c.n_rows + gradient_floats(&c), all);
    assert_ok(backend_open("cpu", 1, &b));
    for (size_t s = 0; s < MAX_SPANS; s++) {
        struct index_case one = {.shape = c.shape, .n_sequences = 1, .n_rows = lengths[s]};
        const size_t n = lengths[s];
        one.lengths[0] = n;
        one.longest = n;
        one.q = c.q + row * n_q;
        one.w = c.w + row * heads;
        one.main_q = c.main_q + row * c.shape.main_heads * c.shape.width;
        one.entries = c.entries + row * entry_width(&c);
        run_loss(b, &one, alone);
        const float *got = alone, *want = all;
        assert_same_bits("loss", got, want + row, n);
        got += n;
        want += c.n_rows;
        assert_same_bits("dq", got, want + row * n_q, n * n_q);
        got += n * n_q;
        want += c.n_rows * n_q;
        assert_same_bits("dw", got, want + row * heads, n * heads);
        got += n * heads;
        want += c.n_rows * heads;
        assert_same_bits("dk", got, want + row * dim, n * dim);
        row += n;
    }
    backend_close(b);
    memory_free(alone);
    memory_free(all);
    drop_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_agree_with_the_oracle_and_the_largest_are_selected),
        cmocka_unit_test(ties_go_to_the_lower_position),
        cmocka_unit_test(prefill_chunks_and_decode_select_the_same),
        cmocka_unit_test(losses_and_gradients_agree_with_differences),
        cmocka_unit_test(the_loss_of_a_sequence_does_not_depend_on_its_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
