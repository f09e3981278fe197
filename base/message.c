/* Owns messages in memory: setters, getters, and the check against the table that both directions
 * of the wire share. */
#include "base/message.h"

#include "base/memory.h"
#include "base/message_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const dtype_names[] = {"i32", "u32", "u64", "u16", "u8", "f32"};
static const size_t dtype_bytes[] = {4, 4, 8, 2, 1, 4};

size_t message_dtype_bytes(enum message_dtype dtype)
{
    return dtype_bytes[dtype];
}

const char *message_dtype_name(enum message_dtype dtype)
{
    return dtype_names[dtype];
}

const struct message_field *message_field_find(enum message_type type, const char *key,
                                               size_t key_bytes)
{
    for (size_t i = 0; i < n_message_fields; i++) {
        const struct message_field *field = &message_fields[i];
        if (field->type == type && strlen(field->key) == key_bytes &&
            memcmp(field->key, key, key_bytes) == 0) {
            return field;
        }
    }
    return NULL;
}

enum status message_create(enum message_type type, struct message **out)
{
    struct message *message;

    *out = NULL;
    if (type >= MESSAGE_TYPES) {
        return status_set(STATUS_BAD_ARGUMENT, "message type %d is not in the table", (int)type);
    }
    TRY(memory_alloc(1, sizeof(*message), &message));
    message->type = type;
    message->head = json_object_create();
    if (message->head == NULL) {
        message_destroy(message);
        return status_set(STATUS_NO_MEMORY, "no memory for a %s message", message_type_name(type));
    }
    *out = message;
    return STATUS_OK;
}

void message_destroy(struct message *message)
{
    if (message == NULL) {
        return;
    }
    for (size_t i = 0; i < message->n_arrays; i++) {
        memory_free(message->arrays[i].items);
    }
    json_destroy(message->head);
    memory_free(message->failure_text);
    memory_free(message);
}

enum message_type message_type_of(const struct message *message)
{
    return message->type;
}

/* ---- Setters ---- */

static void remember(struct message *message, enum status status)
{
    if (status == STATUS_OK || message->failure != STATUS_OK) {
        return;
    }
    const char *text = status_message();
    message->failure = status;
    if (memory_copy_text(text, strlen(text), &message->failure_text) != STATUS_OK) {
        message->failure_text = NULL; /* the code alone must do */
    }
}

void message_put_json(struct message *message, const char *key, struct json *value)
{
    if (value == NULL) {
        remember(message, status_set(STATUS_NO_MEMORY, "no memory for field %s of %s", key,
                                     message_type_name(message->type)));
        return;
    }
    remember(message, json_put(message->head, key, value));
}

void message_put_int(struct message *message, const char *key, int64_t value)
{
    message_put_json(message, key, json_from_int(value));
}

void message_put_number(struct message *message, const char *key, double value)
{
    if (!isfinite(value)) { /* JSON would make it null, which an optional field allows */
        remember(message, status_set(STATUS_BAD_ARGUMENT, "%s: field %s is not finite",
                                     message_type_name(message->type), key));
        return;
    }
    message_put_json(message, key, json_from_number(value));
}

void message_put_bool(struct message *message, const char *key, bool value)
{
    message_put_json(message, key, json_from_bool(value));
}

void message_put_text(struct message *message, const char *key, const char *text)
{
    message_put_json(message, key, json_from_text(text, strlen(text)));
}

void message_put_hex64(struct message *message, const char *key, uint64_t value)
{
    char text[19];

    (void)snprintf(text, sizeof(text), "0x%llx", (unsigned long long)value);
    message_put_text(message, key, text);
}

static const struct message_array *array_find(const struct message *message, const char *key)
{
    for (size_t i = 0; i < message->n_arrays; i++) {
        if (strcmp(message->arrays[i].field->key, key) == 0) {
            return &message->arrays[i];
        }
    }
    return NULL;
}

enum status message_add_array(struct message *message, const struct message_field *field,
                              const void *items, size_t n_items)
{
    const char *type_name = message_type_name(message->type);
    const size_t item_bytes = dtype_bytes[field->dtype];
    void *copy;

    if (message->n_arrays == MESSAGE_ARRAYS_MAX || array_find(message, field->key) != NULL) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: array %s is there already, or one too many",
                          type_name, field->key);
    }
    if ((uint64_t)n_items > (uint64_t)field->max) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: array %s has %zu items, at most %lld fit",
                          type_name, field->key, n_items, (long long)field->max);
    }
    TRY(memory_alloc(n_items, item_bytes, &copy));
    if (n_items > 0) {
        memcpy(copy, items, n_items * item_bytes);
    }
    message->arrays[message->n_arrays++] =
        (struct message_array){.field = field, .items = copy, .n_items = n_items};
    return STATUS_OK;
}

