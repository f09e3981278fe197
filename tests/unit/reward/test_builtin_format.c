/* Built-in scorers of form: regular expressions, also slow and far-reaching ones, and the tags of
 * thinking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "tests/unit/reward/answer_rows.h"

static void regex_matches_or_compares_a_group(void **state)
{
    static const struct answer_row any[] = {
        {"abc", NULL, 1}, {"xbcx", "ignored", 1}, {"ac", NULL, 0}, {"", NULL, 0}};
    static const struct answer_row group[] = {{"Answer: 7", "7", 1},
                                              {"Answer: 7, Answer: 8", "8", 1},
                                              {"Answer: 7, Answer: 8", "7", 0},
                                              {"Answer:  7 ", "7", 1},
                                              {"7", "7", 0},
                                              {"Answer: 7", NULL, NA},
                                              {"Answer: \xc3\xa9", "\xc3\xa9", 1}};
    static const struct answer_row whole[] = {{"-12-", "12", 1}, {"-12-34-", "34", 1}};
    static const struct answer_row optional[] = {{"ab", "b", 1}, {"a", "", 0}};
    static const struct answer_row empty[] = {{"", NULL, 1}, {"\xc3\xa9\xc3\xa9", NULL, 1}};
    (void)state;
    CHECK("regex", "{\"pattern\": \"b.?c\"}", any);
    CHECK("regex", "{\"pattern\": \"Answer:([^,]*)\", \"group\": 1}", group);
    CHECK("regex", "{\"pattern\": \"[0-9]+\", \"group\": 0}", whole);
    CHECK("regex", "{\"pattern\": \"a(b)?\", \"group\": 1}", optional);
    CHECK("regex", "{\"pattern\": \"x*\"}", empty);
}

/* A match further away than any window of starting places. */
static void regex_finds_what_is_far_away(void **state)
{
    enum { BYTES = 300000 };
    char *text = NULL;
    struct json *config = NULL;
    struct builtin *builtin = NULL;
    struct score score;
    static const char pattern[] = "{\"pattern\": \"<([a-z]+)>\", \"group\": 1}";
    (void)state;
    assert_ok(memory_alloc(BYTES, 1, &text));
    for (size_t i = 0; i < BYTES; i++) {
        text[i] = "\xc3\xa9"[i % 2];
    }
    for (size_t i = 0; i < 6; i++) {
        text[100000 + i] = "<one>."[i];
        text[250000 + i] = "<two>."[i];
    }
    assert_ok(json_parse(pattern, strlen(pattern), 4, &config));
    assert_ok(builtin_create("regex", config, &builtin));
    score_bytes(builtin, text, BYTES, "two", &score);
    assert_int_equal(score.status, SCORE_OK);
    assert_true(score.value == 1.0);
    memory_free(score.detail);
    builtin_destroy(builtin);
    json_destroy(config);
    memory_free(text);
}

/* Exponential at one place, and merely slow at each of very many. */
static void slow_patterns_are_errors_and_do_not_hang(void **state)
{
    enum { BYTES = 200000 };
    static const char *const configs[] = {"{\"pattern\": \"^(a+)+$\"}",
                                          "{\"pattern\": \"\\\\w+\\\\d\"}"};
    char *text = NULL;
    (void)state;
    assert_ok(memory_alloc(BYTES, 1, &text));
    memset(text, 'a', BYTES);
    text[BYTES - 1] = '!';
    for (size_t i = 0; i < COUNT(configs); i++) {
        struct json *config = NULL;
        struct builtin *builtin = NULL;
        struct score score;
        const int64_t begin_us = clock_now_us();
        assert_ok(json_parse(configs[i], strlen(configs[i]), 4, &config));
        assert_ok(builtin_create("regex", config, &builtin));
        score_bytes(builtin, text, BYTES, NULL, &score);
        assert_int_equal(score.status, SCORE_ERROR);
        assert_non_null(strstr(score.detail, "exception"));
        assert_true(clock_now_us() - begin_us < 5000000);
        memory_free(score.detail);
        builtin_destroy(builtin);
        json_destroy(config);
    }
    memory_free(text);
}

