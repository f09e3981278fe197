/* Owns the checks of a GGUF file: front to back, each count and length held against the bytes that
 * are left, then everything that needs the whole (names twice, overlaps). */
#include "model/gguf.h"

#include "base/memory.h"
#include "model/gguf_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT_KEY "general.alignment"
#define ALIGNMENT_MAX ((size_t)1 << 20)
#define ENTRIES_MAX ((size_t)1 << 16) /* keys, and tensors: published files have some thousands */
/* Fewest bytes of an entry, which bound how many there can be. */
#define VALUE_BYTES_MIN ((size_t)(8 + 1 + 4 + 1))
#define TENSOR_BYTES_MIN ((size_t)(8 + 1 + 4 + 8 + 4 + 8))

size_t gguf_type_bytes(enum gguf_type type)
{
    static const size_t sizes[GGUF_TYPES] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
        [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };

    return sizes[type];
}

uint64_t gguf_number(const unsigned char *data, size_t n)
{
    uint64_t number = 0;

    for (size_t i = 0; i < n; i++) {
        number |= (uint64_t)data[i] << (8 * i);
    }
    return number;
}

/* The file as it is read front to back. */
struct reader {
    const char *label;
    const unsigned char *data;
    size_t n, at;
};

static enum status take(struct reader *reader, size_t n, const char *what,
                        const unsigned char **out)
{
    if (n > reader->n - reader->at) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: the file ends inside %s", reader->label,
                          reader->at, what);
    }
    *out = reader->data + reader->at;
    reader->at += n;
    return STATUS_OK;
}

static enum status take_u32(struct reader *reader, const char *what, uint32_t *out)
{
    const unsigned char *bytes = NULL;

    TRY(take(reader, 4, what, &bytes));
    *out = (uint32_t)gguf_number(bytes, 4);
    return STATUS_OK;
}

/* A length or count: at most what is left after it, each item having bytes_min bytes or more. */
static enum status take_count(struct reader *reader, size_t bytes_min, const char *what,
                              size_t *out)
{
    const size_t at = reader->at;
    const unsigned char *bytes = NULL;

    TRY(take(reader, 8, what, &bytes));
    const uint64_t number = gguf_number(bytes, 8);
    if (number > (reader->n - reader->at) / bytes_min) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte %zu: %s: %llu is more than the file can hold", reader->label,
                          at, what, (unsigned long long)number);
    }
    *out = (size_t)number;
    return STATUS_OK;
}

static enum status take_text(struct reader *reader, const char *what, struct gguf_text *out)
{
    const unsigned char *bytes = NULL;

    TRY(take_count(reader, 1, what, &out->n));
    TRY(take(reader, out->n, what, &bytes));
    out->bytes = (const char *)bytes;
    return STATUS_OK;
}

/* The name of a key or tensor: short, and text that can be shown. */
static enum status take_name(struct reader *reader, const char *what, struct gguf_text *out)
{
    const size_t at = reader->at;

    TRY(take_text(reader, what, out));
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

/* --- Keys --- */

static enum status take_type(struct reader *reader, struct gguf_text key, enum gguf_type *out)
{
    const size_t at = reader->at;
    uint32_t type = 0;

    TRY(take_u32(reader, "the type of a value", &type));
    if (type >= GGUF_TYPES) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: key %.*s has type %u, want 0 to %d",
                          reader->label, at, (int)key.n, key.bytes, type, GGUF_TYPES - 1);
    }
    *out = (enum gguf_type)type;
    return STATUS_OK;
}

/* Steps over the items of a value. */
static enum status take_items(struct reader *reader, const struct gguf_value *value)
{
    const unsigned char *bytes = NULL;
    struct gguf_text text;

    if (value->item != GGUF_TEXT) {
        /* count was held against the file: no overflow */
        return take(reader, value->count * gguf_type_bytes(value->item), "a value", &bytes);
    }
    for (size_t i = 0; i < value->count; i++) {
        TRY(take_text(reader, "a text", &text));
    }
    return STATUS_OK;
}

