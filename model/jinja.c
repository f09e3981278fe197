/* Owns running a template's statements. */
#include "model/jinja.h"

#include "base/memory.h"
#include "model/jinja_internal.h"

#include <assert.h>
#include <string.h>

#define OUTPUT_BYTES_MAX ((size_t)1 << 20)
#define WORK_BYTES_MAX ((size_t)256 << 20)
#define STEPS_MAX ((size_t)1000000)
#define DEPTH_MAX 512u

enum status run_alloc(struct run *run, size_t n, size_t size, void *out_pointer)
{
    size_t bytes = 0;

    if (!size_multiply(n, size, &bytes) || bytes > WORK_BYTES_MAX ||
        (run->n_bytes += bytes) > WORK_BYTES_MAX) {
        return status_set(STATUS_UNSUPPORTED, "chat template: it works with more than %zu MiB",
                          WORK_BYTES_MAX >> 20);
    }
    return arena_alloc(run->arena, n, size, out_pointer);
}

enum status run_fail(const struct run *run, const struct node *node, const char *message)
{
    return jinja_fail(run->program, node == NULL ? 0 : node->at, message, (struct word){0});
}

/* --- Variables --- */

static bool same_word(struct word a, struct word b)
{
    return a.n == b.n && memcmp(a.text, b.text, a.n) == 0;
}

struct variable *run_find(struct run *run, struct word name)
{
    for (size_t i = run->n_variables; i-- > 0;) {
        if (same_word(run->variables[i].name, name)) {
            return &run->variables[i];
        }
    }
    return NULL;
}

/* Of the innermost loop body, whose variables end with it. */
enum status run_set(struct run *run, struct word name, const struct value *value)
{
    struct variable *found = run_find(run, name);

    if (found != NULL && (size_t)(found - run->variables) >= run->frame) {
        found->value = *value;
        return STATUS_OK;
    }
    if (run->n_variables == run->room) {
        const size_t room = run->room == 0 ? 32 : 2 * run->room;
        TRY(memory_resize(run->n_variables * sizeof(*run->variables), room, sizeof(*run->variables),
                          &run->variables));
        run->room = room;
    }
    run->variables[run->n_variables++] = (struct variable){.name = name, .value = *value};
    return STATUS_OK;
}

/* --- Output --- */

static enum status put_output(struct run *run, const struct value *text)
{
    static const char zeros[256];
    struct text_buffer *marks = &run->out.marks;

    if (run->out.text.count + text->n > OUTPUT_BYTES_MAX) {
        return status_set(STATUS_UNSUPPORTED, "chat template: more than %zu bytes of output",
                          OUTPUT_BYTES_MAX);
    }
    TRY(text_buffer_put(&run->out.text, text->text, text->n));
    if (text->marks != NULL) {
        return text_buffer_put(marks, (const char *)text->marks, text->n);
    }
    for (size_t done = 0; done < text->n; done += sizeof(zeros)) {
        const size_t n = text->n - done;
        TRY(text_buffer_put(marks, zeros, n < sizeof(zeros) ? n : sizeof(zeros)));
    }
    return STATUS_OK;
}

/* --- Statements --- */

static enum status run_body(struct run *run, const struct node *body);

static enum status run_text(struct run *run, const struct node *node)
{
    unsigned char *marks = NULL;
    struct value text = value_data(node->name.text, node->name.n);

    TRY(run_alloc(run, text.n + 1, 1, &marks));
    assert(marks != NULL);
    memset(marks, 1, text.n);
    text.marks = marks;
    return put_output(run, &text);
}

static enum status run_output(struct run *run, const struct node *node)
{
    struct value value, text;

    TRY(evaluate(run, node->a, &value));
    TRY(value_print(run, node, &value, &text));
    return put_output(run, &text);
}

static enum status run_if(struct run *run, const struct node *node)
{
    struct value condition;

    TRY(evaluate(run, node->a, &condition));
    return run_body(run, value_is_true(&condition) ? node->body : node->other);
}

static enum status run_set_statement(struct run *run, const struct node *node)
{
    struct value value;

