/* Owns JSON that is written straight into a text: files of a hundred thousand entries in an order
 * of their own, which json.h would sort. */
#ifndef HONE_MODEL_JSON_TEXT_H
#define HONE_MODEL_JSON_TEXT_H

#include "base/status.h"
#include "base/text_buffer.h"

#include <stddef.h>
#include <stdint.h>

/* text as it is: punctuation and names without escapes. */
MUST_CHECK enum status json_text_put(struct text_buffer *out, const char *text);
/* A JSON string of n bytes. Errors: BAD_FORMAT (not UTF-8; what is a NUL too), NO_MEMORY. */
MUST_CHECK enum status json_text_quote(struct text_buffer *out, const char *text, size_t n);
MUST_CHECK enum status json_text_number(struct text_buffer *out, int64_t number);

#endif
