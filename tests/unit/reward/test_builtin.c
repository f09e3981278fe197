/* The table of built-in scorers: each scorer, each option, and what every one of them does with a
 * missing answer, broken UTF-8, a cut completion and a configuration that is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/reward/answer_rows.h"

static void exact_compares_the_trimmed_final_part(void **state)
{
    static const struct answer_row plain[] = {
        {"Paris", "Paris", 1},
        {" Paris\n", "Paris", 1},
        {"Paris", "\tParis ", 1},
        {"paris", "Paris", 0},
        {"Paris.", "Paris", 0},
        {"", "", 1},
        {"", "Paris", 0},
        {"New  York", "New York", 0},
        {"<think>Paris</think>London", "London", 1},
        {"<think>Paris</think>London", "Paris", 0},
        {"a</think>b</think>c", "c", 1},
        {"<think>London", "<think>London", 1},
        {"Paris", NULL, NA},
    };
    static const struct answer_row caseless[] = {
        {"paris", "PARIS", 1}, {"parus", "Paris", 0}, {"Pari", "Paris", 0}, {"Pariss", "Paris", 0}};
    static const struct answer_row squeezed[] = {{"New  \n York", "New York", 1},
                                                 {"NewYork", "New York", 0},
                                                 {"New York", "NewYork", 0},
                                                 {"a b c", "a  b\tc", 1}};
    static const struct answer_row thinking[] = {{"Paris", "Paris", 0},
                                                 {"x</think>Paris", "Paris", 1}};
    (void)state;
    CHECK("exact", "{}", plain);
    CHECK("exact", "{\"case\": false}", caseless);
    CHECK("exact", "{\"squeeze_space\": true}", squeezed);
    CHECK("exact", "{\"require_think\": true}", thinking);
}

static void length_counts_tokens(void **state)
{
    static const struct answer_row seven[] = {{"whatever", NULL, 7}, {"", "gold", 7}};
    static const struct answer_row scaled[] = {{"whatever", NULL, -3.5}};
    (void)state;
    CHECK("length", "{}", seven);
    CHECK("length", "{\"scale\": -0.5}", scaled);
}

/* The configuration each scorer needs at least. */
static const struct {
    const char *name, *config;
    bool needs_answer;
} scorers[] = {{"exact", "{}", true},
               {"regex", "{\"pattern\": \"(a)\", \"group\": 1}", true},
               {"regex", "{\"pattern\": \"a\"}", false},
               {"numeric", "{}", true},
               {"boxed_math", "{}", true},
               {"format_think", "{}", false},
               {"length", "{}", false}};

static void open_scorer(size_t i, struct builtin **out)
{
    struct json *config = NULL;
    assert_ok(json_parse(scorers[i].config, strlen(scorers[i].config), 4, &config));
    assert_ok(builtin_create(scorers[i].name, config, out));
    json_destroy(config); /* nothing of it is kept */
}

static void a_missing_answer_is_not_applicable(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(scorers); i++) {
        struct builtin *builtin = NULL;
        struct json *null = json_null_create();
        open_scorer(i, &builtin);
        for (int is_null = 0; is_null < 2; is_null++) {
            struct score score;
            const struct score_sample sample = {.finish = "stop",
                                                .prompt = "",
                                                .completion = "\\boxed{1} a 1",
                                                .completion_bytes = 13,
                                                .answer = is_null ? null : NULL,
                                                .data_source = ""};
            builtin_score(builtin, &sample, &score);
            assert_int_equal(score.status, scorers[i].needs_answer ? SCORE_NA : SCORE_OK);
            memory_free(score.detail);
        }
        json_destroy(null);
        builtin_destroy(builtin);
    }
}

/* The gold answer may be any JSON value; numbers are read as they print. */
static void an_answer_may_be_a_number(void **state)
{
    struct builtin *builtin = NULL;
    struct json *answer = json_from_int(42);
    struct score score;
    const struct score_sample sample = {.finish = "stop",
                                        .prompt = "",
                                        .completion = "42",
                                        .completion_bytes = 2,
                                        .answer = answer,
                                        .data_source = ""};
    (void)state;
    for (size_t i = 0; i < 4; i += 3) { /* exact, numeric */
        open_scorer(i, &builtin);
        builtin_score(builtin, &sample, &score);
        assert_true(score.status == SCORE_OK && score.value == 1.0);
        assert_true(score.tries == 1 && score.us >= 0);
        assert_string_equal(score.detail, "{\"extracted\":\"42\"}");
        memory_free(score.detail);
        builtin_destroy(builtin);
    }
    json_destroy(answer);
}

static void a_cut_completion_can_be_worth_nothing(void **state)
{
    static const char *const finishes[] = {"stop", "length", "abort"};
    static const char config_text[] = "{\"require_stop\": true}";
    struct builtin *builtin = NULL;
    struct json *config = NULL;
    struct json *answer = json_from_text("42", 2);
    (void)state;
    assert_ok(json_parse(config_text, strlen(config_text), 4, &config));
    assert_ok(builtin_create("numeric", config, &builtin));
    for (size_t i = 0; i < COUNT(finishes); i++) {
        struct score score;
        const struct score_sample sample = {.finish = finishes[i],
                                            .prompt = "",
                                            .completion = "42",
                                            .completion_bytes = 2,
                                            .answer = answer,
                                            .data_source = ""};
        builtin_score(builtin, &sample, &score);
        assert_int_equal(score.status, SCORE_OK);
        assert_true(score.value == (i == 0 ? 1.0 : 0.0));
        assert_true(i == 0 || strstr(score.detail, "did not end by itself") != NULL);
        memory_free(score.detail);
    }
    builtin_destroy(builtin);
    json_destroy(config);
    json_destroy(answer);
}

