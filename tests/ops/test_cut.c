/* Cuts of the filters: what the fast search decides is what the slow one says, and it decides
 * nearly always. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The portable instruction set is the specification of the others. */
#define SIMD_ISA portable
#define SIMD_HEADER "kernels/cpu/simd/simd_portable.h"
#include "kernels/cpu/simd/cut.h"
#include "tests/ops/op_fixture.h"

static const struct cut_rule rules[] = {
    {.top_k = 1},    {.top_k = 3},     {.top_k = 50},     {.top_k = 700},  {.top_p = 0.001F},
    {.top_p = 0.5F}, {.top_p = 0.95F}, {.top_p = 0.999F}, {.top_p = 0.0F}, {.top_p = 0.9999F},
};
#define N_RULES (sizeof(rules) / sizeof(rules[0]))

static struct distribution row_of(const float *logits, size_t vocab)
{
    struct distribution d = {.logits = logits,
                             .vocab = vocab,
                             .inv_temperature = 1.0F,
                             .max = logits[0],
                             .min = logits[0],
                             .forced = -1};

    for (size_t v = 0; v < vocab; v++) {
        d.max = logits[v] > d.max ? logits[v] : d.max;
        d.min = logits[v] < d.min ? logits[v] : d.min;
    }
    return d;
}

/* Whether the fast search decides; then it must be right. */
static bool agrees(const struct distribution *d, struct cut_rule rule)
{
    const struct cut want = cut_search_portable(d, rule);
    struct cut got;

    if (!cut_narrow_portable(d, rule, &got)) {
        return false;
    }
    if (got.value != want.value || got.last != want.last) {
        fail_msg("vocab %zu top_k %zu top_p %g: cut at %g, token %d, want %g, token %d", d->vocab,
                 rule.top_k, (double)rule.top_p, (double)got.value, got.last, (double)want.value,
                 want.last);
    }
    return true;
}

/* How many of the rules with something to decide (top_k of fewer tokens, a top_p above 0) are
 * decided, and how many there are. */
struct tally {
    size_t decided, all;
};

static void check_row(const struct distribution *d, struct tally *tally)
{
    for (size_t i = 0; i < N_RULES; i++) {
        if (rules[i].top_k >= d->vocab) {
            continue;
        }
        const bool decided = agrees(d, rules[i]);
        if (rules[i].top_k > 0 || rules[i].top_p > 0.0F) {
            tally->decided += decided ? 1 : 0;
            tally->all++;
        }
    }
}

static const size_t vocabularies[] = {1, 7, 8, 17, 127, 129, 1000, 9001};
#define N_VOCABULARIES (sizeof(vocabularies) / sizeof(vocabularies[0]))

/* Rows of normal numbers, rounded to multiples of grain if that is not 0. */
static void check_rows(float scale, float grain, struct tally *tally)
{
    for (size_t i = 0; i < N_VOCABULARIES; i++) {
        const size_t vocab = vocabularies[i];
        float *logits = random_floats(vocab, 77 + i, scale);
        for (size_t v = 0; v < vocab && grain > 0.0F; v++) {
            logits[v] = rintf(logits[v] / grain) * grain;
        }
        const struct distribution d = row_of(logits, vocab);
        check_row(&d, tally);
        memory_free(logits);
    }
}

static void both_searches_find_one_cut_and_the_fast_one_decides(void **state)
{
    static const float scales[] = {0.01F, 0.3F, 3.0F, 9.0F};
    struct tally tally = {0, 0};
    (void)state;

    for (size_t i = 0; i < sizeof(scales) / sizeof(scales[0]); i++) {
        check_rows(scales[i], 0.0F, &tally);
    }
    assert_int_equal(tally.decided, tally.all);
}

static void both_searches_find_one_cut_among_equal_tokens(void **state)
{
    struct tally tally = {0, 0};
    (void)state;

    check_rows(1.0F, 0.25F, &tally);
    check_rows(0.3F, 2.0F, &tally); /* nearly all are equal */
    check_rows(0.0F, 0.0F, &tally); /* all are */
    assert_true(tally.decided > tally.all / 2);
}

static void a_second_filter_cuts_what_the_first_one_left(void **state)
{
    const size_t vocab = 5000;
    float *logits = random_floats(vocab, 3, 2.0F);
    struct distribution d = row_of(logits, vocab);
    struct tally tally = {0, 0};
    (void)state;

    d.cut = cut_search_portable(&d, (struct cut_rule){.top_k = 701});
    d.is_filtered = true;
    check_row(&d, &tally);
    assert_int_equal(tally.decided, tally.all);
    memory_free(logits);
}

/* A goal that a prefix meets exactly is for the sums of cut_search to decide. */
static void the_fast_search_leaves_what_is_too_close(void **state)
{
    static const float equal[4] = {1.0F, 1.0F, 1.0F, 1.0F};
    const struct distribution d = row_of(equal, 4);
    struct cut cut;
    (void)state;

    assert_false(cut_narrow_portable(&d, (struct cut_rule){.top_p = 0.5F}, &cut));
    assert_true(cut_narrow_portable(&d, (struct cut_rule){.top_p = 0.51F}, &cut));
    assert_int_equal(cut.last, 2);
    assert_int_equal(cut_search_portable(&d, (struct cut_rule){.top_p = 0.5F}).last, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_searches_find_one_cut_and_the_fast_one_decides),
        cmocka_unit_test(both_searches_find_one_cut_among_equal_tokens),
        cmocka_unit_test(a_second_filter_cuts_what_the_first_one_left),
        cmocka_unit_test(the_fast_search_leaves_what_is_too_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
