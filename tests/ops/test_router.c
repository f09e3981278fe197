/* The choice of experts: the specification's example, ties, groups, replay, gradient, exactness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>

struct router_case {
    struct router_args args;           /* without outputs */
    const float *d_weights, *d_scores; /* or NULL */
};

/* scores (T, E), weights (T, K), indices (T, K) as floats, d_logits (T, E). */
static void run_router(struct backend *b, const void *context, float *out)
{
    const struct router_case *c = context;
    struct router_args args = c->args;
    const size_t n_scores = args.n_rows * args.n_experts, n_slots = args.n_rows * args.top_k;
    int32_t *indices;

    assert_ok(memory_alloc(n_slots, sizeof(*indices), &indices));
    args.scores = out;
    args.weights = out + n_scores;
    args.indices = indices;
    assert_ok(b->ops->router(b, &args));
    for (size_t i = 0; i < n_slots; i++) {
        assert_true(indices[i] >= 0 && (size_t)indices[i] < args.n_experts);
        out[n_scores + n_slots + i] = (float)indices[i];
    }
    if (c->d_weights != NULL) {
        assert_ok(b->ops->router_backward(
            b, &(struct router_backward_args){.scores = args.scores,
                                              .indices = indices,
                                              .d_weights = c->d_weights,
                                              .d_scores = c->d_scores,
                                              .d_logits = out + n_scores + 2 * n_slots,
                                              .d_logits_stride = args.n_experts,
                                              .n_rows = args.n_rows,
                                              .n_experts = args.n_experts,
                                              .top_k = args.top_k,
                                              .scoring = args.scoring,
                                              .normalise = args.normalise,
                                              .scaling = args.scaling}));
    }
    memory_free(indices);
}

static size_t out_floats(const struct router_args *a)
{
    return a->n_rows * 2 * (a->n_experts + a->top_k);
}

/* model.md 7.1; the logits are those of the example's scores. */
static void the_example_of_the_specification(void **state)
{
    static const float scores[] = {.50F, .15F, .60F, .55F, .10F, .12F, .05F, .70F};
    static const float bias[] = {.10F, -.25F, .10F, -.60F, -.30F, -.30F, -.30F, -.75F};
    static const double weights[] = {.909091, .757576, .833333};
    float logits[8], out[22];
    (void)state;

    for (size_t e = 0; e < 8; e++) {
        logits[e] = (float)log((double)scores[e] / (1.0 - (double)scores[e]));
    }
    const struct router_case c = {.args = {.logits = logits,
                                           .logits_stride = 8,
                                           .bias = bias,
                                           .n_rows = 1,
                                           .n_experts = 8,
                                           .top_k = 3,
                                           .n_groups = 4,
                                           .top_groups = 2,
                                           .normalise = true,
                                           .scaling = 2.5F}};
    run_everywhere(run_router, &c, 22, out);
    support_compare("scores", out, scores, 8, (struct tolerance){1e-6, 1e-6});
    compare_to_double("weights", out + 8, weights, 3, 2e-6);
    assert_true(out[11] == 2.0F && out[12] == 0.0F && out[13] == 3.0F);
}

static void ties_go_to_the_lower_index(void **state)
{
    static const float logits[8] = {0};
    float out[24];
    (void)state;

    const struct router_case c = {.args = {.logits = logits,
                                           .logits_stride = 8,
                                           .n_rows = 1,
                                           .n_experts = 8,
                                           .top_k = 4,
                                           .n_groups = 4,
                                           .top_groups = 2,
                                           .scaling = 1.0F}};
    run_everywhere(run_router, &c, 24, out);
    for (size_t k = 0; k < 4; k++) {
        assert_true(out[12 + k] == (float)k);
        assert_true(out[8 + k] == 0.5F); /* not normalised */
    }
}

static void scores_that_are_no_numbers_stay_in_range(void **state)
{
    const float logits[8] = {NAN, NAN, INFINITY, -INFINITY, NAN, NAN, NAN, NAN};
    const float bias[8] = {0, 0, INFINITY, 0, NAN, 0, 0, -INFINITY};
    float out[8 + 8 + 8], out_softmax[8 + 8 + 8];
    size_t seen[8] = {0};
    struct backend *b;
    (void)state;

    const struct router_case c = {.args = {.logits = logits,
                                           .logits_stride = 8,
                                           .bias = bias,
                                           .n_rows = 1,
                                           .n_experts = 8,
                                           .top_k = 8,
                                           .n_groups = 4,
                                           .top_groups = 3,
                                           .normalise = true,
                                           .scaling = 1.0F}};
    struct router_case softmax = c;
    softmax.args.scoring = ROUTER_SOFTMAX;
    assert_ok(backend_open("cpu", 1, &b));
    run_router(b, &c, out);
    run_router(b, &softmax, out_softmax);
    backend_close(b);
    for (size_t k = 0; k < 8; k++) {
        seen[(size_t)out[16 + k]]++;
        seen[(size_t)out_softmax[16 + k]]++;
    }
    for (size_t e = 0; e < 8; e++) {
        assert_int_equal(seen[e], 2);
    }
}

