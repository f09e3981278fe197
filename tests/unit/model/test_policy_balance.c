/* The balance loss in a policy: its value against the definitions, its gradient against finite
 * differences, cuts and threads, and that it does nothing when it is not wanted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/policy_internal.h"
#include "tests/unit/model/policy_fixture.h"
#include "tests/unit/model/slope.h"

#include <math.h>
#include <string.h>

#define LAYERS_MAX ((size_t)8)
#define EXPERTS_MAX ((size_t)64)

static const enum policy_balance_kind kinds[] = {POLICY_BALANCE_SEQUENCE,
                                                 POLICY_BALANCE_SEQUENCE_ROUTED,
                                                 POLICY_BALANCE_BATCH, POLICY_BALANCE_LAYER};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static const unsigned routers[] = {0, VARIANT_SOFTMAX, VARIANT_SOFTMAX | VARIANT_NO_NORM,
                                   VARIANT_NO_NORM | VARIANT_TWO_MODULES};
#define N_ROUTERS (sizeof(routers) / sizeof(routers[0]))

/* The variant with one layer of experts more, so that layers can differ. */
static struct policy *make_deep(struct backend *backend)
{
    const struct policy_options options = {
        .max_rows = MAX_ROWS, .max_draws = 1, .is_trainable = true};
    struct model_config config;

    variant_config(&config);
    config.n_layers++;
    return policy_of(backend, &config, &options);
}

/* Forward and backward of sequences [first, last), module 0 attached; upstream gradients times
 * scale. */
static void learn(struct policy *policy, const struct batch *batch, size_t first, size_t last,
                  float scale)
{
    const size_t begin = batch->offsets[first], end = batch->offsets[last];
    float logp[MAX_ROWS], g[MAX_ROWS];
    struct mtp_rows mtp;

    list_mtp_rows(batch, first, last, 0, &mtp);
    for (size_t i = 0; i < mtp.n; i++) {
        mtp.g[i] *= scale;
    }
    for (size_t i = begin; i < end; i++) {
        g[i - begin] = scale * batch->g[i];
    }
    forward(policy, batch, first, last, plain, logp, NULL);
    assert_ok(policy_mtp_forward(policy,
                                 &(struct policy_mtp_args){.target_rows = mtp.rows,
                                                           .targets = mtp.targets,
                                                           .n_targets = mtp.n},
                                 logp));
    assert_ok(policy_mtp_backward(policy, mtp.g));
    assert_ok(policy_backward(policy, g, NULL));
}

/* Counts of the batch, as they are with the weights of now. */
static void count(struct policy *policy, const struct batch *batch, uint32_t *counts)
{
    float logp[MAX_ROWS];

    memset(counts, 0, LAYERS_MAX * EXPERTS_MAX * sizeof(*counts));
    forward(policy, batch, 0, N_SEQUENCES, plain, logp, NULL);
    policy_expert_counts(policy, counts);
}

static void set_balance(struct policy *policy, enum policy_balance_kind kind, double coefficient,
                        const uint32_t *counts)
{
    assert_ok(policy_set_balance(policy, &(struct policy_balance){.kind = kind,
                                                                  .coefficient = coefficient,
                                                                  .n_sequences = N_SEQUENCES,
                                                                  .counts = counts}));
}

/* --- Value --- */

/* sum_i f_i P_i of rows [first, first + n) of one layer; f counts slots, P sums scores. */
struct tally {
    double f[EXPERTS_MAX], p[EXPERTS_MAX], n;
};

static void add_rows(const struct policy *policy, size_t layer, size_t first, size_t n,
                     struct tally *tally)
{
    const struct policy_activations *a = &policy->activations[layer];
    const size_t n_experts = policy->sizes.n_experts, top_k = policy->sizes.top_k;

    for (size_t row = first; row < first + n; row++) {
        double sum = 0;
        for (size_t e = 0; e < n_experts; e++) {
            sum += (double)a->scores[row * n_experts + e];
        }
        for (size_t e = 0; e < n_experts; e++) {
            tally->p[e] += (double)a->scores[row * n_experts + e] / sum;
        }
        for (size_t k = 0; k < top_k; k++) {
            tally->f[a->indices[row * top_k + k]] += 1;
        }
    }
    tally->n += (double)n;
}

/* E sum_i f_i P_i, f per row. */
static double tally_loss(const struct tally *tally, size_t n_experts)
{
    double sum = 0;

    for (size_t e = 0; e < n_experts; e++) {
        sum += tally->f[e] / tally->n * tally->p[e] / tally->n;
    }
    return (double)n_experts * sum;
}

/* What the kinds that count taken experts should give for the trunk alone. */
static double oracle(const struct policy *policy, const struct batch *batch,
                     enum policy_balance_kind kind)
{
    const size_t n_layers = policy->config.n_layers, n_experts = policy->sizes.n_experts;
    const size_t n_rows = batch->offsets[N_SEQUENCES];
    struct tally all = {.n = 0};
    double sum = 0, n_moe = 0;

