/* Owns the values of templates: JSON as they see it, mappings, strings with their marks, what is
 * written of a value. */
#include "base/memory.h"
#include "base/utf8.h"
#include "model/jinja_internal.h"

#include <stdio.h>
#include <string.h>

#define EQUAL_DEPTH_MAX 64u

struct value value_data(const char *text, size_t n)
{
    return (struct value){.kind = VALUE_STRING, .text = text, .n = n};
}

struct value value_own(const struct run *run, const char *text, size_t n)
{
    return (struct value){.kind = VALUE_STRING, .text = text, .marks = run->program->ones, .n = n};
}

struct value value_bool(bool value)
{
    return (struct value){.kind = VALUE_BOOL, .number = value ? 1 : 0};
}

struct value value_integer(int64_t value)
{
    return (struct value){.kind = VALUE_INTEGER, .number = value};
}

struct value value_list(const struct value *items, size_t n)
{
    return (struct value){.kind = VALUE_LIST, .items = items, .n = n};
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

bool value_is_number(const struct value *value)
{
    return value->kind == VALUE_INTEGER || value->kind == VALUE_BOOL;
}

/* --- Lists and mappings --- */

struct value list_at(const struct value *list, size_t index)
{
    if (index >= list->n) {
        return (struct value){0};
    }
    return list->json != NULL ? value_from_json(json_at(list->json, index)) : list->items[index];
}

bool dict_next(struct dict_walk *walk)
{
    const struct value *dict = walk->dict;

    if (dict->kind != VALUE_DICT || walk->index >= dict->n) {
        return false;
    }
    if (dict->json == NULL) {
        walk->key = dict->items[2 * walk->index];
        walk->value = dict->items[2 * walk->index + 1];
    } else {
        walk->it.object = dict->json;
        if (!json_next(&walk->it)) {
            return false;
        }
        walk->key = value_data(walk->it.key, walk->it.key_bytes);
        walk->value = value_from_json(walk->it.value);
    }
    walk->index++;
    return true;
}

struct value dict_get(const struct value *dict, struct word key)
{
    struct dict_walk walk = {.dict = dict};

    while (dict_next(&walk)) {
        if (walk.key.kind == VALUE_STRING && walk.key.n == key.n &&
            memcmp(walk.key.text, key.text, key.n) == 0) {
            return walk.value;
        }
    }
    return (struct value){0};
}

static enum status dict_keys(struct run *run, const struct value *dict, struct value *out)
{
    struct dict_walk walk = {.dict = dict};
    struct value *keys = NULL;

    TRY(run_alloc(run, dict->n, sizeof(*keys), &keys));
    for (size_t i = 0; dict_next(&walk); i++) {
        keys[i] = walk.key;
    }
    *out = value_list(keys, dict->n);
    return STATUS_OK;
}

static enum status characters(struct run *run, const struct value *text, struct value *out)
{
    struct value *items = NULL;
    size_t count = 0;

