/* cmd: scorers whose children hang, crash or flood: it costs their own samples only and ends in
 * time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/reward/cmd_fixture.h"

static void sleeping_for_ever_is_a_timeout_at_the_deadline(void **state)
{
    (void)state;
    create();
    run.bench.reward.timeout_s = 0.1;
    submit("sleep");
    (void)drive();
    assert_failed(0, SCORE_TIMEOUT, "crash", "no answer within 0.1 s");
    assert_in_range(run.scores[0].us, 100000, 200000);
    run.bench.reward.timeout_s = 20.0;
    submit("value 1");
    (void)drive();
    assert_value(1, 1.0);
    assert_int_equal(starts(), 2);
}

/* Looked at long behind its deadline: it was the owner who slept. Looked at in time, it is late. */
static void an_owner_that_overslept_gives_the_time_again(void **state)
{
    (void)state;
    create();
    submit("nap");
    assert_ok(cmd_scorer_tick(run.scorer, clock_now_us()));
    assert_ok(cmd_scorer_tick(run.scorer, clock_now_us() + 25000000));
    assert_int_equal(run.n_done, 0);
    (void)drive();
    assert_value(0, 1.0);
    submit("nap");
    assert_ok(cmd_scorer_tick(run.scorer, clock_now_us()));
    assert_ok(cmd_scorer_tick(run.scorer, clock_now_us() + 20100000));
    assert_failed(1, SCORE_TIMEOUT, "crash", "no answer within 20 s");
}

static void a_child_that_ignores_sigterm_is_killed(void **state)
{
    size_t n_running = 9;
    (void)state;
    create();
    run.bench.reward.timeout_s = 0.1;
    submit("stubborn");
    (void)drive();
    assert_in_range(run.scores[0].us, 100000, 200000); /* its end is not waited for */
    run.bench.reward.timeout_s = 20.0;
    submit("value 1");
    (void)drive();
    assert_value(1, 1.0);
    assert_int_equal(bench_starts(&run.bench, &n_running), 2);
    assert_int_equal(n_running, 1);
}

/* teardown looks whether the grandchild is gone. */
static void the_children_of_a_child_go_with_it(void **state)
{
    (void)state;
    create();
    run.bench.reward.timeout_s = 0.3;
    submit("family");
    (void)drive();
    assert_failed(0, SCORE_TIMEOUT, "crash", "");
    assert_int_equal(starts(), 2);
}

static void only_the_guilty_sample_of_a_call_times_out(void **state)
{
    (void)state;
    run.bench.reward.timeout_s =
        0.5; /* three of them must do for a new child, on a busy machine too */
    create();
    submit("value 1");
    submit("sleep");
    submit("value 3");
    (void)drive();
    assert_value(0, 1.0);
    assert_failed(1, SCORE_TIMEOUT, "crash", "");
    assert_value(2, 3.0);
}

/* 16 samples that hang cost a few deadlines, not 16. */
static void a_scorer_that_always_hangs_is_given_up_soon(void **state)
{
    (void)state;
    run.bench.reward.timeout_s = 0.05;
    create();
    for (size_t i = 0; i < 16; i++) {
        submit("sleep");
    }
    const int64_t ms = drive();
    for (size_t i = 0; i < 16; i++) {
        assert_int_equal(run.scores[i].status, SCORE_TIMEOUT);
    }
    assert_true(ms < 3000);
}

static void a_crash_is_tried_again_alone_and_then_an_error(void **state)
{
    (void)state;
    create();
    submit("value 1");
    submit("exit");
    submit("value 3");
    (void)drive();
    assert_value(0, 1.0);
    assert_value(2, 3.0);
    assert_failed(1, SCORE_ERROR, "crash", "it ended with code 3: about to fall");
    assert_int_equal(run.scores[1].tries, 2);
    assert_int_equal(starts(), 3); /* at first, after the call, after the first try */
}

static void without_retries_a_crash_is_final(void **state)
{
    (void)state;
    run.bench.reward.retries = 0;
    create();
    submit("exit");
    (void)drive();
    assert_failed(0, SCORE_ERROR, "crash", "code 3");
    assert_int_equal(run.scores[0].tries, 1);
    assert_int_equal(starts(), 1);
}

static void a_flood_on_stderr_delays_nothing_for_long(void **state)
{
    (void)state;
    create();
    submit("flood");
    submit("value 2");
    (void)drive();
    assert_value(0, 1.0);
    assert_value(1, 2.0);
    assert_int_equal(starts(), 1);
}

/* Else the owner would turn round without a pause until the child ends. */
static void a_closed_stderr_ends_no_wait(void **state)
{
    static char source[] = "cmd:sh -c 'exec python3 -S -E score.py 2>&-'";
    struct wait_item items[4];
    (void)state;
    run.bench.reward.source = source;
    create();
    submit("value 1");
    (void)drive();
    assert_value(0, 1.0);
    const size_t n = cmd_scorer_wait_items(run.scorer, items, 4);
    assert_ok(socket_wait(items, n, 20));
    for (size_t i = 0; i < n; i++) {
        assert_false(items[i].can_read || items[i].can_write);
    }
    assert_int_equal(n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(sleeping_for_ever_is_a_timeout_at_the_deadline),
        CASE(an_owner_that_overslept_gives_the_time_again),
        CASE(a_child_that_ignores_sigterm_is_killed),
        CASE(the_children_of_a_child_go_with_it),
        CASE(only_the_guilty_sample_of_a_call_times_out),
        CASE(a_scorer_that_always_hangs_is_given_up_soon),
        CASE(a_crash_is_tried_again_alone_and_then_an_error),
        CASE(without_retries_a_crash_is_final),
        CASE(a_closed_stderr_ends_no_wait),
        CASE(a_flood_on_stderr_delays_nothing_for_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
