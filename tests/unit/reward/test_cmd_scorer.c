/* cmd: scorers with real children: what they see, what their answers mean, and how calls are shared
 * out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/reward/cmd_fixture.h"

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
        CASE(workers_share_the_queue),
        CASE(a_scorer_may_want_small_calls),
        CASE(the_script_is_the_identity),
        CASE(wrong_commands_are_found_at_once),
        CASE(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
