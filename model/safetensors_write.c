/* Owns the canonical safetensors writer: tensors by type (largest alignment first), then by name;
 * compact JSON; header padded with spaces to a multiple of 8. */
#include "model/safetensors.h"

#include "base/memory.h"
#include "model/safetensors_internal.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A growing text; the first failure is kept and later additions do nothing. */
struct text {
    char *data;
    size_t n, room;
    enum status status;
};

static void text_add(struct text *text, const char *piece, size_t n)
{
    if (text->status != STATUS_OK) {
        return;
    }
    if (text->n + n + 1 > text->room) {
        const size_t room = 2 * (text->n + n + 1);

        text->status = memory_resize(text->room, room, 1, &text->data);
        if (text->status != STATUS_OK) {
            return;
        }
        text->room = room;
    }
    memcpy(text->data + text->n, piece, n);
    text->n += n;
}

static void text_add_string(struct text *text, const char *piece)
{
    text_add(text, piece, strlen(piece));
}

static void text_add_size(struct text *text, size_t value)
{
    char digits[32];
    const int n = snprintf(digits, sizeof(digits), "%zu", value);

    text_add(text, digits, (size_t)n);
}

static int compare_canonical(const void *a, const void *b)
{
    const struct tensor *const *left = a;
    const struct tensor *const *right = b;

    if ((*left)->dtype != (*right)->dtype) {
        return (*left)->dtype > (*right)->dtype ? -1 : 1;
    }
    return strcmp((*left)->name, (*right)->name);
}

static void add_entry(struct text *text, const struct tensor *tensor, size_t begin)
{
    text_add_string(text, ",\"");
    text_add_string(text, tensor->name);
    text_add_string(text, "\":{\"dtype\":\"");
    text_add_string(text, tensor_dtype_name(tensor->dtype));
    text_add_string(text, "\",\"shape\":[");
    for (size_t i = 0; i < tensor->n_dims; i++) {
        text_add_string(text, i == 0 ? "" : ",");
        text_add_size(text, tensor->shape[i]);
    }
    text_add_string(text, "],\"data_offsets\":[");
    text_add_size(text, begin);
    text_add_string(text, ",");
    text_add_size(text, begin + tensor_bytes(tensor));
    text_add_string(text, "]}");
}

static void add_digest(struct text *text, const struct tensor *const *sorted, size_t n)
{
    struct digest128 sum = {{0}};
    char digits[DIGEST128_TEXT];

    for (size_t i = 0; i < n; i++) {
        tensor_digest_add(sorted[i], &sum);
    }
    text_add_string(text, ",\"" DIGEST_KEY "\":\"");
    text_add_string(text, hash_hex(sum.bytes, sizeof(sum.bytes), digits));
    text_add_string(text, "\"");
}

static enum status build_header(const struct tensor *const *sorted, size_t n, bool has_digest,
                                struct text *text)
{
    size_t begin = 0;

    text_add_string(text, "{\"__metadata__\":{\"format\":\"pt\"");
    if (has_digest) {
        add_digest(text, sorted, n);
    }
    text_add_string(text, "}");
    for (size_t i = 0; i < n; i++) {
        add_entry(text, sorted[i], begin);
        begin += tensor_bytes(sorted[i]);
    }
    text_add_string(text, "}");
    while (text->status == STATUS_OK && text->n % 8 != 0) {
        text_add_string(text, " ");
    }
    return text->status;
}

/* Names go into JSON as they are, so they must not need escapes. */
static enum status check_names(const char *path, const struct tensor *const *sorted, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (const char *c = sorted[i]->name; *c != '\0'; c++) {
            if (*c <= ' ' || *c > '~' || *c == '"' || *c == '\\') {
                return status_set(STATUS_BAD_ARGUMENT, "%s: a tensor name has the byte 0x%02x",
                                  path, (unsigned)(unsigned char)*c);
            }
        }
        if (i > 0 && compare_canonical(&sorted[i - 1], &sorted[i]) == 0) {
            return status_set(STATUS_BAD_ARGUMENT, "%s: tensor %s is given twice", path,
                              sorted[i]->name);
        }
    }
    return STATUS_OK;
}

static enum status put_all(struct file_writer *writer, const struct text *header,
                           const struct tensor *const *sorted, size_t n)
{
    unsigned char size[8];

    for (size_t i = 0; i < sizeof(size); i++) {
        size[i] = (unsigned char)((uint64_t)header->n >> (8 * i));
    }
    TRY(file_writer_put(writer, size, sizeof(size)));
    TRY(file_writer_put(writer, header->data, header->n));
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = tensor_bytes(sorted[i]);

        if (bytes == 0) {
            continue;
        }
        TRY(file_writer_put(writer, sorted[i]->data, bytes));
    }
    return STATUS_OK;
}

/* Writes temp, then renames it over path and syncs the folder. */
static enum status write_and_rename(const char *path, const char *temp, const struct text *header,
                                    const struct tensor *const *sorted, size_t n)
{
    struct file_writer *writer;
    char *folder = NULL;
    enum status status;

    TRY(file_writer_open(temp, &writer));
    status = put_all(writer, header, sorted, n);
    if (status != STATUS_OK) {
        file_writer_abandon(writer);
        return status;
    }
    TRY(file_writer_commit(writer));
    if (rename(temp, path) != 0) {
        return status_set(STATUS_IO, "%s: cannot rename %s to it: %s", path, temp, strerror(errno));
    }
    TRY(path_parent(path, &folder));
    status = folder_sync(folder);
    memory_free(folder);
    return status;
}

enum status safetensors_write(const char *path, const struct tensor *tensors, size_t n_tensors,
                              bool has_digest)
{
    const struct tensor **sorted = NULL;
    struct text header = {.status = STATUS_OK};
    struct text temp = {.status = STATUS_OK};
    enum status status;

    TRY(memory_alloc(n_tensors, sizeof(const struct tensor *), &sorted));
    for (size_t i = 0; i < n_tensors; i++) {
        sorted[i] = &tensors[i];
    }
    if (n_tensors > 0) {
        qsort(sorted, n_tensors, sizeof(const struct tensor *), compare_canonical);
    }
    text_add_string(&temp, path);
    text_add(&temp, ".tmp", sizeof(".tmp"));
    status = temp.status;
    if (status == STATUS_OK) {
        status = check_names(path, sorted, n_tensors);
    }
    if (status == STATUS_OK) {
        status = build_header(sorted, n_tensors, has_digest, &header);
    }
    if (status == STATUS_OK) {
        status = write_and_rename(path, temp.data, &header, sorted, n_tensors);
        if (status != STATUS_OK) {
            (void)remove(temp.data); /* the first failure is the one to tell */
        }
    }
    memory_free(sorted);
    memory_free(header.data);
    memory_free(temp.data);
    return status;
}
