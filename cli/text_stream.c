#include "cli/text_stream.h"

#include "base/log.h"
#include "base/memory.h"

#include <string.h>

static const char replacement[] = "\xEF\xBF\xBD";
#define REPLACEMENT_BYTES (sizeof(replacement) - 1)

/* Bytes before the first one that is shown as it is though log_escape would change it. */
static size_t plain_bytes(const char *text, size_t n)
{
    size_t i = 0;

    while (i < n && text[i] != '\n' && text[i] != '\t' && text[i] != '\\') {
        i++;
    }
    return i;
}

enum status text_show(const char *text, size_t n, FILE *stream)
{
    const size_t room = 4 * n + 1; /* every byte may become \xNN */
    char *line = NULL;

    TRY(memory_alloc(room, 1, &line));
    for (size_t i = 0; i < n;) {
        const size_t n_plain = plain_bytes(text + i, n - i);

        (void)fputs(log_escape(text + i, n_plain, line, room), stream);
        i += n_plain;
        if (i < n) {
            (void)fputc(text[i++], stream);
        }
    }
    memory_free(line);
    if (fflush(stream) != 0 || ferror(stream) != 0) {
        return status_set(STATUS_IO, "the output cannot be written");
    }
    return STATUS_OK;
}

enum status text_stream_show(struct text_stream *stream, const int32_t *ids, size_t n, bool is_last)
{
    enum status status = STATUS_OK;
    char *text = NULL;
    size_t end = 0;

    TRY(tokenizer_decode(stream->tokenizer, ids, n, false, true, &text, &end));
    /* What may still become a character stands as U+FFFD at the end. */
    while (!is_last && end >= REPLACEMENT_BYTES &&
           memcmp(text + end - REPLACEMENT_BYTES, replacement, REPLACEMENT_BYTES) == 0) {
        end -= REPLACEMENT_BYTES;
    }
    if (end > stream->n_shown) {
        status = text_show(text + stream->n_shown, end - stream->n_shown, stream->stream);
        stream->n_shown = end;
    }
    memory_free(text);
    return status;
}