    for (size_t i = 0; i < n_layers; i++) {
        if (!policy->layers[i].is_moe) {
            continue;
        }
        for (size_t s = 0; s < N_SEQUENCES && kind == POLICY_BALANCE_SEQUENCE_ROUTED; s++) {
            struct tally one = {.n = 0};
            add_rows(policy, i, batch->offsets[s], lengths[s], &one);
            sum += tally_loss(&one, n_experts) / (double)(policy->sizes.top_k * N_SEQUENCES);
        }
        struct tally one = {.n = 0};
        add_rows(policy, i, 0, n_rows, &one);
        add_rows(policy, i, 0, n_rows, &all);
        sum += kind == POLICY_BALANCE_LAYER ? tally_loss(&one, n_experts) : 0;
        n_moe++;
    }
    return kind == POLICY_BALANCE_SEQUENCE_ROUTED ? sum
           : kind == POLICY_BALANCE_LAYER         ? sum / n_moe
                                                  : tally_loss(&all, n_experts);
}

static void the_loss_is_what_its_kind_says(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    uint32_t counts[LAYERS_MAX * EXPERTS_MAX];
    float logp[MAX_ROWS], g[MAX_ROWS] = {0};
    struct batch batch;
    (void)state;

    batch_fill(&batch);
    for (size_t i = 0; i < N_ROUTERS * 3; i++) {
        const enum policy_balance_kind kind = kinds[1 + i % 3];

        variant = routers[i / 3];
        struct policy *policy = make_deep(backend);
        count(policy, &batch, counts);
        set_balance(policy, kind, 0.01, counts);
        forward(policy, &batch, 0, N_SEQUENCES, plain, logp, NULL);
        assert_ok(policy_backward(policy, g, NULL));
        const double want = oracle(policy, &batch, kind), got = policy_balance_loss(policy);
        print_message("variant %u, kind %d: %.9f\n", variant, (int)kind, got);
        assert_true(fabs(got - want) < 1e-9);
        policy_destroy(policy);
    }
    variant = 0;
    backend_close(backend);
}

/* --- Gradient --- */

static double loss_now(struct policy *policy, const struct batch *batch,
                       enum policy_balance_kind kind, const uint32_t *counts)
{
    set_balance(policy, kind, 1, counts);
    learn(policy, batch, 0, N_SEQUENCES, 0);
    return policy_balance_loss(policy);
}

/* Whether the slope over `step` agrees with the gradient; gradients are taken at the start. */
static bool slope_agrees(struct policy *policy, const struct batch *batch,
                         enum policy_balance_kind kind, const uint32_t *counts, float step)
{
    memset(policy_gradients(policy), 0, policy_table(policy)->n_floats * sizeof(float));
    (void)loss_now(policy, batch, kind, counts);
    assert_ok(policy_finish_gradients(policy));

    const double component =
        move_weights(policy, policy_gradients(policy), 100, every_trainable, step);
    const double above = loss_now(policy, batch, kind, counts);

    (void)move_weights(policy, policy_gradients(policy), 100, every_trainable, -2 * step);

    const double slope = (above - loss_now(policy, batch, kind, counts)) / (2 * (double)step);

    (void)move_weights(policy, policy_gradients(policy), 100, every_trainable, step);
    print_message("variant %u, kind %d, step %g: slope %g, gradient %g\n", variant, (int)kind,
                  (double)step, slope, component);
    return fabs(slope - component) <= 0.01 * fabs(component) + 0.002;
}

/* A token may change its expert within a step: then a smaller one from another start. */
static void the_gradient_agrees_with_finite_differences(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    uint32_t counts[LAYERS_MAX * EXPERTS_MAX];
    struct batch batch;
    (void)state;

    batch_fill(&batch);
    for (size_t i = 0; i < N_ROUTERS * N_KINDS; i++) {
        const enum policy_balance_kind kind = kinds[i % N_KINDS];

        variant = routers[i / N_KINDS];
        struct policy *policy = make_deep(backend);
        bool agrees = false;
        for (int j = 0; j < 4 && !agrees; j++) {
            count(policy, &batch, counts);
            agrees = slope_agrees(policy, &batch, kind, counts, j == 0 ? 1e-4f : 3e-5f);
            (void)move_weights(policy, policy_gradients(policy), 100, every_trainable, 3e-3f);
        }
        assert_true(agrees);
        policy_destroy(policy);
    }
    variant = 0;
    backend_close(backend);
}

/* --- Bits --- */

struct result {
    float *gradients;
    double loss;
};

static struct result learn_cut(size_t n_threads, const size_t *ends, size_t n_ends,
                               enum policy_balance_kind kind)
{
    struct backend *backend = open_backend("cpu", n_threads);
    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;
    uint32_t counts[LAYERS_MAX * EXPERTS_MAX];
    struct result result;
    struct batch batch;

