/* Rows that are made: right answers, no prompt on both sides, the same from the same seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "cli/data_tasks.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define N_ROWS 300u

static struct json *make_row(const char *task, uint64_t seed, enum data_part part, uint64_t index)
{
    struct json *row;

    assert_ok(data_task_row(data_task_find(task), seed, part, index, &row));
    return row;
}

static const char *text_of(const struct json *row, const char *key)
{
    return json_text(json_get(row, key), "(none)");
}

/* The running sums of ten digits modulo 10. */
static void running_sums(const char *prompt, char out[11])
{
    int sum = 0;

    for (size_t i = 0; i < 10; i++) {
        assert_true(prompt[i] >= '0' && prompt[i] <= '9');
        sum = (sum + prompt[i] - '0') % 10;
        out[i] = (char)('0' + sum);
    }
    out[10] = '\0';
    assert_string_equal(prompt + 10, "=");
}

static void modsum_answers_are_the_sum_of_the_digits(void **state)
{
    char sums[11], want[64];

    (void)state;
    for (uint64_t i = 0; i < N_ROWS; i++) {
        struct json *row = make_row("modsum", 1, DATA_TRAIN, i);
        running_sums(text_of(row, "prompt"), sums);
        assert_string_equal(text_of(row, "answer"), sums + 9);
        assert_string_equal(text_of(row, "data_source"), "modsum");
        json_destroy(row);
        row = make_row("modsum", 1, DATA_SFT_WORKED, i);
        running_sums(text_of(row, "prompt"), sums);
        (void)snprintf(want, sizeof(want), "<think>%s</think><answer>%c</answer>", sums, sums[9]);
        assert_string_equal(text_of(row, "completion"), want);
        json_destroy(row);
    }
}

static void a_fifth_of_the_mix_is_worked(void **state)
{
    size_t n_worked = 0;

    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        struct json *row = make_row("modsum", 5, DATA_SFT_MIX, i);
        n_worked += strncmp(text_of(row, "completion"), "<think>", 7) == 0 ? 1 : 0;
        json_destroy(row);
    }
    assert_in_range(n_worked, 150, 250);
}

/* Prompts of a part, as an array of JSON texts that keeps them alive. */
static void collect(const char *task, enum data_part part, struct json *rows[N_ROWS])
{
    for (uint64_t i = 0; i < N_ROWS; i++) {
        rows[i] = make_row(task, 3, part, i);
    }
}

static void expect_apart(const char *task)
{
    struct json *train[N_ROWS], *heldout[N_ROWS];

    collect(task, DATA_TRAIN, train);
    collect(task, DATA_HELDOUT, heldout);
    for (size_t i = 0; i < N_ROWS; i++) {
        for (size_t j = 0; j < N_ROWS; j++) {
            assert_string_not_equal(text_of(train[i], "prompt"), text_of(heldout[j], "prompt"));
        }
    }
    for (size_t i = 0; i < N_ROWS; i++) {
        json_destroy(train[i]);
        json_destroy(heldout[i]);
    }
}

static void no_held_out_prompt_is_trained_on(void **state)
{
    size_t n;
    const struct data_task *tasks = data_tasks(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        expect_apart(tasks[i].name);
    }
}

static void a_row_depends_on_seed_part_and_index_alone(void **state)
{
    size_t n;
    const struct data_task *tasks = data_tasks(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        struct json *first = make_row(tasks[i].name, 9, DATA_TRAIN, 7);
        struct json *again = make_row(tasks[i].name, 9, DATA_TRAIN, 7);
        struct json *other = make_row(tasks[i].name, 10, DATA_TRAIN, 7);
        assert_string_equal(text_of(first, "prompt"), text_of(again, "prompt"));
        assert_string_not_equal(text_of(first, "prompt"), text_of(other, "prompt"));
        json_destroy(first);
        json_destroy(again);
        json_destroy(other);
    }
    assert_null(data_task_find("nothing"));
}

static enum status attempt_row(void *context)
{
    struct json *row;

    (void)context;
    TRY(data_task_row(data_task_find("countdown"), 1, DATA_TRAIN, 0, &row));
    json_destroy(row);
    return STATUS_OK;
}

static void making_a_row_survives_every_failed_allocation(void **state)
{
    (void)state;
    assert_true(support_fail_allocations(attempt_row, NULL) > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modsum_answers_are_the_sum_of_the_digits),
        cmocka_unit_test(a_fifth_of_the_mix_is_worked),
        cmocka_unit_test(no_held_out_prompt_is_trained_on),
        cmocka_unit_test(a_row_depends_on_seed_part_and_index_alone),
        cmocka_unit_test(making_a_row_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
