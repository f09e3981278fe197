/* Owns the checks of one file's header: nothing of the data is touched before all of them passed.
 */
#include "model/safetensors_internal.h"

#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES_MAX ((uint64_t)16 << 20)

static const struct {
    const char *name;
    size_t bytes;
} dtypes[TENSOR_DTYPES] = {
    [TENSOR_BOOL] = {"BOOL", 1},       [TENSOR_U8] = {"U8", 1},
    [TENSOR_I8] = {"I8", 1},           [TENSOR_F8_E5M2] = {"F8_E5M2", 1},
    [TENSOR_F8_E4M3] = {"F8_E4M3", 1}, [TENSOR_F8_E8M0] = {"F8_E8M0", 1},
    [TENSOR_I16] = {"I16", 2},         [TENSOR_U16] = {"U16", 2},
    [TENSOR_F16] = {"F16", 2},         [TENSOR_BF16] = {"BF16", 2},
    [TENSOR_I32] = {"I32", 4},         [TENSOR_U32] = {"U32", 4},
    [TENSOR_F32] = {"F32", 4},         [TENSOR_F64] = {"F64", 8},
    [TENSOR_I64] = {"I64", 8},         [TENSOR_U64] = {"U64", 8},
};

const char *tensor_dtype_name(enum tensor_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t tensor_dtype_bytes(enum tensor_dtype dtype)
{
    return dtypes[dtype].bytes;
}

static enum status parse_dtype(const char *path, const char *name, const char *text,
                               enum tensor_dtype *out)
{
    for (size_t i = 0; i < TENSOR_DTYPES; i++) {
        if (strcmp(dtypes[i].name, text) == 0) {
            *out = (enum tensor_dtype)i;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_UNSUPPORTED, "%s: tensor %s has the unknown type %s", path, name,
                      text);
}

/* A size from JSON: a non-negative integer. */
static bool read_size(const struct json *value, size_t *out)
{
    const int64_t number = json_int(value, -1);

    if (!json_is(value, JSON_INT) || number < 0) {
        return false;
    }
    *out = (size_t)number;
    return true;
}

static enum status parse_shape(const char *path, const struct json *shape, struct tensor *out)
{
    out->n_dims = json_count(shape);
    if (!json_is(shape, JSON_ARRAY) || out->n_dims > TENSOR_DIMS_MAX) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tensor %s: its shape is not a list of at most %zu sizes", path,
                          out->name, TENSOR_DIMS_MAX);
    }
    out->n_elements = 1;
    for (size_t i = 0; i < out->n_dims; i++) {
        if (!read_size(json_at(shape, i), &out->shape[i]) ||
            !size_multiply(out->n_elements, out->shape[i], &out->n_elements)) {
            return status_set(STATUS_BAD_FORMAT,
                              "%s: tensor %s: dimension %zu is no size or too large", path,
                              out->name, i);
        }
    }
    return STATUS_OK;
}

/* The header's entry of one tensor; data lies in [data, data + data_bytes). */
static enum status parse_tensor(const char *path, const struct json_iterator *entry,
                                const unsigned char *data, size_t data_bytes, struct tensor *out)
{
    const struct json *offsets = json_get(entry->value, "data_offsets");
    const char *dtype = json_text(json_get(entry->value, "dtype"), NULL);
    size_t begin, end, bytes;

    *out = (struct tensor){.name = entry->key};
    if (entry->key_bytes == 0 || strlen(entry->key) != entry->key_bytes) {
        return status_set(STATUS_BAD_FORMAT, "%s: a tensor name is empty or holds a NUL", path);
    }
    if (dtype == NULL || json_count(entry->value) != 3) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tensor %s must have exactly dtype, shape and data_offsets", path,
                          entry->key);
    }
    TRY(parse_dtype(path, entry->key, dtype, &out->dtype));
    TRY(parse_shape(path, json_get(entry->value, "shape"), out));
    if (json_count(offsets) != 2 || !read_size(json_at(offsets, 0), &begin) ||
        !read_size(json_at(offsets, 1), &end) || begin > end || end > data_bytes) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tensor %s: data_offsets do not lie in the %zu bytes of data", path,
                          entry->key, data_bytes);
    }
    if (!size_multiply(out->n_elements, dtypes[out->dtype].bytes, &bytes) || bytes != end - begin) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s: %zu bytes do not fit its shape", path,
                          entry->key, end - begin);
    }
    out->data = data + begin;
    return STATUS_OK;
}

