/* Owns the step between a mapped file and its list of tensors. */
#ifndef HONE_MODEL_SAFETENSORS_INTERNAL_H
#define HONE_MODEL_SAFETENSORS_INTERNAL_H

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"
#include "model/safetensors.h"

#define HEADER_DEPTH_MAX 4u

#define DIGEST_KEY "hone_digest" /* in __metadata__: 32 hexadecimal digits */

size_t tensor_bytes(const struct tensor *tensor); /* of its data, from type and shape */
/* sum ^= the tensor's digest. */
void tensor_digest_add(const struct tensor *tensor, struct digest128 *sum);

/* Parses the JSON header; the caller owns *header also on failure (it may be NULL). */
MUST_CHECK enum status safetensors_read_header(const char *path, const struct file_map *map,
                                               struct json **header, size_t *header_bytes);
/* Checks every entry and fills tensors (room for one a key); names belong to header, data to map.
 */
MUST_CHECK enum status safetensors_read_tensors(const char *path, const struct file_map *map,
                                                const struct json *header, size_t header_bytes,
                                                struct tensor *tensors, size_t *n_tensors);

#endif
