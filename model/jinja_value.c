/* Owns the values of templates: JSON as they see it, strings with their marks, printing. */
#include "base/memory.h"
#include "model/jinja_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct value value_data(const char *text, size_t n)
{
    return (struct value){.kind = VALUE_STRING, .text = text, .n = n};
}

struct value value_bool(bool value)
{
    return (struct value){.kind = VALUE_BOOL, .number = value ? 1 : 0};
}

struct value value_integer(int64_t value)
{
    return (struct value){.kind = VALUE_INTEGER, .number = value};
}

struct value value_from_json(const struct json *json)
{
    if (json == NULL) {
        return (struct value){0};
    }
    switch (json_kind_of(json)) {
    case JSON_NULL:
        return (struct value){.kind = VALUE_NONE};
    case JSON_BOOL:
        return value_bool(json_bool(json, false));
    case JSON_INT:
        return value_integer(json_int(json, 0));
    case JSON_STRING:
        return value_data(json_text(json, ""), json_text_bytes(json));
    case JSON_ARRAY:
        return (struct value){.kind = VALUE_LIST, .json = json, .n = json_count(json)};
    case JSON_OBJECT:
        return (struct value){.kind = VALUE_DICT, .json = json, .n = json_count(json)};
    case JSON_REAL:
        break;
    }
    return (struct value){.kind = VALUE_OTHER, .json = json};
}

bool value_is_true(const struct value *value)
{
    switch (value->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
    case VALUE_INTEGER:
        return value->number != 0;
    case VALUE_STRING:
    case VALUE_LIST:
    case VALUE_DICT:
        return value->n > 0;
    case VALUE_OTHER:
        return json_number(value->json, 0.0) != 0.0;
    case VALUE_NAMESPACE:
    case VALUE_LOOP:
        break;
    }
    return true;
}

static bool is_number(const struct value *value)
{
    return value->kind == VALUE_INTEGER || value->kind == VALUE_BOOL;
}

bool value_equals(const struct value *a, const struct value *b)
{
    if (is_number(a) && is_number(b)) {
        return a->number == b->number;
    }
    if (a->kind != b->kind) {
        return false;
    }
    if (a->kind == VALUE_STRING) {
        return a->n == b->n && memcmp(a->text, b->text, a->n) == 0;
    }
    return a->kind == VALUE_NONE || a->kind == VALUE_UNDEFINED ||
           (a->json != NULL && a->json == b->json);
}

struct value list_at(const struct value *list, size_t index)
{
    if (index >= list->n) {
        return (struct value){0};
    }
    return list->json != NULL ? value_from_json(json_at(list->json, index)) : list->items[index];
}

struct value string_part(const struct value *text, size_t start, size_t end)
{
    struct value part = *text;

    part.text += start;
    part.marks = text->marks == NULL ? NULL : text->marks + start;
    part.n = end - start;
    return part;
}

enum status string_join(struct run *run, const struct value *a, const struct value *b,
                        struct value *out)
{
    const bool has_marks = a->marks != NULL || b->marks != NULL;
    const size_t n = a->n + b->n;
    unsigned char *marks = NULL;
    char *text = NULL;

    TRY(run_alloc(run, n + 1, 1, &text));
    memcpy(text, a->text, a->n);
    memcpy(text + a->n, b->text, b->n);
    if (has_marks) {
        TRY(run_alloc(run, n + 1, 1, &marks));
    }
    if (a->marks != NULL) {
        memcpy(marks, a->marks, a->n);
    }
    if (b->marks != NULL) {
        memcpy(marks + a->n, b->marks, b->n);
    }
    *out = (struct value){.kind = VALUE_STRING, .text = text, .marks = marks, .n = n};
    return STATUS_OK;
}

