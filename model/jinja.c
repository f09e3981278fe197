/* Owns rendering a template as a whole: its bounds, variables and output. */
#include "model/jinja.h"

#include "base/memory.h"
#include "model/jinja_internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define OUTPUT_BYTES_MAX ((size_t)1 << 20)
#define WORK_BYTES_MAX ((size_t)256 << 20)
#define STEPS_MAX ((size_t)1000000)

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

enum status run_steps(struct run *run, const struct node *node, size_t n)
{
    char line[256];

    if (n <= STEPS_MAX && (run->n_steps += n) <= STEPS_MAX) {
        return STATUS_OK;
    }
    const enum status status = run_fail(run, node, "more than 10^6 steps");
    (void)snprintf(line, sizeof(line), "%s", status_message());
    return status == STATUS_BAD_FORMAT ? status_set(STATUS_UNSUPPORTED, "%s", line) : status;
}

/* --- Variables --- */

struct variable *run_find(struct run *run, struct word name)
{
    for (size_t i = run->n_variables; i-- > 0;) {
        const bool is_hidden = i >= run->hidden_from && i < run->hidden_to;
        if (!is_hidden && word_equals(run->variables[i].name, name)) {
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

void run_enter(struct run *run)
{
    if (run->n_scopes++ == 0) {
        run->n_globals = run->n_variables;
    }
    run->frame = run->n_variables;
}

void run_leave(struct run *run, size_t n_variables, size_t frame)
{
    run->n_scopes--;
    run->n_variables = n_variables;
    run->frame = frame;
}

/* --- Output --- */

enum status run_write(struct run *run, const struct value *text)
{
    static const char zeros[256];
    struct text_buffer *marks = &run->out->marks;

    if (run->out->text.count + text->n > OUTPUT_BYTES_MAX) {
        return status_set(STATUS_UNSUPPORTED, "chat template: more than %zu bytes of output",
                          OUTPUT_BYTES_MAX);
    }
    TRY(text_buffer_put(&run->out->text, text->text, text->n));
    if (text->marks != NULL) {
        return text_buffer_put(marks, (const char *)text->marks, text->n);
    }
    for (size_t done = 0; done < text->n; done += sizeof(zeros)) {
        const size_t n = text->n - done;
        TRY(text_buffer_put(marks, zeros, n < sizeof(zeros) ? n : sizeof(zeros)));
    }
    return STATUS_OK;
}

/* The captured output as a value of the rendering. */
static enum status keep_output(struct run *run, const struct jinja_output *output,
                               struct value *out)
{
    const size_t n = output->text.count;
    unsigned char *marks = NULL;
    char *text = NULL;

    TRY(run_alloc(run, n + 1, 1, &text));
    TRY(run_alloc(run, n + 1, 1, &marks));
    assert(text != NULL && marks != NULL);
    if (n > 0) {
        memcpy(text, output->text.bytes, n);
        memcpy(marks, output->marks.bytes, n);
    }
    *out = value_data(text, n);
    out->marks = marks;
    return STATUS_OK;
}

enum status run_capture(struct run *run, const struct node *body, struct value *out)
{
    struct jinja_output *outer = run->out;
    struct jinja_output inner = {0};

    run->out = &inner;
    enum status status = run_body(run, body);
    run->out = outer;
    if (status == STATUS_OK) {
        status = keep_output(run, &inner, out);
    }
    jinja_output_dispose(&inner);
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
        memset(marks, 1, constant->n + 1);
        struct value value = value_data(constant->text, constant->n);
        value.marks = marks;
        TRY(run_set(run, word_of(constant->name), &value));
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
    TRY(text_buffer_reserve(&run->out->text, 1024));
    TRY(text_buffer_reserve(&run->out->marks, 1024));
    TRY(set_inputs(run));
    return run_body(run, run->program->body);
}

enum status jinja_render(const struct jinja *program, const struct jinja_input *input,
                         struct jinja_output *out)
{
    struct jinja_output output = {0};
    struct run run = {.program = program, .input = input, .out = &output};

    *out = output;
    const enum status status = render(&run);
    for (struct parsed_json *parsed = run.parsed; parsed != NULL; parsed = parsed->next) {
        json_destroy(parsed->value);
    }
    arena_destroy(run.arena);
    memory_free(run.variables);
    if (status != STATUS_OK) {
        jinja_output_dispose(&output);
        return status;
    }
    *out = output;
    return STATUS_OK;
}

void jinja_output_dispose(struct jinja_output *output)
{
    text_buffer_dispose(&output->text);
    text_buffer_dispose(&output->marks);
}
