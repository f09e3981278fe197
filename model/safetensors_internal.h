/* Owns the step between a mapped file and its list of tensors. */
#ifndef HONE_MODEL_SAFETENSORS_INTERNAL_H
#define HONE_MODEL_SAFETENSORS_INTERNAL_H

#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "model/safetensors.h"

#define HEADER_DEPTH_MAX 4u

/* Parses the JSON header; the caller owns *header also on failure (it may be NULL). */
MUST_CHECK enum status safetensors_read_header(const char *path, const struct file_map *map,
                                               struct json **header, size_t *header_bytes);
/* Checks every entry and fills tensors (room for one a key); names belong to header, data to map.
 */
MUST_CHECK enum status safetensors_read_tensors(const char *path, const struct file_map *map,
                                                const struct json *header, size_t header_bytes,
                                                struct tensor *tensors, size_t *n_tensors);

#endif
