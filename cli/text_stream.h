/* Owns showing a completion while it is being drawn: whole characters only, and nothing that would
 * command the terminal, for what a model writes is not to be trusted. */
#ifndef HONE_CLI_TEXT_STREAM_H
#define HONE_CLI_TEXT_STREAM_H

#include "base/status.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Writes text with control characters, zero-width and bidi marks and broken UTF-8 made visible (\r,
 * \x1b ...); line breaks and tabs stay. Errors: NO_MEMORY, IO. */
MUST_CHECK enum status text_show(const char *text, size_t n, FILE *stream);

/* A completion on a stream. Start from {tokenizer, stream}. */
struct text_stream {
    const struct tokenizer *tokenizer;
    FILE *stream;
    size_t n_shown; /* bytes of its text that are out */
};
/* ids: all tokens of the completion so far. A character whose bytes are not all there waits for the
 * rest, or until is_last. Errors: NO_MEMORY, IO. */
MUST_CHECK enum status text_stream_show(struct text_stream *stream, const int32_t *ids, size_t n,
                                        bool is_last);

#endif
