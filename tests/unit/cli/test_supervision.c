/* What hone run decides when a process ends: no process, no clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/supervision.h"

#define SECOND ((int64_t)1000000)

static struct supervision begun(void)
{
    struct supervision state;
    supervision_begin(&state, 2, SECOND);
    return state;
}

static void a_trainer_that_is_done_ends_the_run(void **unused)
{
    (void)unused;
    struct supervision state = begun();
    const struct supervision_verdict verdict =
        supervision_exit(&state, ROLE_TRAINER, 0, 0, 2 * SECOND);
    assert_int_equal(verdict.action, SUPERVISION_END);
    assert_int_equal(verdict.exit_code, 0);
}

static void deliberate_codes_end_the_run_with_that_code(void **unused)
{
    (void)unused;
    static const int codes[] = {2, 3, 4, 5, 6, 8, 9, 10};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        struct supervision state = begun();
        const struct supervision_verdict of_trainer =
            supervision_exit(&state, ROLE_TRAINER, 0, codes[i], 2 * SECOND);
        const struct supervision_verdict of_reward =
            supervision_exit(&state, ROLE_REWARD, 0, codes[i], 2 * SECOND);
        assert_int_equal(of_trainer.action, SUPERVISION_END);
        assert_int_equal(of_trainer.exit_code, codes[i]);
        assert_int_equal(of_reward.action, SUPERVISION_END);
        assert_int_equal(of_reward.exit_code, codes[i]);
    }
}

static void a_killed_trainer_or_service_restarts_everything(void **unused)
{
    (void)unused;
    static const int codes[] = {137, 139, 7};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        struct supervision state = begun();
        assert_int_equal(supervision_exit(&state, ROLE_TRAINER, 0, codes[i], SECOND).action,
                         SUPERVISION_RESTART_ALL);
        assert_int_equal(supervision_exit(&state, ROLE_REWARD, 0, codes[i], SECOND).action,
                         SUPERVISION_RESTART_ALL);
    }
}

static void restarts_of_everything_need_progress(void **unused)
{
    (void)unused;
    struct supervision state = begun();
    for (unsigned i = 0; i < SUPERVISION_SET_RESTARTS_MAX; i++) {
        assert_true(supervision_may_restart(&state, 3));
    }
    assert_false(supervision_may_restart(&state, 3));
    assert_true(supervision_may_restart(&state, 4)); /* a step was trained meanwhile */
}

static void a_worker_comes_back_later_each_time(void **unused)
{
    (void)unused;
    struct supervision state = begun();
    int64_t now_us = SECOND;
    int64_t last_wait_us = 0;
    for (unsigned i = 0; i < SUPERVISION_DEATHS_MAX; i++) {
        const struct supervision_verdict verdict =
            supervision_exit(&state, ROLE_WORKER, 1, 137, now_us);
        const int64_t wait_us = state.workers[1].retry_us - now_us;
        assert_int_equal(verdict.action, SUPERVISION_RESTART_WORKER);
        assert_true(wait_us >= last_wait_us && wait_us <= 5 * SECOND);
        assert_true(i > 0 || wait_us == SECOND / 10);
        last_wait_us = wait_us;
        now_us = state.workers[1].retry_us;
        supervision_worker_started(&state, 1, now_us);
    }
    const struct supervision_verdict last = supervision_exit(&state, ROLE_WORKER, 1, 137, now_us);
    assert_int_equal(last.action, SUPERVISION_END);
    assert_int_equal(last.exit_code, 7);
    assert_int_equal(state.workers[0].n_deaths, 0);
}

static void a_long_life_forgives_earlier_deaths(void **unused)
{
    (void)unused;
    struct supervision state = begun();
    int64_t now_us = SECOND;
    for (unsigned i = 0; i < 3 * SUPERVISION_DEATHS_MAX; i++) {
        now_us += SUPERVISION_LONG_LIFE_US;
        assert_int_equal(supervision_exit(&state, ROLE_WORKER, 0, 1, now_us).action,
                         SUPERVISION_RESTART_WORKER);
        supervision_worker_started(&state, 0, now_us);
    }
}

static void a_worker_that_cannot_fit_ends_the_run(void **unused)
{
    (void)unused;
    static const int codes[] = {2, 5, 9, 10};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        struct supervision state = begun();
        const struct supervision_verdict verdict =
            supervision_exit(&state, ROLE_WORKER, 0, codes[i], SECOND);
        assert_int_equal(verdict.action, SUPERVISION_END);
        assert_int_equal(verdict.exit_code, codes[i]);
    }
}

static void a_service_that_was_dismissed_waits_for_its_trainer(void **unused)
{
    (void)unused;
    struct supervision state = begun();
    assert_int_equal(supervision_exit(&state, ROLE_REWARD, 0, 0, SECOND).action, SUPERVISION_GO_ON);
    assert_int_equal(supervision_tick(&state, 2 * SECOND).action, SUPERVISION_GO_ON);
    assert_int_equal(supervision_tick(&state, 2 * SECOND + SUPERVISION_FAREWELL_US).action,
                     SUPERVISION_RESTART_ALL);
    supervision_begin_again(&state, 20 * SECOND);
    assert_int_equal(supervision_tick(&state, 60 * SECOND).action, SUPERVISION_GO_ON);
}

static void while_stopping_nothing_is_started(void **unused)
{
    (void)unused;
    struct supervision state = begun();
    state.is_stopping = true;
    assert_int_equal(supervision_exit(&state, ROLE_WORKER, 0, 137, SECOND).action,
                     SUPERVISION_GO_ON);
    assert_int_equal(supervision_exit(&state, ROLE_REWARD, 0, 137, SECOND).action,
                     SUPERVISION_GO_ON);
    assert_int_equal(supervision_tick(&state, 100 * SECOND).action, SUPERVISION_GO_ON);
    const struct supervision_verdict killed =
        supervision_exit(&state, ROLE_TRAINER, 0, 143, SECOND);
    assert_int_equal(killed.action, SUPERVISION_END);
    assert_int_equal(killed.exit_code, 143);
    assert_int_equal(supervision_exit(&state, ROLE_TRAINER, 0, 75, SECOND).exit_code, 75);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trainer_that_is_done_ends_the_run),
        cmocka_unit_test(deliberate_codes_end_the_run_with_that_code),
        cmocka_unit_test(a_killed_trainer_or_service_restarts_everything),
        cmocka_unit_test(restarts_of_everything_need_progress),
        cmocka_unit_test(a_worker_comes_back_later_each_time),
        cmocka_unit_test(a_long_life_forgives_earlier_deaths),
        cmocka_unit_test(a_worker_that_cannot_fit_ends_the_run),
        cmocka_unit_test(a_service_that_was_dismissed_waits_for_its_trainer),
        cmocka_unit_test(while_stopping_nothing_is_started),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