    TRY(evaluate(run, node->a, &value));
    if (node->second.text == NULL) {
        return run_set(run, node->name, &value);
    }
    struct variable *target = run_find(run, node->name);
    if (target == NULL || target->value.kind != VALUE_NAMESPACE) {
        return run_fail(run, node, "only a namespace has attributes to set");
    }
    struct variable **space = target->value.space;
    for (struct variable *v = *space; v != NULL; v = v->next) {
        if (same_word(v->name, node->second)) {
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

/* Keys of a mapping, as a list; a list stays. */
static enum status loop_list(struct run *run, const struct node *node, const struct value *subject,
                             struct value *out)
{
    struct json_iterator it = {.object = subject->json};
    struct value *items = NULL;

    *out = *subject;
    if (subject->kind == VALUE_LIST || subject->kind == VALUE_UNDEFINED) {
        return STATUS_OK;
    }
    if (subject->kind != VALUE_DICT) {
        return run_fail(run, node, "a loop walks over a list or mapping");
    }
    TRY(run_alloc(run, subject->n, sizeof(*items), &items));
    for (size_t i = 0; json_next(&it); i++) {
        items[i] = value_data(it.key, it.key_bytes);
    }
    *out = (struct value){.kind = VALUE_LIST, .items = items, .n = subject->n};
    return STATUS_OK;
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
    *list = (struct value){.kind = VALUE_LIST, .items = items, .n = count};
    return STATUS_OK;
}

static enum status run_items(struct run *run, const struct node *node, const struct value *list)
{
    const size_t first = run->n_variables;

    for (size_t i = 0; i < list->n; i++) {
        const struct value loop = {.kind = VALUE_LOOP, .number = (int64_t)i, .n = list->n};
        const struct value item = list_at(list, i);
        run->n_variables = first;
        run->frame = first;
        TRY(run_set(run, (struct word){"loop", 4}, &loop));
        TRY(bind_item(run, node, &item));
        TRY(run_body(run, node->body));
    }
    return STATUS_OK;
}

static enum status run_for(struct run *run, const struct node *node)
{
    const size_t n_variables = run->n_variables, frame = run->frame;
    struct value subject, list;

    TRY(evaluate(run, node->a, &subject));
    TRY(loop_list(run, node, &subject, &list));
    run->frame = n_variables;
    TRY(filter_list(run, node, &list));
    run->n_variables = n_variables;
    const enum status status =
        list.n > 0 ? run_items(run, node, &list) : run_body(run, node->other);
    run->n_variables = n_variables;
    run->frame = frame;
    return status;
}

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
    return node->kind == NODE_FOR ? run_for(run, node) : run_set_statement(run, node);
}

static enum status run_body(struct run *run, const struct node *body)
{
    enum status status = STATUS_OK;

    if (++run->depth > DEPTH_MAX) {
        return run_fail(run, body, "nested too deeply");
    }
    for (const struct node *node = body; status == STATUS_OK && node != NULL; node = node->next) {
        if (++run->n_steps > STEPS_MAX) {
            return run_fail(run, node, "too many steps");
        }
        status = run_statement(run, node);
    }
    run->depth--;
    return status;
}

/* --- The whole --- */

static enum status set_inputs(struct run *run)
{
    struct json_iterator it = {.object = run->input->variables};

    for (size_t i = 0; i < run->input->n_constants; i++) {
        const struct jinja_constant *constant = &run->input->constants[i];
        unsigned char *marks = NULL;
        if (constant->text == NULL) {
            continue;
        }
        TRY(run_alloc(run, constant->n + 1, 1, &marks));
        assert(marks != NULL);
        memset(marks, 1, constant->n);
        struct value value = value_data(constant->text, constant->n);
        value.marks = marks;
        TRY(run_set(run, (struct word){constant->name, strlen(constant->name)}, &value));
    }
    while (json_next(&it)) {
        const struct value value = value_from_json(it.value);
        TRY(run_set(run, (struct word){it.key, it.key_bytes}, &value));
    }
    return STATUS_OK;
}

static enum status render(struct run *run)
{
    TRY(arena_create(1 << 16, &run->arena));
    TRY(text_buffer_reserve(&run->out.text, 1024));
    TRY(text_buffer_reserve(&run->out.marks, 1024));
    TRY(set_inputs(run));
    return run_body(run, run->program->body);
}

enum status jinja_render(const struct jinja *program, const struct jinja_input *input,
                         struct jinja_output *out)
{
    struct run run = {.program = program, .input = input};

    *out = (struct jinja_output){0};
    const enum status status = render(&run);
    arena_destroy(run.arena);
    memory_free(run.variables);
    if (status != STATUS_OK) {
        jinja_output_dispose(&run.out);
        return status;
    }
    *out = run.out;
    return STATUS_OK;
}

void jinja_output_dispose(struct jinja_output *output)
{
    text_buffer_dispose(&output->text);
    text_buffer_dispose(&output->marks);
}
