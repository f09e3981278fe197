/* A GRPO step on the tiny model: exact on its own samples, stopped by a flipped bit, pulled by a
 * reference, cut into updates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/memory.h"
#include "tests/unit/trainer/tiny_learner.h"

/* What every test works on: two learners with the same bits, and a step of samples of theirs. */
static struct {
    struct tiny tiny, fresh;
    struct tiny_step step;
    struct grpo_stats stats;
    struct arena *arena;
} f;

static int setup(void **state)
{
    (void)state;
    assert_ok(arena_create((size_t)1 << 20, &f.arena));
    tiny_open(&f.tiny, 1, 32, 5);
    tiny_open(&f.fresh, 1, 32, 5);
    tiny_step_make(&f.tiny, &f.step);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tiny_close(&f.fresh);
    tiny_close(&f.tiny);
    arena_destroy(f.arena);
    return 0;
}

static enum status grpo(struct tiny *tiny, struct policy *reference)
{
    const struct schedule schedule = schedule_from_config(&tiny->config, 10);
    return grpo_learn(tiny->learner, reference, &tiny->config, &schedule, &f.step.batch, f.arena,
                      &f.stats);
}

static void a_step_on_its_own_samples_is_exact(void **state)
{
    const struct grpo_stats *const stats = &f.stats;
    (void)state;
    assert_ok(grpo(&f.tiny, NULL));
    assert_true(stats->mismatch_max == 0.0 && stats->ratio_max == 1.0);
    assert_true(stats->clip_low == 0.0 && stats->clip_high == 0.0 && stats->kl == 0.0);
    assert_int_equal(stats->n_updates, 1);
    assert_true(stats->learning_rate == 1e-3 && stats->entropy > 0.0 && stats->grad_norm > 0.0);
    assert_true(stats->mtp_acceptance >= 0.0 && stats->max_violation > 0.0);
    for (size_t i = 0; i < TINY_SAMPLES; i++) {
        const float *row = stats->sample_stats + i * SAMPLE_STATS;
        assert_true(row[0] == 0.0F && row[1] > 0.0F && row[2] == 0.0F && row[3] == 0.0F);
        assert_true(row[4] == 1.0F);
    }
    assert_false(tiny_is_equal(&f.tiny, &f.fresh));
}

static void flip_last_bit(float *value)
{
    uint32_t bits = 0;
    memcpy(&bits, value, sizeof(bits));
    bits ^= 1U;
    memcpy(value, &bits, sizeof(bits));
}

/* With one update the check rides on the forward pass; with several it comes before the first. */
static void one_flipped_bit_stops_the_step(void **state)
{
    (void)state;
    flip_last_bit(&f.step.logprobs[7][f.step.samples[7].n_tokens - 1]);
    for (size_t n_iterations = 1; n_iterations <= 2; n_iterations++) {
        f.tiny.config.grpo.num_iterations = n_iterations;
        assert_status(grpo(&f.tiny, NULL), STATUS_INEXACT, "group 41 sample 3 token 11");
        assert_true(f.stats.mismatch_max > 0.0 &&
                    f.stats.mismatch_max < 1e-5); /* measured, not assumed */
        assert_true(tiny_is_equal(&f.tiny, &f.fresh));
    }
}

static void a_batch_without_samples_changes_nothing(void **state)
{
    (void)state;
    for (size_t g = 0; g < TINY_GROUPS; g++) {
        f.step.groups[g].n_samples = 0;
    }
    assert_ok(grpo(&f.tiny, NULL));
    assert_int_equal(f.stats.n_updates, 0);
    f.step.batch.n_groups = 0;
    assert_ok(grpo(&f.tiny, NULL));
    assert_true(tiny_is_equal(&f.tiny, &f.fresh));
}

