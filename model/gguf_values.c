/* Owns reading values out of a checked GGUF file. */
#include "base/memory.h"
#include "model/gguf_internal.h"

#include <math.h>
#include <string.h>

bool gguf_text_is(struct gguf_text text, const char *other)
{
    return text.n == strlen(other) && memcmp(text.bytes, other, text.n) == 0;
}

static enum status refuse(const struct gguf *file, const struct gguf_value *value, const char *want)
{
    return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: key %.*s is not %s", file->label,
                      value->position, (int)value->key.n, value->key.bytes, want);
}

enum status gguf_require(const struct gguf *file, const char *key)
{
    if (gguf_find(file, key) == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: key %s is missing", file->label, key);
    }
    return STATUS_OK;
}

static bool is_signed(enum gguf_type type)
{
    return type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
}

static bool is_unsigned(enum gguf_type type)
{
    return type == GGUF_U8 || type == GGUF_U16 || type == GGUF_U32 || type == GGUF_U64;
}

/* An item that is a non-negative integer. */
static bool read_unsigned(enum gguf_type type, const unsigned char *data, uint64_t *out)
{
    const size_t n = gguf_type_bytes(type);

    if (!is_unsigned(type) && !is_signed(type)) {
        return false;
    }
    *out = gguf_number(data, n);
    return is_unsigned(type) || (data[n - 1] & 0x80u) == 0;
}

enum status gguf_read_size(const struct gguf *file, const char *key, size_t *out)
{
    const struct gguf_value *value = gguf_find(file, key);
    uint64_t number;

    if (value == NULL) {
        return STATUS_OK;
    }
    if (!read_unsigned(value->type, value->data, &number) || number > (uint64_t)1 << 48) {
        return refuse(file, value, "a size");
    }
    *out = (size_t)number;
    return STATUS_OK;
}

enum status gguf_read_number(const struct gguf *file, const char *key, double *out)
{
    const struct gguf_value *value = gguf_find(file, key);
    uint64_t number;
    float single;

    if (value == NULL) {
        return STATUS_OK;
    }
    if (value->type == GGUF_F32) {
        memcpy(&single, value->data, sizeof(single));
        *out = (double)single;
    } else if (value->type == GGUF_F64) {
        memcpy(out, value->data, sizeof(*out));
    } else if (read_unsigned(value->type, value->data, &number)) {
        *out = (double)number;
    } else {
        return refuse(file, value, "a number");
    }
    return isfinite(*out) ? STATUS_OK : refuse(file, value, "a finite number");
}

enum status gguf_read_bool(const struct gguf *file, const char *key, bool *out)
{
    const struct gguf_value *value = gguf_find(file, key);

    if (value == NULL) {
        return STATUS_OK;
    }
    if (value->type != GGUF_BOOL || value->data[0] > 1) {
        return refuse(file, value, "true or false");
    }
    *out = value->data[0] == 1;
    return STATUS_OK;
}

/* The text at data, of which the file's check has seen the end; *next is behind it. */
static struct gguf_text text_at(const unsigned char *data, const unsigned char **next)
{
    const size_t n = (size_t)gguf_number(data, 8);

    *next = data + 8 + n;
    return (struct gguf_text){.bytes = (const char *)data + 8, .n = n};
}

enum status gguf_read_text(const struct gguf *file, const char *key, struct gguf_text *out)
{
    const struct gguf_value *value = gguf_find(file, key);
    const unsigned char *next;

    if (value == NULL) {
        return STATUS_OK;
    }
    if (value->type != GGUF_TEXT) {
        return refuse(file, value, "a text");
    }
    *out = text_at(value->data, &next);
    return STATUS_OK;
}

enum status gguf_read_id(const struct gguf *file, const char *key, size_t n_tokens, int32_t *out)
{
    const struct gguf_value *value = gguf_find(file, key);
    uint64_t number;

    if (value == NULL) {
        return STATUS_OK;
    }
    if (!read_unsigned(value->type, value->data, &number) || number >= n_tokens) {
        return refuse(file, value, "the id of a token");
    }
    *out = (int32_t)number;
    return STATUS_OK;
}

enum status gguf_read_texts(const struct gguf *file, const char *key, struct gguf_text **out,
                            size_t *n_out)
{
    const struct gguf_value *value = gguf_find(file, key);

    *out = NULL;
    *n_out = 0;
    if (value == NULL) {
        return STATUS_OK;
    }
    if (value->type != GGUF_LIST || value->item != GGUF_TEXT) {
        return refuse(file, value, "a list of texts");
    }
    TRY(memory_alloc(value->count, sizeof(**out), out));
    const unsigned char *at = value->data;
    for (size_t i = 0; i < value->count; i++) {
        (*out)[i] = text_at(at, &at);
    }
    *n_out = value->count;
    return STATUS_OK;
}

enum status gguf_read_integers(const struct gguf *file, const char *key, int32_t **out,
                               size_t *n_out)
{
    const struct gguf_value *value = gguf_find(file, key);

    *out = NULL;
    *n_out = 0;
    if (value == NULL) {
        return STATUS_OK;
    }
    if (value->type != GGUF_LIST || (value->item != GGUF_I32 && value->item != GGUF_U32)) {
        return refuse(file, value, "a list of 32-bit integers");
    }
    TRY(memory_alloc(value->count, sizeof(**out), out));
    memcpy(*out, value->data, value->count * sizeof(**out));
    *n_out = value->count;
    return STATUS_OK;
}