    batch_fill(&batch);
    count(policy, &batch, counts);
    set_balance(policy, kind, 0.1, counts);
    for (size_t i = 0; i < n_ends; i++) {
        learn(policy, &batch, i == 0 ? 0 : ends[i - 1], ends[i], 1);
    }
    assert_ok(policy_finish_gradients(policy));
    result.loss = policy_balance_loss(policy);
    assert_ok(memory_alloc(n, sizeof(float), &result.gradients));
    memcpy(result.gradients, policy_gradients(policy), n * sizeof(float));
    policy_destroy(policy);
    backend_close(backend);
    return result;
}

static void cuts_and_threads_change_no_bit(void **state)
{
    static const size_t whole[] = {5}, cut[] = {1, 3, 4, 5};
    struct model_config config;
    struct weight_table *table;
    (void)state;

    variant_config(&config);
    assert_ok(weight_table_create(&config, &table));
    for (size_t i = 0; i < N_KINDS; i++) {
        const struct result a = learn_cut(1, whole, 1, kinds[i]);
        const struct result b = learn_cut(1, cut, 4, kinds[i]);
        const struct result c = learn_cut(2, cut, 4, kinds[i]);

        assert_memory_equal(a.gradients, b.gradients, table->n_floats * sizeof(float));
        assert_memory_equal(a.gradients, c.gradients, table->n_floats * sizeof(float));
        assert_memory_equal(&a.loss, &b.loss, sizeof(a.loss));
        assert_memory_equal(&a.loss, &c.loss, sizeof(a.loss));
        memory_free(c.gradients);
        memory_free(b.gradients);
        memory_free(a.gradients);
    }
    weight_table_destroy(table);
}

static void copy_gradients(struct policy *policy, const struct batch *batch, float *out)
{
    const size_t bytes = policy_table(policy)->n_floats * sizeof(float);

    memset(policy_gradients(policy), 0, bytes);
    learn(policy, batch, 0, N_SEQUENCES, 1);
    memcpy(out, policy_gradients(policy), bytes);
}

static void without_a_coefficient_nothing_changes(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;
    struct batch batch;
    float *plain_gradients, *other;
    (void)state;

    assert_ok(memory_alloc(n, sizeof(float), &plain_gradients));
    assert_ok(memory_alloc(n, sizeof(float), &other));
    batch_fill(&batch);
    copy_gradients(policy, &batch, plain_gradients);
    set_balance(policy, POLICY_BALANCE_SEQUENCE, 0, NULL);
    copy_gradients(policy, &batch, other);
    assert_memory_equal(plain_gradients, other, n * sizeof(float));
    set_balance(policy, POLICY_BALANCE_SEQUENCE, 0.1, NULL);
    copy_gradients(policy, &batch, other);
    assert_true(memcmp(plain_gradients, other, n * sizeof(float)) != 0);
    assert_true(policy_balance_loss(policy) > 0);
    assert_ok(policy_set_balance(policy, NULL));
    copy_gradients(policy, &batch, other);
    assert_memory_equal(plain_gradients, other, n * sizeof(float));
    assert_true(policy_balance_loss(policy) == 0);
    memory_free(other);
    memory_free(plain_gradients);
    policy_destroy(policy);
    backend_close(backend);
}

static void wrong_arguments_are_refused(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true), *fixed = make_policy(backend, false);
    struct policy_balance balance = {.kind = POLICY_BALANCE_BATCH, .coefficient = 1};
    (void)state;

    assert_status(policy_set_balance(policy, &balance), STATUS_BAD_ARGUMENT, "expert counts");
    balance.kind = POLICY_BALANCE_SEQUENCE;
    assert_status(policy_set_balance(policy, &balance), STATUS_BAD_ARGUMENT, "sequences");
    balance.n_sequences = 1;
    assert_status(policy_set_balance(fixed, &balance), STATUS_BAD_ARGUMENT, "trainable");
    assert_ok(policy_set_balance(policy, &balance));
    policy_destroy(fixed);
    policy_destroy(policy);
    backend_close(backend);
}

static enum status attempt(void *context)
{
    struct policy *policy = context;
    const struct policy_balance balance = {
        .kind = POLICY_BALANCE_SEQUENCE, .coefficient = 1, .n_sequences = 1};
    const enum status status = policy_set_balance(policy, &balance);

    assert_true(status == STATUS_OK || policy->balance == NULL);
    policy_balance_destroy(policy);
    return status;
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    (void)state;

    assert_true(support_fail_allocations(attempt, policy) >= 6);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_loss_is_what_its_kind_says),
        cmocka_unit_test(the_gradient_agrees_with_finite_differences),
        cmocka_unit_test(cuts_and_threads_change_no_bit),
        cmocka_unit_test(without_a_coefficient_nothing_changes),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
