/* Numbers in text, and builtin:numeric: rows of text, gold and verdict (grpo.md 15.2, numeric
 * stage). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "reward/number.h"
#include "tests/unit/reward/answer_rows.h"

#include <math.h>
#include <stdio.h>

static const struct answer_row rows[] = {
    /* which number */
    {"42", "42", 1},
    {"The answer is 42.", "42", 1},
    {"first 41, then 42", "42", 1},
    {"42 and then 41", "42", 0},
    {"no number at all", "42", 0},
    {"", "42", 0},
    {"<think>42</think>", "42", 0},
    {"<think>41</think>42", "42", 1},
    {"<think>1</think> 41 <think>2</think> 42", "42", 1},
    {"x42", "42", 1},
    {"42!", "42", 1},
    {"(42)", "42", 1},
    {"**42**", "42", 1},
    {"$42$", "42", 1},
    {"$42", "42", 1},
    {"42 apples", "42", 1},
    {"= 42\n", "42", 1},
    /* signs */
    {"-42", "-42", 1},
    {"-42", "42", 0},
    {"42", "-42", 0},
    {"+42", "42", 1},
    {"5-3", "3", 1},
    {"5-3", "-3", 0},
    {"5 - 3", "3", 1},
    {"x-3", "3", 1},
    {"(-3)", "-3", 1},
    {"is -3", "-3", 1},
    {"-$5", "-5", 1},
    {"$-5", "-5", 1},
    {"-0", "0", 1},
    {"0", "-0", 1},
    /* separators */
    {"1,234", "1234", 1},
    {"1234", "1,234", 1},
    {"1,234,567", "1234567", 1},
    {"1,234,567.5", "1234567.5", 1},
    {"12,34", "1234", 0},
    {"1,2345", "12345", 0},
    {"3, 4", "4", 1},
    {"1,234", "234", 0},
    /* decimals */
    {"0.5", "0.5", 1},
    {".5", "0.5", 1},
    {"0.50", "0.5", 1},
    {"5.0", "5", 1},
    {"5", "5.0", 1},
    {"0.3333333", "1/3", 1},
    {"0.333333", "1/3", 1},
    {"0.33333", "1/3", 0},
    {"0.333", "1/3", 0},
    {"604872.5", "604872", 0},
    {"1000000.0005", "1000000", 1},
    {"1000000.01", "1000000", 0},
    {"2.718281", "2.7182818", 1},
    {"2.71828", "2.7182818", 0},
    {"5.", "5", 1},
    {"3.14.15", "3.14", 0},
    /* fractions */
    {"1/2", "0.5", 1},
    {"0.5", "1/2", 1},
    {"2/4", "1/2", 1},
    {"1/2", "1/2", 1},
    {"-1/2", "-0.5", 1},
    {"1/3", "0.3333333333", 1},
    {"1/2", "2", 0},
    {"3/0", "3", 0},
    {"10/5", "2", 1},
    {"1.5/3", "0.5", 1},
    {"22/7", "3.142857", 1},
    /* exponents */
    {"1e3", "1000", 1},
    {"1.5e3", "1500", 1},
    {"1E-2", "0.01", 1},
    {"1e+3", "1000", 1},
    {"2e", "2", 1},
    {"1e400", "1e400", 0},
    {"1e-400", "0", 1},
    {"0e99999", "0", 1},
    /* percent, read both ways while gold has none */
    {"50%", "0.5", 1},
    {"50%", "50", 1},
    {"50%", "50%", 1},
    {"0.5", "50%", 1},
    {"50", "50%", 0},
    {"12.5%", "0.125", 1},
    {"1%", "1", 1},
    /* large numbers are exact */
    {"1267650600228229401496703205376", "1267650600228229401496703205376", 1},
    {"12345678901234567890", "12345678901234567891", 0},
    {"12345678901234567890", "12345678901234567890", 1},
    {"0.1", "0.1000000", 1},
    /* gold */
    {"18", "#### 18", 1},
    {"18", "the answer: 18", 1},
    {"18", "none", NA},
    {"18", "", NA},
    {"18", NULL, NA},
    {"18", " 18 ", 1},
};

static const struct answer_row strict_rows[] = {
    {"50%", "0.5", 1}, {"50%", "50%", 1}, {"x 50", "50", 1}, {"5.05", "5", 0}};

static const struct answer_row loose_rows[] = {{"</think>5.05", "5", 1},
                                               {"</think>5.2", "5", 0},
                                               {"</think>4.9", "5", 1},
                                               {"<think>5", "5", 0},
                                               {"5", "5", 0}};

