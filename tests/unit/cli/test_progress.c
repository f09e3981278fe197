/* Progress lines, sparklines and curves as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "cli/chart.h"
#include "cli/cli.h"
#include "cli/log_tail.h"
#include "cli/progress.h"
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

static const struct step_report report = {.step = 12,
                                          .max_steps = 50,
                                          .reward = 0.61,
                                          .length = 14.2,
                                          .entropy = 0.3,
                                          .tokens_per_s = 18200,
                                          .share_of_peak = 0.41,
                                          .generate_s = 0.6,
                                          .train_s = 0.4,
                                          .mtp_acceptance = NAN,
                                          .max_violation = 0.2,
                                          .eta_s = 12.4};

static void a_step_is_one_readable_line(void **state)
{
    (void)state;
    char text[512];
    const struct progress progress = {.rewards = {0.2, 0.4, 0.61}, .n_rewards = 3};
    assert_string_equal(progress_step_text(&progress, &report, text, sizeof text),
                        "step 12/50  reward 0.61 ▁▄█  len 14.2  mismatch 0  18.2k tok/s  41% of "
                        "peak  gen 60% train 40%  eta 12s");
}

static void a_pipe_gets_pairs_without_what_is_not_there(void **state)
{
    (void)state;
    char text[512];
    (void)progress_step_pairs(&report, text, sizeof text);
    assert_non_null(strstr(text, "step=12 max_steps=50 reward=0.61 length=14.2 "));
    assert_non_null(strstr(text, " max_violation=0.2 "));
    assert_null(strstr(text, "mtp_acceptance"));
    assert_null(strstr(text, "nan"));
}

static void json_has_the_same_numbers(void **state)
{
    (void)state;
    struct json *json = progress_step_json(&report);
    assert_int_equal(json_int(json_get(json, "step"), 0), 12);
    assert_true(json_number(json_get(json, "tokens_per_s"), 0) == 18200);
    assert_true(json_is(json_get(json, "mtp_acceptance"), JSON_NULL));
    json_destroy(json);
}

static void a_short_buffer_is_never_overrun(void **state)
{
    (void)state;
    char text[64];
    for (size_t room = 1; room < sizeof text; room++) {
        memset(text, 'x', sizeof text);
        (void)progress_step_pairs(&report, text, room);
        assert_true(strlen(text) < room);
    }
}

static void a_spark_shows_the_last_values(void **state)
{
    (void)state;
    char text[3 * CHART_SPARK_MAX + 1];
    const double flat[] = {0.5, 0.5};
    const double holes[] = {0, NAN, 1};
    double many[40];
    for (size_t i = 0; i < 40; i++) {
        many[i] = (double)i;
    }
    assert_string_equal(chart_spark(flat, 2, text, sizeof text), "▁▁");
    assert_string_equal(chart_spark(holes, 3, text, sizeof text), "▁ █");
    assert_string_equal(chart_spark(holes, 0, text, sizeof text), "");
    assert_int_equal(strlen(chart_spark(many, 40, text, sizeof text)), 3 * CHART_SPARK_MAX);
}

static void a_curve_fills_its_columns(void **state)
{
    (void)state;
    const double values[] = {0, 0.5, 1, 1};
    const struct chart chart = {.values = values,
                                .n = 4,
                                .low = 0,
                                .high = 1,
                                .width = 10,
                                .height = 2,
                                .x_label = "steps"};
    char *text = NULL;
    assert_ok(chart_curve(&chart, &text));
    assert_string_equal(text, "  1.00 │  ██\n"
                              "  0.00 │ ███\n"
                              "       └────\n"
                              "        steps\n");
    memory_free(text);
}

static void numbers_are_short(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(cli_count_text(999, text, sizeof text), "999");
    assert_string_equal(cli_count_text(18200, text, sizeof text), "18.2k");
    assert_string_equal(cli_count_text(3.2e6, text, sizeof text), "3.2M");
    assert_string_equal(cli_seconds_text(12.4, text, sizeof text), "12s");
    assert_string_equal(cli_seconds_text(200, text, sizeof text), "3m20s");
    assert_string_equal(cli_seconds_text(7800, text, sizeof text), "2h10m");
    assert_string_equal(cli_seconds_text(NAN, text, sizeof text), "0s");
}

static void warnings_and_errors_of_a_log_are_serious(void **state)
{
    (void)state;
    assert_true(log_tail_is_serious("12:00:00 warn  trainer link: late"));
    assert_true(log_tail_is_serious("12:00:00 error w0 rollout: gone"));
    assert_false(log_tail_is_serious("12:00:00 info  w0 rollout: warn "));
    assert_false(log_tail_is_serious("error"));
    assert_false(log_tail_is_serious(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_one_readable_line),
        cmocka_unit_test(a_pipe_gets_pairs_without_what_is_not_there),
        cmocka_unit_test(json_has_the_same_numbers),
        cmocka_unit_test(a_short_buffer_is_never_overrun),
        cmocka_unit_test(a_spark_shows_the_last_values),
        cmocka_unit_test(a_curve_fills_its_columns),
        cmocka_unit_test(numbers_are_short),
        cmocka_unit_test(warnings_and_errors_of_a_log_are_serious),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