/* With an equal reference KL is 0 and changes no bit; another one pulls. */
static void a_reference_model_pulls_towards_itself(void **state)
{
    static const uint64_t seeds[2] = {5, 6};
    (void)state;
    assert_ok(grpo(&f.fresh, NULL));
    for (size_t i = 0; i < 2; i++) {
        struct tiny tiny;
        struct policy *reference = NULL;
        tiny_open(&tiny, 1, 32, 5);
        tiny_policy(tiny.backend, 64, seeds[i], false, &reference);
        tiny.config.grpo.beta = 0.1;
        tiny.config.grpo.kl_estimator = KL_K3U;
        assert_ok(grpo(&tiny, reference));
        assert_true(i == 0 ? f.stats.kl == 0.0 : f.stats.kl > 0.0);
        assert_true(tiny_is_equal(&f.fresh, &tiny) == (i == 0));
        policy_destroy(reference);
        tiny_close(&tiny);
    }
}

static void truncated_samples_can_be_masked(void **state)
{
    struct sample *const samples = f.step.samples + TINY_GROUP_SIZE; /* the middle group */
    (void)state;
    f.tiny.config.grpo.mask_truncated_completions = true;
    f.tiny.config.model.mtp_train = false;
    for (size_t s = 0; s < TINY_GROUP_SIZE; s++) {
        samples[s].is_truncated = true;
    }
    assert_ok(grpo(&f.tiny, NULL));
    const float *row = f.stats.sample_stats + TINY_GROUP_SIZE * SAMPLE_STATS;
    assert_true(row[1] == 0.0F && row[4] == 0.0F);
    for (size_t s = 0; s < TINY_GROUP_SIZE; s++) {
        samples[s].advantage = 0.0F;
    }
    f.fresh.config.grpo.loss_type = LOSS_DAPO;
    assert_ok(grpo(&f.fresh, NULL));
    /* the denominator counts active tokens only */
    assert_false(tiny_is_equal(&f.tiny, &f.fresh));
}

static void minibatches_and_iterations_are_updates(void **state)
{
    (void)state;
    f.tiny.config.grpo.num_iterations = 2;
    f.tiny.config.grpo.num_minibatches = 5;
    assert_ok(grpo(&f.tiny, NULL));
    assert_int_equal(f.stats.n_updates, 10);
    assert_int_equal(optimizer_updates(learner_optimizer(f.tiny.learner)), 10);
    assert_true(f.stats.ratio_max > 1.0); /* later updates are off-policy */
}

static void a_step_allocates_nothing_but_from_its_arena(void **state)
{
    (void)state;
    assert_ok(grpo(&f.tiny, NULL)); /* the backend's scratch grows once */
    tiny_step_make(&f.tiny, &f.step);
    arena_reset(f.arena);
    const size_t n_blocks = memory_total_blocks();
    assert_ok(grpo(&f.tiny, NULL));
    assert_int_equal(memory_total_blocks(), n_blocks);
}

static void an_update_has_the_tokens_of_its_prompts_and_of_its_responses(void **state)
{
    struct run_config config = {.data = {.max_prompt_length = 100},
                                .grpo = {.prompts_per_step = 6, .num_generations = 4},
                                .rollout = {.max_completion_length = 10}};
    /* 24 sequences of a step: their update's number of groups and of sequences. */
    static const size_t cases[][3] = {{1, 6, 24}, {2, 6, 12}, {5, 5, 5}, {24, 1, 1}, {1000, 1, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        config.grpo.num_minibatches = cases[i][0];
        assert_int_equal(grpo_learner_options(&config).max_update_tokens,
                         cases[i][1] * 100 + cases[i][2] * 10);
    }
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_step_on_its_own_samples_is_exact),
        CASE(one_flipped_bit_stops_the_step),
        CASE(a_batch_without_samples_changes_nothing),
        CASE(a_reference_model_pulls_towards_itself),
        CASE(truncated_samples_can_be_masked),
        CASE(minibatches_and_iterations_are_updates),
        CASE(a_step_allocates_nothing_but_from_its_arena),
        cmocka_unit_test(an_update_has_the_tokens_of_its_prompts_and_of_its_responses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
