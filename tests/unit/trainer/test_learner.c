/* One update on the tiny model: the same bits however the batch is cut and however many threads
 * compute it, and the guard of the exactness contract. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "model/model_cost.h"
#include "tests/unit/trainer/tiny_learner.h"
#include "trainer/speed.h"

#include <math.h>

/* Gradient of -sum of log-probabilities, and what was seen on the way. */
struct watch {
    size_t n_calls;
    double logp_sum;
};

static enum status likelihood_gradient(void *context, size_t sequence_index, const float *logp,
                                       const float *entropy, size_t n, float *g)
{
    struct watch *watch = context;
    assert_int_equal(sequence_index, watch->n_calls);
    watch->n_calls++;
    for (size_t t = 0; t < n; t++) {
        assert_true(logp[t] < 0.0F && entropy[t] > 0.0F);
        watch->logp_sum += (double)logp[t];
        g[t] = -0.01F;
    }
    return STATUS_OK;
}

static enum status visit_nothing(void *context, size_t sequence_index, const float *logp, size_t n)
{
    (void)context;
    assert_true(sequence_index < 3 && n > 0 && logp[0] < 0.0F);
    return STATUS_OK;
}

static struct update_args args_of(const struct tiny_step *step, sequence_gradient *gradient,
                                  void *context)
{
    return (struct update_args){.sequences = step->sequences,
                                .n = TINY_SAMPLES,
                                .learning_rate = 1e-2,
                                .gradient = gradient,
                                .context = context};
}

/* Three updates, the last with MTP gradients through the trunk too if the options say so. */
static void learn(struct tiny *tiny, struct update_stats *stats)
{
    static struct tiny_step step;
    tiny_step_make(tiny, &step);
    for (size_t i = 0; i < 3; i++) {
        struct watch watch = {0};
        const struct update_args args = args_of(&step, likelihood_gradient, &watch);
        assert_ok(learner_update(tiny->learner, &args, stats));
        assert_int_equal(watch.n_calls, TINY_SAMPLES);
    }
}

static void any_cut_and_any_number_of_threads_give_the_same_bits(void **state)
{
    static const struct {
        size_t n_threads, micro_batch_tokens;
    } ways[] = {{1, 1000}, {1, 8}, {1, 64}, {2, 8}, {2, 64}, {2, 1000}};
    struct tiny first;
    struct update_stats wanted;
    (void)state;
    tiny_open(&first, 1, 16, 5);
    learn(&first, &wanted);
    assert_int_equal(wanted.n_rows, TINY_SAMPLES * 3 + wanted.n_targets);
    assert_true(wanted.n_mtp > 0 && isfinite(wanted.mtp_loss) && wanted.grad_norm > 0.0);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct tiny other;
        struct update_stats stats;
        tiny_open(&other, ways[i].n_threads, ways[i].micro_batch_tokens, 5);
        learn(&other, &stats);
        if (!tiny_is_equal(&first, &other)) {
            fail_msg("%zu threads and %zu rows give other bits", ways[i].n_threads,
                     ways[i].micro_batch_tokens);
        }
        assert_true(stats.grad_norm == wanted.grad_norm && stats.n_mtp == wanted.n_mtp);
        assert_true(stats.entropy_sum == wanted.entropy_sum && stats.mtp_loss == wanted.mtp_loss);
        assert_int_equal(stats.n_mtp_accepted, wanted.n_mtp_accepted);
        tiny_close(&other);
    }
    tiny_close(&first);
}

static void an_update_follows_its_gradient(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct watch before = {0};
    struct watch after = {0};
    struct update_stats stats;
    (void)state;
    tiny_open(&tiny, 1, 64, 5);
    tiny_step_make(&tiny, &step);
    struct update_args args = args_of(&step, likelihood_gradient, &before);
    assert_ok(learner_update(tiny.learner, &args, &stats));
    args.context = &after;
    assert_ok(learner_update(tiny.learner, &args, &stats));
    assert_true(after.logp_sum > before.logp_sum);
    tiny_close(&tiny);
}

