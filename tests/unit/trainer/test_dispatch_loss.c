/* Who samples what when workers are silent, die, come back, leave or take too long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"
#include "tests/unit/trainer/dispatch_fixture.h"
#include "trainer/dispatch.h"

#include <string.h>

static void a_dead_worker_s_groups_are_issued_again_for_what_is_missing(void **state)
{
    struct dispatch *dispatch = make_leased(2);
    (void)state;
    assert_ok(dispatch_open(dispatch, 9));
    (void)assert_next(dispatch, 0, "w0", 9, 0, GROUP_SIZE);
    hello(dispatch, 2, "w1", 5, 0);
    for (size_t i = 0; i < GROUP_SIZE; i++) {
        take(dispatch, 9, i);
    }
    take(dispatch, 8, 0);
    take(dispatch, 8, 2);
    see(dispatch, 2, 2 * SECOND);
    assert_int_equal(expire(dispatch, 3 * SECOND + 1, "w0"), 1); /* 9 is complete: no re-issue */
    assert_int_equal(dispatch_workers_alive(dispatch), 1);
    const struct assignment again = assert_next(dispatch, 4 * SECOND, "w1", 8, 1, 2);
    assert_int_equal(again.idx[0], 1);
    assert_int_equal(again.idx[1], 3);
    assert_nothing(dispatch, 4 * SECOND);
    take(dispatch, 8, 1); /* from whichever attempt */
    take(dispatch, 8, 3);
    assert_true(dispatch_is_complete(dispatch));
    dispatch_destroy(dispatch);
}

static void silence_ends_after_exactly_three_seconds(void **state)
{
    struct dispatch *dispatch = make();
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    hello(dispatch, 1, "w0", 1, 10 * SECOND);
    (void)assert_next(dispatch, 10 * SECOND, "w0", 8, 0, GROUP_SIZE);
    assert_int_equal(expire(dispatch, 13 * SECOND, ""), 0);
    see(dispatch, 1, 13 * SECOND);
    assert_int_equal(expire(dispatch, 16 * SECOND, ""), 0);
    assert_int_equal(expire(dispatch, 16 * SECOND + 1, "w0"), 1);
    assert_int_equal(expire(dispatch, 16 * SECOND + 2, ""), 0); /* told once */
    assert_int_equal(dispatch_workers_alive(dispatch), 0);
    dispatch_destroy(dispatch);
}

/* Paused, not dead: what it says again brings it back with the credit it had. */
static void a_silent_worker_comes_back_by_any_frame(void **state)
{
    struct dispatch *dispatch = make_leased(2);
    const struct peer_id id = peer(1);
    (void)state;
    assert_int_equal(expire(dispatch, 4 * SECOND, "w0"), 1);
    assert_nothing(dispatch, 4 * SECOND);
    see(dispatch, 1, 5 * SECOND);
    (void)assert_next(dispatch, 5 * SECOND, "w0", 8, 1, GROUP_SIZE);
    /* It was silent for 5 s and alive: now it is given 10. */
    assert_int_equal(expire(dispatch, 15 * SECOND, ""), 0);
    assert_int_equal(expire(dispatch, 15 * SECOND + 1, "w0"), 1);
    assert_ok(dispatch_hello(dispatch, &id, "w0", 16 * SECOND)); /* HELLO is a frame too */
    assert_int_equal(dispatch_workers_alive(dispatch), 1);
    dispatch_destroy(dispatch);
}

static void a_repeated_hello_changes_nothing(void **state)
{
    struct dispatch *dispatch = make_leased(2);
    (void)state;
    assert_ok(dispatch_open(dispatch, 9));
    hello(dispatch, 1, "w0", 0, SECOND);
    (void)assert_next(dispatch, SECOND, "w0", 9, 0, GROUP_SIZE); /* credit and lease were kept */
    assert_nothing(dispatch, SECOND);
    assert_int_equal(dispatch_workers_alive(dispatch), 1);
    dispatch_destroy(dispatch);
}

