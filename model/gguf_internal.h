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

#endif