static int compare_places(const void *a, const void *b)
{
    const struct tensor *left = a;
    const struct tensor *right = b;
    const uintptr_t begin_left = (uintptr_t)left->data;
    const uintptr_t begin_right = (uintptr_t)right->data;

    if (begin_left != begin_right) {
        return begin_left < begin_right ? -1 : 1;
    }
    /* An empty tensor may share its place with the next one. */
    return (left->n_elements > right->n_elements) - (left->n_elements < right->n_elements);
}

/* The tensors must tile the data: no overlap, no hole, nothing after the last. */
static enum status check_tiling(const char *path, struct tensor *tensors, size_t n,
                                const unsigned char *data, size_t data_bytes)
{
    size_t end = 0;

    qsort(tensors, n, sizeof(*tensors), compare_places);
    for (size_t i = 0; i < n; i++) {
        const size_t begin = (size_t)((const unsigned char *)tensors[i].data - data);

        if (begin != end) {
            return status_set(STATUS_BAD_FORMAT,
                              "%s: tensor %s begins at byte %zu of the data, the one before ends "
                              "at %zu",
                              path, tensors[i].name, begin, end);
        }
        end = begin + tensors[i].n_elements * dtypes[tensors[i].dtype].bytes;
    }
    if (end != data_bytes) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: %zu bytes of data, but the tensors end at %zu (truncated?)", path,
                          data_bytes, end);
    }
    return STATUS_OK;
}

/* The size of the header, checked against the file. */
static enum status read_header_size(const char *path, const struct file_map *map,
                                    size_t *header_bytes)
{
    uint64_t size = 0;

    *header_bytes = 0;
    if (map->bytes < 8) {
        return status_set(STATUS_BAD_FORMAT, "%s: %zu bytes are too few for a safetensors file",
                          path, map->bytes);
    }
    for (size_t i = 0; i < 8; i++) {
        size |= (uint64_t)map->data[i] << (8 * i);
    }
    if (size > HEADER_BYTES_MAX || size > map->bytes - 8) {
        return status_set(
            STATUS_BAD_FORMAT, "%s: a header of %llu bytes does not fit (file %zu, at most %llu)",
            path, (unsigned long long)size, map->bytes, (unsigned long long)HEADER_BYTES_MAX);
    }
    if (size < 2 || map->data[8] != '{') {
        return status_set(STATUS_BAD_FORMAT, "%s: the header is not a JSON object", path);
    }
    *header_bytes = (size_t)size;
    return STATUS_OK;
}

static enum status check_metadata(const char *path, const struct json *metadata)
{
    struct json_iterator entry = {.object = metadata};

    if (metadata != NULL && !json_is(metadata, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "%s: __metadata__ is not an object", path);
    }
    while (metadata != NULL && json_next(&entry)) {
        if (!json_is(entry.value, JSON_STRING)) {
            return status_set(STATUS_BAD_FORMAT, "%s: __metadata__ must map text to text", path);
        }
    }
    return STATUS_OK;
}

enum status safetensors_read_header(const char *path, const struct file_map *map,
                                    struct json **header, size_t *header_bytes)
{
    enum status status;

    TRY(read_header_size(path, map, header_bytes));
    status = json_parse((const char *)map->data + 8, *header_bytes, HEADER_DEPTH_MAX, header);
    if (status != STATUS_OK) {
        return status_wrap(status, "%s: header", path);
    }
    return check_metadata(path, json_get(*header, "__metadata__"));
}

enum status safetensors_read_tensors(const char *path, const struct file_map *map,
                                     const struct json *header, size_t header_bytes,
                                     struct tensor *tensors, size_t *n_tensors)
{
    const unsigned char *data = map->data + 8 + header_bytes;
    const size_t data_bytes = map->bytes - 8 - header_bytes;
    struct json_iterator entry = {.object = header};
    size_t n = 0;

    while (json_next(&entry)) {
        if (strcmp(entry.key, "__metadata__") == 0) {
            continue;
        }
        TRY(parse_tensor(path, &entry, data, data_bytes, &tensors[n]));
        n++;
    }
    *n_tensors = n;
    return check_tiling(path, tensors, n, data, data_bytes);
}
