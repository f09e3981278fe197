/* The load-balance term: its value and what it counts against a double oracle, its gradient against
 * finite differences, cuts of a batch, arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>

#define SPANS_MAX ((size_t)8)
#define CUT_ROWS ((size_t)60)

struct balance_case {
    struct balance_loss_args args; /* without outputs */
    double loss_before;
};

/* d_scores (T, E), then the loss in two floats: its nearest float and what is left. */
static void run_balance(struct backend *b, const void *context, float *out)
{
    const struct balance_case *c = context;
    struct balance_loss_args args = c->args;
    double loss = c->loss_before;

    args.d_scores = out;
    args.loss = &loss;
    assert_ok(b->ops->balance_loss(b, &args));
    out[args.n_rows * args.n_experts] = (float)loss;
    out[args.n_rows * args.n_experts + 1] = (float)(loss - (double)(float)loss);
}

static double loss_of(const struct balance_case *c, const float *out)
{
    const size_t n = c->args.n_rows * c->args.n_experts;

    return (double)out[n] + (double)out[n + 1];
}

/* How many scores of a row beat that of expert e. */
static size_t rank_of(const float *scores, size_t n_experts, size_t e)
{
    size_t rank = 0;

    for (size_t i = 0; i < n_experts; i++) {
        rank += scores[i] > scores[e] || (i < e && !(scores[i] < scores[e])) ? 1 : 0;
    }
    return rank;
}

static bool takes(const struct balance_loss_args *a, size_t row, size_t e)
{
    if (a->indices == NULL) {
        return rank_of(a->scores + row * a->n_experts, a->n_experts, e) < a->top_k;
    }
    for (size_t k = 0; k < a->top_k; k++) {
        if ((size_t)a->indices[row * a->top_k + k] == e) {
            return true;
        }
    }
    return false;
}

/* f (n_spans, E): a share of the slots, times E; 1 is perfect balance. */
static void count(const struct balance_loss_args *a, double *f)
{
    for (size_t s = 0; s < a->n_spans; s++) {
        for (size_t e = 0; e < a->n_experts; e++) {
            double n = 0.0;
            for (size_t i = 0; i < a->spans[s].n_rows; i++) {
                n += takes(a, a->spans[s].first_row + i, e) ? 1.0 : 0.0;
            }
            f[s * a->n_experts + e] =
                (double)a->n_experts / (double)(a->top_k * a->spans[s].n_rows) * n;
        }
    }
}

struct oracle {
    const struct balance_loss_args *args;
    const double *f;
};

/* One sequence: sum of f_i P_i, P the mean of normalised scores (times n: their sum). With a load
 * given, rows count as often as they are used. */
static double sequence_loss(const struct balance_loss_args *a, const double *scores, size_t first,
                            size_t n, const double *f)
{
    double loss = 0.0;

    for (size_t e = 0; e < a->n_experts; e++) {
        double p = 0.0;
        for (size_t row = first; row < first + n; row++) {
            double sum = 0.0;
            for (size_t i = 0; i < a->n_experts; i++) {
                sum += scores[row * a->n_experts + i];
            }
            p += (a->load != NULL && a->uses != NULL ? a->uses[row] : 1.0) *
                 scores[row * a->n_experts + e] / sum;
        }
        loss += f[e] * p;
    }
    return loss;
}

static double oracle_balance(const double *scores, const void *context)
{
    const struct oracle *o = context;
    const struct balance_loss_args *a = o->args;
    double loss = 0.0;

    if (a->load != NULL) {
        return a->weight * sequence_loss(a, scores, 0, a->n_rows, a->load);
    }
    for (size_t s = 0; s < a->n_spans; s++) {
        loss += a->weight / (double)a->spans[s].n_rows *
                sequence_loss(a, scores, a->spans[s].first_row, a->spans[s].n_rows,
                              o->f + s * a->n_experts);
    }
    return loss;
}

/* Scores between 0 and 1, distinct enough for differences. */
static float *random_scores(size_t n, uint64_t seed)
{
    float *out = random_floats(n, seed, 2.0F);

    for (size_t i = 0; i < n; i++) {
        out[i] = 1.0F / (1.0F + expf(-out[i]));
    }
    return out;
}

static int32_t *random_routes(size_t n_rows, size_t top_k, size_t n_experts)
{
    int32_t *out = NULL;

    assert_ok(memory_alloc(n_rows * top_k, sizeof(*out), &out));
    for (size_t row = 0; row < n_rows; row++) {
        const size_t first = (size_t)random_below(9, RANDOM_TEST, 0, row, (uint32_t)n_experts);
        for (size_t k = 0; k < top_k; k++) {
            out[row * top_k + k] = (int32_t)((first + k) % n_experts);
        }
    }
    return out;
}

