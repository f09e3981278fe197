/* Owns what the parts of the GGUF reader share. */
#ifndef HONE_MODEL_GGUF_INTERNAL_H
#define HONE_MODEL_GGUF_INTERNAL_H

#include "base/file.h"
#include "model/gguf.h"

struct gguf {
    char *label;
    struct file_map map; /* empty for bytes in memory */
    const unsigned char *data;
    size_t bytes;
    struct gguf_value *values; /* by key */
    size_t n_values;
    struct gguf_tensor *tensors; /* by name */
    size_t n_tensors;
};

/* Bytes of one item; 0 for texts and lists. */
size_t gguf_type_bytes(enum gguf_type type);
/* n little-endian bytes, at most 8. */
uint64_t gguf_number(const unsigned char *data, size_t n);

/* The file as it is read front to back. */
struct gguf_reader {
    const char *label;
    const unsigned char *data;
    size_t n, at;
};
/* Steps over n bytes; `what` is what they are, for messages. Errors: BAD_FORMAT with the position.
 */
MUST_CHECK enum status gguf_take(struct gguf_reader *reader, size_t n, const char *what,
                                 const unsigned char **out);
MUST_CHECK enum status gguf_take_u32(struct gguf_reader *reader, const char *what, uint32_t *out);
/* A length or count: at most what is left behind it, each item having bytes_min bytes or more. */
MUST_CHECK enum status gguf_take_count(struct gguf_reader *reader, size_t bytes_min,
                                       const char *what, size_t *out);
MUST_CHECK enum status gguf_take_text(struct gguf_reader *reader, const char *what,
                                      struct gguf_text *out);
/* The name of a key or tensor: short, and text that can be shown. */
MUST_CHECK enum status gguf_take_name(struct gguf_reader *reader, const char *what,
                                      struct gguf_text *out);

/* The entries of file->n_tensors tensors, which begin where the reader is; sorted by name. */
MUST_CHECK enum status gguf_take_tensors(struct gguf_reader *reader, size_t alignment,
                                         struct gguf *file);
int gguf_compare_names(const void *a, const void *b); /* of tensors */

#endif
