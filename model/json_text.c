/* Owns the escapes of JSON strings. */
#include "model/json_text.h"

#include "base/utf8.h"

#include <inttypes.h>
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

enum status json_text_quote(struct text_buffer *out, const char *text, size_t n)
{
    TRY(json_text_put(out, "\""));
    for (size_t i = 0; i < n;) {
        const size_t length = utf8_sequence(text + i, n - i, NULL);

        if (length == 0 || text[i] == '\0') {
            return status_set(STATUS_BAD_FORMAT, "byte %zu of a text is 0x%02x, which is not UTF-8",
                              i, (unsigned)(unsigned char)text[i]);
        }
        if (length == 1 && (text[i] < ' ' || text[i] == '"' || text[i] == '\\')) {
            TRY(put_escape(out, text[i]));
        } else {
            TRY(text_buffer_put(out, text + i, length));
        }
        i += length;
    }
    return json_text_put(out, "\"");
}