static void check_case(struct balance_case *c)
{
    struct balance_loss_args *a = &c->args;
    const size_t n = a->n_rows * a->n_experts;
    float *out = new_floats(n + 2);
    double *f = new_doubles(SPANS_MAX * a->n_experts), *want = new_doubles(n);
    double *x = widen(a->scores, n);
    const struct oracle oracle = {a, f};

    count(a, f);
    run_everywhere(run_balance, c, n + 2, out);
    const double loss = c->loss_before + oracle_balance(x, &oracle);
    assert_true(fabs(loss_of(c, out) - loss) < 1e-12 * (1.0 + fabs(loss)));
    numeric_gradient(oracle_balance, &oracle, x, n, want);
    compare_to_double("d_scores", out, want, n, 1e-6);
    memory_free(x);
    memory_free(want);
    memory_free(f);
    memory_free(out);
}

/* Sequences of 1, 2, 3 ... rows, the last takes the rest. */
static size_t cut_rows(size_t n_rows, size_t n_spans, struct kv_span *spans)
{
    size_t row = 0, n = 0;

    while (row < n_rows) {
        const size_t left = n_rows - row;
        const size_t size = n + 1 < n_spans && n + 1 < left ? n + 1 : left;
        spans[n++] = (struct kv_span){.first_row = row, .n_rows = size};
        row += size;
    }
    return n;
}

static void loss_and_gradient_agree_with_the_oracle(void **state)
{
    static const size_t shapes[][4] = {/* T, E, K, sequences */
                                       {1, 1, 1, 1},   {1, 8, 2, 1},   {7, 4, 4, 3},
                                       {40, 16, 2, 5}, {33, 17, 5, 8}, {129, 64, 8, 4},
                                       {5, 3, 1, 2}};
    (void)state;
    uint32_t uses[129];
    for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        uses[i] = (uint32_t)random_below(8, RANDOM_TEST, 1, i, 9);
    }
    for (size_t i = 0; i < 4 * sizeof(shapes) / sizeof(shapes[0]); i++) {
        const size_t *shape = shapes[i / 4];
        struct kv_span spans[SPANS_MAX];
        float *scores = random_scores(shape[0] * shape[1], i / 4),
              *load = random_scores(shape[1], 9);
        double *wide_load = widen(load, shape[1]);
        int32_t *routes = random_routes(shape[0], shape[2], shape[1]);
        struct balance_case c = {.loss_before = 0.25,
                                 .args = {.scores = scores,
                                          .indices = i % 4 == 0 ? NULL : routes,
                                          .load = i % 4 >= 2 ? wide_load : NULL,
                                          .uses = i % 4 == 2 ? NULL : uses,
                                          .spans = spans,
                                          .n_spans = cut_rows(shape[0], shape[3], spans),
                                          .weight = 0.7,
                                          .n_rows = shape[0],
                                          .n_experts = shape[1],
                                          .top_k = shape[2]}};
        check_case(&c);
        memory_free(routes);
        memory_free(wide_load);
        memory_free(load);
        memory_free(scores);
    }
}

/* By hand: two rows, three experts, K = 1; both rows take expert 0. */
static void a_case_by_hand(void **state)
{
    static const float scores[] = {.5F, .25F, .25F, .6F, .1F, .3F};
    static const int32_t other[] = {2, 1};
    static const struct kv_span span = {.n_rows = 2};
    const double p0 = (.5 + .6) / 2, p1 = (.25 + .1) / 2, p2 = (.25 + .3) / 2;
    float out[8];
    struct balance_case c = {.args = {.scores = scores,
                                      .spans = &span,
                                      .n_spans = 1,
                                      .weight = 1,
                                      .n_rows = 2,
                                      .n_experts = 3,
                                      .top_k = 1}};
    (void)state;
    run_everywhere(run_balance, &c, 8, out);
    assert_true(fabs(loss_of(&c, out) - 3 * p0) < 1e-6);
    c.args.indices = other;
    run_everywhere(run_balance, &c, 8, out);
    assert_true(fabs(loss_of(&c, out) - 1.5 * (p1 + p2)) < 1e-6);
}

