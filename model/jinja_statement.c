/* Owns running a template's statements. */
#include "model/jinja_internal.h"

#define DEPTH_MAX 512u

static enum status run_text(struct run *run, const struct node *node)
{
    const struct value text = value_own(run, node->name.text, node->name.n);

    return run_write(run, &text);
}

static enum status run_output(struct run *run, const struct node *node)
{
    struct value value, text;

    TRY(evaluate(run, node->a, &value));
    TRY(value_print(run, node, &value, &text));
    return run_write(run, &text);
}

static enum status run_if(struct run *run, const struct node *node)
{
    struct value condition;

    TRY(evaluate(run, node->a, &condition));
    return run_body(run, value_is_true(&condition) ? node->body : node->other);
}

/* --- set --- */

/* Of {% set x = ... %}, or what stands between {% set x %} and {% endset %}, whose own variables
 * end with it. */
static enum status set_value(struct run *run, const struct node *node, struct value *out)
{
    const size_t n_variables = run->n_variables, frame = run->frame;

    if (node->a != NULL) {
        return evaluate(run, node->a, out);
    }
    run_enter(run);
    TRY(run_capture(run, node->body, out));
    run_leave(run, n_variables, frame);
    return STATUS_OK;
}

static enum status run_set_statement(struct run *run, const struct node *node)
{
    struct value value;

    TRY(set_value(run, node, &value));
    if (node->second.text == NULL) {
        return run_set(run, node->name, &value);
    }
    struct variable *target = run_find(run, node->name);
    if (target == NULL || target->value.kind != VALUE_NAMESPACE) {
        return run_fail(run, node, "only a namespace has attributes to set");
    }
    struct variable **space = target->value.space;
    for (struct variable *v = *space; v != NULL; v = v->next) {
        if (word_equals(v->name, node->second)) {
            v->value = value;
            return STATUS_OK;
        }
    }
    struct variable *fresh = NULL;
    TRY(run_alloc(run, 1, sizeof(*fresh), &fresh));
    *fresh = (struct variable){.name = node->second, .value = value, .next = *space};
    *space = fresh;
    return STATUS_OK;
}

/* --- for --- */

/* The loop's one or two targets. */
static enum status bind_item(struct run *run, const struct node *node, const struct value *item)
{
    if (node->second.text == NULL) {
        return run_set(run, node->name, item);
    }
    if (item->kind != VALUE_LIST || item->n != 2) {
        return run_fail(run, node, "the items of this loop are no pairs");
    }
    const struct value first = list_at(item, 0), second = list_at(item, 1);
    TRY(run_set(run, node->name, &first));
    return run_set(run, node->second, &second);
}

/* The items for which the loop's filter holds. */
static enum status filter_list(struct run *run, const struct node *node, struct value *list)
{
    struct value *items = NULL;
    struct value holds;
    size_t count = 0;

    if (node->b == NULL) {
        return STATUS_OK;
    }
    TRY(run_alloc(run, list->n, sizeof(*items), &items));
    for (size_t i = 0; i < list->n; i++) {
        const struct value item = list_at(list, i);
        TRY(bind_item(run, node, &item));
        TRY(evaluate(run, node->b, &holds));
        items[count] = item;
        count += value_is_true(&holds) ? 1 : 0;
    }
    *list = value_list(items, count);
    return STATUS_OK;
}

/* *has_ended: some iteration came to its end. As in jinja2, {% else %} runs otherwise: also after
 * iterations that were all left by "continue" or "break". */
static enum status run_items(struct run *run, const struct node *node, const struct value *list,
                             bool *has_ended)
{
    const size_t first = run->n_variables;

    *has_ended = false;
    for (size_t i = 0; i < list->n && run->flow != FLOW_BREAK; i++) {
        const struct value loop = {
            .kind = VALUE_LOOP, .number = (int64_t)i, .items = list, .n = list->n};
        const struct value item = list_at(list, i);
        run->n_variables = first;
        run->frame = first;
        run->flow = FLOW_ON;
        TRY(run_set(run, word_of("loop"), &loop));
        TRY(bind_item(run, node, &item));
        TRY(run_body(run, node->body));
        *has_ended = *has_ended || run->flow == FLOW_ON;
    }
    run->flow = FLOW_ON;
    return STATUS_OK;
}

static enum status run_for(struct run *run, const struct node *node)
{
    const size_t n_variables = run->n_variables, frame = run->frame;
    struct value subject;
    struct value *list = NULL;
    bool has_ended = false;

    TRY(run_alloc(run, 1, sizeof(*list), &list)); /* loop.nextitem may look at it */
    TRY(evaluate(run, node->a, &subject));
    TRY(value_items(run, node, &subject, list));
    run_enter(run);
    TRY(filter_list(run, node, list));
    run->n_variables = n_variables;
    enum status status = run_items(run, node, list, &has_ended);
    run->n_variables = n_variables;
    if (status == STATUS_OK && !has_ended) {
        status = run_body(run, node->other);
    }
    run_leave(run, n_variables, frame);
    return status;
}

/* --- All of them --- */

static enum status run_statement(struct run *run, const struct node *node)
{
    if (node->kind == NODE_TEXT) {
        return run_text(run, node);
    }
    if (node->kind == NODE_OUTPUT) {
        return run_output(run, node);
    }
    if (node->kind == NODE_IF) {
        return run_if(run, node);
    }
    if (node->kind == NODE_BREAK || node->kind == NODE_CONTINUE) {
        run->flow = node->kind == NODE_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return STATUS_OK;
    }
    return node->kind == NODE_FOR ? run_for(run, node) : run_set_statement(run, node);
}

enum status run_body(struct run *run, const struct node *body)
{
    enum status status = STATUS_OK;

    if (++run->depth > DEPTH_MAX) {
        return run_fail(run, body, "nested too deeply");
    }
    for (const struct node *node = body; status == STATUS_OK && node != NULL; node = node->next) {
        status = run_steps(run, node, 1);
        status = status == STATUS_OK ? run_statement(run, node) : status;
        if (run->flow != FLOW_ON) {
            break;
        }
    }
    run->depth--;
    return status;
}
