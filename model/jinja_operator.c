/* Owns the operators of templates. */
#include "model/jinja_internal.h"

#include <string.h>

enum status value_contains(struct run *run, const struct node *node, const struct value *item,
                           const struct value *whole, bool *out)
{
    struct value list;

    *out = false;
    if (whole->kind == VALUE_STRING && item->kind == VALUE_STRING) {
        *out = string_find(whole, item, 0) != SIZE_MAX;
        return run_steps(run, node, whole->n / BYTES_PER_STEP);
    }
    if (whole->kind == VALUE_STRING) {
        return run_fail(run, node, "\"in\" a text wants a text");
    }
    if (whole->kind != VALUE_LIST && whole->kind != VALUE_DICT && whole->kind != VALUE_UNDEFINED) {
        return run_fail(run, node, "\"in\" wants a text, list or mapping");
    }
    TRY(value_items(run, node, whole, &list));
    for (size_t i = 0; i < list.n && !*out; i++) {
        const struct value other = list_at(&list, i);
        TRY(value_equals(run, node, item, &other, out));
    }
    return STATUS_OK;
}

/* Rounds down, as Python does; the rest has the divisor's sign. */
static int64_t divide(int64_t a, int64_t b, bool wants_rest)
{
    const int64_t rest = a % b;
    const bool is_off = rest != 0 && (rest < 0) != (b < 0);

    if (wants_rest) {
        return is_off ? rest + b : rest;
    }
    return is_off ? a / b - 1 : a / b;
}

static enum status arithmetic(struct run *run, const struct node *node, const struct value *a,
                              const struct value *b, struct value *out)
{
    const char sign = node->name.text[0];
    int64_t result = 0;
    bool is_wrong = !value_is_number(a) || !value_is_number(b);

    if (is_wrong) {
        return run_fail(run, node, "this operator wants whole numbers (or + two texts or lists)");
    }
    if (sign == '+') {
        is_wrong = __builtin_add_overflow(a->number, b->number, &result);
    } else if (sign == '-') {
        is_wrong = __builtin_sub_overflow(a->number, b->number, &result);
    } else if (sign == '*') {
        is_wrong = __builtin_mul_overflow(a->number, b->number, &result);
    } else if (b->number == 0 || (b->number == -1 && a->number == INT64_MIN)) {
        is_wrong = true;
    } else {
        result = divide(a->number, b->number, sign == '%');
    }
    *out = value_integer(result);
    return is_wrong ? run_fail(run, node, "this does not give a whole number") : STATUS_OK;
}

static enum status add_lists(struct run *run, const struct node *node, const struct value *a,
                             const struct value *b, struct value *out)
{
    struct value *items = NULL;

    TRY(run_steps(run, node, a->n + b->n));
    TRY(run_alloc(run, a->n + b->n, sizeof(*items), &items));
    for (size_t i = 0; i < a->n; i++) {
        items[i] = list_at(a, i);
    }
    for (size_t i = 0; i < b->n; i++) {
        items[a->n + i] = list_at(b, i);
    }
    *out = value_list(items, a->n + b->n);
    return STATUS_OK;
}

/* Below 0, 0 or above 0. */
static enum status order_of(struct run *run, const struct node *node, const struct value *a,
                            const struct value *b, int *out)
{
    if (value_is_number(a) && value_is_number(b)) {
        *out = (a->number > b->number) - (a->number < b->number);
        return STATUS_OK;
    }
    if (a->kind != VALUE_STRING || b->kind != VALUE_STRING) {
        return run_fail(run, node, "these cannot be ordered");
    }
    *out = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    if (*out == 0) {
        *out = (a->n > b->n) - (a->n < b->n);
    }
    return STATUS_OK;
}

static enum status compare(struct run *run, const struct node *node, const struct value *a,
                           const struct value *b, struct value *out)
{
    const char sign = node->name.text[0];
    int order = 0;
    bool is_equal = false;

    if (sign == '=' || sign == '!') {
        TRY(value_equals(run, node, a, b, &is_equal));
        *out = value_bool(is_equal == (sign == '='));
        return STATUS_OK;
    }
    TRY(order_of(run, node, a, b, &order));
    const bool or_equal = node->name.n == 2 && order == 0;
    *out = value_bool(or_equal || (sign == '<' ? order < 0 : order > 0));
    return STATUS_OK;
}

/* "and" and "or", which may not look at the right side. */
static bool is_logic(const struct node *node)
{
    return word_is(node->name, "or") || word_is(node->name, "and");
}

static enum status apply(struct run *run, const struct node *node, struct value *a, struct value *b,
                         struct value *out)
{
    const struct value nothing = value_data("", 0);
    bool is_in = false;

    if (word_is(node->name, "in") || word_is(node->name, "not")) {
        TRY(value_contains(run, node, a, b, &is_in));
        *out = value_bool(is_in == word_is(node->name, "in"));
        return STATUS_OK;
    }
    if (word_is(node->name, "~")) {
        struct value both[2];
        TRY(value_print(run, node, a, &both[0]));
        TRY(value_print(run, node, b, &both[1]));
        return string_join(run, both, 2, &nothing, out);
    }
    if (strchr("=!<>", node->name.text[0]) != NULL) {
        return compare(run, node, a, b, out);
    }
    if (word_is(node->name, "+") && a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        const struct value both[] = {*a, *b};
        return string_join(run, both, 2, &nothing, out);
    }
    if (word_is(node->name, "+") && a->kind == VALUE_LIST && b->kind == VALUE_LIST) {
        return add_lists(run, node, a, b, out);
    }
    return arithmetic(run, node, a, b, out);
}

enum status evaluate_binary(struct run *run, const struct node *node, struct value *out)
{
    struct value a, b;

    TRY(evaluate(run, node->a, &a));
    if (is_logic(node)) {
        *out = a;
        const bool is_done = value_is_true(&a) == word_is(node->name, "or");
        return is_done ? STATUS_OK : evaluate(run, node->b, out);
    }
    TRY(evaluate(run, node->b, &b));
    return apply(run, node, &a, &b, out);
}