static void numeric_judges_the_last_number(void **state)
{
    (void)state;
    check_rows("numeric", "{}", rows, COUNT(rows));
    check_rows("numeric", "{\"tolerance\": 0}", strict_rows, COUNT(strict_rows));
    check_rows("numeric", "{\"tolerance\": 0.1, \"require_think\": true}", loose_rows,
               COUNT(loose_rows));
}

static struct number parse(const char *text)
{
    struct number number = {0};
    if (!number_parse(text_from(text), &number)) {
        fail_msg("\"%s\" is no number", text);
    }
    return number;
}

static void numbers_are_exact_rationals(void **state)
{
    (void)state;
    const struct number half = parse(" 0.50 ");
    assert_true(half.is_exact && half.p == 1 && half.q == 2 && half.is_decimal);
    const struct number third = parse("-2/6");
    assert_true(third.is_exact && third.p == -1 && third.q == 3 && !third.is_decimal);
    const struct number percent = parse("12.5%");
    assert_true(percent.is_exact && percent.p == 1 && percent.q == 8 && percent.is_percent);
    const struct number large = parse("1e40");
    assert_true(!large.is_exact && fabs(large.value / 1e40 - 1.0) < 1e-12);
    const struct number million = parse("$1,000,000");
    assert_true(million.is_exact && million.p == 1000000);
    const struct number negative = number_from_ratio(6, -4);
    assert_true(negative.p == -3 && negative.q == 2 && negative.value == -1.5);
}

static void what_is_no_number_is_refused(void **state)
{
    static const char *const texts[] = {"",    " ",    "-",    "+",   "$",     ".",   "abc", "1a",
                                        "1 2", "--1",  "1..2", "1/0", "1/2/3", "%",   "1%%", "e5",
                                        "1e",  "1,23", "0x10", "inf", "nan",   "1/-2"};
    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct number number;
        if (number_parse(text_from(texts[i]), &number)) {
            fail_msg("\"%s\" was taken for %g", texts[i], number.value);
        }
    }
}

static void the_place_of_the_last_number_is_told(void **state)
{
    const char *text = "1, -2.5% and -$3,000.";
    struct number number;
    struct text where;
    (void)state;
    assert_true(number_find_last(text_from(text), &number, &where));
    assert_int_equal(where.n, 7);
    assert_memory_equal(where.data, "-$3,000", 7);
    assert_true(number.value == -3000.0);
    assert_false(number_find_last(text_from("none"), &number, &where));
    assert_false(number_find_last((struct text){NULL, 0}, &number, &where));
}

static void percent_may_be_strict(void **state)
{
    const struct number percent = parse("50%");
    const struct number half = parse("0.5");
    const struct number fifty = parse("50");
    (void)state;
    assert_true(number_equal(&percent, &half, 1e-6, true));
    assert_false(number_equal(&percent, &fifty, 1e-6, true));
    assert_true(number_equal(&percent, &fifty, 1e-6, false));
    assert_false(number_equal(&fifty, &percent, 1e-6, false));
}

/* A megabyte that makes each step slow, if any of them is. */
static void long_hostile_texts_are_read_in_time(void **state)
{
    static const char *const pieces[] = {
        "0e99999 ",          "9", "1/0", "1e", ",111", ".", "-$", "1,", "%", "1e-99999/1e99999 ",
        "0.0000000001e-999 "};
    enum { BYTES = 1 << 20 };
    char *text = NULL;
    struct builtin *builtin = NULL;
    (void)state;
    assert_ok(memory_alloc(BYTES, 1, &text));
    assert_ok(builtin_create("numeric", NULL, &builtin));
    for (size_t k = 0; k < COUNT(pieces); k++) {
        const size_t n = strlen(pieces[k]);
        struct score score;
        for (size_t i = 0; i < BYTES; i++) {
            text[i] = pieces[k][i % n];
        }
        const int64_t begin_us = clock_now_us();
        score_bytes(builtin, text, BYTES, "3", &score);
        memory_free(score.detail);
        assert_true(clock_now_us() - begin_us < 2000000);
    }
    builtin_destroy(builtin);
    memory_free(text);
}

static void random_bytes_do_no_harm(void **state)
{
    (void)state;
    feed_random_bytes("numeric", "{}", "0123456789.,-+$%/eE \n", 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numeric_judges_the_last_number),
        cmocka_unit_test(numbers_are_exact_rationals),
        cmocka_unit_test(what_is_no_number_is_refused),
        cmocka_unit_test(the_place_of_the_last_number_is_told),
        cmocka_unit_test(percent_may_be_strict),
        cmocka_unit_test(long_hostile_texts_are_read_in_time),
        cmocka_unit_test(random_bytes_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