/* Probabilities, the best two groups by their best expert, and weights that are scaled only. */
static void softmax_ranks_groups_by_their_best_expert(void **state)
{
    static const float logits[] = {2.0F, 2.0F, 2.5F, -9.0F, 2.4F, -9.0F, 2.1F, 2.2F};
    double want[8], sum = 0.0;
    float out[8 + 3 + 3 + 8];
    (void)state;

    for (size_t e = 0; e < 8; e++) {
        sum += exp((double)logits[e]);
    }
    for (size_t e = 0; e < 8; e++) {
        want[e] = exp((double)logits[e]) / sum;
    }
    const double weights[] = {16.0 * want[2], 16.0 * want[4], 16.0 * want[3]};
    const struct router_case c = {.args = {.logits = logits,
                                           .logits_stride = 8,
                                           .n_rows = 1,
                                           .n_experts = 8,
                                           .top_k = 3,
                                           .n_groups = 4,
                                           .top_groups = 2,
                                           .scoring = ROUTER_SOFTMAX,
                                           .scaling = 16.0F}};
    run_everywhere(run_router, &c, 22, out);
    compare_to_double("scores", out, want, 8, 2e-6);
    compare_to_double("weights", out + 8, weights, 3, 2e-6);
    assert_true(out[11] == 2.0F && out[12] == 4.0F && out[13] == 3.0F);
}

/* An independent statement of the rule: expert e is the k-th iff exactly k kept ones beat it. */
static bool beats(const double *c, size_t a, size_t b)
{
    return c[a] > c[b] || (c[a] == c[b] && a < b);
}

static double group_score(const double *c, size_t first, size_t size)
{
    double best = -HUGE_VAL;
    for (size_t i = first; i < first + size; i++) {
        for (size_t j = i + 1; j < first + size; j++) {
            best = fmax(best, c[i] + c[j]);
        }
    }
    return best;
}

/* How many of n values beat the one at index. */
static size_t rank_of(const double *c, size_t n, size_t index)
{
    size_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        rank += beats(c, i, index) ? 1 : 0;
    }
    return rank;
}

static void check_selection(const struct router_args *a, const float *scores, const float *indices)
{
    const size_t size = a->n_experts / a->n_groups;
    double c[64] = {0}, groups[16] = {0};

    for (size_t e = 0; e < a->n_experts; e++) {
        c[e] = (double)(scores[e] + a->bias[e]);
    }
    for (size_t g = 0; g < a->n_groups; g++) {
        groups[g] = group_score(c, g * size, size);
    }
    for (size_t g = 0; g < a->n_groups; g++) {
        const bool is_kept = rank_of(groups, a->n_groups, g) < a->top_groups;
        for (size_t e = g * size; !is_kept && e < (g + 1) * size; e++) {
            c[e] = -HUGE_VAL;
        }
    }
    for (size_t k = 0; k < a->top_k; k++) {
        assert_int_equal(rank_of(c, a->n_experts, (size_t)indices[k]), k);
    }
}