static void a_name_that_comes_back_is_a_restarted_worker(void **state)
{
    struct dispatch *dispatch = make_leased(3);
    struct peer_id known;
    const struct peer_id old_peer = peer(1);
    (void)state;
    take(dispatch, 8, 1);
    hello(dispatch, 2, "w0", 0, SECOND); /* killed and started again, before any silence */
    assert_nothing(dispatch, SECOND);    /* the old credit is gone */
    assert_false(dispatch_seen(dispatch, &old_peer, SECOND));
    hello(dispatch, 2, "w0", 1, SECOND);
    const struct assignment again = assert_next(dispatch, SECOND, "w0", 8, 1, 3);
    assert_int_equal(again.peer.bytes[4], 2);
    assert_true(dispatch_peer(dispatch, 0, &known));
    assert_int_equal(known.bytes[4], 2);
    assert_false(dispatch_peer(dispatch, 1, &known));
    dispatch_destroy(dispatch);
}

static void a_worker_that_leaves_takes_its_credit_along(void **state)
{
    struct dispatch *dispatch = make_leased(2);
    const struct peer_id id = peer(1);
    (void)state;
    dispatch_bye(dispatch, &id);
    assert_int_equal(dispatch_workers_alive(dispatch), 0);
    assert_nothing(dispatch, 0);
    see(dispatch, 1, SECOND);
    assert_nothing(dispatch, SECOND);
    dispatch_ready(dispatch, &id, 1);
    (void)assert_next(dispatch, SECOND, "w0", 8, 1, GROUP_SIZE);
    dispatch_destroy(dispatch);
}

static void undelivered_work_goes_elsewhere_and_the_credit_stays(void **state)
{
    struct dispatch *dispatch = make_leased(2);
    const struct peer_id id = peer(1);
    (void)state;
    assert_ok(dispatch_open(dispatch, 9));
    dispatch_undelivered(dispatch, &id);
    assert_nothing(dispatch, 0); /* not to the same one until it is seen */
    hello(dispatch, 2, "w1", 1, 0);
    (void)assert_next(dispatch, 0, "w1", 8, 1, GROUP_SIZE);
    see(dispatch, 1, SECOND);
    (void)assert_next(dispatch, SECOND, "w0", 9, 0, GROUP_SIZE);
    assert_ok(dispatch_open(dispatch, 10));
    (void)assert_next(dispatch, SECOND, "w0", 10, 0, GROUP_SIZE); /* 2 credits in all */
    assert_nothing(dispatch, SECOND);
    dispatch_destroy(dispatch);
}

static void a_group_that_takes_too_long_is_leased_again(void **state)
{
    struct dispatch *dispatch = make_leased(1);
    (void)state;
    see(dispatch, 1, 60 * SECOND);
    assert_int_equal(expire(dispatch, 60 * SECOND, ""), 0);
    assert_int_equal(expire(dispatch, 60 * SECOND + 1, "w0"), 1);
    assert_int_equal(dispatch_workers_alive(dispatch), 1);
    hello(dispatch, 2, "w1", 1, 60 * SECOND);
    (void)assert_next(dispatch, 61 * SECOND, "w1", 8, 1, GROUP_SIZE);
    dispatch_destroy(dispatch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_worker_s_groups_are_issued_again_for_what_is_missing),
        cmocka_unit_test(silence_ends_after_exactly_three_seconds),
        cmocka_unit_test(a_silent_worker_comes_back_by_any_frame),
        cmocka_unit_test(a_repeated_hello_changes_nothing),
        cmocka_unit_test(a_name_that_comes_back_is_a_restarted_worker),
        cmocka_unit_test(a_worker_that_leaves_takes_its_credit_along),
        cmocka_unit_test(undelivered_work_goes_elsewhere_and_the_credit_stays),
        cmocka_unit_test(a_group_that_takes_too_long_is_leased_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
