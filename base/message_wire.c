/* Owns frames: how a message becomes bytes and back. Everything that arrives is checked in this
 * order: number and size of frames, sum, nesting, JSON, type and version, array descriptors against
 * frames, then the table. */
#include "base/message.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/message_internal.h"

#include <endian.h>
#include <string.h>

#define SUM_BYTES ((size_t)8)

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "arrays travel little-endian and are copied as they are"
#endif

void frames_dispose(struct frames *frames)
{
    for (size_t i = 0; i < frames->count; i++) {
        memory_free(frames->items[i].data);
    }
    *frames = (struct frames){0};
}

/* What the last frame must hold: the sum of the n_frames before it. */
static uint64_t sum_frames(const struct frames *frames, size_t n_frames)
{
    struct hash_part parts[MESSAGE_ARRAYS_MAX + 1];

    for (size_t i = 0; i < n_frames; i++) {
        parts[i] = (struct hash_part){frames->items[i].data, frames->items[i].bytes};
    }
    return htole64(hash_64_parts(parts, n_frames));
}

/* ---- Encoding ---- */

static struct json *text_value(const char *text)
{
    return json_from_text(text, strlen(text));
}

/* Each container is put into its parent before it is filled: a failure then leaves nothing over. */
static enum status put_version(struct json *head)
{
    struct json *version = json_array_create();

    TRY(json_put(head, "v", version));
    TRY(json_append(version, json_from_int(MESSAGE_MAJOR)));
    return json_append(version, json_from_int(MESSAGE_MINOR));
}

static enum status put_descriptor(struct json *list, const struct message_array *array)
{
    struct json *descriptor = json_object_create();

    TRY(json_append(list, descriptor));
    TRY(json_put(descriptor, "k", text_value(array->field->key)));
    TRY(json_put(descriptor, "d", text_value(message_dtype_name(array->field->dtype))));
    return json_put(descriptor, "n", json_from_int((int64_t)array->n_items));
}

static enum status put_descriptors(struct json *head, const struct message *message)
{
    struct json *list = json_array_create();

    TRY(json_put(head, "a", list));
    for (size_t i = 0; i < message->n_arrays; i++) {
        TRY(put_descriptor(list, &message->arrays[i]));
    }
    return STATUS_OK;
}

static enum status put_fields(struct json *head, const struct message *message)
{
    struct json_iterator member = {.object = message->head};

    while (json_next(&member)) {
        if (json_get(head, member.key) != NULL) {
            continue; /* a decoded message has an envelope already */
        }
        TRY(json_put(head, member.key, json_retain(member.value)));
    }
    return STATUS_OK;
}

static enum status fill_head(struct json *head, const struct message *message)
{
    TRY(put_descriptors(head, message));
    TRY(json_put(head, "t", text_value(message_type_name(message->type))));
    TRY(put_version(head));
    return put_fields(head, message);
}

static enum status encode_head(const struct message *message, struct frame *out)
{
    struct json *head = json_object_create();
    char *text = NULL;

    enum status status = fill_head(head, message);
    if (status == STATUS_OK) {
        status = json_print(head, &text, &out->bytes);
    }
    json_destroy(head);
    out->data = (unsigned char *)text;
    return status;
}

static enum status encode_array(const struct message_array *array, struct frame *out)
{
    out->bytes = array->n_items * message_dtype_bytes(array->field->dtype);
    TRY(memory_alloc(out->bytes, 1, &out->data));
    if (out->bytes > 0) {
        memcpy(out->data, array->items, out->bytes);
    }
    return STATUS_OK;
}

static enum status encode_sum(struct frames *frames)
{
    const size_t last = frames->count;
    const uint64_t sum = sum_frames(frames, last);

    TRY(memory_alloc(SUM_BYTES, 1, &frames->items[last].data));
    memcpy(frames->items[last].data, &sum, SUM_BYTES);
    frames->items[last].bytes = SUM_BYTES;
    frames->count++;
    return STATUS_OK;
}

