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

static enum status grpo(struct tiny *tiny, struct policy *reference, const struct tiny_step *step,
                        struct arena *arena, struct grpo_stats *stats)
{
    const struct schedule schedule = schedule_from_config(&tiny->config, 10);
    return grpo_learn(tiny->learner, reference, &tiny->config, &schedule, &step->batch, arena,
                      stats);
}

static void a_step_on_its_own_samples_is_exact(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct tiny fresh;
    struct grpo_stats stats;
    struct arena *arena = NULL;
    (void)state;
    assert_ok(arena_create(4096, &arena));
    tiny_open(&tiny, 1, 32, 5);
    tiny_open(&fresh, 1, 32, 5);
    tiny_step_make(&tiny, &step);
    assert_ok(grpo(&tiny, NULL, &step, arena, &stats));
    assert_true(stats.mismatch_max == 0.0 && stats.ratio_max == 1.0);
    assert_true(stats.clip_low == 0.0 && stats.clip_high == 0.0 && stats.kl == 0.0);
    assert_int_equal(stats.n_updates, 1);
    assert_true(stats.learning_rate == 1e-3 && stats.entropy > 0.0 && stats.grad_norm > 0.0);
    assert_true(stats.mtp_acceptance >= 0.0 && stats.max_violation > 0.0);
    for (size_t i = 0; i < TINY_SAMPLES; i++) {
        const float *row = stats.sample_stats + i * SAMPLE_STATS;
        assert_true(row[0] == 0.0F && row[1] > 0.0F && row[2] == 0.0F && row[3] == 0.0F);
        assert_true(row[4] == 1.0F);
    }
    assert_false(tiny_is_equal(&tiny, &fresh));
    tiny_close(&fresh);
    tiny_close(&tiny);
    arena_destroy(arena);
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
    static struct tiny_step step;
    (void)state;
    for (size_t n_iterations = 1; n_iterations <= 2; n_iterations++) {
        struct tiny tiny;
        struct tiny fresh;
        struct grpo_stats stats;
        struct arena *arena = NULL;
        assert_ok(arena_create(4096, &arena));
        tiny_open(&tiny, 1, 32, 5);
        tiny_open(&fresh, 1, 32, 5);
        tiny.config.grpo.num_iterations = n_iterations;
        tiny_step_make(&tiny, &step);
        flip_last_bit(&step.logprobs[7][step.samples[7].n_tokens - 1]);
        assert_status(grpo(&tiny, NULL, &step, arena, &stats), STATUS_INEXACT,
                      "group 41 sample 3 token 11");
        assert_true(stats.mismatch_max > 0.0 &&
                    stats.mismatch_max < 1e-5); /* measured, not assumed */
        assert_true(tiny_is_equal(&tiny, &fresh));
        tiny_close(&fresh);
        tiny_close(&tiny);
        arena_destroy(arena);
    }
}

static void a_batch_without_samples_changes_nothing(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct tiny fresh;
    struct grpo_stats stats;
    struct arena *arena = NULL;
    (void)state;
    assert_ok(arena_create(4096, &arena));
    tiny_open(&tiny, 1, 32, 5);
    tiny_open(&fresh, 1, 32, 5);
    tiny_step_make(&tiny, &step);
    for (size_t g = 0; g < TINY_GROUPS; g++) {
        step.groups[g].n_samples = 0;
    }
    assert_ok(grpo(&tiny, NULL, &step, arena, &stats));
    assert_int_equal(stats.n_updates, 0);
    step.batch.n_groups = 0;
    assert_ok(grpo(&tiny, NULL, &step, arena, &stats));
    assert_true(tiny_is_equal(&tiny, &fresh));
    tiny_close(&fresh);
    tiny_close(&tiny);
    arena_destroy(arena);
}

