/* builtin:boxed_math, values: rows of text, gold and verdict for equivalence (grpo.md 15.2), where
 * the text is what stands in the box; and answers that are hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "reward/math_value.h"
#include "tests/unit/reward/answer_rows.h"

#include <math.h>
#include <stdio.h>

static const struct answer_row numbers[] = {
    {"0.5", "1/2", 1},
    {".5", "0.5", 1},
    {"0.50", "0.5", 1},
    {"\\frac{1}{2}", "0.5", 1},
    {"\\frac12", "\\frac{1}{2}", 1},
    {"\\frac1{2}", "0.5", 1},
    {"\\frac{1}2", "0.5", 1},
    {"\\dfrac{1}{2}", "\\frac{1}{2}", 1},
    {"\\tfrac12", "0.5", 1},
    {"\\frac{2}{4}", "\\frac{1}{2}", 1},
    {"-\\frac{1}{2}", "-0.5", 1},
    {"\\frac{-1}{2}", "-\\frac{1}{2}", 1},
    {"\\frac{1}{-2}", "-\\frac{1}{2}", 1},
    {"\\frac{1}{3}", "0.333333", 1},
    {"\\frac{1}{3}", "0.333", 0},
    {"1/3", "\\frac{1}{3}", 1},
    {"1\\frac{1}{2}", "1.5", 1},
    {"1\\frac12", "3/2", 1},
    {"-1\\frac{1}{2}", "-1.5", 1},
    {"2\\frac{3}{4}", "2.75", 1},
    {"2*\\frac{3}{4}", "1.5", 1},
    {"50\\%", "50", 1},
    {"50\\%", "0.5", 1},
    {"50%", "50\\%", 1},
    {"0.5", "50\\%", 1},
    {"50", "50\\%", 0},
    {"1.5e3", "1500", 1},
    {"1.5\\times10^{3}", "1500", 1},
    {"1.5 \\cdot 10^3", "1500", 1},
    {"10^{-2}", "0.01", 1},
    {"-0", "0", 1},
    {"3.0", "3", 1},
    {"3.14159265", "\\pi", 1},
    {"3.14", "\\pi", 0},
    {"2\\pi", "2*\\pi", 1},
    {"\xcf\x80", "\\pi", 1},
    {"\\frac{\\pi}{2}", "\\pi/2", 1},
    {"\\frac\\pi2", "\\pi/2", 1},
    {"\\sqrt{4}", "2", 1},
    {"\\sqrt4", "2", 1},
    {"\\sqrt2", "\\sqrt{2}", 1},
    {"2\\sqrt{3}", "\\sqrt{12}", 1},
    {"\\sqrt[3]{27}", "3", 1},
    {"\\sqrt[3]27", "3", 0},
    {"\\sqrt[10]{1024}", "2", 1},
    {"\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", 1},
    {"5!", "120", 1},
    {"3!!", "720", 1},
    {"2^{10}", "1024", 1},
    {"2^3^2", "512", 1},
    {"(1+2)*3", "9", 1},
    {"1+2*3", "9", 0},
    {"1-(2-3)", "2", 1},
    {"7-5-1", "1", 1},
    {"8/4/2", "1", 1},
    {"1/0", "1/0", 1},
    {"1/0", "2/0", 0},
    {"\\frac{1}{0}", "\\infty", 0},
    {"42", "43", 0},
    {"42", "420", 0},
    {"4", "42", 0},
    {"42.0000001", "42", 1},
    {"42.1", "42", 0},
    /* malformed is not repaired */
    {"\\frac{1}", "1", 0},
    {"1..5", "0.5", 0},
    {".", "0", 0},
    {"2*", "2", 0},
    {"2*/3", "2/3", 0},
    {"(2", "2", 0},
    {"2)", "2", 0},
    {"2+", "2", 0},
    {"--2", "2", 0},
    {"\\sqrt", "0", 0},
    {"\\foo{2}", "2", 0},
};

