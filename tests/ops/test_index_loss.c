/* The losses that train the indexer, with their gradients, against numeric ones, and in any batch.
 * n_selected 0: over all keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/index_fixture.h"

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
    whole_spans(c->n_sequences, c->lengths, &run.cache, run.spans);
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
    drop_cache(&run.d_cache);
    drop_cache(&run.cache);
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
        cmocka_unit_test(losses_and_gradients_agree_with_differences),
        cmocka_unit_test(the_loss_of_a_sequence_does_not_depend_on_its_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
