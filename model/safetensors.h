/* Owns the safetensors container (model.md 2.1, 2.2):
 *
 *   [u64 N little-endian] [N bytes of JSON, padded with spaces] [data: tensors without gaps]
 *   {"__metadata__": {text: text}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0,
 * 24]}}
 *
 * The reader maps files read-only and trusts nothing: header size, number of tensors, types,
 * shapes, overlaps and holes are checked before any byte of data is touched. The writer is
 * canonical (the bytes the Hugging Face library writes) and durable. What the tensors mean is
 * weights.h. */
#ifndef HONE_MODEL_SAFETENSORS_H
#define HONE_MODEL_SAFETENSORS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TENSOR_DIMS_MAX ((size_t)8)

/* In the container's order: the writer sorts by it, largest alignment first. */
enum tensor_dtype {
    TENSOR_BOOL,
    TENSOR_U8,
    TENSOR_I8,
    TENSOR_F8_E5M2,
    TENSOR_F8_E4M3,
    TENSOR_F8_E8M0,
    TENSOR_I16,
    TENSOR_U16,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_I32,
    TENSOR_U32,
    TENSOR_F32,
    TENSOR_F64,
    TENSOR_I64,
    TENSOR_U64,
    TENSOR_DTYPES
};
const char *tensor_dtype_name(enum tensor_dtype dtype); /* "F32" ... */
size_t tensor_dtype_bytes(enum tensor_dtype dtype);     /* of one element */

/* One tensor of an open file, or one to be written. Rank 0 has one element. */
struct tensor {
    const char *name;
    enum tensor_dtype dtype;
    size_t n_dims;
    size_t shape[TENSOR_DIMS_MAX];
    size_t n_elements;
    const void *data; /* C order, little-endian; of an open file: any alignment */
};

struct safetensors;

/* Opens one file, or (safetensors_open_folder) DIR/model.safetensors.index.json with its shards,
 * else DIR/model.safetensors. Caller owns *out. Errors: IO, BAD_FORMAT (path and what is wrong),
 * UNSUPPORTED (a type this build does not know), NO_MEMORY. */
MUST_CHECK enum status safetensors_open(const char *path, struct safetensors **out);
MUST_CHECK enum status safetensors_open_folder(const char *dir, struct safetensors **out);
void safetensors_close(struct safetensors *file); /* NULL is legal */

/* Tensors sorted by name; borrowed until safetensors_close. */
size_t safetensors_count(const struct safetensors *file);
const struct tensor *safetensors_at(const struct safetensors *file, size_t index);
const struct tensor *safetensors_find(const struct safetensors *file,
                                      const char *name); /* or NULL */
/* The path messages should name: the file, or the folder of shards. */
const char *safetensors_path(const struct safetensors *file);

/* Copies a tensor's values as floats (n_elements) or 32-bit integers. Errors: UNSUPPORTED unless
 * the type is F32, BF16 or F16 (floats), I32 (integers). */
MUST_CHECK enum status tensor_read_floats(const struct tensor *tensor, float *out);
MUST_CHECK enum status tensor_read_integers(const struct tensor *tensor, int32_t *out);
/* n values at data (any alignment) of type F32, BF16 or F16 as floats. */
void tensor_widen(enum tensor_dtype dtype, const void *data, size_t n, float *out);

/* Compares each file with the digest in its metadata, where it has one (those that hone wrote with
 * one). Errors: BAD_FORMAT when a bit differs. */
MUST_CHECK enum status safetensors_verify(const struct safetensors *file);

/* Writes tensors (in any order; n_elements is ignored, shape counts) to path: a temporary file in
 * the same folder, synced, then renamed over path. has_digest: the metadata gets a digest of
 * everything for safetensors_verify. Errors: IO, NO_SPACE, NO_MEMORY, BAD_ARGUMENT (a name twice).
 */
MUST_CHECK enum status safetensors_write(const char *path, const struct tensor *tensors,
                                         size_t n_tensors, bool has_digest);

#endif