static void selection_follows_the_rule_for_many_shapes(void **state)
{
    static const size_t shapes[][4] = {/* E, K, G, M */
                                       {8, 2, 1, 1},  {8, 1, 1, 1},  {64, 6, 8, 3},
                                       {17, 5, 1, 1}, {48, 8, 4, 2}, {32, 1, 16, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct router_case c = {.args = {.n_rows = 129,
                                         .n_experts = shapes[i][0],
                                         .top_k = shapes[i][1],
                                         .n_groups = shapes[i][2],
                                         .top_groups = shapes[i][3],
                                         .normalise = true,
                                         .scaling = 2.5F}};
        struct router_args *a = &c.args;
        float *logits = random_floats(a->n_rows * a->n_experts, i, 1.0F);
        float *bias = random_floats(a->n_experts, i + 9, 0.3F), *out = new_floats(out_floats(a));
        a->logits = logits;
        a->logits_stride = a->n_experts;
        a->bias = bias;
        run_everywhere(run_router, &c, out_floats(a), out);
        const float *indices = out + a->n_rows * (a->n_experts + a->top_k);
        for (size_t row = 0; row < a->n_rows; row++) {
            double sum = 0.0;
            check_selection(a, out + row * a->n_experts, indices + row * a->top_k);
            for (size_t k = 0; k < a->top_k; k++) {
                sum += (double)out[a->n_rows * a->n_experts + row * a->top_k + k];
            }
            assert_true(fabs(sum - 2.5) < 1e-5);
        }
        memory_free(out);
        memory_free(bias);
        memory_free(logits);
    }
}

static void replayed_experts_equal_selected_ones(void **state)
{
    struct router_case c = {.args = {.n_rows = 500,
                                     .n_experts = 64,
                                     .logits_stride = 64,
                                     .top_k = 6,
                                     .n_groups = 8,
                                     .top_groups = 4,
                                     .normalise = true,
                                     .scaling = 2.5F}};
    struct router_args *a = &c.args;
    float *logits = random_floats(a->n_rows * a->n_experts, 5, 1.0F);
    float *out = new_floats(out_floats(a)), *again = new_floats(out_floats(a));
    int32_t *replay;
    struct backend *b;
    (void)state;

    a->logits = logits;
    run_everywhere(run_router, &c, out_floats(a), out);
    assert_ok(memory_alloc(a->n_rows * a->top_k, sizeof(*replay), &replay));
    for (size_t i = 0; i < a->n_rows * a->top_k; i++) {
        replay[i] = (int32_t)out[a->n_rows * (a->n_experts + a->top_k) + i];
    }
    a->replay = replay;
    run_everywhere(run_router, &c, out_floats(a), again);
    assert_same_bits("replay", again, out, out_floats(a));
    replay[77] = 64;
    assert_ok(backend_open("cpu", 2, &b));
    struct router_args wrong = *a;
    int32_t *indices;
    assert_ok(memory_alloc(a->n_rows * a->top_k, sizeof(*indices), &indices));
    wrong.scores = again;
    wrong.weights = out;
    wrong.indices = indices;
    assert_status(b->ops->router(b, &wrong), STATUS_BAD_ARGUMENT, "not one of 64");
    backend_close(b);
    memory_free(indices);
    memory_free(replay);
    memory_free(again);
    memory_free(out);
    memory_free(logits);
}

struct gradient_context {
    const struct router_args *args;
    const float *indices, *d_weights, *d_scores;
};

/* The score of expert e in double. */
static double oracle_score(const struct router_args *a, const double *logits, size_t e)
{
    double sum = 0.0;

    if (a->scoring == ROUTER_SIGMOID) {
        return 1.0 / (1.0 + exp(-logits[e]));
    }
    for (size_t i = 0; i < a->n_experts; i++) {
        sum += exp(logits[i]);
    }
    return exp(logits[e]) / sum;
}

/* Loss <d_weights, weights> + <d_scores, scores> with the selection held. */
static double oracle_loss_of(const double *logits, const void *context)
{
    const struct gradient_context *g = context;
    const struct router_args *a = g->args;
    double loss = 0.0;

    for (size_t row = 0; row < a->n_rows; row++) {
        double sum = 1e-20, weighted = 0.0;
        for (size_t k = 0; k < a->top_k; k++) {
            const size_t e = (size_t)g->indices[row * a->top_k + k];
            const double s = oracle_score(a, logits + row * a->n_experts, e);
            sum += s;
            weighted += s * (double)g->d_weights[row * a->top_k + k];
        }
        loss += (double)a->scaling * (a->normalise ? weighted / sum : weighted);
        for (size_t e = 0; e < a->n_experts && g->d_scores != NULL; e++) {
            loss += (double)g->d_scores[row * a->n_experts + e] *
                    oracle_score(a, logits + row * a->n_experts, e);
        }
    }
    return loss;
}

static void gradient_agrees_with_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < 24; i++) {
        struct router_case c = {.args = {.n_rows = 7,
                                         .n_experts = 17,
                                         .logits_stride = 17,
                                         .top_k = 1 + i % 6,
                                         .n_groups = 1,
                                         .top_groups = 1,
                                         .scoring = i % 12 < 6 ? ROUTER_SIGMOID : ROUTER_SOFTMAX,
                                         .normalise = i % 2 == 0,
                                         .scaling = 2.5F}};
        struct router_args *a = &c.args;
        const size_t n = a->n_rows * a->n_experts, n_slots = a->n_rows * a->top_k;
        float *logits = random_floats(n, i, 1.0F), *d_weights = random_floats(n_slots, 3, 1.0F);
        float *out = new_floats(out_floats(a)), *d_scores = random_floats(n, 4, 1.0F);
        double *x = widen(logits, n), *want = new_doubles(n);
        a->logits = logits;
        c.d_weights = d_weights;
        c.d_scores = i < 12 ? NULL : d_scores;
        run_everywhere(run_router, &c, out_floats(a), out);
        const struct gradient_context context = {a, out + n + n_slots, d_weights, c.d_scores};
        numeric_gradient(oracle_loss_of, &context, x, n, want);
        compare_to_double("d_logits", out + n + 2 * n_slots, want, n, 2e-6);
        memory_free(want);
        memory_free(x);
        memory_free(d_scores);
        memory_free(out);
        memory_free(d_weights);
        memory_free(logits);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_of_the_specification),
        cmocka_unit_test(ties_go_to_the_lower_index),
        cmocka_unit_test(softmax_ranks_groups_by_their_best_expert),
        cmocka_unit_test(scores_that_are_no_numbers_stay_in_range),
        cmocka_unit_test(selection_follows_the_rule_for_many_shapes),
        cmocka_unit_test(replayed_experts_equal_selected_ones),
        cmocka_unit_test(gradient_agrees_with_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
