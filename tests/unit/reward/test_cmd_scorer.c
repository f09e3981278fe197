/* cmd: scorers with real children: what their answers mean, and that whatever a child does costs
 * its own samples only and ends in time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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

static void on_result(void *context, size_t ticket, const struct score *score)
{
    assert_ptr_equal(context, &run);
    assert_true(ticket < run.n_submitted);
    assert_int_equal(run.scores[ticket].tries, 0); /* once */
    run.scores[ticket] = *score;
    run.n_done++;
}

static int setup(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    memset(&run, 0, sizeof(run));
    bench_open(&run.bench);
    return 0;
}

static int teardown(void **state)
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

static void create(void)
{
    assert_ok(
        cmd_scorer_create(&run.bench.config, &run.bench.reward, on_result, &run, &run.scorer));
}

static void submit(const char *completion)
{
    const size_t ticket = run.n_submitted++;
    assert_true(ticket < TICKETS);
    run.samples[ticket] = bench_sample(9000 + (int64_t)ticket, completion);
    assert_ok(cmd_scorer_submit(run.scorer, &run.samples[ticket], ticket));
}

/* The loop of an owner, until all is scored; returns the milliseconds that took. */
static int64_t drive(void)
{
    const int64_t begin_us = clock_now_us();
    while (run.n_done < run.n_submitted) {
        struct wait_item items[16];
        const int64_t now_us = clock_now_us();
        const size_t n = cmd_scorer_wait_items(run.scorer, items, 16);
        assert_true(now_us - begin_us < 20000000);
        assert_ok(socket_wait(items, n, cmd_scorer_timeout_ms(run.scorer, now_us, 1000)));
        assert_ok(cmd_scorer_tick(run.scorer, clock_now_us()));
    }
    return (clock_now_us() - begin_us) / 1000;
}

static void assert_value(size_t ticket, double want)
{
    const struct score *score = &run.scores[ticket];
    if (score->status != SCORE_OK || score->value != want) {
        fail_msg("sample %zu is %s %g %s, wanted ok %g", ticket, score_status_name(score->status),
                 score->value, score->detail != NULL ? score->detail : "", want);
    }
}