/* Flop of a forward pass over three sequences of prompts that differ, token by token. */
static double count_flops(const struct model_config *model, const struct train_sequence *sequences,
                          bool with_module)
{
    double flops = 0.0;
    for (size_t i = 0; i < 3; i++) {
        const size_t n_rows = sequences[i].n_prompt + sequences[i].n_response - 1;
        for (size_t t = 0; t < n_rows; t++) {
            const bool has_target = t + 1 >= sequences[i].n_prompt;
            flops += model_forward_flops(model, (double)(t + 1), false, has_target);
        }
        const struct model_work module = {.n_rows = (double)(n_rows - 1),
                                          .n_keys = model_span_keys(0, n_rows - 1),
                                          .n_heads =
                                              (double)train_sequence_mtp_targets(&sequences[i])};
        flops += with_module ? model_module_flops(model, &module, false) : 0.0;
    }
    return flops;
}

static void flops_are_those_of_the_rows_that_were_computed(void **state)
{
    static const int32_t tokens[] = {5, 9, 2, 7, 11, 3, 8, 40, 6, 1, 30, 12};
    const struct train_sequence sequences[] = {
        {.prompt = tokens, .n_prompt = 4, .response = tokens + 4, .n_response = 5, .group = 1},
        {.prompt = tokens + 1, .n_prompt = 2, .response = tokens + 3, .n_response = 1, .group = 2},
        {.prompt = tokens + 2, .n_prompt = 3, .response = tokens + 5, .n_response = 7, .group = 3}};
    (void)state;
    for (size_t trains_mtp = 0; trains_mtp < 2; trains_mtp++) {
        struct tiny tiny;
        struct update_stats stats;
        struct watch watch = {0};
        tiny_configure(&tiny.config, 8);
        tiny.config.model.mtp_train = trains_mtp != 0;
        struct learner_options options = grpo_learner_options(&tiny.config);
        assert_ok(backend_open("cpu", 1, &tiny.backend));
        tiny_policy(tiny.backend, learner_max_rows(&options), 5, true, &tiny.policy);
        assert_ok(learner_create(tiny.backend, tiny.policy, &options, &tiny.learner));
        const struct model_config *model = policy_config(tiny.policy);
        const double wanted = count_flops(model, sequences, trains_mtp != 0);
        const struct update_args args = {.sequences = sequences,
                                         .n = 3,
                                         .learning_rate = 1e-3,
                                         .gradient = likelihood_gradient,
                                         .context = &watch};
        assert_true(learner_flops(tiny.learner) <= 0.0);
        assert_ok(learner_update(tiny.learner, &args, &stats));
        const double trained = learner_flops(tiny.learner);
        assert_true(fabs(trained / (3.0 * wanted) - 1.0) < 1e-12);
        assert_ok(learner_visit(tiny.learner, tiny.policy, sequences, 3, visit_nothing, NULL));
        const double seen = learner_flops(tiny.learner) - trained;
        assert_true(fabs(seen / count_flops(model, sequences, false) - 1.0) < 1e-12);
        tiny_close(&tiny);
    }
}

static void flops_of_a_prompt_that_is_shared_count_once(void **state)
{
    static const int32_t tokens[] = {5, 9, 2, 7, 11, 3, 8, 40, 6};
    const struct train_sequence sequences[] = {
        {.prompt = tokens, .n_prompt = 4, .response = tokens + 4, .n_response = 5, .group = 1},
        {.prompt = tokens, .n_prompt = 4, .response = tokens + 5, .n_response = 3, .group = 1}};
    struct tiny tiny;
    (void)state;
    tiny_configure(&tiny.config, 64);
    tiny.config.model.mtp_train = false;
    struct learner_options options = grpo_learner_options(&tiny.config);
    options.shares_prompts = true;
    assert_ok(backend_open("cpu", 1, &tiny.backend));
    tiny_policy(tiny.backend, learner_max_rows(&options), 5, true, &tiny.policy);
    assert_ok(learner_create(tiny.backend, tiny.policy, &options, &tiny.learner));
    assert_ok(learner_visit(tiny.learner, tiny.policy, sequences, 2, visit_nothing, NULL));
    /* All but the prompt's last token, which has a target in each sequence. */
    const struct model_work work = {.n_rows = 3 + 5 + 3,
                                    .n_keys = (1 + 2 + 3) + (4 + 5 + 6 + 7 + 8) + (4 + 5 + 6),
                                    .n_heads = 8};
    const double wanted = model_work_flops(policy_config(tiny.policy), &work, false);
    assert_true(fabs(learner_flops(tiny.learner) / wanted - 1.0) < 1e-12);
    tiny_close(&tiny);
}