static enum status encode_frames(const struct message *message, struct frames *out)
{
    const char *name = message_type_name(message->type);

    TRY(encode_head(message, &out->items[0]));
    out->count = 1;
    if (out->items[0].bytes > MESSAGE_HEAD_BYTES_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: fields take %zu bytes, at most %zu fit", name,
                          out->items[0].bytes, MESSAGE_HEAD_BYTES_MAX);
    }
    for (size_t i = 0; i < message->n_arrays; i++) {
        struct frame *frame = &out->items[out->count];
        TRY(encode_array(&message->arrays[i], frame));
        out->count++;
        if (frame->bytes > MESSAGE_ARRAY_BYTES_MAX) {
            return status_set(STATUS_BAD_ARGUMENT, "%s: array %s has %zu bytes, at most %zu fit",
                              name, message->arrays[i].field->key, frame->bytes,
                              MESSAGE_ARRAY_BYTES_MAX);
        }
    }
    return encode_sum(out);
}

enum status message_encode(const struct message *message, struct frames *out)
{
    *out = (struct frames){0};
    if (message->failure != STATUS_OK) {
        return status_set(message->failure, "%s",
                          message->failure_text == NULL ? "no memory" : message->failure_text);
    }
    TRY(message_check(message, STATUS_BAD_ARGUMENT));
    const enum status status = encode_frames(message, out);
    if (status != STATUS_OK) {
        frames_dispose(out);
    }
    return status;
}

/* ---- Decoding ---- */

static enum status check_sizes(const struct frames *frames)
{
    if (frames->count < 2 || frames->count > MESSAGE_ARRAYS_MAX + 2) {
        return status_set(STATUS_BAD_FORMAT, "message of %zu frames, want 2 to %u", frames->count,
                          MESSAGE_ARRAYS_MAX + 2);
    }
    const size_t last = frames->count - 1;
    if (frames->items[0].bytes > MESSAGE_HEAD_BYTES_MAX) {
        return status_set(STATUS_BAD_FORMAT, "message head of %zu bytes, at most %zu are allowed",
                          frames->items[0].bytes, MESSAGE_HEAD_BYTES_MAX);
    }
    for (size_t i = 1; i < last; i++) {
        if (frames->items[i].bytes > MESSAGE_ARRAY_BYTES_MAX) {
            return status_set(STATUS_BAD_FORMAT,
                              "message array of %zu bytes, at most %zu are allowed",
                              frames->items[i].bytes, MESSAGE_ARRAY_BYTES_MAX);
        }
    }
    if (frames->items[last].bytes != SUM_BYTES) {
        return status_set(STATUS_BAD_FORMAT, "message sum of %zu bytes, want %zu",
                          frames->items[last].bytes, SUM_BYTES);
    }
    const uint64_t sum = sum_frames(frames, last);
    if (memcmp(frames->items[last].data, &sum, SUM_BYTES) != 0) {
        return status_set(STATUS_BAD_FORMAT, "message sum does not match its frames");
    }
    return STATUS_OK;
}

static enum status read_type(const struct json *head, enum message_type *out)
{
    const char *name = json_text(json_get(head, "t"), "");

    for (unsigned type = 0; type < MESSAGE_TYPES; type++) {
        if (strcmp(name, message_type_name((enum message_type)type)) == 0) {
            *out = (enum message_type)type;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_BAD_FORMAT, "message type \"%.16s\" is not in the table", name);
}

static enum status check_version(const struct json *head)
{
    const struct json *version = json_get(head, "v");
    const struct json *major = json_at(version, 0);
    const struct json *minor = json_at(version, 1);

