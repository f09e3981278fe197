/* Owns evaluating expressions of templates. */
#include "base/utf8.h"
#include "model/jinja_internal.h"

#include <string.h>

#define STEPS_MAX ((size_t)1000000)
#define DEPTH_MAX 512u

struct value value_attribute(const struct value *subject, struct word name)
{
    struct json_iterator it = {.object = subject->json};

    if (subject->kind == VALUE_NAMESPACE) {
        for (const struct variable *v = *subject->space; v != NULL; v = v->next) {
            if (v->name.n == name.n && memcmp(v->name.text, name.text, name.n) == 0) {
                return v->value;
            }
        }
    }
    while (subject->kind == VALUE_DICT && json_next(&it)) {
        if (it.key_bytes == name.n && memcmp(it.key, name.text, name.n) == 0) {
            return value_from_json(it.value);
        }
    }
    return (struct value){0};
}

static struct value loop_attribute(const struct value *loop, struct word name)
{
    const int64_t count = (int64_t)loop->n;

    if (word_is(name, "index0")) {
        return value_integer(loop->number);
    }
    if (word_is(name, "index")) {
        return value_integer(loop->number + 1);
    }
    if (word_is(name, "first")) {
        return value_bool(loop->number == 0);
    }
    if (word_is(name, "last")) {
        return value_bool(loop->number + 1 == count);
    }
    if (word_is(name, "length")) {
        return value_integer(count);
    }
    if (word_is(name, "revindex0")) {
        return value_integer(count - 1 - loop->number);
    }
    return word_is(name, "revindex") ? value_integer(count - loop->number) : (struct value){0};
}

static enum status evaluate_attribute(struct run *run, const struct node *node, struct value *out)
{
    struct value subject;

    TRY(evaluate(run, node->a, &subject));
    if (subject.kind == VALUE_UNDEFINED) {
        return run_fail(run, node, "an attribute of something undefined");
    }
    *out = subject.kind == VALUE_LOOP ? loop_attribute(&subject, node->name)
                                      : value_attribute(&subject, node->name);
    return STATUS_OK;
}

/* --- Subscripts --- */

static enum status evaluate_index(struct run *run, const struct node *node, struct value *out)
{
    struct value subject, index;

    TRY(evaluate(run, node->a, &subject));
    TRY(evaluate(run, node->b, &index));
    if (index.kind == VALUE_STRING && subject.kind == VALUE_UNDEFINED) {
        return run_fail(run, node, "a member of something undefined");
    }
    if (index.kind == VALUE_STRING) {
        *out = value_attribute(&subject, (struct word){index.text, index.n});
        return STATUS_OK;
    }
    if (index.kind != VALUE_INTEGER || subject.kind != VALUE_LIST) {
        return run_fail(run, node, "only lists have numbered members");
    }
    const int64_t at = index.number < 0 ? index.number + (int64_t)subject.n : index.number;
    *out = at < 0 ? (struct value){0} : list_at(&subject, (size_t)at);
    return STATUS_OK;
}

/* One bound of a slice as Python clips it; node NULL: fallback. */
static enum status slice_bound(struct run *run, const struct node *node, size_t n, int64_t fallback,
                               int64_t *out)
{
    struct value bound;

    *out = fallback;
    if (node == NULL) {
        return STATUS_OK;
    }
    TRY(evaluate(run, node, &bound));
    if (bound.kind != VALUE_INTEGER) {
        return run_fail(run, node, "a slice wants whole numbers");
    }
    *out = bound.number < 0 ? bound.number + (int64_t)n : bound.number;
    *out = *out < 0 ? 0 : *out > (int64_t)n ? (int64_t)n : *out;
    return STATUS_OK;
}

/* Byte offset of a character. */
static size_t character_at(const struct value *text, size_t index)
{
    size_t at = 0;

    for (size_t i = 0; i < index && at < text->n; i++) {
        const size_t length = utf8_sequence(text->text + at, text->n - at, NULL);
        at += length > 0 ? length : 1;
    }
    return at;
}

static enum status reversed(struct run *run, const struct value *list, struct value *out)
{
    struct value *items = NULL;