static enum status take_list_head(struct reader *reader, struct gguf_value *value)
{
    TRY(take_type(reader, value->key, &value->item));
    if (value->item == GGUF_LIST) {
        return status_set(STATUS_UNSUPPORTED, "%s: byte %zu: key %.*s is a list of lists",
                          reader->label, reader->at - 4, (int)value->key.n, value->key.bytes);
    }
    const size_t item_bytes = gguf_type_bytes(value->item);
    return take_count(reader, item_bytes == 0 ? 8 : item_bytes, "the length of a list",
                      &value->count);
}

static enum status take_value(struct reader *reader, struct gguf_value *out)
{
    *out = (struct gguf_value){.count = 1};
    TRY(take_name(reader, "the name of a key", &out->key));
    TRY(take_type(reader, out->key, &out->type));
    out->item = out->type;
    if (out->type == GGUF_LIST) {
        TRY(take_list_head(reader, out));
    }
    out->position = reader->at;
    out->data = reader->data + reader->at;
    return take_items(reader, out);
}

static int compare_texts(struct gguf_text a, struct gguf_text b)
{
    const int order = memcmp(a.bytes, b.bytes, a.n < b.n ? a.n : b.n);

    return order != 0 ? order : (a.n > b.n) - (a.n < b.n);
}

static int compare_values(const void *a, const void *b)
{
    const struct gguf_value *left = a, *right = b;

    return compare_texts(left->key, right->key);
}

static enum status take_values(struct reader *reader, struct gguf *file)
{
    TRY(memory_alloc(file->n_values, sizeof(*file->values), &file->values));
    for (size_t i = 0; i < file->n_values; i++) {
        TRY(take_value(reader, &file->values[i]));
    }
    qsort(file->values, file->n_values, sizeof(*file->values), compare_values);
    for (size_t i = 1; i < file->n_values; i++) {
        const struct gguf_value *value = &file->values[i];

        if (compare_values(value - 1, value) == 0) {
            const size_t a = value[-1].position, b = value->position;

            return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: key %.*s is there twice",
                              reader->label, a > b ? a : b, (int)value->key.n, value->key.bytes);
        }
    }
    return STATUS_OK;
}

/* --- Tensors --- */

static enum status take_shape(struct reader *reader, struct gguf_tensor *tensor)
{
    const size_t at = reader->at;
    const unsigned char *bytes = NULL;
    uint32_t n_dims = 0;

    TRY(take_u32(reader, "a tensor's number of dimensions", &n_dims));
    if (n_dims == 0 || n_dims > GGUF_DIMS_MAX) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte %zu: tensor %s has %u dimensions, want 1 "
                          "to %zu",
                          reader->label, at, tensor->name, n_dims, GGUF_DIMS_MAX);
    }
    tensor->n_dims = n_dims;
    tensor->n_elements = 1;
    for (size_t i = n_dims; i-- > 0;) {
        TRY(take(reader, 8, "a tensor's dimensions", &bytes));
        const uint64_t size = gguf_number(bytes, 8);

        tensor->shape[i] = (size_t)size;
        if (size == 0 || !size_multiply(tensor->n_elements, (size_t)size, &tensor->n_elements)) {
            return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: tensor %s has a dimension of %llu",
                              reader->label, reader->at - 8, tensor->name,
                              (unsigned long long)size);
        }
    }
    return STATUS_OK;
}

static enum status take_coding(struct reader *reader, struct gguf_tensor *tensor)
{
    const size_t at = reader->at;
    uint32_t type = 0;

    TRY(take_u32(reader, "a tensor's type", &type));
    const struct gguf_layout *layout = gguf_layout_of(type, &tensor->coding);
    if (layout == NULL) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: byte %zu: tensor %s has type %u (%s); this build reads F32, F16, "
                          "BF16, Q8_0, Q4_0 and Q4_1",
                          reader->label, at, tensor->name, type, gguf_type_name(type));
    }
    if (tensor->shape[tensor->n_dims - 1] % layout->block_elements != 0 ||
        !size_multiply(tensor->n_elements / layout->block_elements, layout->block_bytes,
                       &tensor->bytes)) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: tensor %s: rows of %zu cannot be %s",
                          reader->label, at, tensor->name, tensor->shape[tensor->n_dims - 1],
                          layout->name);
    }
    return STATUS_OK;
}

