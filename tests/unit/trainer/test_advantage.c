/* Advantages against the numbers of grpo.md 18.1, and the groups that carry no signal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"
#include "trainer/advantage.h"

#include <math.h>
#include <string.h>

#define GROUP 8

static const double rewards[GROUP] = {1, 0, 0, 1, 0, 0, 0, 0.1};

static void fill(struct sample *samples, const double *values, size_t n)
{
    memset(samples, 0, n * sizeof(*samples));
    for (size_t i = 0; i < n; i++) {
        samples[i].has_reward = true;
        samples[i].reward = values[i];
        samples[i].advantage = 77.0F; /* whatever was there before */
    }
}

/* right, wrong and last: the three different advantages that the vector has. */
static void check(const struct advantage_options *options, double right, double wrong, double last)
{
    struct sample samples[GROUP];
    fill(samples, rewards, GROUP);
    assert_true(advantages_fill_group(options, samples, GROUP));
    for (size_t i = 0; i < GROUP; i++) {
        const double want = rewards[i] == 1.0 ? right : rewards[i] == 0.0 ? wrong : last;
        assert_true(fabs((double)samples[i].advantage - want) < 1e-6);
    }
}

static void group_std_gives_the_golden_numbers(void **state)
{
    (void)state;
    check(&(struct advantage_options){SCALE_GROUP, 1, 1e-4}, 1.615197, -0.574901, -0.355891);
    check(&(struct advantage_options){SCALE_GROUP, 0, 1e-4}, 1.726692, -0.614585, -0.380458);
}

static void mean_gives_the_golden_numbers(void **state)
{
    (void)state;
    check(&(struct advantage_options){SCALE_NONE, 1, 1e-4}, 0.7375, -0.2625, -0.1625);
}

static void equal_rewards_give_exactly_zero(void **state)
{
    static const double values[] = {0.0, 1.0, 0.7, -0.1, 1e6, 1.0 / 3.0};
    static const float zeros[GROUP] = {0};
    (void)state;
    for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
        for (size_t scale = 0; scale < 2; scale++) {
            const struct advantage_options options = {scale == 0 ? SCALE_GROUP : SCALE_NONE, 1,
                                                      1e-4};
            struct sample samples[GROUP];
            double same[GROUP];
            for (size_t i = 0; i < GROUP; i++) {
                same[i] = values[v];
            }
            fill(samples, same, GROUP);
            assert_false(advantages_fill_group(&options, samples, GROUP));
            for (size_t i = 0; i < GROUP; i++) {
                assert_memory_equal(&samples[i].advantage, &zeros[i], sizeof(float));
            }
        }
    }
}

/* 0.1 + 0.2 and 0.3 are the same reward in single precision: no signal may come from rounding. */
static void sums_that_differ_in_the_last_double_bit_are_equal(void **state)
{
    const struct advantage_options options = {SCALE_GROUP, 1, 1e-4};
    const double values[3] = {0.1 + 0.2, 0.3, 0.3};
    struct sample samples[3];
    (void)state;
    fill(samples, values, 3);
    assert_false(advantages_fill_group(&options, samples, 3));
    assert_true(samples[0].advantage == 0.0F && samples[1].advantage == 0.0F);
}

static void unscorable_members_get_zero_and_leave_the_statistics(void **state)
{
    const struct advantage_options options = {SCALE_GROUP, 1, 1e-4};
    struct sample with[GROUP + 2];
    struct sample without[GROUP];
    double values[GROUP + 2] = {0};
    (void)state;
    fill(without, rewards, GROUP);
    assert_true(advantages_fill_group(&options, without, GROUP));
    for (size_t i = 0; i < GROUP; i++) {
        values[i + (i < 3 ? 0 : 1)] = rewards[i];
    }
    values[3] = 1e9;
    values[GROUP + 1] = -1e9;
    fill(with, values, GROUP + 2);
    with[3].has_reward = false;
    with[GROUP + 1].has_reward = false;
    assert_true(advantages_fill_group(&options, with, GROUP + 2));
    for (size_t i = 0; i < GROUP; i++) {
        assert_memory_equal(&with[i + (i < 3 ? 0 : 1)].advantage, &without[i].advantage,
                            sizeof(float));
    }
    assert_true(with[3].advantage == 0.0F && with[GROUP + 1].advantage == 0.0F);
}

static void fewer_than_two_scorable_members_have_no_signal(void **state)
{
    const struct advantage_options options = {SCALE_NONE, 1, 1e-4};
    const double values[3] = {1, 0, 0.5};
    struct sample samples[3];
    (void)state;
    fill(samples, values, 3);
    samples[0].has_reward = false;
    samples[2].has_reward = false;
    assert_false(advantages_fill_group(&options, samples, 3));
    assert_true(samples[1].advantage == 0.0F);
    samples[1].has_reward = false;
    assert_false(advantages_fill_group(&options, samples, 3));
    assert_false(advantages_fill_group(&options, samples, 0));
}

static void groups_without_signal_are_counted(void **state)
{
    const struct advantage_options options = {SCALE_GROUP, 1, 1e-4};
    const double equal[2] = {1, 1};
    const double different[2] = {1, 0};
    struct sample first[2];
    struct sample second[2];
    struct sample_group groups[2] = {{.samples = first, .n_samples = 2},
                                     {.samples = second, .n_samples = 2}};
    struct step_batch batch = {.groups = groups, .n_groups = 2};
    (void)state;
    fill(first, equal, 2);
    fill(second, different, 2);
    assert_int_equal(advantages_fill(&options, &batch), 1);
    assert_int_equal(step_batch_samples(&batch), 4);
    assert_true(second[0].advantage > 0.7F && second[1].advantage == -second[0].advantage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(group_std_gives_the_golden_numbers),
        cmocka_unit_test(mean_gives_the_golden_numbers),
        cmocka_unit_test(equal_rewards_give_exactly_zero),
        cmocka_unit_test(sums_that_differ_in_the_last_double_bit_are_equal),
        cmocka_unit_test(unscorable_members_get_zero_and_leave_the_statistics),
        cmocka_unit_test(fewer_than_two_scorable_members_have_no_signal),
        cmocka_unit_test(groups_without_signal_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
