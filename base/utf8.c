/* Owns UTF-8. The second byte's range is what rules out overlong forms and surrogates. */
#include "base/utf8.h"

#include "base/json.h"
#include "base/memory.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

struct lead {
    size_t length; /* of the whole sequence; 0: no lead byte */
    unsigned char second_min, second_max;
};

static struct lead lead_of(unsigned char byte)
{
    if (byte < 0x80) {
        return (struct lead){1, 0, 0};
    }
    if (byte >= 0xc2 && byte <= 0xdf) {
        return (struct lead){2, 0x80, 0xbf};
    }
    if (byte >= 0xe0 && byte <= 0xef) {
        return (struct lead){3, byte == 0xe0 ? 0xa0 : 0x80, byte == 0xed ? 0x9f : 0xbf};
    }
    if (byte >= 0xf0 && byte <= 0xf4) {
        return (struct lead){4, byte == 0xf0 ? 0x90 : 0x80, byte == 0xf4 ? 0x8f : 0xbf};
    }
    return (struct lead){0, 0, 0};
}

/* How many bytes from text on agree with a sequence of this lead. */
static size_t matching_bytes(const unsigned char *text, size_t n, struct lead lead)
{
    size_t i = 1;

    if (lead.length > 1 && n > 1 && text[1] >= lead.second_min && text[1] <= lead.second_max) {
        i = 2;
        while (i < lead.length && i < n && (text[i] & 0xc0u) == 0x80u) {
            i++;
        }
    }
    return i;
}

size_t utf8_sequence(const char *text, size_t n, uint32_t *code)
{
    const unsigned char *bytes = (const unsigned char *)text;

    if (n == 0) {
        return 0;
    }
    const struct lead lead = lead_of(bytes[0]);
    if (lead.length == 0 || matching_bytes(bytes, n, lead) < lead.length) {
        return 0;
    }
    if (code != NULL) {
        *code = lead.length == 1 ? bytes[0] : bytes[0] & (0x7fu >> lead.length);
        for (size_t i = 1; i < lead.length; i++) {
            *code = *code << 6 | (bytes[i] & 0x3fu);
        }
    }
    return lead.length;
}

size_t utf8_broken(const char *text, size_t n)
{
    const unsigned char *bytes = (const unsigned char *)text;

    return n == 0 ? 0 : matching_bytes(bytes, n, lead_of(bytes[0]));
}

/* Copies text to out (NULL: only counts), each broken part replaced; returns the bytes. */
static size_t replace_broken(const char *text, size_t n, char *out, bool *is_lossy)
{
    size_t used = 0;

    for (size_t i = 0; i < n;) {
        const size_t length = utf8_sequence(text + i, n - i, NULL);
        const char *piece = length > 0 ? text + i : REPLACEMENT;
        const size_t n_piece = length > 0 ? length : strlen(REPLACEMENT);
        if (out != NULL) {
            memcpy(out + used, piece, n_piece);
        }
        used += n_piece;
        *is_lossy |= length == 0;
        i += length > 0 ? length : utf8_broken(text + i, n - i);
    }
    return used;
}

enum status utf8_repair(const char *text, size_t n, char **out, size_t *n_out, bool *is_lossy)
{
    *out = NULL;
    *is_lossy = false;
    if (n > SIZE_MAX / 4) {
        return status_set(STATUS_NO_MEMORY, "text of %zu bytes is too large", n);
    }
    *n_out = replace_broken(text, n, NULL, is_lossy);
    TRY(memory_alloc(*n_out + 1, 1, out));
    (void)replace_broken(text, n, *out, is_lossy);
    return STATUS_OK;
}