    TRY(run_alloc(run, list->n, sizeof(*items), &items));
    for (size_t i = 0; i < list->n; i++) {
        items[i] = list_at(list, list->n - 1 - i);
    }
    *out = (struct value){.kind = VALUE_LIST, .items = items, .n = list->n};
    return STATUS_OK;
}

static enum status list_slice(struct run *run, const struct value *list, size_t start, size_t end,
                              struct value *out)
{
    struct value *items = NULL;
    const size_t n = end > start ? end - start : 0;

    TRY(run_alloc(run, n, sizeof(*items), &items));
    for (size_t i = 0; i < n; i++) {
        items[i] = list_at(list, start + i);
    }
    *out = (struct value){.kind = VALUE_LIST, .items = items, .n = n};
    return STATUS_OK;
}

/* [::-1] of a list, or a stretch of a list or text. */
static enum status evaluate_slice(struct run *run, const struct node *node, struct value *out)
{
    struct value subject, step = value_integer(1);
    int64_t start = 0, end = 0;

    TRY(evaluate(run, node->a, &subject));
    if (node->d != NULL) {
        TRY(evaluate(run, node->d, &step));
    }
    const bool is_list = subject.kind == VALUE_LIST;
    if (is_list && step.kind == VALUE_INTEGER && step.number == -1 && node->b == NULL &&
        node->c == NULL) {
        return reversed(run, &subject, out);
    }
    if (step.kind != VALUE_INTEGER || step.number != 1 ||
        (!is_list && subject.kind != VALUE_STRING)) {
        return run_fail(run, node, "this kind of slice is not known");
    }
    size_t n = subject.n;
    for (size_t i = 0; !is_list && i < subject.n; i++) {
        n -= ((unsigned char)subject.text[i] & 0xC0) == 0x80 ? 1 : 0;
    }
    TRY(slice_bound(run, node->b, n, 0, &start));
    TRY(slice_bound(run, node->c, n, (int64_t)n, &end));
    end = end < start ? start : end;
    if (is_list) {
        return list_slice(run, &subject, (size_t)start, (size_t)end, out);
    }
    *out = string_part(&subject, character_at(&subject, (size_t)start),
                       character_at(&subject, (size_t)end));
    return STATUS_OK;
}

/* --- Operators --- */

static enum status contains(struct run *run, const struct node *node, const struct value *item,
                            const struct value *whole, bool *out)
{
    *out = false;
    if (whole->kind == VALUE_STRING && item->kind == VALUE_STRING) {
        *out = string_find(whole, item, 0) != SIZE_MAX;
        return STATUS_OK;
    }
    if (whole->kind == VALUE_DICT && item->kind == VALUE_STRING) {
        *out = value_attribute(whole, (struct word){item->text, item->n}).kind != VALUE_UNDEFINED;
        return STATUS_OK;
    }
    if (whole->kind != VALUE_LIST && whole->kind != VALUE_UNDEFINED) {
        return run_fail(run, node, "\"in\" wants a text, list or mapping");
    }
    for (size_t i = 0; i < whole->n && !*out; i++) {
        const struct value other = list_at(whole, i);
        *out = value_equals(item, &other);
    }
    return STATUS_OK;
}

static enum status arithmetic(struct run *run, const struct node *node, const struct value *a,
                              const struct value *b, struct value *out)
{
    const char sign = node->name.text[0];
    int64_t result = 0;
    bool is_wrong = a->kind != VALUE_INTEGER || b->kind != VALUE_INTEGER;

    if (is_wrong) {
        return run_fail(run, node, "this operator wants whole numbers (or + two texts)");
    }
    if (sign == '+') {
        is_wrong = __builtin_add_overflow(a->number, b->number, &result);
    } else if (sign == '-') {
        is_wrong = __builtin_sub_overflow(a->number, b->number, &result);
    } else if (sign == '*') {
        is_wrong = __builtin_mul_overflow(a->number, b->number, &result);
    } else if (b->number <= 0) {
        is_wrong = true;
    } else {
        const int64_t rest = (a->number % b->number + b->number) % b->number;
        result = sign == '%' ? rest : (a->number - rest) / b->number;
    }
    *out = value_integer(result);
    return is_wrong ? run_fail(run, node, "this does not give a whole number") : STATUS_OK;
}

