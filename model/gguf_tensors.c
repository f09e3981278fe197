/* Owns the checks of a GGUF file's tensors: shapes, types and places, then everything that needs
 * all of them (names twice, overlaps). */
#include "base/memory.h"
#include "model/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

static enum status take_shape(struct gguf_reader *reader, struct gguf_tensor *tensor)
{
    const size_t at = reader->at;
    const unsigned char *bytes = NULL;
    uint32_t n_dims = 0;

    TRY(gguf_take_u32(reader, "a tensor's number of dimensions", &n_dims));
    if (n_dims == 0 || n_dims > GGUF_DIMS_MAX) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: byte %zu: tensor %s has %u dimensions, want 1 "
                          "to %zu",
                          reader->label, at, tensor->name, n_dims, GGUF_DIMS_MAX);
    }
    tensor->n_dims = n_dims;
    tensor->n_elements = 1;
    for (size_t i = n_dims; i-- > 0;) {
        TRY(gguf_take(reader, 8, "a tensor's dimensions", &bytes));
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

static enum status take_coding(struct gguf_reader *reader, struct gguf_tensor *tensor)
{
    const size_t at = reader->at;
    uint32_t type = 0;

    TRY(gguf_take_u32(reader, "a tensor's type", &type));
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
static enum status take_tensor(struct gguf_reader *reader, size_t alignment,
                               struct gguf_tensor *tensor, uint64_t *offset)
{
    const unsigned char *bytes = NULL;
    struct gguf_text name;

    TRY(gguf_take_name(reader, "the name of a tensor", &name));
    memcpy(tensor->name, name.bytes, name.n);
    TRY(take_shape(reader, tensor));
    TRY(take_coding(reader, tensor));
    TRY(gguf_take(reader, 8, "a tensor's offset", &bytes));
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

int gguf_compare_names(const void *a, const void *b)
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
    qsort(tensors, file->n_tensors, sizeof(*tensors), gguf_compare_names);
    for (size_t i = 1; i < file->n_tensors; i++) {
        if (gguf_compare_names(&tensors[i - 1], &tensors[i]) == 0) {
            return status_set(STATUS_BAD_FORMAT, "%s: byte %zu: tensor %s is there twice",
                              file->label, (size_t)(tensors[i].data - file->data), tensors[i].name);
        }
    }
    return STATUS_OK;
}

/* Offsets into places, once the header's end is known. */
static enum status place_tensors(const struct gguf_reader *reader, size_t alignment,
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

enum status gguf_take_tensors(struct gguf_reader *reader, size_t alignment, struct gguf *file)
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
