/* Who samples what, event by event: credit, leases, deaths, returns, duplicates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"
#include "trainer/dispatch.h"

#include <string.h>

#define SECOND INT64_C(1000000)
#define GROUP_SIZE 4

static const struct dispatch_limits limits = {
    .max_groups = 3, .group_size = GROUP_SIZE, .silence_us = 3 * SECOND, .lease_us = 60 * SECOND};

static struct peer_id peer(unsigned char number)
{
    struct peer_id id = {.n = 5};
    id.bytes[4] = number;
    return id;
}

static struct dispatch *make(void)
{
    struct dispatch *dispatch = NULL;
    assert_ok(dispatch_create(&limits, &dispatch));
    return dispatch;
}

static void hello(struct dispatch *dispatch, unsigned char number, const char *name, size_t credit,
                  int64_t now_us)
{
    const struct peer_id id = peer(number);
    assert_ok(dispatch_hello(dispatch, &id, name, now_us));
    dispatch_ready(dispatch, &id, credit);
}

static void see(struct dispatch *dispatch, unsigned char number, int64_t now_us)
{
    const struct peer_id id = peer(number);
    assert_true(dispatch_seen(dispatch, &id, now_us));
}

static size_t expire(struct dispatch *dispatch, int64_t now_us, const char *who)
{
    const char *name = NULL;
    const size_t n = dispatch_expire(dispatch, now_us, &name);
    assert_string_equal(name, who);
    return n;
}

/* The next assignment is this group, attempt and number of samples for this worker. */
static struct assignment assert_next(struct dispatch *dispatch, int64_t now_us, const char *worker,
                                     uint64_t group_id, size_t attempt, size_t n_idx)
{
    struct assignment got;
    assert_true(dispatch_next(dispatch, now_us, &got));
    assert_string_equal(got.worker, worker);
    assert_int_equal(got.group_id, group_id);
    assert_int_equal(got.attempt, attempt);
    assert_int_equal(got.n_idx, n_idx);
    return got;
}

static void assert_nothing(struct dispatch *dispatch, int64_t now_us)
{
    struct assignment got;
    assert_false(dispatch_next(dispatch, now_us, &got));
}

static void take(struct dispatch *dispatch, uint64_t group_id, size_t idx)
{
    assert_int_equal(dispatch_sample(dispatch, group_id, idx), DISPATCH_TAKEN);
}

static void credit_is_what_a_worker_gets(void **state)
{
    struct dispatch *dispatch = make();
    (void)state;
    assert_nothing(dispatch, 0);
    for (uint64_t id = 50; id < 53; id++) {
        assert_ok(dispatch_open(dispatch, id));
    }
    assert_nothing(dispatch, 0); /* nobody is there */
    hello(dispatch, 1, "w0", 0, 0);
    assert_nothing(dispatch, 0); /* nobody asked */
    hello(dispatch, 1, "w0", 2, 0);
    const struct assignment first = assert_next(dispatch, 0, "w0", 50, 0, GROUP_SIZE);
    for (int32_t i = 0; i < GROUP_SIZE; i++) {
        assert_int_equal(first.idx[i], i);
    }
    const struct peer_id id = peer(1);
    assert_true(peer_id_equal(&first.peer, &id));
    (void)assert_next(dispatch, 0, "w0", 51, 0, GROUP_SIZE);
    assert_nothing(dispatch, 0);
    dispatch_ready(dispatch, &id, 1);
    (void)assert_next(dispatch, 0, "w0", 52, 0, GROUP_SIZE);
    dispatch_ready(dispatch, &id, 5);
    assert_nothing(dispatch, 0); /* every group is leased */
    dispatch_destroy(dispatch);
}

static void groups_go_to_the_worker_with_most_credit(void **state)
{
    struct dispatch *dispatch = make();
    (void)state;
    for (uint64_t id = 0; id < 3; id++) {
        assert_ok(dispatch_open(dispatch, id));
    }
    hello(dispatch, 1, "w0", 1, 0);
    hello(dispatch, 2, "w1", 3, 0);
    (void)assert_next(dispatch, 0, "w1", 0, 0, GROUP_SIZE);
    (void)assert_next(dispatch, 0, "w1", 1, 0, GROUP_SIZE);
    (void)assert_next(dispatch, 0, "w0", 2, 0, GROUP_SIZE);
    assert_int_equal(dispatch_workers_alive(dispatch), 2);
    dispatch_destroy(dispatch);
}