size_t string_find(const struct value *text, const struct value *part, size_t from)
{
    for (size_t i = from; i + part->n <= text->n; i++) {
        if (memcmp(text->text + i, part->text, part->n) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

/* --- Printing --- */

static enum status print_copy(struct run *run, const char *text, size_t n, struct value *out)
{
    char *copy = NULL;

    assert(text != NULL);
    TRY(run_alloc(run, n + 1, 1, &copy));
    memcpy(copy, text, n);
    *out = value_data(copy, n);
    return STATUS_OK;
}

/* The shortest digits that read back as the number, with a point. */
static void real_text(double number, char *out, size_t room)
{
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(out, room - 2, "%.*g", digits, number);
        if (strtod(out, NULL) == number) {
            break;
        }
    }
    if (strpbrk(out, ".en") == NULL) {
        memcpy(out + strlen(out), ".0", 3);
    }
}

enum status value_print(struct run *run, const struct node *node, const struct value *value,
                        struct value *out)
{
    char text[40] = "";

    *out = *value;
    switch (value->kind) {
    case VALUE_STRING:
        return STATUS_OK;
    case VALUE_UNDEFINED:
        *out = value_data("", 0);
        return STATUS_OK;
    case VALUE_NONE:
        *out = value_data("None", 4);
        return STATUS_OK;
    case VALUE_BOOL:
        *out = value->number != 0 ? value_data("True", 4) : value_data("False", 5);
        return STATUS_OK;
    case VALUE_INTEGER:
        (void)snprintf(text, sizeof(text), "%lld", (long long)value->number);
        return print_copy(run, text, strlen(text), out);
    case VALUE_OTHER:
        real_text(json_number(value->json, 0.0), text, sizeof(text));
        return print_copy(run, text, strlen(text), out);
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_NAMESPACE:
    case VALUE_LOOP:
        break;
    }
    return run_fail(run, node, "only texts and numbers can be written; see tojson");
}

/* --- JSON as Python writes it: ", " and ": ", characters beyond ASCII as they are --- */

static enum status put_quoted(struct text_buffer *out, const char *text, size_t n)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";

    TRY(text_buffer_put(out, "\"", 1));
    for (size_t i = 0; i < n; i++) {
        const char *found = text[i] == '\0' ? NULL : strchr(from, text[i]);
        char escape[8] = {text[i], '\0'};
        if (found != NULL) {
            escape[0] = '\\';
            escape[1] = to[found - from];
        } else if ((unsigned char)text[i] < 0x20) {
            (void)snprintf(escape, sizeof(escape), "\\u%04x", (unsigned)text[i]);
        }
        TRY(text_buffer_put(out, escape, text[i] == '\0' ? 6 : strlen(escape)));
    }
    return text_buffer_put(out, "\"", 1);
}

static enum status put_value(struct text_buffer *out, const struct value *value, unsigned depth);

static enum status put_members(struct text_buffer *out, const struct value *value, unsigned depth)
{
    struct json_iterator it = {.object = value->json};
    bool is_first = true;
    enum status status = text_buffer_put(out, "{", 1);

    while (status == STATUS_OK && json_next(&it)) {
        const struct value member = value_from_json(it.value);
        status = text_buffer_put(out, ", ", is_first ? 0 : 2);
        status = status == STATUS_OK ? put_quoted(out, it.key, it.key_bytes) : status;
        status = status == STATUS_OK ? text_buffer_put(out, ": ", 2) : status;
        status = status == STATUS_OK ? put_value(out, &member, depth + 1) : status;
        is_first = false;
    }
    return status == STATUS_OK ? text_buffer_put(out, "}", 1) : status;
}

static enum status put_items(struct text_buffer *out, const struct value *value, unsigned depth)
{
    TRY(text_buffer_put(out, "[", 1));
    for (size_t i = 0; i < value->n; i++) {
        const struct value item = list_at(value, i);
        TRY(text_buffer_put(out, ", ", i > 0 ? 2 : 0));
        TRY(put_value(out, &item, depth + 1));
    }
    return text_buffer_put(out, "]", 1);
}

static enum status put_word(struct text_buffer *out, const char *text)
{
    return text_buffer_put(out, text, strlen(text));
}

static enum status put_value(struct text_buffer *out, const struct value *value, unsigned depth)
{
    char text[40] = "";

    if (depth > 64) {
        return status_set(STATUS_UNSUPPORTED, "chat template: tojson of something too deep");
    }
    switch (value->kind) {
    case VALUE_STRING:
        return put_quoted(out, value->text, value->n);
    case VALUE_LIST:
        return put_items(out, value, depth);
    case VALUE_DICT:
        return put_members(out, value, depth);
    case VALUE_BOOL:
        return put_word(out, value->number != 0 ? "true" : "false");
    case VALUE_INTEGER:
        (void)snprintf(text, sizeof(text), "%lld", (long long)value->number);
        return put_word(out, text);
    case VALUE_OTHER:
        real_text(json_number(value->json, 0.0), text, sizeof(text));
        return put_word(out, text);
    case VALUE_NONE:
        return put_word(out, "null");
    case VALUE_UNDEFINED:
    case VALUE_NAMESPACE:
    case VALUE_LOOP:
        break;
    }
    return status_set(STATUS_BAD_FORMAT, "chat template: tojson of something undefined");
}

enum status value_tojson(struct run *run, const struct value *value, struct value *out)
{
    struct text_buffer text = {0};
    enum status status = put_value(&text, value, 0);

    if (status == STATUS_OK) {
        status = print_copy(run, text.bytes, text.count, out);
    }
    text_buffer_dispose(&text);
    return status;
}
