/* How many drafts are made: what they cost against what they gave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rollout/speculation.h"

#include <stdbool.h>

/* n times: the first draft was judged, right or not, and if right the second, right or not. */
static void note(struct speculation *s, size_t n, bool is_first_right, bool is_second_right)
{
    const size_t judged[DRAFTS_MAX] = {1, is_first_right ? 1 : 0};
    const size_t right[DRAFTS_MAX] = {is_first_right ? 1 : 0,
                                      is_first_right && is_second_right ? 1 : 0};

    for (size_t i = 0; i < n; i++) {
        speculation_note(s, judged, right);
    }
}

static void as_many_drafts_are_made_as_pay(void **state)
{
    struct speculation s;
    (void)state;

    speculation_init(2, 4, &s);
    assert_int_equal(speculation_choose(&s, 4), 2);
    assert_int_equal(speculation_choose(&s, 5), 0);
    speculation_init(2, 0, &s);
    assert_int_equal(speculation_choose(&s, 1000), 2); /* nothing measured yet */
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        s.cost[i][0] = 1;
        s.cost[i][1] = 1.2 + 0.2 * (double)i; /* 1: 1.2, 2: 1.4, 4: 1.6, 8: 1.8 */
        s.cost[i][2] = 1.5 + 0.5 * (double)i; /* 1: 1.5, 2: 2,   4: 2.5, 8: 3 */
    }
    /* Hoped for: 1.85 tokens a turn with one draft, 2.57 with two. */
    assert_int_equal(speculation_choose(&s, 1), 2); /* 1.54 and 1.71 times as fast */
    assert_int_equal(speculation_choose(&s, 2), 1); /* 1.32 and 1.29 */
    assert_int_equal(speculation_choose(&s, 3), 1); /* 1.16 and 1.03 */
    assert_int_equal(speculation_choose(&s, 4), 1);
    assert_int_equal(speculation_choose(&s, 5), 0); /* 1.03 */
    assert_int_equal(speculation_choose(&s, 1000), 0);
    note(&s, 4000, true, true);
    assert_int_equal(speculation_choose(&s, 2), 2); /* 1.43 and 1.5 */
    note(&s, 4000, true, false);
    assert_int_equal(speculation_choose(&s, 1), 1); /* a second one is never right */
    assert_int_equal(speculation_choose(&s, 5), 1); /* 2 tokens for 1.8 */
    note(&s, 4000, false, false);
    assert_int_equal(speculation_choose(&s, 1), 0);
    speculation_forget(&s);
    assert_int_equal(speculation_choose(&s, 1), 2);
    speculation_init(0, 0, &s);
    assert_int_equal(speculation_choose(&s, 1), 0);
}

/* Of 512 turns, those with one draft more than is thought best. */
static size_t count_tries(struct speculation *s, size_t n_running)
{
    const size_t n_best = speculation_choose(s, n_running);
    size_t n_tries = 0;

    for (size_t i = 0; i < 512; i++) {
        const size_t n = speculation_next(s, n_running);

        assert_true(n == n_best || n == n_best + 1);
        n_tries += n == n_best ? 0 : 1;
    }
    return n_tries;
}

static void a_draft_that_may_be_better_is_tried_now_and_then(void **state)
{
    struct speculation s;
    (void)state;

    speculation_init(2, 0, &s);
    assert_int_equal(count_tries(&s, 1), 0); /* nothing measured yet: all are made */
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        s.cost[i][0] = 1;
        s.cost[i][1] = 1.4;
        s.cost[i][2] = i == 0 ? 2 : 3;
    }
    assert_int_equal(speculation_choose(&s, 1), 1); /* 1.32 times as fast, and 1.29 with two */
    assert_int_equal(count_tries(&s, 1), 64);       /* 1.42 if the second always gave a token */
    assert_int_equal(count_tries(&s, 2), 0);        /* 0.95 */
    s.cost[0][2] = 1.5;
    assert_int_equal(speculation_choose(&s, 1), 2);
    assert_int_equal(count_tries(&s, 1), 0); /* there is no third */
    s.cost[0][1] = 2;
    s.cost[0][2] = 3;
    assert_int_equal(count_tries(&s, 1), 0); /* none pays, and none is tried */
}

/* What turns gave is believed more than what the shares of single drafts let hope. */
static void turns_tell_more_than_drafts(void **state)
{
    struct speculation s;
    (void)state;

    speculation_init(2, 0, &s);
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        s.cost[i][0] = 1;
        s.cost[i][1] = 1.72;
        s.cost[i][2] = 2.4;
    }
    assert_int_equal(speculation_next(&s, 1), 1); /* 1.076 and 1.071 times as fast */
    s.n_now = 2;
    speculation_note_turns(&s, 31, 93);
    assert_int_equal(speculation_choose(&s, 1), 1); /* not yet */
    speculation_note_turns(&s, 1, 3);
    assert_int_equal(speculation_choose(&s, 1), 2); /* 1.25: more than is hoped for with one */
    speculation_note_turns(&s, 96, 192);
    assert_int_equal(speculation_choose(&s, 1), 1); /* 0.94: less */
    s.n_now = 1;
    speculation_note_turns(&s, 20000, 20000);
    assert_int_equal(speculation_choose(&s, 1), 0);
    speculation_forget(&s);
    assert_int_equal(speculation_choose(&s, 1), 1);
}

static void what_was_learned_fades_while_none_is_made(void **state)
{
    struct speculation s;
    size_t n_turns = 0;
    (void)state;

    speculation_init(1, 0, &s);
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        s.cost[i][0] = 1;
        s.cost[i][1] = 1.4;
    }
    assert_int_equal(speculation_next(&s, 1), 1);
    note(&s, 200, false, false);
    while (speculation_next(&s, 1) == 0) {
        n_turns++;
        assert_true(n_turns < 2000);
    }
    assert_true(n_turns > 1000);
    note(&s, 200, false, false);
    s.cost[0][1] = 3; /* nobody hopes for that */
    for (size_t i = 0; i < 5000; i++) {
        assert_int_equal(speculation_next(&s, 1), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_many_drafts_are_made_as_pay),
        cmocka_unit_test(a_draft_that_may_be_better_is_tried_now_and_then),
        cmocka_unit_test(turns_tell_more_than_drafts),
        cmocka_unit_test(what_was_learned_fades_while_none_is_made),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