static void what_a_worker_owes_is_what_its_groups_miss(void **state)
{
    struct dispatch *dispatch = make();
    struct dispatch_debt debt;

    (void)state;
    assert_false(dispatch_debt_of(dispatch, 0, &debt));
    hello(dispatch, 1, "w0", 2, 5);
    hello(dispatch, 2, "w1", 0, 6);
    assert_ok(dispatch_open(dispatch, 10));
    assert_ok(dispatch_open(dispatch, 11));
    (void)assert_next(dispatch, 100, "w0", 10, 0, limits.group_size);
    (void)assert_next(dispatch, 200, "w0", 11, 0, limits.group_size);
    take(dispatch, 10, 0);
    assert_true(dispatch_debt_of(dispatch, 0, &debt));
    assert_string_equal(debt.worker, "w0");
    assert_true(debt.is_alive);
    assert_int_equal(debt.n_groups, 2);
    assert_int_equal(debt.n_missing, 2 * limits.group_size - 1);
    assert_int_equal(debt.lease_end_us, 100 + limits.lease_us);
    assert_int_equal(debt.seen_us, 5);
    assert_true(dispatch_debt_of(dispatch, 1, &debt));
    assert_int_equal(debt.n_missing, 0);
    assert_int_equal(debt.lease_end_us, 0);
    dispatch_destroy(dispatch);
}

static void samples_complete_a_step(void **state)
{
    struct dispatch *dispatch = make();
    (void)state;
    assert_true(dispatch_is_complete(dispatch));
    assert_ok(dispatch_open(dispatch, 8));
    assert_ok(dispatch_open(dispatch, 9));
    assert_int_equal(dispatch_missing(dispatch), 2 * GROUP_SIZE);
    for (size_t i = 0; i < GROUP_SIZE; i++) {
        assert_false(dispatch_is_complete(dispatch));
        take(dispatch, 9, GROUP_SIZE - 1 - i);
        take(dispatch, 8, i);
    }
    assert_true(dispatch_is_complete(dispatch));
    hello(dispatch, 1, "w0", 4, 0);
    assert_nothing(dispatch, 0);
    dispatch_close_all(dispatch);
    assert_int_equal(dispatch_sample(dispatch, 8, 0), DISPATCH_UNKNOWN);
    assert_ok(dispatch_open(dispatch, 8)); /* nothing is left of the closed ones */
    assert_int_equal(dispatch_missing(dispatch), GROUP_SIZE);
    dispatch_destroy(dispatch);
}

static void duplicates_and_strangers_are_told_apart(void **state)
{
    struct dispatch *dispatch = make();
    const struct peer_id stranger = peer(77);
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    take(dispatch, 8, 2);
    assert_int_equal(dispatch_sample(dispatch, 8, 2), DISPATCH_DUPLICATE);
    assert_int_equal(dispatch_missing(dispatch), GROUP_SIZE - 1);
    assert_int_equal(dispatch_sample(dispatch, 8, GROUP_SIZE), DISPATCH_UNKNOWN);
    assert_int_equal(dispatch_sample(dispatch, 8, SIZE_MAX), DISPATCH_UNKNOWN);
    assert_int_equal(dispatch_sample(dispatch, 7, 0), DISPATCH_UNKNOWN);
    assert_false(dispatch_seen(dispatch, &stranger, 0));
    dispatch_ready(dispatch, &stranger, 9);
    dispatch_bye(dispatch, &stranger);
    dispatch_undelivered(dispatch, &stranger);
    assert_int_equal(dispatch_workers_alive(dispatch), 0);
    assert_nothing(dispatch, 0);
    dispatch_destroy(dispatch);
}