void message_put_array(struct message *message, const char *key, enum message_dtype dtype,
                       const void *items, size_t n_items)
{
    const struct message_field *field = message_field_find(message->type, key, strlen(key));

    if (field == NULL || field->kind != FIELD_ARRAY || field->dtype != dtype) {
        remember(message, status_set(STATUS_BAD_ARGUMENT, "%s has no array %s of %s",
                                     message_type_name(message->type), key, dtype_names[dtype]));
        return;
    }
    remember(message, message_add_array(message, field, items, n_items));
}

/* ---- Getters ---- */

int64_t message_int(const struct message *message, const char *key, int64_t fallback)
{
    return json_int(json_get(message->head, key), fallback);
}

double message_number(const struct message *message, const char *key, double fallback)
{
    return json_number(json_get(message->head, key), fallback);
}

bool message_bool(const struct message *message, const char *key, bool fallback)
{
    return json_bool(json_get(message->head, key), fallback);
}

const char *message_text(const struct message *message, const char *key, const char *fallback)
{
    return json_text(json_get(message->head, key), fallback);
}

uint64_t message_hex64(const struct message *message, const char *key)
{
    const char *text = message_text(message, key, "");
    uint64_t value = 0;

    if (text[0] != '0' || text[1] != 'x' || strlen(text) > 18 ||
        text[2 + strspn(text + 2, "0123456789abcdef")] != '\0') {
        return 0;
    }
    for (text += 2; *text != '\0'; text++) {
        value = value << 4 | (uint64_t)(*text <= '9' ? *text - '0' : *text - 'a' + 10);
    }
    return value;
}

struct json *message_json(const struct message *message, const char *key)
{
    return json_get(message->head, key);
}

const void *message_array(const struct message *message, const char *key, size_t *n_items)
{
    const struct message_array *array = array_find(message, key);

    *n_items = array == NULL ? 0 : array->n_items;
    return array == NULL ? NULL : array->items;
}

/* ---- The check against the table ---- */

static bool is_kind_right(const struct message_field *field, const struct json *value)
{
    switch (field->kind) {
    case FIELD_INT:
        return json_is(value, JSON_INT);
    case FIELD_NUMBER:
        return json_is(value, JSON_INT) || json_is(value, JSON_REAL);
    case FIELD_TEXT:
        return json_is(value, JSON_STRING);
    case FIELD_BOOL:
        return json_is(value, JSON_BOOL);
    case FIELD_OBJECT:
        return json_is(value, JSON_OBJECT);
    case FIELD_ARRAY:
        return false; /* arrays travel in frames, never in the head */
    }
    return false;
}

static bool is_in_range(const struct message_field *field, const struct json *value)
{
    if (field->kind == FIELD_INT) {
        const int64_t number = json_int(value, 0);
        return number >= field->min && number <= field->max;
    }
    if (field->kind == FIELD_TEXT) {
        return (uint64_t)json_text_bytes(value) <= (uint64_t)field->max;
    }
    return field->kind != FIELD_NUMBER || isfinite(json_number(value, (double)NAN));
}

static enum status check_value(const struct message_field *field, const struct json *value,
                               enum status code)
{
    const char *type_name = message_type_name(field->type);

    if (json_is(value, JSON_NULL)) {
        if (field->is_required) {
            return status_set(code, "%s: field %s is missing", type_name, field->key);
        }
        return STATUS_OK;
    }
    if (!is_kind_right(field, value)) {
        return status_set(code, "%s: field %s is of the wrong kind", type_name, field->key);
    }
    if (!is_in_range(field, value)) {
        return status_set(code, "%s: field %s is out of range (%lld to %lld)", type_name,
                          field->key, (long long)field->min, (long long)field->max);
    }
    return STATUS_OK;
}

/* t (type), v (version) and a (arrays) belong to the wire. */
static bool is_envelope_key(const char *key)
{
    return strchr("tva", key[0]) != NULL && key[0] != '\0' && key[1] == '\0';
}

static enum status check_keys_known(const struct message *message, enum status code)
{
    struct json_iterator member = {.object = message->head};

    while (json_next(&member)) {
        const struct message_field *field =
            message_field_find(message->type, member.key, member.key_bytes);
        if (is_envelope_key(member.key)) {
            continue;
        }
        if (field == NULL || field->kind == FIELD_ARRAY) {
            return status_set(code, "%s has no field \"%.64s\"", message_type_name(message->type),
                              member.key);
        }
    }
    return STATUS_OK;
}

static enum status check_field(const struct message *message, const struct message_field *field,
                               enum status code)
{
    if (field->kind != FIELD_ARRAY) {
        return check_value(field, json_get(message->head, field->key), code);
    }
    if (field->is_required && array_find(message, field->key) == NULL) {
        return status_set(code, "%s: array %s is missing", message_type_name(message->type),
                          field->key);
    }
    return STATUS_OK;
}

enum status message_check(const struct message *message, enum status code)
{
    TRY(check_keys_known(message, code));
    for (size_t i = 0; i < n_message_fields; i++) {
        if (message_fields[i].type != message->type) {
            continue;
        }
        TRY(check_field(message, &message_fields[i], code));
    }
    return STATUS_OK;
}
