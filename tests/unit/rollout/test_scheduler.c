/* Continuous batching over a model of paper (scheduler_paper.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/rollout/scheduler_paper.h"

static void samples_do_not_depend_on_limits_pages_or_order(void **state)
{
    static const struct scheduler_limits limits[] = {
        {.max_num_seqs = 1, .max_batch_tokens = 1, .max_sequence = SEQUENCE_MAX},
        {.max_num_seqs = 3, .max_batch_tokens = 8, .max_sequence = SEQUENCE_MAX},
        {.max_num_seqs = 64, .max_batch_tokens = 8, .max_sequence = SEQUENCE_MAX},
        {.max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = SEQUENCE_MAX},
        {.max_num_seqs = 5, .max_batch_tokens = 17, .max_sequence = SEQUENCE_MAX},
    };
    static struct outcome reference;
    static struct outcome outcome;
    (void)state;

    run_all(&limits[3], PAGES_MAX, false, &reference);
    assert_int_equal(reference.counts.n_preempted, 0);
    assert_int_equal(reference.counts.n_resumed_tokens, 0);
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        for (size_t j = 0; j < 2 * N_PAGES_TRIED; j++) {
            run_all(&limits[i], n_pages_tried[j / 2], j % 2 == 1, &outcome);
            check_same(&outcome, &reference);
            assert_true(outcome.n_running_max <= limits[i].max_num_seqs);
            assert_true(outcome.counts.n_preempted == 0 || outcome.counts.n_resumed_tokens > 0);
        }
    }
}

static void samples_do_not_depend_on_drafts(void **state)
{
    static const struct scheduler_limits plain = {
        .max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = SEQUENCE_MAX};
    static const struct scheduler_limits limits[] = {
        {.max_num_seqs = 1, .max_batch_tokens = 1, .max_sequence = SEQUENCE_MAX, .n_drafts = 2},
        {.max_num_seqs = 1, .max_batch_tokens = 5, .max_sequence = SEQUENCE_MAX, .n_drafts = 8},
        {.max_num_seqs = 3, .max_batch_tokens = 8, .max_sequence = SEQUENCE_MAX, .n_drafts = 1},
        {.max_num_seqs = 64, .max_batch_tokens = 8, .max_sequence = SEQUENCE_MAX, .n_drafts = 3},
        {.max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = SEQUENCE_MAX, .n_drafts = 2},
        {.max_num_seqs = 5, .max_batch_tokens = 17, .max_sequence = SEQUENCE_MAX, .n_drafts = 4},
    };
    static struct outcome reference;
    static struct outcome outcome;
    (void)state;

    run_all(&plain, PAGES_MAX, false, &reference);
    assert_int_equal(reference.n_fed, 0);
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        for (size_t j = 0; j < 2 * N_PAGES_TRIED; j++) {
            run_all(&limits[i], n_pages_tried[j / 2], j % 2 == 1, &outcome);
            check_same(&outcome, &reference);
            assert_true(outcome.n_fed > 0 || limits[i].max_batch_tokens == 1);
            assert_true(outcome.n_right <= outcome.n_fed);
        }
    }
}

static void a_prompt_is_fed_once_for_all_samples_when_slots_suffice(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = SEQUENCE_MAX};
    static struct outcome outcome;
    size_t n_want = 0;
    (void)state;

    run_all(&limits, PAGES_MAX, false, &outcome);
    for (size_t i = 0; i < N_GROUPS; i++) {
        n_want += prompt_length(i);
        for (size_t j = 0; j < N_SAMPLES; j++) {
            n_want += outcome.n_tokens[i][j] - 1; /* the last token is never fed */
        }
    }
    assert_int_equal(outcome.n_rows, n_want);
}

static void a_sample_ends_at_the_end_token_or_at_its_length(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 8, .max_batch_tokens = 64, .max_sequence = SEQUENCE_MAX};
    static struct outcome outcome;
    size_t n_stopped = 0;
    (void)state;

    run_all(&limits, 64, false, &outcome);
    for (size_t i = 0; i < (size_t)N_GROUPS * N_SAMPLES; i++) {
        const size_t n = outcome.n_tokens[i / N_SAMPLES][i % N_SAMPLES];
        const int32_t *tokens = outcome.tokens[i / N_SAMPLES][i % N_SAMPLES];

        if (outcome.finish[i / N_SAMPLES][i % N_SAMPLES] == FINISH_STOP) {
            assert_int_equal(tokens[n - 1], END_TOKEN);
            n_stopped++;
        } else {
            assert_int_equal(n, MAX_TOKENS);
            assert_int_not_equal(tokens[n - 1], END_TOKEN);
        }
        for (size_t j = 0; j + 1 < n; j++) {
            assert_int_not_equal(tokens[j], END_TOKEN);
        }
    }
    assert_in_range(n_stopped, 1, N_GROUPS * N_SAMPLES - 1);
}