static void assert_failed(size_t ticket, enum score_status status, const char *kind,
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

static size_t starts(void)
{
    size_t n_running = 0;
    return bench_starts(&run.bench, &n_running);
}

static void numbers_nulls_and_objects_are_scores(void **state)
{
    (void)state;
    create();
    submit("value 0.25");
    submit("value -3");
    submit("null");
    submit("json {\"v\": 0.5, \"detail\": {\"extracted\": \"41\"}}");
    submit("json {\"v\": null, \"detail\": {\"why\": \"no route\"}}");
    submit("json {\"error\": \"no tests\"}");
    submit("long");
    (void)drive();
    assert_value(0, 0.25);
    assert_value(1, -3.0);
    assert_int_equal(run.scores[2].status, SCORE_NA);
    assert_value(3, 0.5);
    assert_string_equal(run.scores[3].detail, "{\"extracted\":\"41\"}");
    assert_int_equal(run.scores[4].status, SCORE_NA);
    assert_string_equal(run.scores[4].detail, "{\"why\":\"no route\"}");
    assert_failed(5, SCORE_ERROR, "exception", "no tests");
    assert_value(6, 1.0);
    assert_string_equal(run.scores[6].detail, "{\"truncated\":true}");
    assert_true(run.scores[0].tries == 1 && run.scores[0].us > 0);
    assert_int_equal(starts(), 1);
}

static void entries_that_are_no_scores_are_errors_of_their_own(void **state)
{
    (void)state;
    create();
    submit("json true");
    submit("json \"1\"");
    submit("json [1]");
    submit("json {\"v\": \"1\"}");
    submit("json {}");
    submit("value 1");
    (void)drive();
    for (size_t i = 0; i < 4; i++) {
        assert_failed(i, SCORE_ERROR, "protocol", "");
    }
    assert_int_equal(run.scores[4].status, SCORE_NA);
    assert_value(5, 1.0);
}

static void a_scorer_sees_the_whole_sample(void **state)
{
    struct json *detail = NULL;
    struct json *row = json_object_create();
    static const char broken[] = "sample \xff!";
    (void)state;
    create();
    assert_ok(json_put(row, "level", json_from_int(3)));
    submit(broken);
    run.samples[0].row = row;
    run.samples[0].answer = json_get(row, "level");
    (void)drive();
    assert_value(0, 1.0);
    assert_ok(json_parse(run.scores[0].detail, strlen(run.scores[0].detail), 8, &detail));
    const struct json *sample = json_get(detail, "sample");
    assert_int_equal(json_int(json_get(sample, "sample_id"), 0), 9000);
    assert_int_equal(json_int(json_get(sample, "group"), 0), 44);
    assert_int_equal(json_int(json_get(sample, "idx"), 0), 2);
    assert_int_equal(json_int(json_get(sample, "version"), 0), 11);
    assert_int_equal(json_int(json_get(sample, "n_tok"), 0), 5);
    assert_int_equal(json_int(json_get(sample, "answer"), 0), 3);
    assert_int_equal(json_int(json_path(sample, "row.level"), 0), 3);
    assert_string_equal(json_text(json_get(sample, "prompt"), ""), "2+2=");
    assert_string_equal(json_text(json_get(sample, "finish"), ""), "stop");
    assert_string_equal(json_text(json_get(sample, "data_source"), ""), "sums");
    assert_string_equal(json_text(json_get(sample, "completion"), ""), "sample \xef\xbf\xbd!");
    assert_true(json_bool(json_get(sample, "lossy"), false));
    json_destroy(detail);
    json_destroy(row);
}

static void a_child_sees_few_variables_and_its_folder(void **state)
{
    static char variable[] = "SCORER_LEVEL";
    static char *variables[] = {variable};
    (void)state;
    assert_int_equal(setenv("SCORER_LEVEL", "3", 1), 0);
    assert_int_equal(setenv("SCORER_SECRET", "x", 1), 0);
    run.bench.reward.env = (struct text_list){.items = variables, .count = 1};
    create();
    submit("env");
    (void)drive();
    assert_value(0, 1.0);
    assert_non_null(strstr(run.scores[0].detail, "\"SCORER_LEVEL\""));
    assert_non_null(strstr(run.scores[0].detail, "\"PATH\""));
    assert_null(strstr(run.scores[0].detail, "SCORER_SECRET"));
    assert_non_null(strstr(run.scores[0].detail, run.bench.dir));
}

static void a_wrong_count_is_an_error_of_the_whole_call(void **state)
{
    static const char *const words[] = {"one more", "one less"};
    (void)state;
    create();
    for (size_t i = 0; i < 2; i++) {
        submit("value 1");
        submit(words[i]);
        submit("value 1");
        (void)drive();
        for (size_t k = 0; k < 3; k++) {
            assert_failed(3 * i + k, SCORE_ERROR, "count",
                          i == 0 ? "4 scores for 3 samples" : "2 scores for 3 samples");
        }
    }
    assert_int_equal(starts(), 1); /* it keeps to the protocol otherwise */
}

static void a_line_that_is_no_json_restarts_the_child(void **state)
{
    (void)state;
    create();
    submit("garbage here");
    submit("value 1");
    (void)drive();
    assert_failed(0, SCORE_ERROR, "protocol", "debugging: <here>");
    assert_failed(1, SCORE_ERROR, "protocol", "debugging: <here>");
    submit("value 2");
    (void)drive();
    assert_value(2, 2.0);
    assert_int_equal(starts(), 2);
}

static void a_line_without_an_end_is_refused(void **state)
{
    (void)state;
    create();
    submit("endless");
    (void)drive();
    assert_failed(0, SCORE_ERROR, "protocol", "16777216");
    submit("value 2");
    (void)drive();
    assert_value(1, 2.0);
}

static void nan_is_not_a_score(void **state)
{
    (void)state;
    create();
    submit("nan");
    (void)drive();
    assert_failed(0, SCORE_ERROR, "nonfinite", "NaN");
    submit("value 1");
    (void)drive();
    assert_value(1, 1.0);
}

static void logs_and_late_replies_are_taken_in_passing(void **state)
{
    (void)state;
    create();
    submit("log");
    submit("late");
    submit("value 3");
    (void)drive();
    assert_value(0, 1.0);
    assert_value(1, 1.0);
    assert_value(2, 3.0);
    assert_int_equal(starts(), 1);
}

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

static void workers_share_the_queue(void **state)
{
    (void)state;
    run.bench.reward.workers = 2;
    run.bench.reward.batch_max = 1;
    run.bench.reward.timeout_s = 0.3;
    create();
    submit("sleep");
    submit("value 1");
    submit("value 2");
    (void)drive();
    assert_failed(0, SCORE_TIMEOUT, "crash", "");
    assert_value(1, 1.0);
    assert_value(2, 2.0);
    assert_true(run.scores[2].us < 250000); /* behind nobody's sleep */
}

static void a_scorer_may_want_small_calls(void **state)
{
    static const char config[] = "{\"max_batch\": 1}";
    (void)state;
    assert_ok(json_parse(config, strlen(config), 4, &run.bench.reward.config));
    create();
    submit("one more"); /* the count is wrong for its own call only */
    submit("value 1");
    (void)drive();
    assert_failed(0, SCORE_ERROR, "count", "2 scores for 1 samples");
    assert_value(1, 1.0);
    json_destroy(run.bench.reward.config);
}

static void the_script_is_the_identity(void **state)
{
    char path[BENCH_PATH_ROOM];
    char before[65];
    (void)state;
    create();
    assert_int_equal(strlen(cmd_scorer_sha(run.scorer)), 64);
    memcpy(before, cmd_scorer_sha(run.scorer), sizeof(before));
    cmd_scorer_destroy(run.scorer);
    run.scorer = NULL;
    bench_path(&run.bench, "score.py", path);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    assert_true(fputs("# changed\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    create();
    assert_string_not_equal(cmd_scorer_sha(run.scorer), before);
}

static void wrong_commands_are_found_at_once(void **state)
{
    static const struct {
        const char *source, *part;
    } cases[] = {
        {"cmd:no-such-program -x", "reward judge: cmd:no-such-program -x: "},
        {"cmd:python3 -c 'import sys; sys.exit(\"boom\")'", "it ended with code 1: boom"},
        {"cmd:sh -c 'echo a >&2; echo b >&2; exit 7'", "it ended with code 7: b"},
        {"cmd:sh -c 'kill -9 $$'", "it was killed by signal 9"},
        {"cmd:echo hi", "its first line is not a hello: hi"},
        {"cmd:echo '{\"t\":\"scores\",\"id\":1,\"scores\":[]}'", "its first line is not a hello"},
        {"cmd:sleep 1000", "no hello within 0.1 s"},
        {"cmd:sh -c \"trap '' TERM; sleep 1000\"", "no hello within 0.1 s"},
        {"cmd:python3 'score.py", "a quote is not closed"},
        {"cmd:", "the command is empty"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char source[128];
        const int n = snprintf(source, sizeof(source), "%s", cases[i].source);
        assert_true(n > 0);
        const bool is_slow = strstr(source, "sleep") != NULL;
        run.bench.reward.source = source;
        run.bench.reward.start_timeout_s = is_slow ? 0.1 : 20.0;
        assert_status(
            cmd_scorer_create(&run.bench.config, &run.bench.reward, on_result, &run, &run.scorer),
            STATUS_BAD_CONFIG, cases[i].part);
        assert_non_null(strstr(status_message(), "reward judge"));
        assert_null(run.scorer);
    }
}

static enum status attempt(void *context)
{
    struct cmd_scorer *scorer = NULL;
    (void)context;
    const enum status status =
        cmd_scorer_create(&run.bench.config, &run.bench.reward, on_result, &run, &scorer);
    assert_true(status == STATUS_OK || scorer == NULL);
    cmd_scorer_destroy(scorer);
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    static char source[] = "cmd:sh -c 'read x; echo \"{\\\"t\\\":\\\"hello\\\"}\"; read x'";
    (void)state;
    run.bench.reward.source = source;
    assert_true(support_fail_allocations(attempt, NULL) > 10);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(numbers_nulls_and_objects_are_scores),
        CASE(entries_that_are_no_scores_are_errors_of_their_own),
        CASE(a_scorer_sees_the_whole_sample),
        CASE(a_child_sees_few_variables_and_its_folder),
        CASE(a_wrong_count_is_an_error_of_the_whole_call),
        CASE(a_line_that_is_no_json_restarts_the_child),
        CASE(a_line_without_an_end_is_refused),
        CASE(nan_is_not_a_score),
        CASE(logs_and_late_replies_are_taken_in_passing),
        CASE(sleeping_for_ever_is_a_timeout_at_the_deadline),
        CASE(a_child_that_ignores_sigterm_is_killed),
        CASE(the_children_of_a_child_go_with_it),
        CASE(only_the_guilty_sample_of_a_call_times_out),
        CASE(a_scorer_that_always_hangs_is_given_up_soon),
        CASE(a_crash_is_tried_again_alone_and_then_an_error),
        CASE(without_retries_a_crash_is_final),
        CASE(a_flood_on_stderr_delays_nothing_for_long),
        CASE(workers_share_the_queue),
        CASE(a_scorer_may_want_small_calls),
        CASE(the_script_is_the_identity),
        CASE(wrong_commands_are_found_at_once),
        CASE(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
