/* Owns the escapes of JSON strings. */
#include "model/json_text.h"

#include "base/utf8.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum status json_text_put(struct text_buffer *out, const char *text)
{
    return text_buffer_put(out, text, strlen(text));
}

enum status json_text_number(struct text_buffer *out, int64_t number)
{
    char digits[32];

    (void)snprintf(digits, sizeof(digits), "%" PRId64, number);
    return json_text_put(out, digits);
}

static enum status put_escape(struct text_buffer *out, char byte)
{
    char escape[16];

    if (byte == '\n') {
        return json_text_put(out, "\\n");
    }
    if (byte == '"' || byte == '\\') {
        (void)snprintf(escape, sizeof(escape), "\\%c", byte);
    } else {
        (void)snprintf(escape, sizeof(escape), "\\u%04x", (unsigned)byte);
    }
    return json_text_put(out, escape);
}

/* One character of n bytes. */
static enum status put_character(struct text_buffer *out, const char *text, size_t n)
{
    const bool needs_escape = n == 1 && (*text < ' ' || *text == '"' || *text == '\\');

    return needs_escape ? put_escape(out, *text) : text_buffer_put(out, text, n);
}

enum status json_text_quote(struct text_buffer *out, const char *text, size_t n)
{
    size_t i = 0;
    enum status status = json_text_put(out, "\"");

    while (i < n && status == STATUS_OK) {
        const size_t length = text[i] == '\0' ? 0 : utf8_sequence(text + i, n - i, NULL);

        if (length == 0) {
            return status_set(STATUS_BAD_FORMAT, "byte %zu of a text is 0x%02x, which is not UTF-8",
                              i, (unsigned)(unsigned char)text[i]);
        }
        status = put_character(out, text + i, length);
        i += length;
    }
    return status == STATUS_OK ? json_text_put(out, "\"") : status;
}