/* Below 0, 0 or above 0. */
static enum status order_of(struct run *run, const struct node *node, const struct value *a,
                            const struct value *b, int *out)
{
    if (a->kind == VALUE_INTEGER && b->kind == VALUE_INTEGER) {
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

    if (sign == '=' || sign == '!') {
        *out = value_bool(value_equals(a, b) == (sign == '='));
        return STATUS_OK;
    }
    TRY(order_of(run, node, a, b, &order));
    const bool or_equal = node->name.n == 2 && order == 0;
    *out = value_bool(or_equal || (sign == '<' ? order < 0 : order > 0));
    return STATUS_OK;
}

static enum status evaluate_binary(struct run *run, const struct node *node, struct value *out)
{
    struct value a, b;
    bool is_in = false;

    TRY(evaluate(run, node->a, &a));
    if (word_is(node->name, "or") || word_is(node->name, "and")) {
        *out = a;
        const bool is_done = value_is_true(&a) == word_is(node->name, "or");
        return is_done ? STATUS_OK : evaluate(run, node->b, out);
    }
    TRY(evaluate(run, node->b, &b));
    if (word_is(node->name, "in") || word_is(node->name, "not")) {
        TRY(contains(run, node, &a, &b, &is_in));
        *out = value_bool(is_in == word_is(node->name, "in"));
        return STATUS_OK;
    }
    if (word_is(node->name, "~")) {
        TRY(value_print(run, node, &a, &a));
        TRY(value_print(run, node, &b, &b));
        return string_join(run, &a, &b, out);
    }
    if (strchr("=!<>", node->name.text[0]) != NULL) {
        return compare(run, node, &a, &b, out);
    }
    if (word_is(node->name, "+") && a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
        return string_join(run, &a, &b, out);
    }
    return arithmetic(run, node, &a, &b, out);
}

/* --- Calls --- */

static enum status evaluate_arguments(struct run *run, const struct node *node,
                                      struct arguments *out)
{
    *out = (struct arguments){0};
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        if (out->count == ARGUMENTS_MAX) {
            return run_fail(run, node, "too many arguments");
        }
        out->keywords[out->count] = item->name;
        TRY(evaluate(run, item->a, &out->items[out->count]));
        out->count++;
    }
    return STATUS_OK;
}

static enum status make_namespace(struct run *run, const struct node *node, struct value *out)
{
    struct variable **space = NULL;

    TRY(run_alloc(run, 1, sizeof(void *), &space));
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        struct variable *variable = NULL;
        TRY(run_alloc(run, 1, sizeof(*variable), &variable));
        TRY(evaluate(run, item->a, &variable->value));
        variable->name = item->name.text == NULL ? (struct word){"", 0} : item->name;
        variable->next = *space;
        *space = variable;
    }
    *out = (struct value){.kind = VALUE_NAMESPACE, .space = space};
    return STATUS_OK;
}

static enum status evaluate_call(struct run *run, const struct node *node, struct value *out)
{
    struct arguments arguments;

    if (word_is(node->name, "namespace")) {
        return make_namespace(run, node, out);
    }
    TRY(evaluate_arguments(run, node, &arguments));
    if (arguments.count == 0 || arguments.items[0].kind != VALUE_STRING) {
        return run_fail(run, node, "raise_exception wants a text");
    }
    return jinja_fail(run->program, node->at, "the template refuses:",
                      (struct word){arguments.items[0].text, arguments.items[0].n});
}

static enum status evaluate_list(struct run *run, const struct node *node, struct value *out)
{
    struct value *items = NULL;
    size_t n = 0, count = 0;

    for (const struct node *item = node->body; item != NULL; item = item->next) {
        n++;
    }
    TRY(run_alloc(run, n, sizeof(*items), &items));
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        TRY(evaluate(run, item->a, &items[count++]));
    }
    *out = (struct value){.kind = VALUE_LIST, .items = items, .n = n};
    return STATUS_OK;
}

