/* Owns the GGUF container, the file of llama.cpp (versions 2 and 3, little-endian):
 *
 *   "GGUF" u32 version, u64 number of tensors, u64 number of keys
 *   keys:    text name, u32 type, value          text: u64 bytes, bytes
 *   tensors: text name, u32 number of dimensions, u64 of each (fastest first), u32 type,
 *            u64 offset in the data
 *   padding to general.alignment (32 unless that key says otherwise), data
 *
 * A list is u32 type of its items, u64 count, items. The reader maps the file and trusts nothing:
 * every count and length is held against the bytes that are left before it is used, names are
 * unique, tensors lie inside the data and do not overlap. What the keys mean is gguf_import.h. */
#ifndef HONE_MODEL_GGUF_H
#define HONE_MODEL_GGUF_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GGUF_DIMS_MAX ((size_t)4)
#define GGUF_NAME_MAX ((size_t)255) /* bytes of a key's or tensor's name */

/* Types of values, by their numbers in the file. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_LIST,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
};

/* Bytes of the file, not terminated. */
struct gguf_text {
    const char *bytes;
    size_t n;
};

struct gguf_value {
    struct gguf_text key;
    enum gguf_type type;       /* of the value */
    enum gguf_type item;       /* of a list's items; else as type */
    size_t count;              /* items of a list, else 1 */
    const unsigned char *data; /* the first item, any alignment */
    size_t position;           /* of data in the file */
};

/* How a tensor's numbers are stored. */
enum gguf_coding {
    GGUF_F32_CODED,
    GGUF_F16_CODED,
    GGUF_BF16_CODED,
    GGUF_Q4_0,
    GGUF_Q4_1,
    GGUF_Q8_0
};

struct gguf_tensor {
    char name[GGUF_NAME_MAX + 1];
    enum gguf_coding coding;
    size_t n_dims;
    size_t shape[GGUF_DIMS_MAX]; /* slowest first, as elsewhere in hone: (rows, columns) */
    size_t n_elements;
    const unsigned char *data; /* any alignment */
    size_t bytes;
};

struct gguf;

/* Maps and checks the file. Caller owns *out. Errors: IO, BAD_FORMAT (path, byte position and what
 * is wrong), UNSUPPORTED (an older version, big-endian, a type of tensor that this build does not
 * read: names both), NO_MEMORY. */
MUST_CHECK enum status gguf_open(const char *path, struct gguf **out);
/* The same from bytes in memory, kept until gguf_close; label stands in front of messages. */
MUST_CHECK enum status gguf_parse(const char *label, const void *data, size_t n, struct gguf **out);
void gguf_close(struct gguf *file); /* NULL is legal */

/* What messages about the file begin with: its path or label. */
const char *gguf_label(const struct gguf *file);
/* Whether a file begins as a GGUF file does; false also when it cannot be read. */
bool gguf_is_file(const char *path);

/* Values and tensors are borrowed until gguf_close; NULL when there is none of that name. */
const struct gguf_value *gguf_find(const struct gguf *file, const char *key);
size_t gguf_value_count(const struct gguf *file);
const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index); /* by key */
size_t gguf_tensor_count(const struct gguf *file);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index); /* by name */
const struct gguf_tensor *gguf_tensor_find(const struct gguf *file, const char *name);

/* Reads values of a kind. An absent key leaves *out as it is and is OK: set the default first.
 * Errors: BAD_FORMAT when the value is of another type or out of range (key and byte position). */
MUST_CHECK enum status gguf_read_size(const struct gguf *file, const char *key, size_t *out);
MUST_CHECK enum status gguf_read_number(const struct gguf *file, const char *key, double *out);
MUST_CHECK enum status gguf_read_bool(const struct gguf *file, const char *key, bool *out);
MUST_CHECK enum status gguf_read_text(const struct gguf *file, const char *key,
                                      struct gguf_text *out);
/* An id of a token in 0 .. n_tokens - 1. */
MUST_CHECK enum status gguf_read_id(const struct gguf *file, const char *key, size_t n_tokens,
                                    int32_t *out);
/* BAD_FORMAT when the key is absent. */
MUST_CHECK enum status gguf_require(const struct gguf *file, const char *key);
/* A list of texts or of 32-bit integers; NULL and 0 when absent. Caller frees *out with
 * memory_free. */
MUST_CHECK enum status gguf_read_texts(const struct gguf *file, const char *key,
                                       struct gguf_text **out, size_t *n_out);
MUST_CHECK enum status gguf_read_integers(const struct gguf *file, const char *key, int32_t **out,
                                          size_t *n_out);
bool gguf_text_is(struct gguf_text text, const char *other);

/* Elements [first, first + count) of a tensor as floats; both are multiples of the tensor's row
 * length. Q4_0: d (q - 8); Q4_1: d q + m; Q8_0: d q, each operation rounded to a float. */
void gguf_read_floats(const struct gguf_tensor *tensor, size_t first, size_t count, float *out);
const char *gguf_coding_name(enum gguf_coding coding); /* "Q4_1" ... */

/* --- For the container's own files --- */

struct gguf_layout {
    const char *name;
    size_t block_elements, block_bytes;
};
/* The layout of the file's type number, NULL for those that this build does not read. */
const struct gguf_layout *gguf_layout_of(uint32_t type, enum gguf_coding *coding);
/* "Q6_K" ...; "unknown" for numbers without a name. */
const char *gguf_type_name(uint32_t type);

#endif