/* An entry; the offset is left in *offset until it is known where the data begins. */
static enum status take_tensor(struct reader *reader, size_t alignment, struct gguf_tensor *tensor,
                               uint64_t *offset)
{
    const unsigned char *bytes = NULL;
    struct gguf_text name;

    TRY(take_name(reader, "the name of a tensor", &name));
    memcpy(tensor->name, name.bytes, name.n);
    TRY(take_shape(reader, tensor));
    TRY(take_coding(reader, tensor));
    TRY(take(reader, 8, "a tensor's offset", &bytes));
    *offset = gguf_number(bytes, 8);
    if (*offset % alignment != 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte %zu: tensor %s begins at %llu of the data, which is no "
                          "multiple of %zu",
                          reader->label, reader->at - 8, tensor->name, (unsigned long long)*offset,
                          alignment);
    }
    return STATUS_OK;
}

static int compare_places(const void *a, const void *b)
{
    const struct gguf_tensor *left = a, *right = b;

    return (left->data > right->data) - (left->data < right->data);
}

static int compare_names(const void *a, const void *b)
{
    const struct gguf_tensor *left = a, *right = b;

    return strcmp(left->name, right->name);
}

/* Tensors in the data, none over another, no name twice; leaves them sorted by name. */
static enum status check_tensors(struct gguf *file)
{
    struct gguf_tensor *tensors = file->tensors;

    qsort(tensors, file->n_tensors, sizeof(*tensors), compare_places);
    for (size_t i = 1; i < file->n_tensors; i++) {
        if (tensors[i - 1].data + tensors[i - 1].bytes > tensors[i].data) {
            return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: tensors %s and %s overlap",
                              file->label, (size_t)(tensors[i].data - file->data),
                              tensors[i - 1].name, tensors[i].name);
        }
    }
    qsort(tensors, file->n_tensors, sizeof(*tensors), compare_names);
    for (size_t i = 1; i < file->n_tensors; i++) {
        if (compare_names(&tensors[i - 1], &tensors[i]) == 0) {
            return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: tensor %s is there twice",
                              file->label, (size_t)(tensors[i].data - file->data), tensors[i].name);
        }
    }
    return STATUS_OK;
}

/* Offsets into places, once the header's end is known. */
static enum status place_tensors(const struct reader *reader, size_t alignment,
                                 const uint64_t *offsets, struct gguf *file)
{
    const size_t padding = (alignment - reader->at % alignment) % alignment;
    const size_t left = reader->n - reader->at;
    const size_t room = left > padding ? left - padding : 0;

    for (size_t i = 0; i < file->n_tensors; i++) {
        struct gguf_tensor *tensor = &file->tensors[i];

        if (tensor->bytes > room || offsets[i] > room - tensor->bytes) {
            return status_set(STATUS_BAD_FORMAT,
                              "%s: byte %zu: the file ends inside tensor %s (%zu bytes at %llu "
                              "of the data)",
                              reader->label, reader->n, tensor->name, tensor->bytes,
                              (unsigned long long)offsets[i]);
        }
        tensor->data = reader->data + reader->at + padding + (size_t)offsets[i];
    }
    return check_tensors(file);
}

static enum status take_tensors(struct reader *reader, size_t alignment, struct gguf *file)
{
    uint64_t *offsets = NULL;
    enum status status = STATUS_OK;

    TRY(memory_alloc(file->n_tensors, sizeof(*file->tensors), &file->tensors));
    TRY(memory_alloc(file->n_tensors, sizeof(*offsets), &offsets));
    for (size_t i = 0; i < file->n_tensors && status == STATUS_OK; i++) {
        status = take_tensor(reader, alignment, &file->tensors[i], &offsets[i]);
    }
    if (status == STATUS_OK) {
        status = place_tensors(reader, alignment, offsets, file);
    }
    memory_free(offsets);
    return status;
}

/* --- The whole file --- */

static enum status take_magic(struct reader *reader)
{
    const unsigned char *magic = NULL;
    uint32_t version = 0;

    if (reader->n < 4 || memcmp(reader->data, "GGUF", 4) != 0) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte 0: no GGUF file", reader->label);
    }
    TRY(take(reader, 4, "the magic", &magic));
    TRY(take_u32(reader, "the version", &version));
    if (version == 2 || version == 3) {
        return STATUS_OK;
    }
    return status_set(STATUS_UNSUPPORTED, "%s: byte 4: GGUF version %u%s; this build reads 2 and 3",
                      reader->label, version,
                      version != 0 && (version & 0xffffu) == 0 ? " (a big-endian file)" : "");
}

