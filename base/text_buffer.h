/* Owns text that grows. */
#ifndef HONE_BASE_TEXT_BUFFER_H
#define HONE_BASE_TEXT_BUFFER_H

#include "base/status.h"

#include <stddef.h>

/* Bytes that grow; always followed by a NUL that is not counted. Start from zeros. */
struct text_buffer {
    char *bytes;
    size_t count, room;
};
MUST_CHECK enum status text_buffer_reserve(struct text_buffer *buffer, size_t n_more);
MUST_CHECK enum status text_buffer_put(struct text_buffer *buffer, const char *bytes, size_t n);
void text_buffer_dispose(struct text_buffer *buffer);

#endif