static void a_dead_worker_s_groups_are_issued_again_for_what_is_missing(void **state)
{
    struct dispatch *dispatch = make();
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    assert_ok(dispatch_open(dispatch, 9));
    hello(dispatch, 1, "w0", 2, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
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
    struct dispatch *dispatch = make();
    const struct peer_id id = peer(1);
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    hello(dispatch, 1, "w0", 2, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
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
    struct dispatch *dispatch = make();
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    assert_ok(dispatch_open(dispatch, 9));
    hello(dispatch, 1, "w0", 2, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
    hello(dispatch, 1, "w0", 0, SECOND);
    (void)assert_next(dispatch, SECOND, "w0", 9, 0, GROUP_SIZE); /* credit and lease were kept */
    assert_nothing(dispatch, SECOND);
    assert_int_equal(dispatch_workers_alive(dispatch), 1);
    dispatch_destroy(dispatch);
}

static void a_name_that_comes_back_is_a_restarted_worker(void **state)
{
    struct dispatch *dispatch = make();
    struct peer_id known;
    const struct peer_id old_peer = peer(1);
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    hello(dispatch, 1, "w0", 3, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
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
    struct dispatch *dispatch = make();
    const struct peer_id id = peer(1);
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    hello(dispatch, 1, "w0", 2, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
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
    struct dispatch *dispatch = make();
    const struct peer_id id = peer(1);
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    assert_ok(dispatch_open(dispatch, 9));
    hello(dispatch, 1, "w0", 2, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
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
    struct dispatch *dispatch = make();
    (void)state;
    assert_ok(dispatch_open(dispatch, 8));
    hello(dispatch, 1, "w0", 1, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
    see(dispatch, 1, 60 * SECOND);
    assert_int_equal(expire(dispatch, 60 * SECOND, ""), 0);
    assert_int_equal(expire(dispatch, 60 * SECOND + 1, "w0"), 1);
    assert_int_equal(dispatch_workers_alive(dispatch), 1);
    hello(dispatch, 2, "w1", 1, 60 * SECOND);
    (void)assert_next(dispatch, 61 * SECOND, "w1", 8, 1, GROUP_SIZE);
    dispatch_destroy(dispatch);
}

static void limits_are_refused_politely(void **state)
{
    struct dispatch *dispatch = make();
    const struct dispatch_limits huge = {.max_groups = SIZE_MAX / 2, .group_size = 3};
    struct dispatch *other = NULL;
    char name[16] = "w0000";
    (void)state;
    for (uint64_t id = 0; id < 3; id++) {
        assert_ok(dispatch_open(dispatch, id));
    }
    assert_status(dispatch_open(dispatch, 3), STATUS_BAD_ARGUMENT, "3 open groups");
    assert_status(dispatch_create(&huge, &other), STATUS_BAD_ARGUMENT, "too many");
    assert_null(other);
    for (unsigned i = 0; i < DISPATCH_WORKERS_MAX; i++) {
        struct peer_id id = {.n = 2, .bytes = {(unsigned char)(i >> 8), (unsigned char)i}};
        name[1] = (char)('0' + i / 1000);
        name[2] = (char)('0' + i / 100 % 10);
        name[3] = (char)('0' + i / 10 % 10);
        name[4] = (char)('0' + i % 10);
        assert_ok(dispatch_hello(dispatch, &id, name, 0));
    }
    const struct peer_id one_more = peer(9);
    assert_status(dispatch_hello(dispatch, &one_more, "late", 0), STATUS_PEER, "1024");
    dispatch_destroy(dispatch);
}

static enum status attempt(void *context)
{
    struct dispatch *dispatch = NULL;
    const enum status status = dispatch_create(context, &dispatch);
    assert_true(status == STATUS_OK || dispatch == NULL);
    dispatch_destroy(dispatch);
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    struct dispatch_limits mine = limits;
    (void)state;
    assert_int_equal(support_fail_allocations(attempt, &mine), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(credit_is_what_a_worker_gets),
        cmocka_unit_test(groups_go_to_the_worker_with_most_credit),
        cmocka_unit_test(what_a_worker_owes_is_what_its_groups_miss),
        cmocka_unit_test(samples_complete_a_step),
        cmocka_unit_test(duplicates_and_strangers_are_told_apart),
        cmocka_unit_test(a_dead_worker_s_groups_are_issued_again_for_what_is_missing),
        cmocka_unit_test(silence_ends_after_exactly_three_seconds),
        cmocka_unit_test(a_silent_worker_comes_back_by_any_frame),
        cmocka_unit_test(a_repeated_hello_changes_nothing),
        cmocka_unit_test(a_name_that_comes_back_is_a_restarted_worker),
        cmocka_unit_test(a_worker_that_leaves_takes_its_credit_along),
        cmocka_unit_test(undelivered_work_goes_elsewhere_and_the_credit_stays),
        cmocka_unit_test(a_group_that_takes_too_long_is_leased_again),
        cmocka_unit_test(limits_are_refused_politely),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
