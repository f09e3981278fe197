/* What the reward service decides: storing, duplicates, lateness, resending, who is the trainer,
 * the error budget. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "reward/id_map.h"
#include "reward/intake.h"
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

static const int32_t tokens[] = {5, 6, 7};
static const int32_t other_tokens[] = {5, 6, 8};
static const float logprobs[] = {-0.5F, -0.25F, 0.0F};

static struct completion_facts completion(int64_t idx, int64_t inc, int64_t version)
{
    return (struct completion_facts){.idx = idx,
                                     .inc = inc,
                                     .version_first = version,
                                     .version_last = version,
                                     .finish = "stop",
                                     .tokens = tokens,
                                     .logprobs = logprobs,
                                     .n_tokens = 3,
                                     .n_logprobs = 3};
}

static struct intake_group *add_group(struct intake *intake, int64_t group_id, int64_t step,
                                      size_t n)
{
    const struct intake_group facts = {.group_id = group_id, .step = step, .n = n};
    struct intake_group *group = NULL;

    assert_ok(intake_add(intake, &facts, &group));
    return group;
}

static void fill(struct intake *intake, struct intake_group *group, int64_t idx, int64_t sample_id)
{
    const struct completion_facts facts = completion(idx, 1, 0);
    const struct slot slot = {
        .state = SLOT_WAITING, .sample_id = sample_id, .content = completion_digest(&facts)};

    assert_ok(intake_fill(intake, group, (size_t)idx, &slot));
}

static void score(struct intake *intake, int64_t sample_id, const double *reward,
                  struct group_totals *totals)
{
    struct intake_group *group = NULL;
    struct slot *const slot = intake_find_sample(intake, sample_id, &group);

    assert_non_null(slot);
    intake_score(group, slot, reward == NULL, reward, totals);
}

static void a_completion_is_stored_once(void **state)
{
    struct intake *intake = NULL;
    const char *reason = NULL;

    (void)state;
    assert_ok(intake_create(NULL, &intake));
    struct intake_group *const group = add_group(intake, 4, 1, 2);
    struct completion_facts facts = completion(0, 1, 0);
    assert_int_equal(intake_judge(group, &facts, 1, &reason), INTAKE_STORE);
    fill(intake, group, 0, 100);
    assert_int_equal(intake_judge(group, &facts, 1, &reason), INTAKE_DUPLICATE);
    facts.attempt = 3; /* asked for again, drawn again: the same */
    assert_int_equal(intake_judge(group, &facts, 1, &reason), INTAKE_DUPLICATE);
    facts.tokens = other_tokens;
    assert_int_equal(intake_judge(group, &facts, 1, &reason), INTAKE_LATE);
    facts.idx = 2;
    assert_int_equal(intake_judge(group, &facts, 1, &reason), INTAKE_REFUSE);
    intake_destroy(intake);
}

static void an_earlier_incarnation_counts_only_under_the_same_weights(void **state)
{
    struct intake *intake = NULL;
    const char *reason = NULL;

    (void)state;
    assert_ok(intake_create(NULL, &intake));
    struct intake_group *const group = add_group(intake, 4, 1, 3);
    struct completion_facts facts = completion(1, 1, 5);
    assert_int_equal(intake_judge(group, &facts, 2, &reason), INTAKE_STORE); /* nothing to differ */
    fill(intake, group, 0, 100);                                             /* version 0 */
    assert_int_equal(intake_judge(group, &facts, 2, &reason), INTAKE_LATE);
    facts = completion(1, 1, 0);
    assert_int_equal(intake_judge(group, &facts, 2, &reason), INTAKE_STORE);
    facts = completion(1, 3, 0);
    assert_int_equal(intake_judge(group, &facts, 2, &reason), INTAKE_REFUSE);
    intake_close_step(intake, 1);
    facts = completion(1, 2, 0);
    assert_int_equal(intake_judge(group, &facts, 2, &reason), INTAKE_LATE);
    intake_destroy(intake);
}

