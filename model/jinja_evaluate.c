/* Owns evaluating expressions of templates: names, literals, attributes and calls. Operators are in
 * jinja_operator.c, subscripts in jinja_subscript.c. */
#include "model/jinja_internal.h"

#include <string.h>

#define DEPTH_MAX 512u

/* --- Attributes --- */

struct value value_attribute(const struct value *subject, struct word name)
{
    if (subject->kind != VALUE_NAMESPACE) {
        return dict_get(subject, name);
    }
    for (const struct variable *v = *subject->space; v != NULL; v = v->next) {
        if (word_equals(v->name, name)) {
            return v->value;
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
    if (word_is(name, "previtem")) {
        return list_at(loop->items, loop->number > 0 ? (size_t)loop->number - 1 : SIZE_MAX);
    }
    if (word_is(name, "nextitem")) {
        return list_at(loop->items, (size_t)loop->number + 1);
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

/* --- Calls --- */

enum status evaluate_arguments(struct run *run, const struct node *node, struct arguments *out)
{
    *out = (struct arguments){0};
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        const size_t index = (size_t)item->number;
        TRY(evaluate(run, item->a, &out->items[index]));
        out->is_given[index] = true;
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
        variable->name = item->name;
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
    return call_function(run, node, &arguments, out);
}

/* The caller's arguments by parameter. */
static enum status macro_values(struct run *run, const struct node *node, size_t n_parameters,
                                struct value *values, bool *is_given)
{
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        const size_t index = (size_t)item->number;
        if (index >= n_parameters || is_given[index]) {
            return run_fail(run, item, "this argument is there twice");
        }
        TRY(evaluate(run, item->a, &values[index]));
        is_given[index] = true;
    }
    return STATUS_OK;
}

/* Parameters as variables; a default may speak of the parameters before it. */
static enum status bind_parameters(struct run *run, const struct macro *macro, struct value *values,
                                   const bool *is_given)
{
    size_t index = 0;

    for (const struct node *item = macro->parameters; item != NULL; item = item->next) {
        const bool has_default = !is_given[index] && item->a != NULL;
        TRY(has_default ? evaluate(run, item->a, &values[index]) : STATUS_OK);
        TRY(run_set(run, item->name, &values[index]));
        index++;
    }
    return STATUS_OK;
}

/* A macro sees its parameters and what was set outside of loops and macros. */
static enum status evaluate_macro(struct run *run, const struct node *node, struct value *out)
{
    const struct macro *macro = node->macro;
    const struct run before = *run;
    struct value *values = NULL;
    bool *is_given = NULL;
    size_t n = 0;

    for (const struct node *item = macro->parameters; item != NULL; item = item->next) {
        n++;
    }
    TRY(run_alloc(run, n + 1, sizeof(*values), &values));
    TRY(run_alloc(run, n + 1, sizeof(*is_given), &is_given));
    TRY(macro_values(run, node, n, values, is_given));
    run_enter(run);
    run->hidden_from = run->n_globals;
    run->hidden_to = run->n_variables;
    TRY(bind_parameters(run, macro, values, is_given));
    TRY(run_capture(run, macro->body, out));
    run->hidden_from = before.hidden_from;
    run->hidden_to = before.hidden_to;
    run_leave(run, before.n_variables, before.frame);
    return STATUS_OK;
}

/* Filters, methods and tests: a subject and arguments. */
static enum status evaluate_applied(struct run *run, const struct node *node, struct value *out)
{
    struct arguments arguments;
    struct value subject;
    bool holds = false;

    TRY(evaluate(run, node->a, &subject));
    TRY(evaluate_arguments(run, node, &arguments));
    if (node->kind == NODE_FILTER) {
        return call_filter(run, node, &subject, &arguments, out);
    }
    if (node->kind == NODE_METHOD) {
        return call_method(run, node, &subject, &arguments, out);
    }
    TRY(call_test(run, node, &subject, &arguments, &holds));
    *out = value_bool(holds != (node->number == 1));
    return STATUS_OK;
}

/* --- Literals --- */

static size_t count_list(const struct node *list)
{
    size_t n = 0;

    for (; list != NULL; list = list->next) {
        n++;
    }
    return n;
}

static enum status evaluate_list(struct run *run, const struct node *node, struct value *out)
{
    const size_t n = count_list(node->body);
    struct value *items = NULL;
    size_t count = 0;

    TRY(run_alloc(run, n, sizeof(*items), &items));
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        TRY(evaluate(run, item->a, &items[count++]));
    }
    *out = value_list(items, n);
    return STATUS_OK;
}

/* Where a mapping of n members has this key, or n. */
static size_t member_index(const struct value *items, size_t n, const struct value *key)
{
    size_t i = 0;

    while (i < n &&
           !(items[2 * i].n == key->n && memcmp(items[2 * i].text, key->text, key->n) == 0)) {
        i++;
    }
    return i;
}

/* Of two members with one key the later counts, in the place of the first. */
static enum status evaluate_dict(struct run *run, const struct node *node, struct value *out)
{
    struct value *items = NULL;
    struct value key;
    size_t count = 0;

    TRY(run_alloc(run, 2 * count_list(node->body), sizeof(*items), &items));
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        TRY(evaluate(run, item->a, &key));
        if (key.kind != VALUE_STRING) {
            return run_fail(run, item, "the keys of a mapping are texts");
        }
        const size_t index = member_index(items, count, &key);
        if (index == count) {
            items[2 * index] = key;
            count++;
        }
        TRY(evaluate(run, item->b, &items[2 * index + 1]));
    }
    *out = (struct value){.kind = VALUE_DICT, .items = items, .n = count};
    return STATUS_OK;
}

static enum status evaluate_literal(struct run *run, const struct node *node, struct value *out)
{
    if (node->kind == NODE_STRING) {
        *out = value_own(run, node->name.text, node->name.n);
    } else if (node->kind == NODE_INTEGER) {
        *out = value_integer(node->number);
    } else {
        *out =
            node->number == 2 ? (struct value){.kind = VALUE_NONE} : value_bool(node->number == 1);
    }
    return STATUS_OK;
}

/* --- All of them --- */

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
    if (!value_is_number(&value) || value.number == INT64_MIN) {
        return run_fail(run, node, "only whole numbers have a sign");
    }
    *out = value_integer(-value.number);
    return STATUS_OK;
}