/* Equal scores: the lower index counts, and the loss is that of any distribution, 1. */
static void ties_count_for_the_lower_index(void **state)
{
    static const float scores[] = {.5F, .5F, .5F, .5F};
    static const struct kv_span span = {.n_rows = 1};
    float out[6];
    const struct balance_case c = {.args = {.scores = scores,
                                            .spans = &span,
                                            .n_spans = 1,
                                            .weight = 1,
                                            .n_rows = 1,
                                            .n_experts = 4,
                                            .top_k = 2}};
    (void)state;
    run_everywhere(run_balance, &c, 6, out);
    assert_true(fabs(loss_of(&c, out) - 1.0) < 1e-12);
    assert_true(out[0] > 0.0F && out[1] > 0.0F && out[2] < 0.0F && out[3] < 0.0F);
}

/* The loss goes on where it was, and no row looks past its sequence (given load: past itself). */
static void cutting_between_sequences_changes_no_bit(void **state)
{
    struct kv_span spans[SPANS_MAX];
    float *scores = random_scores(CUT_ROWS * 16, 3), *load = random_scores(16, 4);
    float *whole = new_floats(CUT_ROWS * 16 + 2), *part = new_floats(CUT_ROWS * 16 + 2);
    double *wide_load = widen(load, 16);
    (void)state;

    for (size_t i = 0; i < 2; i++) {
        struct balance_case c = {.args = {.scores = scores,
                                          .load = i == 1 ? wide_load : NULL,
                                          .spans = spans,
                                          .n_spans = cut_rows(CUT_ROWS, 6, spans),
                                          .weight = 0.1,
                                          .n_rows = CUT_ROWS,
                                          .n_experts = 16,
                                          .top_k = 3}};
        const size_t last = spans[5].first_row;

        run_everywhere(run_balance, &c, CUT_ROWS * 16 + 2, whole);
        const double loss = loss_of(&c, whole);
        c.args.n_rows = last;
        c.args.n_spans = 5;
        run_everywhere(run_balance, &c, last * 16 + 2, part);
        assert_same_bits("first part", part, whole, last * 16);
        c.loss_before = loss_of(&c, part);
        c.args.scores = scores + last * 16;
        c.args.n_rows = CUT_ROWS - last;
        c.args.n_spans = 1;
        spans[0] = (struct kv_span){.n_rows = CUT_ROWS - last};
        run_everywhere(run_balance, &c, (CUT_ROWS - last) * 16 + 2, part);
        assert_same_bits("second part", part, whole + last * 16, (CUT_ROWS - last) * 16);
        assert_true(fabs(loss_of(&c, part) - loss) < 1e-14); /* two floats hold 48 bits of it */
    }
    memory_free(wide_load);
    memory_free(part);
    memory_free(whole);
    memory_free(load);
    memory_free(scores);
}

static void wrong_arguments_are_refused(void **state)
{
    static const float scores[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    static const int32_t routes[2] = {0, 4};
    const struct kv_span spans[2] = {{.n_rows = 1}, {.first_row = 1, .n_rows = 1}};
    const struct kv_span gap = {.first_row = 1, .n_rows = 1};
    float d_scores[8];
    double loss = 0.0;
    struct backend *b;
    const struct balance_loss_args good = {.scores = scores,
                                           .spans = spans,
                                           .n_spans = 2,
                                           .weight = 1,
                                           .n_rows = 2,
                                           .n_experts = 4,
                                           .top_k = 1,
                                           .d_scores = d_scores,
                                           .loss = &loss};
    struct balance_loss_args bad = good;
    (void)state;

    assert_ok(backend_open("cpu", 1, &b));
    assert_ok(b->ops->balance_loss(b, &good));
    bad.top_k = 5;
    assert_status(b->ops->balance_loss(b, &bad), STATUS_BAD_ARGUMENT, "5 of 4");
    bad = good;
    bad.n_spans = 1;
    assert_status(b->ops->balance_loss(b, &bad), STATUS_BAD_ARGUMENT, "1 rows, there are 2");
    bad.spans = &gap;
    assert_status(b->ops->balance_loss(b, &bad), STATUS_BAD_ARGUMENT, "begins at row 1 not 0");
    bad = good;
    bad.indices = routes;
    assert_status(b->ops->balance_loss(b, &bad), STATUS_BAD_ARGUMENT, "expert 4");
    backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_and_gradient_agree_with_the_oracle),
        cmocka_unit_test(a_case_by_hand),
        cmocka_unit_test(ties_count_for_the_lower_index),
        cmocka_unit_test(cutting_between_sequences_changes_no_bit),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
