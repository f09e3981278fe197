/* builtin:boxed_math, texts: rows of text, gold and verdict for extraction (grpo.md 15.1) and for
 * texts that are equal once they are normalised. In the latter the text is what stands in the box.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reward/math_text.h"
#include "tests/unit/reward/answer_rows.h"

static const struct answer_row extraction[] = {
    {"\\boxed{42}", "42", 1},
    {"so \\boxed{41}, no, \\boxed{42}.", "42", 1},
    {"so \\boxed{42}, no, \\boxed{41}.", "42", 0},
    {"\\fbox{42}", "42", 1},
    {"\\boxed{41} \\fbox{42}", "42", 1},
    {"\\fbox{41} \\boxed{42}", "42", 1},
    {"\\boxed 42", "42", 1},
    {"\\boxed 42$ and more", "42", 1},
    {"\\boxed42", "42", 0},
    {"\\boxed{42", "42", 0},
    {"\\boxed{41} \\boxed{42", "41", 0},
    {"\\boxed{}", "42", 0},
    {"\\boxed", "42", 0},
    {"42", "42", 0},
    {"the answer is 42", "42", 0},
    {"", "42", 0},
    {"\\boxed{\\frac{1}{2}}", "0.5", 1},
    {"\\boxed{a \\} b}", "c", 0},
    {"\\boxed{\\{1, 2\\}}", "\\{2, 1\\}", 1},
    {"<think>\\boxed{42}</think>", "42", 0},
    {"<think>\\boxed{41}</think>\\boxed{42}", "42", 1},
    {"<think>\\boxed{42}</think>\\boxed{41}", "42", 0},
    {"<answer>42</answer>", "42", 1},
    {"<answer> 42 </answer>", "42", 1},
    {"<answer>41</answer><answer>42</answer>", "42", 1},
    {"<answer>\\boxed{42}</answer>", "42", 1},
    {"\\boxed{41} <answer>42</answer>", "42", 1},
    {"<answer>41</answer> \\boxed{42}", "42", 0},
    {"<answer></answer>", "42", 0},
    {"42</answer>", "42", 0},
    {"<answer>42", "42", 0},
    {"<think>x</think><answer>7</answer>", "7", 1},
    {"\\boxed{42}", "\\boxed{42}", 1},
    {"\\boxed{42}", "#### 42", 0},
    {"\\boxed{42}", NULL, NA},
    {"$$\\boxed{\n42\n}$$", "42", 1},
};

static const struct answer_row strings[] = {
    {"$42$", "42", 1},
    {"\\(42\\)", "42", 1},
    {"\\[42\\]", "42", 1},
    {"42.", "42", 1},
    {"+42", "42", 1},
    {" 42 ", "42", 1},
    {"x=42", "42", 1},
    {"x = 42", "x=42", 1},
    {"42", "x=42", 1},
    {"y = x = 42", "42", 1},
    {"a + b = 42", "42", 1},
    {"42 = a", "42", 0},
    {"90^\\circ", "90", 1},
    {"90^{\\circ}", "90", 1},
    {"90\xc2\xb0", "90", 1},
    {"42\\text{ cm}", "42", 1},
    {"42\\,\\mathrm{cm}", "42", 1},
    {"42 \\mbox{ apples}", "42", 1},
    {"\\text{yes}", "yes", 1},
    {"\\text{Yes}", "yes", 1},
    {"No", "no", 1},
    {"no", "yes", 0},
    {"\\text{(B)}", "B", 1},
    {"(B)", "B", 1},
    {"B", "(B)", 1},
    {"b", "B", 1},
    {"C", "B", 0},
    {"\\textbf{B}", "B", 1},
    {"even", "Even", 1},
    {"evens", "even", 0},
    {"1,234", "1234", 1},
    {"1{,}234", "1234", 1},
    {"1\\,234", "1234", 1},
    {"1234", "1,234", 1},
    {"1 1/2", "11/2", 0},
    {"2 3", "23", 0},
    {"\xe2\x88\x92"
     "5",
     "-5", 1},
    {"\xef\xbc\x94\xef\xbc\x92", "42", 1},
    {"\\$42", "42", 1},
    {"\\left( 1, 2 \\right)", "(1,2)", 1},
    {"4\\cdot 5", "20", 1},
    {"4 \\times 5", "20", 1},
    {"20 \\div 4", "5", 1},
    {"~42~", "42", 1},
    {"42\\!", "42", 1},
    {"\\displaystyle 42", "42", 1},
};

static const struct answer_row needs_think[] = {{"\\boxed{42}", "42", 0},
                                                {"<think>x</think>\\boxed{42}", "42", 1},
                                                {"x</think>\\boxed{42}", "42", 1}};

static void answers_are_extracted_as_specified(void **state)
{
    (void)state;
    check_rows("boxed_math", "{}", extraction, COUNT(extraction));
    check_rows("boxed_math", "{\"require_think\": true}", needs_think, COUNT(needs_think));
}

static void strings_are_normalised(void **state)
{
    (void)state;
    check_boxed(strings, COUNT(strings));
}

static void there_are_enough_texts(void **state)
{
    (void)state;
    assert_true(COUNT(extraction) + COUNT(strings) >= 80);
}

static void the_normal_form_has_one_spelling(void **state)
{
    static const struct {
        const char *text, *want;
    } cases[] = {{"\\dfrac{1}{2}", "\\frac{1}{2}"},
                 {"\\frac12", "\\frac{1}{2}"},
                 {"\\sqrt2", "\\sqrt{2}"},
                 {"\\sqrt[3]8", "\\sqrt[3]{8}"},
                 {"\\frac\\frac12", "\\frac\\frac{1}{2}"},
                 {" x = 5 ", "5"},
                 {"1{,}234{,}567", "1234567"},
                 {"\\left(1\\right)", "(1)"},
                 {"5 \\text{ m}", "5"},
                 {"", ""}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char out[MATH_TEXT_MAX];
        size_t n = 0;
        assert_true(math_normalise(text_from(cases[i].text), out, &n));
        if (n != strlen(cases[i].want) || memcmp(out, cases[i].want, n) != 0) {
            fail_msg("%s became %.*s", cases[i].text, (int)n, out);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_extracted_as_specified),
        cmocka_unit_test(strings_are_normalised),
        cmocka_unit_test(there_are_enough_texts),
        cmocka_unit_test(the_normal_form_has_one_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