static const struct answer_row structures[] = {
    {"(1, 2)", "(1,2)", 1},
    {"(1, 2)", "(2, 1)", 0},
    {"(0.5, 2)", "(\\frac{1}{2}, 2)", 1},
    {"(1, 2, 3)", "(1, 2)", 0},
    {"1, 2", "1,2", 1},
    {"1, 2", "(1, 2)", 0},
    {"(1, (2, 3))", "(1,(2,3))", 1},
    {"((1, 2), 3)", "(1,(2,3))", 0},
    {"\\{1, 2\\}", "\\{2, 1\\}", 1},
    {"\\{1, 2, 2\\}", "\\{1, 2\\}", 0},
    {"\\{1, 1, 2\\}", "\\{1, 2, 2\\}", 1},
    {"\\{1, 3\\}", "\\{1, 2\\}", 0},
    {"1, 2", "\\{2, 1\\}", 1},
    {"\\lbrace 1, 2\\rbrace", "\\{1,2\\}", 1},
    {"[1, 2]", "[1, 2]", 1},
    {"[1, 2]", "(1, 2)", 0},
    {"[1, 2)", "[1,2)", 1},
    {"[1, 2)", "(1,2]", 0},
    {"(-\\infty, 3]", "(-\\infty,3]", 1},
    {"(1, +\\infty)", "(1, \\infty)", 1},
    {"(1, \\infty)", "(1, -\\infty)", 0},
    {"(x, y+1)", "(x, 1+y)", 1},
    {"1,234, 5", "1234, 5", 1},
    {"1, 2, 3", "123", 0},
    /* relations */
    {"x < 5", "x<5", 1},
    {"5 > x", "x<5", 1},
    {"x > 5", "x<5", 0},
    {"x \\leq 3", "x \\le 3", 1},
    {"x <= 3", "x\\leqslant 3", 1},
    {"x \xe2\x89\xa4 3", "x \\le 3", 1},
    {"3 \\geq x", "x \\le 3", 1},
    {"x < 3", "x \\le 3", 0},
    {"x \\ge 3", "x \\le 3", 0},
    {"3", "x \\le 3", 0},
    {"x \\le 3", "3", 0},
    {"x \\neq 3", "x \\ne 3", 1},
    {"x \\neq 3", "x = 3", 0},
    {"x < \\frac{1}{2}", "x < 0.5", 1},
    {"(5, \\infty)", "x > 5", 1},
    {"[5, \\infty)", "x > 5", 0},
    {"[5, \\infty)", "x \\ge 5", 1},
    {"x \\le 3", "(-\\infty, 3]", 1},
    {"x < 3", "(-\\infty, 3]", 0},
    {"(-\\infty, 3)", "3 > x", 1},
    /* expressions */
    {"x+1", "1+x", 1},
    {"2x", "x+x", 1},
    {"2x", "2*x", 1},
    {"x^2-1", "(x-1)(x+1)", 1},
    {"x^2", "x^3", 0},
    {"x", "y", 0},
    {"\\frac{x}{2}", "0.5x", 1},
    {"\\sqrt{x^2}", "x", 1},
    {"y = 2x+3", "2x+3", 1},
    {"y = 2x+3", "y = 3+2x", 1},
    {"2x+4", "2x+3", 0},
    {"a^2+2ab+b^2", "(a+b)^2", 1},
    {"\\frac{1}{x}+\\frac{1}{y}", "\\frac{x+y}{xy}", 1},
    {"x_1", "x1", 0},
};

static void numbers_are_compared_by_value(void **state)
{
    (void)state;
    check_boxed(numbers, COUNT(numbers));
}

static void lists_relations_and_expressions_are_compared(void **state)
{
    (void)state;
    check_boxed(structures, COUNT(structures));
}

static void percent_may_be_strict(void **state)
{
    static const struct answer_row rows[] = {
        {"\\boxed{50\\%}", "50", 0}, {"\\boxed{50\\%}", "0.5", 1}, {"\\boxed{50\\%}", "50\\%", 1}};
    (void)state;
    check_rows("boxed_math", "{\"percent_mode\": \"strict\"}", rows, COUNT(rows));
}