static void format_think_wants_each_tag_once_and_in_order(void **state)
{
    static const struct answer_row full[] = {
        {"<think>a</think><answer>b</answer>", NULL, 1},
        {" \n<think>a</think>\n <answer>b</answer>\n", NULL, 1},
        {"<think>a</think><answer>b</answer>", "whatever", 1},
        {"<think></think><answer>b</answer>", NULL, 0},
        {"<think> \n</think><answer>b</answer>", NULL, 0},
        {"<think>a</think><answer></answer>", NULL, 0},
        {"<think>a</think><answer> </answer>", NULL, 0},
        {"<think>a</think>", NULL, 0},
        {"<answer>b</answer>", NULL, 0},
        {"<think>a<answer>b</answer>", NULL, 0},
        {"<think>a</think><answer>b", NULL, 0},
        {"x<think>a</think><answer>b</answer>", NULL, 0},
        {"<think>a</think>x<answer>b</answer>", NULL, 0},
        {"<think>a</think><answer>b</answer>x", NULL, 0},
        {"<think>a<think>b</think><answer>c</answer>", NULL, 0},
        {"<think>a</think></think><answer>c</answer>", NULL, 0},
        {"<think>a</think><answer>b</answer><answer>c</answer>", NULL, 0},
        {"<answer>b</answer><think>a</think>", NULL, 0},
        {"<think>a<answer>b</think>c</answer>", NULL, 0},
        {"</think>a<think><answer>b</answer>", NULL, 0},
        {"<Think>a</Think><answer>b</answer>", NULL, 0},
        {"", NULL, 0},
    };
    static const struct answer_row think_only[] = {
        {"<think>a</think>b", NULL, 1},       {"<think>a</think>", NULL, 1},
        {"<think></think>b", NULL, 1},        {" <think>a</think>b", NULL, 0},
        {"a<think>b</think>", NULL, 0},       {"<think>a", NULL, 0},
        {"<think>a<think></think>", NULL, 0}, {"<think>a</think></think>", NULL, 0},
        {"</think><think>", NULL, 0},         {"a</think>b", NULL, 0}};
    (void)state;
    CHECK("format_think", "{}", full);
    CHECK("format_think", "{\"style\": \"full\"}", full);
    CHECK("format_think", "{\"style\": \"think_only\"}", think_only);
}

static double score_after_prompt(const char *config_text, const char *prompt, const char *text)
{
    struct builtin *builtin = NULL;
    struct json *config = NULL;
    struct score score;
    const struct score_sample sample = {.finish = "stop",
                                        .prompt = prompt,
                                        .prompt_bytes = strlen(prompt),
                                        .completion = text,
                                        .completion_bytes = strlen(text),
                                        .data_source = ""};
    assert_ok(json_parse(config_text, strlen(config_text), 4, &config));
    assert_ok(builtin_create("format_think", config, &builtin));
    builtin_score(builtin, &sample, &score);
    assert_int_equal(score.status, SCORE_OK);
    memory_free(score.detail);
    builtin_destroy(builtin);
    json_destroy(config);
    return score.value;
}

/* The template of a reasoning model ends the prompt with the tag. */
static void a_prompt_that_opens_the_tag_counts(void **state)
{
    static const char open[] = "User: 1+1? Assistant: <think>\n";
    static const char only[] = "{\"style\": \"think_only\"}";
    (void)state;
    assert_true(score_after_prompt("{}", open, "a</think><answer>2</answer>") == 1.0);
    assert_true(score_after_prompt("{}", "Q:", "a</think><answer>2</answer>") == 0.0);
    assert_true(score_after_prompt("{}", open, "<think>a</think><answer>2</answer>") == 0.0);
    assert_true(score_after_prompt("{}", open, "</think><answer>2</answer>") == 0.0);
    assert_true(score_after_prompt(only, open, "a</think>2") == 1.0);
    assert_true(score_after_prompt(only, open, "a") == 0.0);
    assert_true(score_after_prompt(only, open, "<think>a</think>2") == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regex_matches_or_compares_a_group),
        cmocka_unit_test(regex_finds_what_is_far_away),
        cmocka_unit_test(slow_patterns_are_errors_and_do_not_hang),
        cmocka_unit_test(format_think_wants_each_tag_once_and_in_order),
        cmocka_unit_test(a_prompt_that_opens_the_tag_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