    if (json_count(version) != 2 || !json_is(major, JSON_INT) || !json_is(minor, JSON_INT)) {
        return status_set(STATUS_BAD_FORMAT, "message version is missing or not two integers");
    }
    if (json_int(major, -1) != MESSAGE_MAJOR || json_int(minor, -1) < 0) {
        return status_set(STATUS_BAD_FORMAT, "message version %lld.%lld, want %d.x",
                          (long long)json_int(major, -1), (long long)json_int(minor, -1),
                          MESSAGE_MAJOR);
    }
    return STATUS_OK;
}

/* One row of "a" and the frame it describes become an array of the message. */
static enum status decode_array(struct message *message, const struct json *descriptor,
                                const struct frame *frame)
{
    const char *type_name = message_type_name(message->type);
    const char *key = json_text(json_get(descriptor, "k"), "");
    const char *dtype = json_text(json_get(descriptor, "d"), "");
    const struct json *count = json_get(descriptor, "n");
    const struct message_field *field = message_field_find(message->type, key, strlen(key));
    size_t n_items;

    if (json_count(descriptor) != 3 || field == NULL || field->kind != FIELD_ARRAY ||
        strcmp(dtype, message_dtype_name(field->dtype)) != 0 || !json_is(count, JSON_INT)) {
        return status_set(STATUS_BAD_FORMAT, "%s has no array \"%.64s\" of \"%.8s\"", type_name,
                          key, dtype);
    }
    const int64_t n = json_int(count, -1);
    if (n < 0 || n > field->max) {
        return status_set(STATUS_BAD_FORMAT, "%s: array %s of %lld items, want 0 to %lld",
                          type_name, key, (long long)n, (long long)field->max);
    }
    n_items = (size_t)n;
    if (n_items * message_dtype_bytes(field->dtype) != frame->bytes) {
        return status_set(STATUS_BAD_FORMAT, "%s: array %s of %zu %s has %zu bytes", type_name, key,
                          n_items, dtype, frame->bytes);
    }
    const enum status status = message_add_array(message, field, frame->data, n_items);
    /* What is a wrong call from a sender here is a wrong message from a peer. */
    return status == STATUS_BAD_ARGUMENT
               ? status_set(STATUS_BAD_FORMAT, "%s: array %s twice", type_name, key)
               : status;
}

static enum status decode_fields(struct message *message, const struct frames *frames)
{
    const struct json *list = json_get(message->head, "a");

    TRY(check_version(message->head));
    if (!json_is(list, JSON_ARRAY) || json_count(list) != frames->count - 2) {
        return status_set(STATUS_BAD_FORMAT, "%s: %zu arrays described, %zu sent",
                          message_type_name(message->type), json_count(list), frames->count - 2);
    }
    for (size_t i = 0; i + 2 < frames->count; i++) {
        TRY(decode_array(message, json_at(list, i), &frames->items[i + 1]));
    }
    return message_check(message, STATUS_BAD_FORMAT);
}

/* Takes the reference to head, also on failure. */
static enum status adopt_head(struct json *head, struct message **out)
{
    enum message_type type = MESSAGE_TYPES;
    enum status status = read_type(head, &type);

    if (status == STATUS_OK) {
        status = message_create(type, out);
    }
    if (status != STATUS_OK) {
        json_destroy(head);
        return status;
    }
    json_destroy((*out)->head);
    (*out)->head = head;
    return STATUS_OK;
}

enum status message_decode(const struct frames *frames, struct message **out)
{
    struct json *head;
    struct message *message;
    enum status status;

    *out = NULL;
    TRY(check_sizes(frames));
    const char *text = (const char *)frames->items[0].data;
    status = json_parse(text, frames->items[0].bytes, MESSAGE_DEPTH_MAX, &head);
    if (status != STATUS_OK) {
        return status_wrap(status, "message head");
    }
    TRY(adopt_head(head, &message));
    status = decode_fields(message, frames);
    if (status != STATUS_OK) {
        message_destroy(message);
        return status;
    }
    *out = message;
    return STATUS_OK;
}
