/* Updates that compute the prompt of a group once: what is the same as without, bit for bit or up
 * to rounding, and when nothing is shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/memory.h"
#include "tests/unit/trainer/tiny_learner.h"

#include <math.h>

#define COUNTS_MAX ((size_t)64)

static void open_learner(struct tiny *tiny, const struct run_config *config, size_t n_threads)
{
    tiny->config = *config;
    const struct learner_options options = grpo_learner_options(&tiny->config);
    assert_ok(backend_open("cpu", n_threads, &tiny->backend));
    tiny_policy(tiny->backend, learner_max_rows(&options), 5, true, &tiny->policy);
    assert_ok(learner_create(tiny->backend, tiny->policy, &options, &tiny->learner));
}

/* A learner that shares prompts. */
static void open_sharing(struct tiny *tiny, size_t n_threads, size_t micro_batch_tokens)
{
    struct run_config config;
    tiny_configure(&config, micro_batch_tokens);
    config.optim.share_prompts = true;
    open_learner(tiny, &config, n_threads);
}

static enum status a_gradient(void *context, size_t sequence_index, const float *logp,
                              const float *entropy, size_t n, float *g)
{
    (void)context;
    (void)logp;
    (void)entropy;
    for (size_t t = 0; t < n; t++) {
        g[t] = sequence_index % 2 == 0 ? -0.01F : 0.02F;
    }
    return STATUS_OK;
}

static void learn(struct tiny *tiny, uint32_t *counts, struct update_stats *stats)
{
    static struct tiny_step step;
    tiny_step_make(tiny, &step);
    struct update_args args = {.sequences = step.sequences,
                               .n = TINY_SAMPLES,
                               .learning_rate = 1e-2,
                               .gradient = a_gradient};
    args.expert_counts = counts;
    assert_ok(learner_update(tiny->learner, &args, stats));
}

/* |got - want| and |want|, in the root of sums of squares. */
static double relative_difference(const float *got, const float *want, size_t n)
{
    double difference = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < n; i++) {
        difference += pow((double)got[i] - (double)want[i], 2.0);
        size += pow((double)want[i], 2.0);
    }
    return sqrt(difference / size);
}

static void sharing_changes_an_update_by_rounding_alone(void **state)
{
    struct run_config config;
    struct tiny whole;
    struct tiny shared;
    struct update_stats want;
    struct update_stats got;
    uint32_t want_counts[COUNTS_MAX] = {0};
    uint32_t got_counts[COUNTS_MAX] = {0};
    (void)state;
    tiny_configure(&config, 1000);
    open_learner(&whole, &config, 2);
    open_sharing(&shared, 2, 1000);
    learn(&whole, want_counts, &want);
    learn(&shared, got_counts, &got);
    assert_int_equal(want.n_rows, want.n_inputs);
    assert_int_equal(got.n_inputs, want.n_inputs);
    /* prompts of 1, 4 and 7 tokens, of which two are each sequence's own */
    assert_int_equal(want.n_rows - got.n_rows, (TINY_GROUP_SIZE - 1) * (2 + 5));
    assert_true(got.entropy_sum == want.entropy_sum && got.mtp_loss == want.mtp_loss);
    assert_int_equal(got.n_mtp_accepted, want.n_mtp_accepted);
    assert_memory_equal(got_counts, want_counts, sizeof(want_counts));
    assert_true(fabs(got.grad_norm - want.grad_norm) < 1e-6 * want.grad_norm);
    const size_t n = policy_table(whole.policy)->n_floats;
    const float *moment = optimizer_first_moment(learner_optimizer(whole.learner));
    assert_true(relative_difference(optimizer_first_moment(learner_optimizer(shared.learner)),
                                    moment, n) < 1e-6);
    assert_true(
        relative_difference(policy_weights(shared.policy), policy_weights(whole.policy), n) < 1e-5);
    assert_false(tiny_is_equal(&shared, &whole)); /* so the above says something */
    assert_true(learner_flops(shared.learner) < learner_flops(whole.learner));
    tiny_close(&shared);
    tiny_close(&whole);
}

/* No group is cut: the largest has 5 + 4 * 2 rows and at most 4 * 11 of responses. */
static void cuts_between_groups_and_threads_change_no_bit(void **state)
{
    static const struct {
        size_t n_threads, micro_batch_tokens;
    } ways[] = {{2, 1000}, {1, 64}, {2, 80}};
    struct tiny first;
    struct update_stats want;
    (void)state;
    open_sharing(&first, 1, 1000);
    learn(&first, NULL, &want);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct tiny other;
        struct update_stats stats;
        open_sharing(&other, ways[i].n_threads, ways[i].micro_batch_tokens);
        learn(&other, NULL, &stats);
        assert_true(tiny_is_equal(&first, &other));
        assert_int_equal(stats.n_rows, want.n_rows);
        tiny_close(&other);
    }
    tiny_close(&first);
}