static void a_completion_must_make_sense(void **state)
{
    const float bad[] = {-0.5F, 0.5F, 0.0F};
    const float endless[] = {-0.5F, -INFINITY, 0.0F};
    const float nan[] = {-0.5F, NAN, 0.0F};
    const int32_t negative[] = {5, -6, 7};
    struct completion_facts facts = completion(0, 1, 0);

    (void)state;
    assert_null(completion_problem(&facts));
    facts.n_logprobs = 2;
    assert_non_null(completion_problem(&facts));
    facts = completion(0, 1, 0);
    facts.logprobs = bad;
    assert_non_null(completion_problem(&facts));
    facts.logprobs = endless;
    assert_non_null(completion_problem(&facts));
    facts.logprobs = nan;
    assert_non_null(completion_problem(&facts));
    facts = completion(0, 1, 0);
    facts.tokens = negative;
    assert_non_null(completion_problem(&facts));
    facts = completion(0, 1, 0);
    facts.finish = "tired";
    assert_non_null(completion_problem(&facts));
    facts = completion(0, 1, 0);
    facts.version_last = -1;
    assert_non_null(completion_problem(&facts));
    facts.n_tokens = 0;
    assert_non_null(completion_problem(&facts));
}

static void totals_leave_out_what_has_no_reward(void **state)
{
    struct intake *intake = NULL;
    struct group_totals totals;
    const double rewards[] = {1.0, 0.0, 1.0};

    (void)state;
    assert_ok(intake_create(NULL, &intake));
    struct intake_group *const group = add_group(intake, 4, 1, 4);
    for (int64_t i = 0; i < 4; i++) {
        fill(intake, group, i, 100 + i);
    }
    score(intake, 103, NULL, &totals); /* masked */
    assert_int_equal(totals.n_scored, 1);
    assert_false(totals.has_mean || totals.has_std || totals.is_complete);
    for (int64_t i = 2; i >= 0; i--) {
        score(intake, 100 + i, &rewards[i], &totals);
    }
    assert_true(totals.is_complete && totals.has_mean && totals.has_std);
    assert_int_equal(totals.n_scored, 4);
    assert_true(fabs(totals.mean - 2.0 / 3.0) < 1e-12);
    assert_true(fabs(totals.std - sqrt(1.0 / 3.0)) < 1e-12);
    intake_destroy(intake);
}

static void what_is_not_taken_is_sent_again(void **state)
{
    struct intake *intake = NULL;
    struct group_totals totals;
    struct intake_group *group = NULL;
    const double reward = 1.0;
    int64_t ids[4];

    (void)state;
    assert_ok(intake_create(NULL, &intake));
    fill(intake, add_group(intake, 4, 1, 1), 0, 100);
    score(intake, 100, &reward, &totals);
    assert_int_equal(intake_resend(intake, 9000000, 2000000, ids, 4), 0); /* queued, not sent */
    struct slot *const slot = intake_find_sample(intake, 100, &group);
    slot->state = SLOT_SENT;
    slot->sent_us = 1000000;
    assert_int_equal(intake_resend(intake, 2999999, 2000000, ids, 4), 0);
    assert_int_equal(intake_resend(intake, 3000000, 2000000, ids, 4), 1);
    assert_int_equal(ids[0], 100);
    assert_int_equal(intake_resend(intake, 9000000, 2000000, ids, 4), 0); /* waits in the queue */
    assert_true(intake_take(intake, 100, true));
    intake_sweep(intake);
    assert_int_equal(intake_groups(intake), 0);
    assert_false(intake_take(intake, 100, true));
    intake_destroy(intake);
}

static void a_refused_sample_makes_room_for_another(void **state)
{
    struct intake *intake = NULL;
    struct group_totals totals;
    const double reward = 1.0;
    const char *reason = NULL;

    (void)state;
    assert_ok(intake_create(NULL, &intake));
    struct intake_group *const group = add_group(intake, 4, 1, 1);
    fill(intake, group, 0, 100);
    score(intake, 100, &reward, &totals);
    assert_true(intake_take(intake, 100, false));
    intake_sweep(intake);
    assert_ptr_equal(intake_find(intake, 4), group);
    struct completion_facts facts = completion(0, 1, 3);
    facts.attempt = 1;
    assert_int_equal(intake_judge(group, &facts, 1, &reason), INTAKE_STORE);
    intake_destroy(intake);
}