static void broken_utf_8_and_nul_bytes_are_read(void **state)
{
    static const char text[] = "\xff\xc3(\x00\xe2\x82 42";
    (void)state;
    for (size_t i = 0; i < COUNT(scorers); i++) {
        struct builtin *builtin = NULL;
        struct score score;
        open_scorer(i, &builtin);
        score_bytes(builtin, text, sizeof(text) - 1, "42", &score);
        assert_int_equal(score.status, SCORE_OK);
        assert_true(strcmp(scorers[i].name, "numeric") != 0 || score.value == 1.0);
        memory_free(score.detail);
        builtin_destroy(builtin);
    }
    feed_random_bytes("exact", "{}", "abc \xc3\xa9\n</think>", 300);
    feed_random_bytes("format_think", "{}", "<>/thinkanswer ", 1000);
    feed_random_bytes("regex", "{\"pattern\": \"(a|b)*c\"}", "abc\xc3\xa9 ", 300);
}

/* What is extracted is shown up to 512 bytes, whole characters or not. */
static void details_are_bounded(void **state)
{
    static char text[2000];
    struct builtin *builtin = NULL;
    struct score score;
    (void)state;
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = "\xc3\xa9"[i % 2];
    }
    text[0] = 'x';
    text[1] = 'y';
    open_scorer(0, &builtin);
    score_bytes(builtin, text, sizeof(text), "42", &score);
    assert_true(strlen(score.detail) < 600);
    memory_free(score.detail);
    builtin_destroy(builtin);
}

static void wrong_configurations_are_named(void **state)
{
    static const struct {
        const char *name, *config, *part;
    } cases[] = {
        {"exacto", "{}", "there are: exact"},
        {"", "{}", "no scorer"},
        {"exact", "{\"cased\": true}", "no option cased"},
        {"exact", "{\"pattern\": \"a\"}", "no option pattern"},
        {"exact", "{\"\": 1}", "no option"},
        {"exact", "{\"case squeeze_space\": true}", "no option"},
        {"exact", "{\"case\": \"no\"}", "option case"},
        {"exact", "{\"require_stop\": 1}", "option require_stop"},
        {"numeric", "{\"tolerance\": \"small\"}", "option tolerance"},
        {"numeric", "{\"tolerance\": null}", "option tolerance"},
        {"length", "{\"scale\": true}", "option scale"},
        {"regex", "{}", "needs the option pattern"},
        {"regex", "{\"pattern\": \"(a\"}", "pattern (a"},
        {"regex", "{\"pattern\": \"(a)\", \"group\": 2}", "1 groups"},
        {"regex", "{\"pattern\": \"(a)\", \"group\": 1.5}", "option group"},
        {"format_think", "{\"style\": \"trl\"}", "full or think_only"},
        {"boxed_math", "{\"percent_mode\": \"no\"}", "both or strict"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct builtin *builtin = NULL;
        struct json *config = NULL;
        assert_ok(json_parse(cases[i].config, strlen(cases[i].config), 4, &config));
        assert_status(builtin_create(cases[i].name, config, &builtin), STATUS_BAD_CONFIG,
                      cases[i].part);
        assert_null(builtin);
        json_destroy(config);
    }
}

static void every_name_of_the_list_is_a_scorer(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(scorers); i++) {
        assert_non_null(strstr(builtin_names(), scorers[i].name));
    }
}

static enum status attempt(void *context)
{
    struct builtin *builtin = NULL;
    const enum status status = builtin_create("exact", context, &builtin);
    assert_true(status == STATUS_OK || builtin == NULL);
    builtin_destroy(builtin);
    return status;
}

static enum status attempt_score(void *context)
{
    struct score score;
    score_bytes(context, "42", 2, NULL, &score);
    const bool is_short = score.status == SCORE_ERROR;
    memory_free(score.detail);
    return is_short ? status_set(STATUS_NO_MEMORY, "as the score says") : STATUS_OK;
}

static void no_failed_allocation_leaks(void **state)
{
    static const char config_text[] = "{\"case\": false}";
    struct json *config = NULL;
    struct builtin *builtin = NULL;
    (void)state;
    assert_ok(json_parse(config_text, strlen(config_text), 4, &config));
    assert_true(support_fail_allocations(attempt, config) >= 1);
    json_destroy(config);
    assert_ok(builtin_create("format_think", NULL, &builtin));
    assert_true(support_fail_allocations(attempt_score, builtin) >= 1);
    builtin_destroy(builtin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_compares_the_trimmed_final_part),
        cmocka_unit_test(length_counts_tokens),
        cmocka_unit_test(a_missing_answer_is_not_applicable),
        cmocka_unit_test(an_answer_may_be_a_number),
        cmocka_unit_test(a_cut_completion_can_be_worth_nothing),
        cmocka_unit_test(broken_utf_8_and_nul_bytes_are_read),
        cmocka_unit_test(details_are_bounded),
        cmocka_unit_test(wrong_configurations_are_named),
        cmocka_unit_test(every_name_of_the_list_is_a_scorer),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
