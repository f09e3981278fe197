/* Owns the tasks' generators. */
#include "cli/data_tasks.h"

#include "base/hash.h"
#include "base/random.h"

#include <stdio.h>
#include <string.h>

#define TEXT_ROOM 256
#define MODSUM_DIGITS 10u
#define MODSUM_PROMPTS UINT64_C(10000000000)
#define PART_STRIDE UINT64_C(1000000000) /* indices of modsum's prompts that a part may use */
#define MIX_WORKED_ONE_IN 5u             /* 20 % of the mix are worked */
#define HELDOUT_ONE_IN 8u                /* share of all prompts that only heldout may use */

struct task_row {
    char prompt[TEXT_ROOM], answer[TEXT_ROOM], thoughts[TEXT_ROOM];
    int64_t numbers[8]; /* countdown */
    size_t n_numbers;
    int64_t target;
};

/* A row's random numbers, one after another. */
struct draw {
    uint64_t seed, row, at;
};

static uint64_t below(struct draw *draw, uint64_t n)
{
    return random_below(draw->seed, RANDOM_TASK, draw->row, draw->at++, n);
}

static void append(char *text, const char *more)
{
    const size_t used = strlen(text);

    (void)snprintf(text + used, TEXT_ROOM - used, "%s", more);
}

static void append_number(char *text, const char *before, int64_t value)
{
    const size_t used = strlen(text);

    (void)snprintf(text + used, TEXT_ROOM - used, "%s%lld", before, (long long)value);
}

/* --- modsum: ten digits, the answer is their sum mod 10 --- */

/* Distinct prompts by construction: index -> one of 10^10 numbers, a bijection. */
static void make_modsum(uint64_t seed, enum data_part part, uint64_t index, struct task_row *row)
{
    const uint64_t order = random_bits(seed, RANDOM_TASK, UINT64_MAX, 0);
    const uint64_t number =
        random_permute(order, 0, (uint64_t)part * PART_STRIDE + index, MODSUM_PROMPTS);
    int sum = 0;

    (void)snprintf(row->prompt, sizeof(row->prompt), "%0*llu=", (int)MODSUM_DIGITS,
                   (unsigned long long)number);
    for (size_t i = 0; i < MODSUM_DIGITS; i++) {
        sum = (sum + row->prompt[i] - '0') % 10;
        row->thoughts[i] = (char)('0' + sum); /* the running sum */
    }
    append_number(row->answer, "", sum);
}

/* --- The others: drawn until the prompt belongs to the part --- */

static void make_arith(struct draw *draw, struct task_row *row)
{
    const char operation = "+-*%"[below(draw, 4)];
    const int64_t limit = operation == '*' ? 99 : 999;
    const int64_t a = 1 + (int64_t)below(draw, (uint64_t)limit);
    const int64_t b = 1 + (int64_t)below(draw, (uint64_t)limit);
    const int64_t result = operation == '+'   ? a + b
                           : operation == '-' ? a - b
                           : operation == '*' ? a * b
                                              : a % b;

    (void)snprintf(row->prompt, sizeof(row->prompt), "%lld%c%lld=", (long long)a, operation,
                   (long long)b);
    append_number(row->answer, "", result);
}

static void make_parity(struct draw *draw, struct task_row *row)
{
    const size_t n = 8 + (size_t)below(draw, 9);
    size_t n_ones = 0;

    append(row->prompt, "parity ");
    for (size_t i = 0; i < n; i++) {
        const uint64_t bit = below(draw, 2);
        n_ones += bit;
        append(row->prompt, bit == 1 ? "1" : "0");
    }
    append(row->prompt, "=");
    append(row->answer, n_ones % 2 == 1 ? "odd" : "even");
}

static void make_sort(struct draw *draw, struct task_row *row)
{
    const size_t n = 3 + (size_t)below(draw, 6);
    int64_t sorted[8];

    append(row->prompt, "sort");
    for (size_t i = 0; i < n; i++) {
        const int64_t value = (int64_t)below(draw, 100);
        append_number(row->prompt, " ", value);
        size_t place = i;
        for (; place > 0 && sorted[place - 1] > value; place--) {
            sorted[place] = sorted[place - 1];
        }
        sorted[place] = value;
    }
    append(row->prompt, "=");
    for (size_t i = 0; i < n; i++) {
        append_number(row->answer, i > 0 ? " " : "", sorted[i]);
    }
}

static void make_reverse(struct draw *draw, struct task_row *row)
{
    const size_t n = 4 + (size_t)below(draw, 9);
    char word[16] = "";

    for (size_t i = 0; i < n; i++) {
        word[i] = (char)('a' + (int)below(draw, 26));
        row->answer[n - 1 - i] = word[i];
    }
    append(row->prompt, "reverse ");
    append(row->prompt, word);
    append(row->prompt, "=");
}

/* value (op) number where op keeps the value a whole number; false when the draw does not fit. */
static bool extend_expression(struct draw *draw, int64_t number, int64_t *value, char *text)
{
    const char operation = "+-*/"[below(draw, 4)];
    char longer[TEXT_ROOM];

    if (operation == '/' && *value % number != 0) {
        return false;
    }
    *value = operation == '+'   ? *value + number
             : operation == '-' ? *value - number
             : operation == '*' ? *value * number
                                : *value / number;
    (void)snprintf(longer, sizeof(longer), "(%.200s%c%lld)", text, operation, (long long)number);
    text[0] = '\0';
    append(text, longer);
    return true;
}

