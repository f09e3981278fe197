/* Owns a cmd: scorer with real children and the samples that a test gives it. Include it after
 * cmocka.h. */
#ifndef HONE_TESTS_UNIT_REWARD_CMD_FIXTURE_H
#define HONE_TESTS_UNIT_REWARD_CMD_FIXTURE_H

#include "reward/cmd_scorer.h"
#include "tests/unit/reward/score_bench.h"

#include <math.h>
#include <signal.h>

#define TICKETS 32

struct run {
    struct bench bench;
    struct cmd_scorer *scorer;
    struct score_sample samples[TICKETS];
    struct score scores[TICKETS];
    size_t n_submitted, n_done;
};

static struct run run; /* of the test at hand */

static inline void on_result(void *context, size_t ticket, const struct score *score)
{
    assert_ptr_equal(context, &run);
    assert_true(ticket < run.n_submitted);
    assert_int_equal(run.scores[ticket].tries, 0); /* once */
    run.scores[ticket] = *score;
    run.n_done++;
}

static inline int setup(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    memset(&run, 0, sizeof(run));
    bench_open(&run.bench);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    cmd_scorer_destroy(run.scorer);
    assert_all_gone(&run.bench);
    for (size_t i = 0; i < TICKETS; i++) {
        memory_free(run.scores[i].detail);
    }
    bench_close(&run.bench);
    return 0;
}

static inline void create(void)
{
    assert_ok(
        cmd_scorer_create(&run.bench.config, &run.bench.reward, on_result, &run, &run.scorer));
}

static inline void submit(const char *completion)
{
    const size_t ticket = run.n_submitted++;
    assert_true(ticket < TICKETS);
    run.samples[ticket] = bench_sample(9000 + (int64_t)ticket, completion);
    assert_ok(cmd_scorer_submit(run.scorer, &run.samples[ticket], ticket));
}

/* The loop of an owner, until all is scored, or for 20 s; returns the milliseconds that took. A
 * turn counts as 2 s at most: no wait is longer, so that in the rest this process was not let run.
 */
static inline int64_t drive(void)
{
    const int64_t begin_us = clock_now_us();
    int64_t counted_us = 0;
    while (run.n_done < run.n_submitted) {
        struct wait_item items[16];
        const int64_t now_us = clock_now_us();
        const size_t n = cmd_scorer_wait_items(run.scorer, items, 16);
        assert_true(counted_us < 20000000);
        assert_ok(socket_wait(items, n, cmd_scorer_timeout_ms(run.scorer, now_us, 1000)));
        assert_ok(cmd_scorer_tick(run.scorer, clock_now_us()));
        const int64_t turn_us = clock_now_us() - now_us;
        counted_us += turn_us < 2000000 ? turn_us : 2000000;
    }
    return (clock_now_us() - begin_us) / 1000;
}

static inline void assert_value(size_t ticket, double want)
{
    const struct score *score = &run.scores[ticket];
    if (score->status != SCORE_OK || score->value != want) {
        fail_msg("sample %zu is %s %g %s, wanted ok %g", ticket, score_status_name(score->status),
                 score->value, score->detail != NULL ? score->detail : "", want);
    }
}

static inline void assert_failed(size_t ticket, enum score_status status, const char *kind,
                                 const char *part)
{
    char want[64];
    const struct score *score = &run.scores[ticket];
    const int n = snprintf(want, sizeof(want), "\"kind\":\"%s\"", kind);
    assert_true(n > 0);
    if (score->status != status || score->detail == NULL || strstr(score->detail, want) == NULL ||
        strstr(score->detail, part) == NULL) {
        fail_msg("sample %zu is %s %s, wanted %s %s \"%s\"", ticket,
                 score_status_name(score->status), score->detail != NULL ? score->detail : "",
                 score_status_name(status), kind, part);
    }
}

static inline size_t starts(void)
{
    size_t n_running = 0;
    return bench_starts(&run.bench, &n_running);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

#endif
