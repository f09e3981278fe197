/* Learning rates: each shape at its corners, and what the configuration makes of itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "trainer/schedule.h"

#include <math.h>

static const enum lr_schedule all_kinds[] = {LR_CONSTANT, LR_CONSTANT_WITH_WARMUP, LR_LINEAR,
                                             LR_COSINE, LR_WSD};
#define N_KINDS (sizeof(all_kinds) / sizeof(all_kinds[0]))

static struct schedule make(enum lr_schedule kind)
{
    return (struct schedule){.kind = kind,
                             .learning_rate = 0.01,
                             .n_steps = 100,
                             .warmup_steps = 10,
                             .decay_steps = 20,
                             .final_ratio = 0.1};
}

static void assert_rate(const struct schedule *schedule, size_t t, double want)
{
    const double got = schedule_rate(schedule, t);
    if (fabs(got - want) > 1e-12) {
        fail_msg("rate at %zu is %.12g, wanted %.12g", t, got, want);
    }
}

static void warm_up_rises_linearly_to_the_full_rate(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        const struct schedule schedule = make(all_kinds[k]);
        assert_rate(&schedule, 0, 0.0);
        assert_rate(&schedule, 1, 0.001);
        assert_rate(&schedule, 5, 0.005);
        assert_rate(&schedule, 10, 0.01);
    }
}

static void every_shape_has_its_middle_and_its_end(void **state)
{
    const struct schedule constant = make(LR_CONSTANT_WITH_WARMUP);
    const struct schedule linear = make(LR_LINEAR);
    const struct schedule cosine = make(LR_COSINE);
    const struct schedule wsd = make(LR_WSD);
    (void)state;
    assert_rate(&constant, 55, 0.01);
    assert_rate(&constant, 100, 0.01);
    assert_rate(&linear, 55, 0.0055);
    assert_rate(&linear, 100, 0.001);
    assert_rate(&cosine, 55, 0.0055);
    assert_rate(&cosine, 100, 0.001);
    assert_rate(&wsd, 80, 0.01);
    assert_rate(&wsd, 90, 0.0055);
    assert_rate(&wsd, 100, 0.001);
}

static void without_warm_up_the_first_update_has_a_rate(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_KINDS; k++) {
        struct schedule schedule = make(all_kinds[k]);
        schedule.warmup_steps = 0;
        assert_true(schedule_rate(&schedule, 1) > 0.0099);
    }
}

/* A resumed run may have a smaller max_steps than steps done; no rate is negative or NaN. */
static void rates_stay_within_bounds_whatever_the_numbers(void **state)
{
    static const size_t numbers[] = {0, 1, 2, 9, 10, 11, 100, 1000};
    const size_t n = sizeof(numbers) / sizeof(numbers[0]);
    (void)state;
    for (size_t i = 0; i < n * n * n * N_KINDS; i++) {
        struct schedule schedule = make(all_kinds[i / (n * n * n)]);
        schedule.n_steps = numbers[i % n];
        schedule.warmup_steps = numbers[i / n % n];
        schedule.decay_steps = numbers[i / n / n % n];
        for (size_t t = 0; t < 130; t += 3) {
            const double rate = schedule_rate(&schedule, t);
            assert_true(rate >= 0.0 && rate <= 0.01 + 1e-15);
        }
    }
}

static void the_configuration_decides(void **state)
{
    struct run_config config = {.optim = {.learning_rate = 3e-4,
                                          .lr_scheduler_type = LR_WSD,
                                          .warmup_steps = 7,
                                          .decay_ratio = 0.2,
                                          .min_lr_ratio = 0.05}};
    struct schedule schedule = schedule_from_config(&config, 52);
    (void)state;
    assert_int_equal(schedule.kind, LR_WSD);
    assert_int_equal(schedule.n_steps, 52);
    assert_int_equal(schedule.warmup_steps, 7);
    assert_int_equal(schedule.decay_steps, 10); /* 10.4 */
    assert_rate(&schedule, 52, 3e-4 * 0.05);
    config.optim.lr_scheduler_type = LR_CONSTANT; /* has no warm-up, as in transformers */
    schedule = schedule_from_config(&config, 52);
    assert_rate(&schedule, 1, 3e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_linearly_to_the_full_rate),
        cmocka_unit_test(every_shape_has_its_middle_and_its_end),
        cmocka_unit_test(without_warm_up_the_first_update_has_a_rate),
        cmocka_unit_test(rates_stay_within_bounds_whatever_the_numbers),
        cmocka_unit_test(the_configuration_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
