/* Owns what tests of the dispatch share: a small one, its events, and what it hands out. Include it
 * after cmocka.h. */
#ifndef HONE_TESTS_UNIT_TRAINER_DISPATCH_FIXTURE_H
#define HONE_TESTS_UNIT_TRAINER_DISPATCH_FIXTURE_H

#include "tests/support/support.h"
#include "trainer/dispatch.h"

#include <string.h>

#define SECOND INT64_C(1000000)
#define GROUP_SIZE 4

static const struct dispatch_limits limits = {
    .max_groups = 3, .group_size = GROUP_SIZE, .silence_us = 3 * SECOND, .lease_us = 60 * SECOND};

static inline struct peer_id peer(unsigned char number)
{
    struct peer_id id = {.n = 5};
    id.bytes[4] = number;
    return id;
}

static inline struct dispatch *make(void)
{
    struct dispatch *dispatch = NULL;
    assert_ok(dispatch_create(&limits, &dispatch));
    return dispatch;
}

static inline void hello(struct dispatch *dispatch, unsigned char number, const char *name,
                         size_t credit, int64_t now_us)
{
    const struct peer_id id = peer(number);
    assert_ok(dispatch_hello(dispatch, &id, name, now_us));
    dispatch_ready(dispatch, &id, credit);
}

static inline void see(struct dispatch *dispatch, unsigned char number, int64_t now_us)
{
    const struct peer_id id = peer(number);
    assert_true(dispatch_seen(dispatch, &id, now_us));
}

static inline size_t expire(struct dispatch *dispatch, int64_t now_us, const char *who)
{
    const char *name = NULL;
    const size_t n = dispatch_expire(dispatch, now_us, &name);
    assert_string_equal(name, who);
    return n;
}

/* The next assignment is this group, attempt and number of samples for this worker. */
static inline struct assignment assert_next(struct dispatch *dispatch, int64_t now_us,
                                            const char *worker, uint64_t group_id, size_t attempt,
                                            size_t n_idx)
{
    struct assignment got;
    assert_true(dispatch_next(dispatch, now_us, &got));
    assert_string_equal(got.worker, worker);
    assert_int_equal(got.group_id, group_id);
    assert_int_equal(got.attempt, attempt);
    assert_int_equal(got.n_idx, n_idx);
    return got;
}

static inline void assert_nothing(struct dispatch *dispatch, int64_t now_us)
{
    struct assignment got;
    assert_false(dispatch_next(dispatch, now_us, &got));
}

static inline void take(struct dispatch *dispatch, uint64_t group_id, size_t idx)
{
    assert_int_equal(dispatch_sample(dispatch, group_id, idx), DISPATCH_TAKEN);
}

/* Group 8, leased to w0, which has the rest of its credit left. */
static inline struct dispatch *make_leased(size_t credit)
{
    struct dispatch *dispatch = make();
    assert_ok(dispatch_open(dispatch, 8));
    hello(dispatch, 1, "w0", credit, 0);
    (void)assert_next(dispatch, 0, "w0", 8, 0, GROUP_SIZE);
    return dispatch;
}

#endif