/* With an equal reference KL is 0 and changes no bit; another one pulls. */
static void a_reference_model_pulls_towards_itself(void **state)
{
    static struct tiny_step step;
    static const uint64_t seeds[2] = {5, 6};
    struct tiny plain;
    struct grpo_stats stats;
    struct arena *arena = NULL;
    (void)state;
    assert_ok(arena_create(4096, &arena));
    tiny_open(&plain, 1, 32, 5);
    tiny_step_make(&plain, &step);
    assert_ok(grpo(&plain, NULL, &step, arena, &stats));
    for (size_t i = 0; i < 2; i++) {
        struct tiny tiny;
        struct policy *reference = NULL;
        tiny_open(&tiny, 1, 32, 5);
        tiny_policy(tiny.backend, 64, seeds[i], false, &reference);
        tiny.config.grpo.beta = 0.1;
        tiny.config.grpo.kl_estimator = KL_K3U;
        assert_ok(grpo(&tiny, reference, &step, arena, &stats));
        assert_true(i == 0 ? stats.kl == 0.0 : stats.kl > 0.0);
        assert_true(tiny_is_equal(&plain, &tiny) == (i == 0));
        policy_destroy(reference);
        tiny_close(&tiny);
    }
    tiny_close(&plain);
    arena_destroy(arena);
}

static void truncated_samples_can_be_masked(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct tiny without;
    struct grpo_stats stats;
    struct arena *arena = NULL;
    (void)state;
    assert_ok(arena_create(4096, &arena));
    tiny_open(&tiny, 1, 32, 5);
    tiny_open(&without, 1, 32, 5);
    tiny_step_make(&tiny, &step);
    tiny.config.grpo.mask_truncated_completions = true;
    tiny.config.model.mtp_train = false;
    for (size_t s = 0; s < TINY_GROUP_SIZE; s++) {
        step.samples[TINY_GROUP_SIZE + s].is_truncated = true; /* all of the middle group */
    }
    assert_ok(grpo(&tiny, NULL, &step, arena, &stats));
    const float *row = stats.sample_stats + TINY_GROUP_SIZE * SAMPLE_STATS;
    assert_true(row[1] == 0.0F && row[4] == 0.0F);
    for (size_t s = 0; s < TINY_GROUP_SIZE; s++) {
        step.samples[TINY_GROUP_SIZE + s].advantage = 0.0F;
    }
    without.config.grpo.loss_type = LOSS_DAPO;
    assert_ok(grpo(&without, NULL, &step, arena, &stats));
    assert_false(tiny_is_equal(&tiny, &without)); /* the denominator counts active tokens only */
    tiny_close(&without);
    tiny_close(&tiny);
    arena_destroy(arena);
}

static void minibatches_and_iterations_are_updates(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct grpo_stats stats;
    struct arena *arena = NULL;
    (void)state;
    assert_ok(arena_create(4096, &arena));
    tiny_open(&tiny, 1, 32, 5);
    tiny.config.grpo.num_iterations = 2;
    tiny.config.grpo.num_minibatches = 5;
    tiny_step_make(&tiny, &step);
    assert_ok(grpo(&tiny, NULL, &step, arena, &stats));
    assert_int_equal(stats.n_updates, 10);
    assert_int_equal(optimizer_updates(learner_optimizer(tiny.learner)), 10);
    assert_true(stats.ratio_max > 1.0); /* later updates are off-policy */
    tiny_close(&tiny);
    arena_destroy(arena);
}

static void a_step_allocates_nothing_but_from_its_arena(void **state)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct grpo_stats stats;
    struct arena *arena = NULL;
    (void)state;
    assert_ok(arena_create((size_t)1 << 20, &arena));
    tiny_open(&tiny, 1, 32, 5);
    tiny_step_make(&tiny, &step);
    assert_ok(grpo(&tiny, NULL, &step, arena, &stats)); /* the backend's scratch grows once */
    tiny_step_make(&tiny, &step);
    arena_reset(arena);
    const size_t n_blocks = memory_total_blocks();
    assert_ok(grpo(&tiny, NULL, &step, arena, &stats));
    assert_int_equal(memory_total_blocks(), n_blocks);
    tiny_close(&tiny);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_on_its_own_samples_is_exact),
        cmocka_unit_test(one_flipped_bit_stops_the_step),
        cmocka_unit_test(a_batch_without_samples_changes_nothing),
        cmocka_unit_test(a_reference_model_pulls_towards_itself),
        cmocka_unit_test(truncated_samples_can_be_masked),
        cmocka_unit_test(minibatches_and_iterations_are_updates),
        cmocka_unit_test(a_step_allocates_nothing_but_from_its_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
