/* Owns the compression of token and log-probability arrays: codec "zstd" (what is written) and
 * "raw" (also read). */
#ifndef HONE_DB_BLOB_H
#define HONE_DB_BLOB_H

#include "base/status.h"

#include <stddef.h>

#define BLOB_CODEC "zstd"
#define BLOB_BYTES_MAX ((size_t)64 << 20)

/* Memory that grows and is used again; start with zeros. */
struct byte_buffer {
    unsigned char *data;
    size_t bytes, room;
};
MUST_CHECK enum status byte_buffer_reserve(struct byte_buffer *buffer, size_t room);
MUST_CHECK enum status byte_buffer_put(struct byte_buffer *buffer, const void *data, size_t n);
void byte_buffer_dispose(struct byte_buffer *buffer);

struct blob_coder;
MUST_CHECK enum status blob_coder_create(struct blob_coder **out);
void blob_coder_destroy(struct blob_coder *coder); /* NULL is legal */
/* Compresses data[0..n) into out, replacing what it held. Errors: NO_MEMORY. */
MUST_CHECK enum status blob_pack(struct blob_coder *coder, const void *data, size_t n,
                                 struct byte_buffer *out);
/* The bytes again, into out. Errors: BAD_FORMAT (damaged, unknown codec, larger than
 * BLOB_BYTES_MAX), NO_MEMORY. */
MUST_CHECK enum status blob_unpack(struct blob_coder *coder, const char *codec, const void *data,
                                   size_t n, struct byte_buffer *out);

#endif