/* Filters, methods and tests: a subject and arguments. */
static enum status evaluate_applied(struct run *run, const struct node *node, struct value *out)
{
    struct arguments arguments;
    struct value subject;

    TRY(evaluate(run, node->a, &subject));
    TRY(evaluate_arguments(run, node, &arguments));
    if (node->kind == NODE_FILTER) {
        return call_filter(run, node, &subject, &arguments, out);
    }
    if (node->kind == NODE_METHOD) {
        return call_method(run, node, &subject, &arguments, out);
    }
    *out = value_bool(call_test(node->name, &subject) != (node->number == 1));
    return STATUS_OK;
}

/* --- All of them --- */

static enum status literal(struct run *run, const struct node *node, struct value *out)
{
    unsigned char *marks = NULL;

    TRY(run_alloc(run, node->name.n + 1, 1, &marks));
    memset(marks, 1, node->name.n);
    *out = value_data(node->name.text, node->name.n);
    out->marks = marks;
    return STATUS_OK;
}

static struct value constant(int64_t number)
{
    return number == 2 ? (struct value){.kind = VALUE_NONE} : value_bool(number == 1);
}

static enum status evaluate_name(struct run *run, const struct node *node, struct value *out)
{
    const struct variable *variable = run_find(run, node->name);

    *out = variable == NULL ? (struct value){0} : variable->value;
    return STATUS_OK;
}

static enum status evaluate_choice(struct run *run, const struct node *node, struct value *out)
{
    struct value condition;

    TRY(evaluate(run, node->a, &condition));
    const struct node *chosen = value_is_true(&condition) ? node->b : node->c;
    *out = (struct value){0};
    return chosen == NULL ? STATUS_OK : evaluate(run, chosen, out);
}

static enum status evaluate_sign(struct run *run, const struct node *node, struct value *out)
{
    struct value value;

    TRY(evaluate(run, node->a, &value));
    if (node->kind == NODE_NOT) {
        *out = value_bool(!value_is_true(&value));
        return STATUS_OK;
    }
    if (value.kind != VALUE_INTEGER || value.number == INT64_MIN) {
        return run_fail(run, node, "only whole numbers have a sign");
    }
    *out = value_integer(-value.number);
    return STATUS_OK;
}

static enum status evaluate_kind(struct run *run, const struct node *node, struct value *out)
{
    typedef enum status evaluator(struct run * run, const struct node *node, struct value *out);
    static evaluator *const evaluators[] = {
        [NODE_STRING] = literal,          [NODE_NAME] = evaluate_name,
        [NODE_LIST] = evaluate_list,      [NODE_ATTRIBUTE] = evaluate_attribute,
        [NODE_INDEX] = evaluate_index,    [NODE_SLICE] = evaluate_slice,
        [NODE_CALL] = evaluate_call,      [NODE_METHOD] = evaluate_applied,
        [NODE_FILTER] = evaluate_applied, [NODE_TEST] = evaluate_applied,
        [NODE_BINARY] = evaluate_binary,  [NODE_NOT] = evaluate_sign,
        [NODE_NEGATE] = evaluate_sign,    [NODE_CHOICE] = evaluate_choice,
        [NODE_ARGUMENT] = NULL,
    };

    if (node->kind == NODE_INTEGER || node->kind == NODE_CONSTANT) {
        *out = node->kind == NODE_INTEGER ? value_integer(node->number) : constant(node->number);
        return STATUS_OK;
    }
    return evaluators[node->kind](run, node, out);
}

enum status evaluate(struct run *run, const struct node *node, struct value *out)
{
    *out = (struct value){0};
    if (++run->n_steps > STEPS_MAX || run->depth >= DEPTH_MAX) {
        return run_fail(run, node, "too many steps");
    }
    if (node == NULL) {
        return status_set(STATUS_BAD_FORMAT, "chat template: a subscript without a value");
    }
    run->depth++;
    const enum status status = evaluate_kind(run, node, out);
    run->depth--;
    return status;
}