static void a_cut_inside_a_group_is_rounding(void **state)
{
    struct tiny whole;
    struct tiny cut;
    struct update_stats want;
    struct update_stats got;
    (void)state;
    open_sharing(&whole, 1, 1000);
    open_sharing(&cut, 1, 24);
    learn(&whole, NULL, &want);
    learn(&cut, NULL, &got);
    assert_true(got.n_rows > want.n_rows && got.n_rows < got.n_inputs);
    assert_true(got.entropy_sum == want.entropy_sum && got.mtp_loss == want.mtp_loss);
    assert_true(relative_difference(policy_weights(cut.policy), policy_weights(whole.policy),
                                    policy_table(whole.policy)->n_floats) < 1e-5);
    tiny_close(&cut);
    tiny_close(&whole);
}

/* The samples' log-probabilities come from whole sequences, the trainer's from shared prompts. */
static void a_step_with_a_reference_stays_exact(void **state)
{
    static struct tiny_step step;
    (void)state;
    for (size_t n_iterations = 1; n_iterations <= 2; n_iterations++) {
        struct run_config config;
        struct tiny whole;
        struct tiny shared;
        struct policy *reference = NULL;
        struct grpo_stats stats;
        struct arena *arena = NULL;
        tiny_configure(&config, 40);
        open_learner(&whole, &config, 1);
        tiny_step_make(&whole, &step);
        open_sharing(&shared, 1, 40);
        tiny_policy(shared.backend, 64, 5, false, &reference);
        shared.config.grpo.beta = 0.1;
        shared.config.grpo.num_iterations = n_iterations;
        const struct schedule schedule = schedule_from_config(&shared.config, 10);
        assert_ok(arena_create(4096, &arena));
        assert_ok(grpo_learn(shared.learner, reference, &shared.config, &schedule, &step.batch,
                             arena, &stats));
        assert_true(stats.mismatch_max == 0.0);
        assert_true(n_iterations == 1 ? stats.kl == 0.0 : stats.kl > 0.0);
        assert_int_equal(stats.n_tokens, n_iterations * (stats.n_inputs / n_iterations -
                                                         TINY_GROUP_SIZE * (0 + 3 + 6)));
        policy_destroy(reference);
        arena_destroy(arena);
        tiny_close(&shared);
        tiny_close(&whole);
    }
}

static void nothing_is_shared_where_a_loss_is_of_whole_sequences(void **state)
{
    static const enum router_aux_loss losses[] = {AUX_LOSS_SEQUENCE, AUX_LOSS_SEQUENCE_ROUTED,
                                                  AUX_LOSS_BATCH, AUX_LOSS_LAYER};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct run_config config;
        struct tiny tiny;
        struct update_stats stats;
        tiny_configure(&config, 100);
        config.optim.share_prompts = true;
        config.model.router_aux_loss = losses[i];
        config.model.router_aux_loss_coef = 0.1;
        open_learner(&tiny, &config, 1);
        learn(&tiny, NULL, &stats);
        assert_true(stats.balance_loss > 0.5);
        assert_int_equal(stats.n_rows < stats.n_inputs, i >= 2);
        tiny_close(&tiny);
    }
}

/* Loads are counted before the first micro-batch learns: with the weights of shared rows. */
static void a_balance_loss_of_the_update_is_the_same(void **state)
{
    struct run_config config;
    struct tiny whole;
    struct tiny shared;
    struct update_stats want;
    struct update_stats got;
    (void)state;
    tiny_configure(&config, 64);
    config.model.router_aux_loss = AUX_LOSS_BATCH;
    config.model.router_aux_loss_coef = 0.5;
    open_learner(&whole, &config, 1);
    config.optim.share_prompts = true;
    open_learner(&shared, &config, 1);
    learn(&whole, NULL, &want);
    learn(&shared, NULL, &got);
    assert_true(got.n_rows < want.n_rows);
    assert_true(fabs(got.balance_loss - want.balance_loss) < 1e-9 * want.balance_loss);
    assert_true(relative_difference(policy_weights(shared.policy), policy_weights(whole.policy),
                                    policy_table(whole.policy)->n_floats) < 1e-5);
    tiny_close(&shared);
    tiny_close(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sharing_changes_an_update_by_rounding_alone),
        cmocka_unit_test(cuts_between_groups_and_threads_change_no_bit),
        cmocka_unit_test(a_cut_inside_a_group_is_rounding),
        cmocka_unit_test(a_step_with_a_reference_stays_exact),
        cmocka_unit_test(nothing_is_shared_where_a_loss_is_of_whole_sequences),
        cmocka_unit_test(a_balance_loss_of_the_update_is_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