static void a_closed_group_stays_until_its_samples_are_scored(void **state)
{
    struct intake *intake = NULL;
    struct group_totals totals;
    const double reward = 1.0;

    (void)state;
    assert_ok(intake_create(NULL, &intake));
    fill(intake, add_group(intake, 4, 1, 2), 0, 100);
    (void)add_group(intake, 5, 2, 2);
    intake_close_step(intake, 1);
    intake_sweep(intake);
    assert_non_null(intake_find(intake, 4));
    score(intake, 100, &reward, &totals);
    intake_sweep(intake);
    assert_null(intake_find(intake, 4));
    assert_non_null(intake_find(intake, 5));
    intake_destroy(intake);
}

/* Groups come, fill, are scored, taken, refused, closed and swept in a random order; the slots must
 * always be found by their sample and never by another. */
static void ten_thousand_random_events_keep_every_sample_findable(void **state)
{
    struct intake *intake = NULL;
    struct group_totals totals;
    const double reward = 0.5;
    int64_t next_sample = 1;

    (void)state;
    assert_ok(intake_create(NULL, &intake));
    for (uint64_t i = 0; i < 10000; i++) {
        const uint64_t bits = random_bits(1, RANDOM_TEST, i, 0);
        const int64_t group_id = (int64_t)(bits % 50);
        const size_t idx = (size_t)(bits >> 8) % 4;
        struct intake_group *group = intake_find(intake, group_id);
        if (group == NULL) {
            group = add_group(intake, group_id, group_id, 4);
        }
        struct slot *const slot = &group->slots[idx];
        if (slot->state == SLOT_EMPTY) {
            fill(intake, group, (int64_t)idx, next_sample++);
        } else if (slot->state == SLOT_WAITING) {
            score(intake, slot->sample_id, &reward, &totals);
        } else {
            assert_true(intake_take(intake, slot->sample_id, bits % 5 != 0));
        }
        if (slot->state != SLOT_EMPTY) {
            struct intake_group *found = NULL;
            assert_ptr_equal(intake_find_sample(intake, slot->sample_id, &found), slot);
            assert_ptr_equal(found, group);
        }
        if (bits % 7 == 0) {
            intake_sweep(intake);
        }
    }
    for (int i = 0; i < 3; i++) {
        intake_close_step(intake, 50);
        intake_sweep(intake);
    }
    assert_true(intake_groups(intake) <= 50);
    intake_destroy(intake);
}

static void the_map_finds_what_is_in_it_after_any_removals(void **state)
{
    struct id_map map = {0};
    bool is_in[300] = {false};
    static int marks[300];

    (void)state;
    for (uint64_t i = 0; i < 20000; i++) {
        const size_t id = (size_t)random_below(2, RANDOM_TEST, i, 0, 300);
        if (random_bits(2, RANDOM_TEST, i, 1) % 2 == 0) {
            assert_ok(id_map_put(&map, (int64_t)id * 64, &marks[id]));
            is_in[id] = true;
        } else {
            id_map_remove(&map, (int64_t)id * 64);
            is_in[id] = false;
        }
        const size_t probe = (size_t)random_below(2, RANDOM_TEST, i, 2, 300);
        assert_ptr_equal(id_map_find(&map, (int64_t)probe * 64),
                         is_in[probe] ? &marks[probe] : NULL);
    }
    id_map_dispose(&map);
}

static void one_trainer_holds_the_run(void **state)
{
    struct holder holder = {0};

    (void)state;
    assert_int_equal(holder_judge(&holder, 10, "a", 0, 5000000), HELLO_NEW);
    holder = (struct holder){.inc = 3, .pid = 10, .host = "a", .last_us = 5000000};
    assert_int_equal(holder_judge(&holder, 11, "a", 0, 7999999), HELLO_HELD);
    assert_int_equal(holder_judge(&holder, 10, "b", 0, 7999999), HELLO_HELD);
    assert_int_equal(holder_judge(&holder, 11, "a", 0, 8000000), HELLO_NEW);
    assert_int_equal(holder_judge(&holder, 10, "a", 0, 6000000), HELLO_SAME);
    holder.is_gone = true;
    assert_int_equal(holder_judge(&holder, 11, "a", 0, 6000000), HELLO_NEW);
    /* After a restart of the service only the incarnation tells the holder from a new process. */
    holder = (struct holder){.inc = 3, .pid = 10, .host = "a"};
    assert_int_equal(holder_judge(&holder, 10, "a", 3, 6000000), HELLO_SAME);
    assert_int_equal(holder_judge(&holder, 10, "a", 0, 6000000), HELLO_NEW);
    assert_int_equal(holder_judge(&holder, 11, "a", 0, 6000000), HELLO_NEW);
}