static void there_are_enough_rows(void **state)
{
    (void)state;
    assert_true(COUNT(numbers) + COUNT(structures) >= 120);
}

static double value_of(const char *text)
{
    static const struct math_point point = {{0}};
    double value = 0.0;
    bool has_letters = false;
    return math_evaluate(text_from(text), &point, &value, &has_letters) ? value : (double)NAN;
}

static void expressions_have_the_usual_precedence(void **state)
{
    (void)state;
    assert_true(value_of("1+2*3") == 7.0 && value_of("2^3^2") == 512.0);
    assert_true(value_of("-2^2") == -4.0 && value_of("2^-1") == 0.5);
    assert_true(value_of("2(3)(4)") == 24.0 && value_of("1/2*4") == 2.0);
    assert_true(isnan(value_of("")) && isnan(value_of("1+")) && isnan(value_of("()")));
    assert_true(isnan(value_of("171!")) && isnan(value_of("1 2")));
}

/* Whatever nests or repeats, up to the length that is compared at all. */
static void long_hostile_answers_are_judged_in_time(void **state)
{
    static const char *const pieces[] = {"(",       "{",       "\\{", "[",  "\\frac",   "\\frac1",
                                         "\\text{", "^2",      "!",   "1!", "a+",       "-",
                                         "\\sqrt",  "\\sqrt[", "1,",  "x<", "\\boxed{", "x^",
                                         "(1,",     "\\{1,",   "%",   "$",  "9"};
    enum { BYTES = 4000 };
    struct builtin *builtin = NULL;
    (void)state;
    assert_ok(builtin_create("boxed_math", NULL, &builtin));
    for (size_t k = 0; k < COUNT(pieces); k++) {
        char text[BYTES + 64] = "<answer>";
        size_t at = strlen(text);
        const size_t n = strlen(pieces[k]);
        for (size_t i = 0; i + n < BYTES; i++, at++) {
            text[at] = pieces[k][i % n];
        }
        text[at] = '\0';
        for (int is_gold = 0; is_gold < 2;
             is_gold++) { /* against a short and an equally long gold */
            char completion[BYTES + 128];
            struct score score;
            const int length = snprintf(completion, sizeof(completion), "%s1</answer>", text);
            const int64_t begin_us = clock_now_us();
            assert_true(length > 0 && (size_t)length < sizeof(completion));
            score_bytes(builtin, completion, (size_t)length, is_gold ? text + 8 : "1", &score);
            memory_free(score.detail);
            assert_int_equal(score.status, SCORE_OK);
            assert_true(clock_now_us() - begin_us < 2000000);
        }
    }
    builtin_destroy(builtin);
}

static void answers_that_are_too_long_are_wrong(void **state)
{
    enum { BYTES = 10000 };
    static char text[BYTES + 32] = "\\boxed{";
    struct builtin *builtin = NULL;
    struct score score;
    (void)state;
    memset(text + 7, '1', BYTES);
    text[7 + BYTES] = '}';
    assert_ok(builtin_create("boxed_math", NULL, &builtin));
    score_bytes(builtin, text, BYTES + 8, "1", &score);
    assert_int_equal(score.status, SCORE_OK);
    assert_true(score.value == 0.0);
    assert_non_null(strstr(score.detail, "too long"));
    memory_free(score.detail);
    builtin_destroy(builtin);
}

static void random_bytes_do_no_harm(void **state)
{
    (void)state;
    feed_random_bytes("boxed_math", "{}", "{}[]()\\,^_+-*/.!%$=<>0123456789xyfracsqtboed", 3000);
    feed_random_bytes("boxed_math", "{}", "<answer>/\\boxed{1,2}frac ", 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_compared_by_value),
        cmocka_unit_test(lists_relations_and_expressions_are_compared),
        cmocka_unit_test(percent_may_be_strict),
        cmocka_unit_test(there_are_enough_rows),
        cmocka_unit_test(expressions_have_the_usual_precedence),
        cmocka_unit_test(long_hostile_answers_are_judged_in_time),
        cmocka_unit_test(answers_that_are_too_long_are_wrong),
        cmocka_unit_test(random_bytes_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
