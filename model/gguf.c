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

static enum status take_type(struct gguf_reader *reader, struct gguf_text key, enum gguf_type *out)
{
    const size_t at = reader->at;
    uint32_t type = 0;

    TRY(gguf_take_u32(reader, "the type of a value", &type));
    if (type >= GGUF_TYPES) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: key %.*s has type %u, want 0 to %d",
                          reader->label, at, (int)key.n, key.bytes, type, GGUF_TYPES - 1);
    }
    *out = (enum gguf_type)type;
    return STATUS_OK;
}

/* Steps over the items of a value. */
static enum status take_items(struct gguf_reader *reader, const struct gguf_value *value)
{
    const unsigned char *bytes = NULL;
    struct gguf_text text;

    if (value->item != GGUF_TEXT) {
        /* count was held against the file: no overflow */
        return gguf_take(reader, value->count * gguf_type_bytes(value->item), "a value", &bytes);
    }
    for (size_t i = 0; i < value->count; i++) {
        TRY(gguf_take_text(reader, "a text", &text));
    }
    return STATUS_OK;
}

static enum status take_list_head(struct gguf_reader *reader, struct gguf_value *value)
{
    TRY(take_type(reader, value->key, &value->item));
    if (value->item == GGUF_LIST) {
        return status_set(STATUS_UNSUPPORTED, "%s: byte %zu: key %.*s is a list of lists",
                          reader->label, reader->at - 4, (int)value->key.n, value->key.bytes);
    }
    const size_t item_bytes = gguf_type_bytes(value->item);
    return gguf_take_count(reader, item_bytes == 0 ? 8 : item_bytes, "the length of a list",
                           &value->count);
}

static enum status take_value(struct gguf_reader *reader, struct gguf_value *out)
{
    *out = (struct gguf_value){.count = 1};
    TRY(gguf_take_name(reader, "the name of a key", &out->key));
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

static enum status take_values(struct gguf_reader *reader, struct gguf *file)
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

/* --- The whole file --- */

static enum status take_magic(struct gguf_reader *reader)
{
    const unsigned char *magic = NULL;
    uint32_t version = 0;

    if (reader->n < 4 || memcmp(reader->data, "GGUF", 4) != 0) {
        return status_set(STATUS_BAD_FORMAT, "%s: byte 0: no GGUF file", reader->label);
    }
    TRY(gguf_take(reader, 4, "the magic", &magic));
    TRY(gguf_take_u32(reader, "the version", &version));
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
    struct gguf_reader reader = {.label = file->label, .data = file->data, .n = file->bytes};
    size_t alignment = 0;

    TRY(take_magic(&reader));
    TRY(gguf_take_count(&reader, TENSOR_BYTES_MIN, "the number of tensors", &file->n_tensors));
    TRY(gguf_take_count(&reader, VALUE_BYTES_MIN, "the number of keys", &file->n_values));
    if (file->n_tensors > ENTRIES_MAX || file->n_values > ENTRIES_MAX) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte 8: %zu tensors and %zu keys, want at most "
                          "%zu of each",
                          file->label, file->n_tensors, file->n_values, ENTRIES_MAX);
    }
    TRY(take_values(&reader, file));
    TRY(read_alignment(file, &alignment));
    return gguf_take_tensors(&reader, alignment, file);
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
    return bsearch(&wanted, file->tensors, file->n_tensors, sizeof(wanted), gguf_compare_names);
}
