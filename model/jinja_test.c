/* Owns the tests of templates: x is defined ... */
#include "model/jinja_internal.h"

#define BIT(kind) (1U << (kind))
#define SEQUENCES (BIT(VALUE_LIST) | BIT(VALUE_STRING) | BIT(VALUE_DICT) | BIT(VALUE_UNDEFINED))

/* What the kind of a value does not tell. */
enum question { QUESTION_KIND, QUESTION_TRUE, QUESTION_FALSE, QUESTION_EQUAL, QUESTION_IN };
static const struct {
    struct signature signature;
    enum question question;
    unsigned kinds; /* bits of enum value_kind */
} tests[] = {
    {{"defined", 0, {NULL}}, QUESTION_KIND, ~BIT(VALUE_UNDEFINED)},
    {{"undefined", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_UNDEFINED)},
    {{"none", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_NONE)},
    {{"string", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_STRING)},
    {{"mapping", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_DICT)},
    {{"boolean", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_BOOL)},
    {{"integer", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_INTEGER)},
    {{"float", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_OTHER)},
    {{"number", 0, {NULL}}, QUESTION_KIND, BIT(VALUE_INTEGER) | BIT(VALUE_BOOL) | BIT(VALUE_OTHER)},
    {{"sequence", 0, {NULL}}, QUESTION_KIND, SEQUENCES},
    {{"iterable", 0, {NULL}}, QUESTION_KIND, SEQUENCES},
    {{"true", 0, {NULL}}, QUESTION_TRUE, 0},
    {{"false", 0, {NULL}}, QUESTION_FALSE, 0},
    {{"equalto", 1, {"other"}}, QUESTION_EQUAL, 0},
    {{"eq", 1, {"other"}}, QUESTION_EQUAL, 0},
    {{"in", 1, {"seq"}}, QUESTION_IN, 0},
};
#define N_TESTS (sizeof(tests) / sizeof(tests[0]))

static size_t find_test(struct word name)
{
    size_t i = 0;

    while (i < N_TESTS && !word_is(name, tests[i].signature.name)) {
        i++;
    }
    return i;
}

const struct signature *test_signature(struct word name)
{
    const size_t i = find_test(name);

    return i < N_TESTS ? &tests[i].signature : NULL;
}

enum status call_test(struct run *run, const struct node *node, const struct value *subject,
                      const struct arguments *arguments, bool *out)
{
    const size_t i = find_test(node->name);

    switch (tests[i].question) {
    case QUESTION_EQUAL:
        return value_equals(run, node, subject, &arguments->items[0], out);
    case QUESTION_IN:
        return value_contains(run, node, subject, &arguments->items[0], out);
    case QUESTION_TRUE:
    case QUESTION_FALSE:
        *out = subject->kind == VALUE_BOOL &&
               (subject->number != 0) == (tests[i].question == QUESTION_TRUE);
        return STATUS_OK;
    case QUESTION_KIND:
        break;
    }
    *out = (tests[i].kinds >> subject->kind & 1U) != 0;
    return STATUS_OK;
}