static void a_request_that_can_never_fit_is_refused(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 2, .max_batch_tokens = 8, .max_sequence = SEQUENCE_MAX - 1};
    struct kv_cache *cache = NULL;
    struct scheduler *scheduler = NULL;
    (void)state;

    assert_int_equal(kv_cache_create(PAGES_MIN - 1, &cache), STATUS_OK);
    assert_int_equal(scheduler_create(&limits, cache, &scheduler), STATUS_OK);
    assert_int_equal(add_group(scheduler, 6), STATUS_BAD_ARGUMENT); /* a token too long */
    assert_int_equal(add_group(scheduler, 5), STATUS_BAD_ARGUMENT); /* a page too long */
    assert_int_equal(add_group(scheduler, 2), STATUS_OK);
    assert_int_equal(scheduler_queued(scheduler), N_SAMPLES);
    scheduler_destroy(scheduler);
    kv_cache_destroy(cache);
}

static void a_cancelled_group_gives_everything_back(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 8, .max_batch_tokens = 64, .max_sequence = SEQUENCE_MAX};
    static struct paper paper;
    static struct outcome outcome;
    struct kv_cache *cache = NULL;
    struct scheduler *scheduler = NULL;
    (void)state;

    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(kv_cache_create(32, &cache), STATUS_OK);
    assert_int_equal(scheduler_create(&limits, cache, &scheduler), STATUS_OK);
    assert_int_equal(add_group(scheduler, 4), STATUS_OK);
    assert_int_equal(add_group(scheduler, 1), STATUS_OK);
    assert_true(turn(scheduler, &paper, &outcome));
    assert_true(turn(scheduler, &paper, &outcome));
    scheduler_cancel(scheduler, 4);
    scheduler_cancel(scheduler, 99);
    while (turn(scheduler, &paper, &outcome)) {
        assert_true(kv_cache_n_used(cache) > 0 || scheduler_queued(scheduler) == 0);
    }
    for (size_t i = 0; i < N_SAMPLES; i++) {
        assert_int_not_equal(outcome.n_tokens[1][i], 0);
    }
    assert_int_equal(kv_cache_n_available(cache), 32);
    scheduler_destroy(scheduler);
    kv_cache_destroy(cache);
}

static void create_and_add_fail_cleanly_at_every_allocation(void **state)
{
    static const struct scheduler_limits limits = {
        .max_num_seqs = 2, .max_batch_tokens = 8, .max_sequence = SEQUENCE_MAX};
    struct kv_cache *cache = NULL;
    (void)state;

    assert_int_equal(kv_cache_create(8, &cache), STATUS_OK);
    const size_t n_live = memory_live_blocks();
    enum status status = STATUS_NO_MEMORY;
    for (long n = 0; status != STATUS_OK; n++) {
        struct scheduler *scheduler = NULL;

        memory_fail_after(n);
        status = scheduler_create(&limits, cache, &scheduler);
        if (status == STATUS_OK) {
            status = add_group(scheduler, 2);
        }
        memory_fail_after(-1);
        assert_true(status == STATUS_OK || status == STATUS_NO_MEMORY);
        scheduler_destroy(scheduler);
        assert_int_equal(memory_live_blocks(), n_live);
    }
    kv_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_do_not_depend_on_limits_pages_or_order),
        cmocka_unit_test(samples_do_not_depend_on_drafts),
        cmocka_unit_test(a_prompt_is_fed_once_for_all_samples_when_slots_suffice),
        cmocka_unit_test(a_sample_ends_at_the_end_token_or_at_its_length),
        cmocka_unit_test(a_request_that_can_never_fit_is_refused),
        cmocka_unit_test(a_cancelled_group_gives_everything_back),
        cmocka_unit_test(create_and_add_fail_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, fill_draws, NULL);
}
