/* Owns reading a GGUF file front to back: nothing is taken that is not there. */
#include "model/gguf_internal.h"

uint64_t gguf_number(const unsigned char *data, size_t n)
{
    uint64_t number = 0;

    for (size_t i = 0; i < n; i++) {
        number |= (uint64_t)data[i] << (8 * i);
    }
    return number;
}

enum status gguf_take(struct gguf_reader *reader, size_t n, const char *what,
                      const unsigned char **out)
{
    *out = reader->data;
    if (n > reader->n - reader->at) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: the file ends inside %s", reader->label,
                          reader->at, what);
    }
    *out = reader->data + reader->at;
    reader->at += n;
    return STATUS_OK;
}

enum status gguf_take_u32(struct gguf_reader *reader, const char *what, uint32_t *out)
{
    const unsigned char *bytes = NULL;

    TRY(gguf_take(reader, 4, what, &bytes));
    *out = (uint32_t)gguf_number(bytes, 4);
    return STATUS_OK;
}

enum status gguf_take_count(struct gguf_reader *reader, size_t bytes_min, const char *what,
                            size_t *out)
{
    const size_t at = reader->at;
    const unsigned char *bytes = NULL;

    *out = 0;
    TRY(gguf_take(reader, 8, what, &bytes));
    const uint64_t number = gguf_number(bytes, 8);
    if (number > (reader->n - reader->at) / bytes_min) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte %zu: %s: %llu is more than the file can hold", reader->label,
                          at, what, (unsigned long long)number);
    }
    *out = (size_t)number;
    return STATUS_OK;
}

enum status gguf_take_text(struct gguf_reader *reader, const char *what, struct gguf_text *out)
{
    const unsigned char *bytes = NULL;

    TRY(gguf_take_count(reader, 1, what, &out->n));
    TRY(gguf_take(reader, out->n, what, &bytes));
    out->bytes = (const char *)bytes;
    return STATUS_OK;
}

enum status gguf_take_name(struct gguf_reader *reader, const char *what, struct gguf_text *out)
{
    const size_t at = reader->at;

    TRY(gguf_take_text(reader, what, out));
    if (out->n == 0 || out->n > GGUF_NAME_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: %s has %zu bytes, want 1 to %zu",
                          reader->label, at, what, out->n, GGUF_NAME_MAX);
    }
    for (size_t i = 0; i < out->n; i++) {
        if (out->bytes[i] <= ' ' || out->bytes[i] > '~') {
            return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: %s holds the byte 0x%02x",
                              reader->label, at, what, (unsigned)(unsigned char)out->bytes[i]);
        }
    }
    return STATUS_OK;
}
