/* Who samples what, event by event: credit, samples, duplicates, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"
#include "tests/unit/trainer/dispatch_fixture.h"
#include "trainer/dispatch.h"

#include <string.h>

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
        cmocka_unit_test(limits_are_refused_politely),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