    TRY(run_alloc(run, text->n, sizeof(*items), &items));
    for (size_t at = 0; at < text->n;) {
        const size_t n = utf8_sequence(text->text + at, text->n - at, NULL);
        const size_t end = at + (n > 0 ? n : 1);
        items[count++] = string_part(text, at, end);
        at = end;
    }
    *out = value_list(items, count);
    return STATUS_OK;
}

enum status value_items(struct run *run, const struct node *node, const struct value *value,
                        struct value *out)
{
    TRY(run_steps(run, node, value->n));
    if (value->kind == VALUE_LIST) {
        *out = *value;
        return STATUS_OK;
    }
    if (value->kind == VALUE_DICT) {
        return dict_keys(run, value, out);
    }
    if (value->kind == VALUE_STRING) {
        return characters(run, value, out);
    }
    *out = value_list(NULL, 0);
    return value->kind == VALUE_UNDEFINED
               ? STATUS_OK
               : run_fail(run, node, "only lists, mappings and texts have items");
}

/* --- Equality --- */

static enum status equals(struct run *run, const struct node *node, const struct value *a,
                          const struct value *b, unsigned depth, bool *out);

static enum status dicts_equal(struct run *run, const struct node *node, const struct value *a,
                               const struct value *b, unsigned depth, bool *out)
{
    struct dict_walk walk = {.dict = a};

    while (*out && dict_next(&walk)) {
        const struct value other = walk.key.kind == VALUE_STRING
                                       ? dict_get(b, (struct word){walk.key.text, walk.key.n})
                                       : (struct value){0};
        TRY(equals(run, node, &walk.value, &other, depth, out));
    }
    return STATUS_OK;
}

static enum status lists_equal(struct run *run, const struct node *node, const struct value *a,
                               const struct value *b, unsigned depth, bool *out)
{
    for (size_t i = 0; *out && i < a->n; i++) {
        const struct value one = list_at(a, i), other = list_at(b, i);
        TRY(equals(run, node, &one, &other, depth, out));
    }
    return STATUS_OK;
}

static double number_of(const struct value *value)
{
    return value->kind == VALUE_OTHER ? json_number(value->json, 0.0) : (double)value->number;
}

/* Of two values of one kind and length; *out is true. */
static enum status same_kind_equals(struct run *run, const struct node *node, const struct value *a,
                                    const struct value *b, unsigned depth, bool *out)
{
    if (a->kind == VALUE_LIST) {
        return lists_equal(run, node, a, b, depth + 1, out);
    }
    if (a->kind == VALUE_DICT) {
        return dicts_equal(run, node, a, b, depth + 1, out);
    }
    *out = a->kind == VALUE_STRING      ? memcmp(a->text, b->text, a->n) == 0
           : a->kind == VALUE_NAMESPACE ? a->space == b->space
                                        : true;
    return STATUS_OK;
}

static enum status equals(struct run *run, const struct node *node, const struct value *a,
                          const struct value *b, unsigned depth, bool *out)
{
    const bool are_numbers = (value_is_number(a) || a->kind == VALUE_OTHER) &&
                             (value_is_number(b) || b->kind == VALUE_OTHER);

    TRY(run_steps(run, node, 1));
    if (depth > EQUAL_DEPTH_MAX) {
        return run_fail(run, node, "these are nested too deeply to compare");
    }
    if (are_numbers) {
        *out = a->kind == VALUE_OTHER || b->kind == VALUE_OTHER ? number_of(a) == number_of(b)
                                                                : a->number == b->number;
        return STATUS_OK;
    }
    *out = a->kind == b->kind && a->n == b->n;
    return *out ? same_kind_equals(run, node, a, b, depth, out) : STATUS_OK;
}

enum status value_equals(struct run *run, const struct node *node, const struct value *a,
                         const struct value *b, bool *out)
{
    return equals(run, node, a, b, 0, out);
}

/* --- Strings --- */

struct value string_part(const struct value *text, size_t start, size_t end)
{
    struct value part = *text;

    part.text += start;
    part.marks = text->marks == NULL ? NULL : text->marks + start;
    part.n = end - start;
    return part;
}

/* A text being put together. */
struct joined {
    char *text;
    unsigned char *marks;
    size_t n;
};

static void join_one(struct joined *joined, const struct value *text)
{
    if (text->n == 0) {
        return;
    }
    memcpy(joined->text + joined->n, text->text, text->n);
    if (text->marks != NULL) {
        memcpy(joined->marks + joined->n, text->marks, text->n);
    }
    joined->n += text->n;
}

enum status string_join(struct run *run, const struct value *texts, size_t n,
                        const struct value *between, struct value *out)
{
    struct joined joined = {0};
    size_t n_bytes = 1;
    bool has_marks = between->marks != NULL;

    for (size_t i = 0; i < n; i++) {
        n_bytes += texts[i].n + (i > 0 ? between->n : 0);
        has_marks = has_marks || texts[i].marks != NULL;
    }
    TRY(run_alloc(run, n_bytes, 1, &joined.text));
    if (has_marks) {
        TRY(run_alloc(run, n_bytes, 1, &joined.marks));
    }
    for (size_t i = 0; i < n; i++) {
        if (i > 0) {
            join_one(&joined, between);
        }
        join_one(&joined, &texts[i]);
    }
    *out = value_data(joined.text, joined.n);
    out->marks = joined.marks;
    return STATUS_OK;
}

size_t string_find(const struct value *text, const struct value *part, size_t from)
{
    const char *found = NULL;

    if (from <= text->n && part->n <= text->n - from) {
        found = part->n == 0 ? text->text + from
                             : memmem(text->text + from, text->n - from, part->text, part->n);
    }
    return found == NULL ? SIZE_MAX : (size_t)(found - text->text);
}

size_t string_length(const struct value *text)
{
    size_t n = 0;

    for (size_t i = 0; i < text->n; i++) {
        n += ((unsigned char)text->text[i] & 0xC0) != 0x80 ? 1 : 0;
    }
    return n;
}

/* --- Writing --- */

static enum status print_copy(struct run *run, const char *text, struct value *out)
{
    const size_t n = strlen(text);
    char *copy = NULL;

    TRY(arena_copy_text(run->arena, text, n, &copy));
    *out = value_data(copy, n);
    return STATUS_OK;
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
        return print_copy(run, text, out);
    case VALUE_OTHER:
        real_text(json_number(value->json, 0.0), text, sizeof(text));
        return print_copy(run, text, out);
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_NAMESPACE:
    case VALUE_LOOP:
        break;
    }
    return run_fail(run, node, "only texts and numbers can be written; see tojson");
}