static enum status evaluate_kind(struct run *run, const struct node *node, struct value *out)
{
    typedef enum status evaluator(struct run * run, const struct node *node, struct value *out);
    static evaluator *const evaluators[NODE_ARGUMENT + 1] = {
        [NODE_STRING] = evaluate_literal,      [NODE_INTEGER] = evaluate_literal,
        [NODE_CONSTANT] = evaluate_literal,    [NODE_NAME] = evaluate_name,
        [NODE_LIST] = evaluate_list,           [NODE_DICT] = evaluate_dict,
        [NODE_ATTRIBUTE] = evaluate_attribute, [NODE_INDEX] = evaluate_index,
        [NODE_SLICE] = evaluate_slice,         [NODE_CALL] = evaluate_call,
        [NODE_MACRO_CALL] = evaluate_macro,    [NODE_METHOD] = evaluate_applied,
        [NODE_FILTER] = evaluate_applied,      [NODE_TEST] = evaluate_applied,
        [NODE_BINARY] = evaluate_binary,       [NODE_NOT] = evaluate_sign,
        [NODE_NEGATE] = evaluate_sign,         [NODE_CHOICE] = evaluate_choice,
    };

    return evaluators[node->kind](run, node, out);
}

enum status evaluate(struct run *run, const struct node *node, struct value *out)
{
    *out = (struct value){0};
    TRY(run_steps(run, node, 1));
    if (run->depth >= DEPTH_MAX) {
        return run_fail(run, node, "nested too deeply");
    }
    run->depth++;
    const enum status status = evaluate_kind(run, node, out);
    run->depth--;
    return status;
}
