/* Owns writing values: as JSON for the database and digests, as YAML text for people. What is
 * written reads back as the same value. */
#include "base/memory.h"
#include "configs/config_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct json *list_to_json(const struct text_list *list)
{
    struct json *array = json_array_create();
    for (size_t i = 0; array != NULL && i < list->count; i++) {
        const char *const item = list->items[i];
        if (json_append(array, json_from_text(item, strlen(item))) != STATUS_OK) {
            json_destroy(array);
            return NULL;
        }
    }
    return array;
}

static struct json *number_to_json(enum setting_kind kind, const char *at)
{
    union {
        bool boolean;
        size_t size;
        int64_t whole;
        double real;
    } value = {0};
    if (kind == SETTING_BOOL) {
        memcpy(&value.boolean, at, sizeof value.boolean);
        return json_from_bool(value.boolean);
    }
    if (kind == SETTING_REAL || kind == SETTING_SECONDS) {
        memcpy(&value.real, at, sizeof value.real);
        return json_from_number(value.real);
    }
    if (kind == SETTING_SIZE || kind == SETTING_BYTES) {
        memcpy(&value.size, at, sizeof value.size);
        return json_from_int((int64_t)value.size);
    }
    memcpy(&value.whole, at, sizeof value.whole); /* the ranges keep an uint64_t below 2^63 */
    return json_from_int(value.whole);
}

static struct json *words_to_json(const struct setting *row, const char *at)
{
    const char *text = NULL;
    unsigned choice = 0;
    if (row->kind == SETTING_ENUM) {
        memcpy(&choice, at, sizeof choice);
        text = row->names[choice];
    } else {
        memcpy(&text, at, sizeof(char *));
    }
    text = text == NULL ? "" : text;
    return json_from_text(text, strlen(text));
}

static bool is_secret(const char *key)
{
    return strstr(key, "token") != NULL || strstr(key, "secret") != NULL ||
           strstr(key, "password") != NULL;
}

/* A copy of a scorer's configuration in which texts that look like secrets are stars. */
static struct json *object_to_json(const char *at)
{
    struct json *object = NULL;
    memcpy(&object, at, sizeof(struct json *));
    struct json *const copy = json_object_create();
    struct json_iterator it = {.object = object};
    while (copy != NULL && object != NULL && json_next(&it)) {
        struct json *const member = is_secret(it.key) && json_is(it.value, JSON_STRING)
                                        ? json_from_text("***", 3)
                                        : json_retain(it.value);
        if (json_put(copy, it.key, member) != STATUS_OK) {
            json_destroy(copy);
            return NULL;
        }
    }
    return copy;
}

enum status value_to_json(const struct setting *row, const void *base, struct json **out)
{
    const char *const at = (const char *)base + row->offset;
    struct text_list list = {0};
    *out = NULL;
    switch (row->kind) {
    case SETTING_TEXTS:
    case SETTING_SOURCES:
        memcpy(&list, at, sizeof list);
        *out = list_to_json(&list);
        break;
    case SETTING_OBJECT:
        *out = object_to_json(at);
        break;
    case SETTING_TEXT:
    case SETTING_PATH:
    case SETTING_ENUM:
        *out = words_to_json(row, at);
        break;
    case SETTING_REWARDS:
        *out = json_array_create();
        break;
    case SETTING_BOOL:
    case SETTING_SIZE:
    case SETTING_BYTES:
    case SETTING_U64:
    case SETTING_I64:
    case SETTING_REAL:
    case SETTING_SECONDS:
        *out = number_to_json(row->kind, at);
        break;
    }
    if (*out == NULL) {
        return status_set(STATUS_NO_MEMORY, "no memory to print %s", row->key);
    }
    return STATUS_OK;
}

/* The shortest digits that read back as the same double. */
static void print_real(double value, char *out, size_t room)
{
    for (int digits = 1; digits <= 17; digits++) {
        (void)snprintf(out, room, "%.*g", digits, value);
        if (strtod(out, NULL) == value) {
            return;
        }
    }
}

/* Whether a text can stand in YAML without quotes, also within a flow list, and be read back. */
static bool is_plain(const char *text)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.";
    const size_t n = strlen(text);
    if (n == 0 || strchr(letters, text[0]) == NULL || text[n - 1] == ':') {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (strchr(letters, text[i]) == NULL && strchr("-:", text[i]) == NULL) {
            return false;
        }
    }
    return true;
}

/* A JSON value as YAML flow text; every JSON text is YAML, so only what reads better is special. */
static enum status json_to_yaml(const struct json *value, char **out)
{
    char number[64];
    const char *const text = json_text(value, NULL);
    if (text != NULL && is_plain(text)) {
        return memory_copy_text(text, strlen(text), out);
    }
    if (json_is(value, JSON_REAL)) {
        print_real(json_number(value, 0), number, sizeof number);
        return memory_copy_text(number, strlen(number), out);
    }
    return json_print(value, out, NULL);
}

/* "[a, b]" */
static enum status list_to_yaml(const struct json *array, char **out)
{
    char *text = NULL;
    size_t n = 1;
    TRY(memory_copy_text("[", 1, &text));
    for (size_t i = 0; i <= json_count(array); i++) {
        const bool is_end = i == json_count(array);
        char *item = NULL;
        enum status status =
            is_end ? memory_copy_text("]", 1, &item) : json_to_yaml(json_at(array, i), &item);
        const char *const comma = i > 0 && !is_end ? ", " : "";
        const size_t more = status == STATUS_OK ? strlen(comma) + strlen(item) : 0;
        if (status == STATUS_OK) {
            status = memory_resize(n + 1, n + more + 1, 1, &text);
        }
        if (status == STATUS_OK) {
            (void)snprintf(text + n, more + 1, "%s%s", comma, item);
            n += more;
        }
        memory_free(item);
        if (status != STATUS_OK) {
            memory_free(text);
            return status;
        }
    }
    *out = text;
    return STATUS_OK;
}

enum status value_to_text(const struct setting *row, const void *base, char **out)
{
    struct json *value = NULL;
    TRY(value_to_json(row, base, &value));
    const enum status status =
        json_is(value, JSON_ARRAY) ? list_to_yaml(value, out) : json_to_yaml(value, out);
    json_destroy(value);
    return status;
}