static enum status read_alignment(const struct gguf *file, size_t *out)
{
    *out = 32;
    TRY(gguf_read_size(file, ALIGNMENT_KEY, out));
    if (*out == 0 || *out > ALIGNMENT_MAX || (*out & (*out - 1)) != 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte %zu: " ALIGNMENT_KEY " is %zu, want a power of two of at "
                          "most %zu",
                          file->label, gguf_find(file, ALIGNMENT_KEY)->position, *out,
                          ALIGNMENT_MAX);
    }
    return STATUS_OK;
}

static enum status read_file(struct gguf *file)
{
    struct reader reader = {.label = file->label, .data = file->data, .n = file->bytes};
    size_t alignment = 0;

    TRY(take_magic(&reader));
    TRY(take_count(&reader, TENSOR_BYTES_MIN, "the number of tensors", &file->n_tensors));
    TRY(take_count(&reader, VALUE_BYTES_MIN, "the number of keys", &file->n_values));
    if (file->n_tensors > ENTRIES_MAX || file->n_values > ENTRIES_MAX) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte 8: %zu tensors and %zu keys, want at most "
                          "%zu of each",
                          file->label, file->n_tensors, file->n_values, ENTRIES_MAX);
    }
    TRY(take_values(&reader, file));
    TRY(read_alignment(file, &alignment));
    return take_tensors(&reader, alignment, file);
}

/* Takes over the map. */
static enum status create(const char *label, const struct file_map *map, const void *data, size_t n,
                          struct gguf **out)
{
    struct gguf *file;
    enum status status;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*file), &file));
    file->data = data;
    file->bytes = n;
    status = memory_copy_text(label, strlen(label), &file->label);
    if (status == STATUS_OK) {
        status = read_file(file);
    }
    if (status != STATUS_OK) {
        gguf_close(file);
        return status;
    }
    file->map = *map;
    *out = file;
    return STATUS_OK;
}

enum status gguf_parse(const char *label, const void *data, size_t n, struct gguf **out)
{
    return create(label, &(const struct file_map){0}, data, n, out);
}

enum status gguf_open(const char *path, struct gguf **out)
{
    struct file_map map;

    *out = NULL;
    TRY(file_map_open(path, &map));
    const enum status status = create(path, &map, map.data, map.bytes, out);
    if (status != STATUS_OK) {
        file_map_close(&map);
    }
    return status;
}

void gguf_close(struct gguf *file)
{
    if (file == NULL) {
        return;
    }
    memory_free(file->values);
    memory_free(file->tensors);
    memory_free(file->label);
    file_map_close(&file->map);
    memory_free(file);
}

bool gguf_is_file(const char *path)
{
    char magic[4] = {0};
    FILE *stream = fopen(path, "rb");

    if (stream == NULL) {
        return false;
    }
    const size_t n = fread(magic, 1, sizeof(magic), stream);
    (void)fclose(stream); /* only read */
    return n == sizeof(magic) && memcmp(magic, "GGUF", sizeof(magic)) == 0;
}

const char *gguf_label(const struct gguf *file)
{
    return file->label;
}

const struct gguf_value *gguf_find(const struct gguf *file, const char *key)
{
    const struct gguf_value wanted = {.key = {key, strlen(key)}};

    return bsearch(&wanted, file->values, file->n_values, sizeof(wanted), compare_values);
}

size_t gguf_value_count(const struct gguf *file)
{
    return file->n_values;
}

const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index)
{
    return &file->values[index];
}

size_t gguf_tensor_count(const struct gguf *file)
{
    return file->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index)
{
    return &file->tensors[index];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *file, const char *name)
{
    struct gguf_tensor wanted;

    if (strlen(name) > GGUF_NAME_MAX) {
        return NULL;
    }
    (void)snprintf(wanted.name, sizeof(wanted.name), "%s", name);
    return bsearch(&wanted, file->tensors, file->n_tensors, sizeof(wanted), compare_names);
}