/* Random operations on random numbers, so every instance is solvable; drawn again until the value
 * is 10..99. */
static void make_countdown(struct draw *draw, struct task_row *row)
{
    bool is_good = false;

    while (!is_good) {
        row->n_numbers = 3 + (size_t)below(draw, 2);
        row->numbers[0] = 1 + (int64_t)below(draw, 99);
        row->answer[0] = '\0';
        row->target = row->numbers[0];
        append_number(row->answer, "", row->target);
        is_good = true;
        for (size_t i = 1; i < row->n_numbers && is_good; i++) {
            row->numbers[i] = 1 + (int64_t)below(draw, 99);
            is_good = extend_expression(draw, row->numbers[i], &row->target, row->answer);
        }
        is_good = is_good && row->target >= 10 && row->target <= 99;
    }
    append(row->prompt, "numbers");
    for (size_t i = 0; i < row->n_numbers; i++) {
        append_number(row->prompt, " ", row->numbers[i]);
    }
    append_number(row->prompt, " make ", row->target);
    append(row->prompt, "=");
}

typedef void task_maker(struct draw *draw, struct task_row *row);

static const struct data_task tasks[] = {
    {"modsum", "ten digits; their sum mod 10", true},
    {"arith", "417+85=; add, subtract, multiply, remainder", false},
    {"parity", "whether a row of bits has an odd number of ones", false},
    {"sort", "numbers in ascending order", false},
    {"reverse", "a word backwards", false},
    {"countdown", "an expression of given numbers that makes a target", false},
};
#define N_TASKS (sizeof(tasks) / sizeof(tasks[0]))
static task_maker *const makers[N_TASKS] = {NULL,      make_arith,   make_parity,
                                            make_sort, make_reverse, make_countdown};

const struct data_task *data_tasks(size_t *n)
{
    *n = N_TASKS;
    return tasks;
}

const struct data_task *data_task_find(const char *name)
{
    for (size_t i = 0; i < N_TASKS; i++) {
        if (strcmp(tasks[i].name, name) == 0) {
            return &tasks[i];
        }
    }
    return NULL;
}

/* Draws until the prompt is one that the part may use: no row of training is ever held out. */
static void make_by_drawing(size_t task, uint64_t seed, enum data_part part, uint64_t index,
                            struct task_row *row)
{
    struct draw draw = {
        .seed = seed, .row = (uint64_t)task << 56 | (uint64_t)part << 48 | index, .at = 0};
    bool is_heldout;

    do {
        *row = (struct task_row){0};
        makers[task](&draw, row);
        is_heldout = hash_64(row->prompt, strlen(row->prompt)) % HELDOUT_ONE_IN == 0;
    } while (is_heldout != (part == DATA_HELDOUT));
}

/* --- Rows as JSON --- */

static enum status put_text(struct json *object, const char *key, const char *text)
{
    return json_put(object, key, json_from_text(text, strlen(text)));
}

/* The list is put into the object while it is still empty, so that one owner frees it. */
static enum status put_numbers(struct json *object, const struct task_row *row)
{
    if (row->n_numbers == 0) {
        return STATUS_OK;
    }
    TRY(json_put(object, "nums", json_array_create()));
    for (size_t i = 0; i < row->n_numbers; i++) {
        TRY(json_append(json_get(object, "nums"), json_from_int(row->numbers[i])));
    }
    return json_put(object, "target", json_from_int(row->target));
}

static enum status put_completion(struct json *object, const struct task_row *row, bool is_worked)
{
    char text[3 * TEXT_ROOM];

    (void)snprintf(text, sizeof(text), "%s%s%s<answer>%s</answer>", is_worked ? "<think>" : "",
                   is_worked ? row->thoughts : "", is_worked ? "</think>" : "", row->answer);
    return put_text(object, "completion", text);
}

static enum status fill_row(const struct data_task *task, uint64_t seed, enum data_part part,
                            uint64_t index, struct json *object)
{
    struct task_row row = {0};
    const size_t task_index = (size_t)(task - tasks);

    if (makers[task_index] == NULL) {
        make_modsum(seed, part, index, &row);
    } else {
        make_by_drawing(task_index, seed, part, index, &row);
    }
    TRY(put_text(object, "prompt", row.prompt));
    if (part == DATA_SFT_WORKED || part == DATA_SFT_MIX) {
        const bool is_worked =
            part == DATA_SFT_WORKED ||
            random_below(seed, RANDOM_TASK, UINT64_MAX, 1 + index, MIX_WORKED_ONE_IN) == 0;
        return put_completion(object, &row, is_worked);
    }
    TRY(put_text(object, "answer", row.answer));
    TRY(put_numbers(object, &row));
    return put_text(object, "data_source", task->name);
}

enum status data_task_row(const struct data_task *task, uint64_t seed, enum data_part part,
                          uint64_t index, struct json **out)
{
    struct json *object = json_object_create();

    *out = NULL;
    const enum status status = fill_row(task, seed, part, index, object);
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    *out = object;
    return STATUS_OK;
}
