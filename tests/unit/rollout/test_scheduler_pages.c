/* Who has pages, over a model of paper (scheduler_paper.h): samples that are put off, and prompts
 * that begin alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/rollout/scheduler_paper.h"

/* Groups with drafts and groups without begin alike: the ones find entries for drafts, all of them,
 * and the others' pages are not theirs. */
static void groups_with_drafts_and_without_share_no_page(void **state)
{
    static const struct scheduler_limits limits[] = {
        {.max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = SEQUENCE_MAX, .n_drafts = 2},
        {.max_num_seqs = 6, .max_batch_tokens = 17, .max_sequence = SEQUENCE_MAX, .n_drafts = 3},
        {.max_num_seqs = 6, .max_batch_tokens = 17, .max_sequence = SEQUENCE_MAX},
    };
    static struct outcome reference;
    static struct outcome outcome;
    (void)state;

    n_common = KV_BLOCK_TOKENS + 3;
    run_all(&limits[2], PAGES_MAX, false, &reference);
    for (size_t i = 0; i < 2; i++) {
        size_t n_fed = 0;

        for (size_t j = 0; j < 2 * N_PAGES_TRIED; j++) {
            run_paper(&limits[i], n_pages_tried[j / 2], j % 2 == 1, true, &outcome);
            check_same(&outcome, &reference);
            assert_true(outcome.counts.n_prefix_tokens > 0);
            n_fed += outcome.n_fed;
        }
        assert_true(n_fed > 0);
    }
}

/* The fewest pages that serve, and one more at a time until nobody has to go. */
static void samples_survive_any_number_of_preemptions(void **state)
{
    static const struct scheduler_limits limits[] = {
        {.max_num_seqs = 64, .max_batch_tokens = 64, .max_sequence = SEQUENCE_MAX},
        {.max_num_seqs = 17, .max_batch_tokens = 7, .max_sequence = SEQUENCE_MAX},
        {.max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = SEQUENCE_MAX, .n_drafts = 3},
    };
    static struct outcome reference;
    static struct outcome outcome;
    (void)state;

    run_all(&limits[0], PAGES_MAX, false, &reference);
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        size_t n_preempted = 0;

        for (size_t n = PAGES_MIN; n < 80; n += 1 + n / 8) {
            run_all(&limits[i], n, n % 2 == 1, &outcome);
            check_same(&outcome, &reference);
            n_preempted += outcome.counts.n_preempted;
        }
        assert_true(n_preempted > 50);
    }
}

/* Room for everybody's full length: reserving it would have admitted no more. */
static void nobody_is_preempted_where_all_fit(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 7, .max_batch_tokens = 64, .max_sequence = SEQUENCE_MAX};
    static struct outcome outcome;
    (void)state;

    run_all(&limits, 7 * (kv_cache_pages_for(SEQUENCE_MAX) + 1), false, &outcome);
    assert_int_equal(outcome.counts.n_preempted, 0);
    assert_int_equal(outcome.n_running_max, 7);
}

/* Of full length, two would fit. */
static void samples_are_admitted_by_what_they_need_now(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 5, .max_batch_tokens = 64, .max_sequence = SEQUENCE_MAX};
    static struct paper paper;
    static struct outcome outcome;
    struct kv_cache *cache = NULL;
    struct scheduler *scheduler = NULL;
    (void)state;

    memset(&outcome, 0, sizeof(outcome));
    memset(&paper, 0xff, sizeof(paper));
    paper.n_drafts = 0;
    paper.n_turns = 0;
    paper.is_fickle = false;
    assert_int_equal(kv_cache_create(N_SAMPLES + 1 + N_SAMPLES, &cache), STATUS_OK);
    assert_int_equal(scheduler_create(&limits, cache, &scheduler), STATUS_OK);
    assert_int_equal(add_group(scheduler, 0), STATUS_OK);
    assert_true(turn(scheduler, &paper, &outcome));
    assert_int_equal(outcome.n_running_max, N_SAMPLES);
    while (turn(scheduler, &paper, &outcome)) {
    }
    assert_int_equal(outcome.n_finished, N_SAMPLES);
    scheduler_destroy(scheduler);
    kv_cache_destroy(cache);
}