static void the_budget_is_exceeded_only_when_the_step_cannot_recover(void **state)
{
    struct error_budget budget = {.rate_max = 0.05, .n_expected = 100};
    const struct budget_entry *entry = NULL;

    (void)state;
    for (int64_t i = 0; i < 5; i++) {
        assert_ok(error_budget_count(&budget, 1, 0, 100 + i, "why", &entry));
        assert_null(entry);
    }
    for (int64_t i = 0; i < 20; i++) {
        assert_ok(error_budget_count(&budget, 1, 0, 200 + i, NULL, &entry));
        assert_null(entry); /* 5 of 100 may fail */
    }
    assert_non_null(error_budget_final(&budget, 1)); /* but 5 of 25 were too many */
    assert_ok(error_budget_count(&budget, 1, 0, 300, "last", &entry));
    assert_non_null(entry);
    assert_int_equal(entry->n_failures, 6);
    assert_int_equal(entry->examples[2], 102);
    assert_string_equal(entry->cause, "last");
    assert_ok(error_budget_count(&budget, 1, 1, 300, "last", &entry));
    assert_null(entry); /* another component, one call */
    error_budget_forget(&budget, 1);
    assert_int_equal(budget.count, 0);
    error_budget_dispose(&budget);
}

static void a_small_step_without_any_score_exceeds_the_budget(void **state)
{
    struct error_budget budget = {.rate_max = 0.05, .n_expected = 4};
    const struct budget_entry *entry = NULL;

    (void)state;
    for (int64_t i = 0; i < 4; i++) {
        assert_null(entry);
        assert_ok(error_budget_count(&budget, 1, 0, i, "why", &entry));
    }
    assert_non_null(entry);
    assert_non_null(error_budget_final(&budget, 1));
    for (int64_t i = 0; i < 4; i++) {
        assert_ok(error_budget_count(&budget, 2, 0, i, i == 0 ? NULL : "why", &entry));
        assert_null(entry); /* 3 of 4 are too few calls to judge */
    }
    assert_null(error_budget_final(&budget, 2));
    error_budget_dispose(&budget);
}

static enum status build_intake(void *context)
{
    struct intake *intake = NULL;
    struct intake_group *group = NULL;
    const struct intake_group facts = {.group_id = 4, .n = 2};
    const struct slot slot = {.state = SLOT_WAITING, .sample_id = 9};

    (void)context;
    enum status status = intake_create(NULL, &intake);
    if (status == STATUS_OK) {
        status = intake_add(intake, &facts, &group);
    }
    if (status == STATUS_OK) {
        status = intake_fill(intake, group, 1, &slot);
    }
    intake_destroy(intake);
    return status;
}

static void every_allocation_can_fail(void **state)
{
    (void)state;
    assert_true(support_fail_allocations(build_intake, NULL) >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_completion_is_stored_once),
        cmocka_unit_test(an_earlier_incarnation_counts_only_under_the_same_weights),
        cmocka_unit_test(a_completion_must_make_sense),
        cmocka_unit_test(totals_leave_out_what_has_no_reward),
        cmocka_unit_test(what_is_not_taken_is_sent_again),
        cmocka_unit_test(a_refused_sample_makes_room_for_another),
        cmocka_unit_test(a_closed_group_stays_until_its_samples_are_scored),
        cmocka_unit_test(ten_thousand_random_events_keep_every_sample_findable),
        cmocka_unit_test(the_map_finds_what_is_in_it_after_any_removals),
        cmocka_unit_test(one_trainer_holds_the_run),
        cmocka_unit_test(the_budget_is_exceeded_only_when_the_step_cannot_recover),
        cmocka_unit_test(a_small_step_without_any_score_exceeds_the_budget),
        cmocka_unit_test(every_allocation_can_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