static void a_share_of_the_peak_is_no_more_than_all(void **state)
{
    struct backend *backend = NULL;
    struct speed *speed = NULL;
    (void)state;
    assert_ok(backend_open("cpu", 1, &backend));
    assert_ok(speed_create(backend, PRECISION_BF16, &speed));
    speed_look(speed);
    const double small = speed_share(speed, 1e4, 1.0);
    assert_true(small > 0.0 && small < 1e-3);
    assert_true(fabs(speed_share(speed, 1e18, 1.0) - 1.0) < 1e-12); /* then that is the peak */
    assert_true(speed_share(speed, 1e4, 1.0) < small);
    speed_destroy(speed);
    backend_close(backend);
}

static enum status create_and_destroy_speed(void *context)
{
    struct speed *speed = NULL;
    const enum status status = speed_create(context, PRECISION_F32, &speed);
    assert_true((status == STATUS_OK) == (speed != NULL));
    speed_destroy(speed);
    return status;
}

static void a_speed_survives_every_failed_allocation(void **state)
{
    struct backend *backend = NULL;
    (void)state;
    assert_ok(backend_open("cpu", 1, &backend));
    assert_true(support_fail_allocations(create_and_destroy_speed, backend) > 2);
    backend_close(backend);
}

static void expert_counts_are_those_of_every_row(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct watch watch = {0};
    struct update_stats stats;
    struct arena *arena = NULL;
    uint32_t *counts = NULL;
    const int32_t *layers = NULL;
    (void)state;
    tiny_open(&tiny, 1, 8, 5);
    tiny_step_make(&tiny, &step);
    assert_ok(arena_create(4096, &arena));
    const size_t n_layers = policy_moe_layers(tiny.policy, &layers);
    const struct model_config *model = policy_config(tiny.policy);
    assert_ok(arena_alloc(arena, n_layers * model->n_experts, sizeof(*counts), &counts));
    struct update_args args = args_of(&step, likelihood_gradient, &watch);
    args.expert_counts = counts;
    assert_ok(learner_update(tiny.learner, &args, &stats));
    for (size_t i = 0; i < n_layers; i++) {
        size_t sum = 0;
        for (size_t e = 0; e < model->n_experts; e++) {
            sum += counts[i * model->n_experts + e];
        }
        if ((size_t)layers[i] < model->n_layers) {
            assert_int_equal(sum, stats.n_rows * model->experts_per_token);
        }
    }
    arena_destroy(arena);
    tiny_close(&tiny);
}

static enum status refuse(void *context, size_t sequence_index, const float *logp,
                          const float *entropy, size_t n, float *g)
{
    (void)context;
    (void)logp;
    (void)entropy;
    memset(g, 0, n * sizeof(float));
    return sequence_index < 7 ? STATUS_OK : status_set(STATUS_NUMERICS, "sequence 7");
}

static void a_refused_sequence_leaves_the_weights_alone(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct tiny fresh;
    struct update_stats stats;
    (void)state;
    tiny_open(&tiny, 1, 8, 5);
    tiny_open(&fresh, 1, 8, 5);
    tiny_step_make(&tiny, &step);
    const struct update_args args = args_of(&step, refuse, NULL);
    assert_status(learner_update(tiny.learner, &args, &stats), STATUS_NUMERICS, "sequence 7");
    assert_true(tiny_is_equal(&tiny, &fresh));
    tiny_close(&fresh);
    tiny_close(&tiny);
}

static void no_failed_allocation_leaks(void **state)
{
    struct tiny tiny;
    (void)state;
    tiny_open(&tiny, 1, 32, 5);
    assert_true(support_fail_allocations(tiny_attempt_learner, &tiny) >= 17);
    tiny_close(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cut_and_any_number_of_threads_give_the_same_bits),
        cmocka_unit_test(an_update_follows_its_gradient),
        cmocka_unit_test(flops_are_those_of_the_rows_that_were_computed),
        cmocka_unit_test(flops_of_a_prompt_that_is_shared_count_once),
        cmocka_unit_test(a_share_of_the_peak_is_no_more_than_all),
        cmocka_unit_test(a_speed_survives_every_failed_allocation),
        cmocka_unit_test(expert_counts_are_those_of_every_row),
        cmocka_unit_test(a_refused_sequence_leaves_the_weights_alone),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