/* Cancels the group at each turn in turn, until it is through before that. */
static void a_preempted_group_may_be_cancelled_at_any_time(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 12, .max_batch_tokens = 32, .max_sequence = SEQUENCE_MAX};
    static struct paper paper;
    static struct outcome outcome;
    size_t n_preempted = 0;
    (void)state;

    for (size_t n_turns = 1; n_turns < 3 * KV_BLOCK_TOKENS; n_turns++) {
        struct kv_cache *cache = NULL;
        struct scheduler *scheduler = NULL;

        memset(&outcome, 0, sizeof(outcome));
        assert_int_equal(kv_cache_create(PAGES_MIN + 5, &cache), STATUS_OK);
        assert_int_equal(scheduler_create(&limits, cache, &scheduler), STATUS_OK);
        assert_int_equal(add_group(scheduler, 3), STATUS_OK);
        assert_int_equal(add_group(scheduler, 4), STATUS_OK);
        assert_int_equal(add_group(scheduler, 2), STATUS_OK);
        for (size_t i = 0; i < n_turns; i++) {
            (void)turn(scheduler, &paper, &outcome);
        }
        n_preempted += scheduler_counts(scheduler).n_preempted > 0 ? 1 : 0;
        scheduler_cancel(scheduler, 4);
        while (turn(scheduler, &paper, &outcome)) {
        }
        for (size_t i = 0; i < N_SAMPLES; i++) {
            assert_int_not_equal(outcome.n_tokens[3][i], 0);
            assert_int_not_equal(outcome.n_tokens[2][i], 0);
        }
        assert_int_equal(kv_cache_n_used(cache), 0);
        scheduler_destroy(scheduler);
        kv_cache_destroy(cache);
    }
    assert_true(n_preempted > 0);
}

/* Groups of prompts with the same first blocks: the same again, and one that differs late. */
static void add_alike(struct scheduler *scheduler, uint64_t id, int32_t last)
{
    static const int32_t samples[2] = {0, 1};
    int32_t prompt[PROMPT_MAX];

    for (size_t i = 0; i < PROMPT_MAX; i++) {
        prompt[i] = (int32_t)i;
    }
    prompt[PROMPT_MAX - 1] = last;
    assert_int_equal(scheduler_add(scheduler, &(struct engine_request){.seed = 1,
                                                                       .group = id,
                                                                       .prompt = prompt,
                                                                       .n_prompt = PROMPT_MAX,
                                                                       .samples = samples,
                                                                       .n_samples = 2,
                                                                       .max_tokens = 2}),
                     STATUS_OK);
}

static size_t run_alike(struct scheduler *scheduler)
{
    static int32_t drawn[64];
    static const float logp[64];
    struct schedule_result result;
    const struct schedule *schedule = scheduler_next(scheduler, 1);
    size_t n_rows = 0;

    while (schedule->n_rows > 0) {
        n_rows += schedule->n_rows;
        scheduler_accept(scheduler, drawn, logp, NULL, 0, &result);
        schedule = scheduler_next(scheduler, 1);
    }
    return n_rows;
}

static void the_same_beginning_is_computed_once(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = SEQUENCE_MAX};
    const size_t n_tail = PROMPT_MAX - 2 * KV_BLOCK_TOKENS;
    struct kv_cache *cache = NULL;
    struct scheduler *scheduler = NULL;
    (void)state;

    assert_int_equal(kv_cache_create(64, &cache), STATUS_OK);
    assert_int_equal(scheduler_create(&limits, cache, &scheduler), STATUS_OK);
    add_alike(scheduler, 1, -1);
    add_alike(scheduler, 2, -2); /* at the same time: it waits a turn */
    assert_int_equal(run_alike(scheduler), PROMPT_MAX + n_tail + 4);
    add_alike(scheduler, 3, -1); /* later: the pages are still there */
    assert_int_equal(run_alike(scheduler), n_tail + 2);
    assert_int_equal(scheduler_counts(scheduler).n_prefix_tokens, 4 * KV_BLOCK_TOKENS);
    assert_int_equal(scheduler_counts(scheduler).n_prompt_tokens, PROMPT_MAX + 2 * n_tail);
    kv_cache_forget(cache);
    add_alike(scheduler, 4, -1);
    assert_int_equal(run_alike(scheduler), PROMPT_MAX + 2);
    scheduler_destroy(scheduler);
    kv_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(groups_with_drafts_and_without_share_no_page, forget_common),
        cmocka_unit_test(samples_survive_any_number_of_preemptions),
        cmocka_unit_test(nobody_is_preempted_where_all_fit),
        cmocka_unit_test(samples_are_admitted_by_what_they_need_now),
        cmocka_unit_test(a_preempted_group_may_be_cancelled_at_any_time),
        cmocka_unit_test(the_same_beginning_is_computed_once),
    };
    return cmocka_run_group_tests(tests, fill_draws, NULL);
}
