/* Owns UTF-8, character classes and normal forms for the tokenizer. */
#include "model/tokenizer_text.h"

#include "base/memory.h"
#include "base/utf8.h"

#include <string.h>
#include <utf8proc.h>

bool text_is_utf8(const char *text, size_t n)
{
    size_t i = 0;

    while (i < n) {
        uint64_t word;
        if (i + sizeof(word) <= n) {
            memcpy(&word, text + i, sizeof(word));
            if ((word & 0x8080808080808080U) == 0) {
                i += sizeof(word);
                continue;
            }
        }
        const size_t length = utf8_sequence(text + i, n - i, NULL);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

bool code_point_is_space(uint32_t code_point)
{
    switch (code_point) {
    case 0x20:
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
        return true;
    default:
        return (code_point >= 0x09 && code_point <= 0x0D) ||
               (code_point >= 0x2000 && code_point <= 0x200A);
    }
}

bool code_point_is_word(uint32_t code_point)
{
    static const utf8proc_category_t words[] = {
        UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LL, UTF8PROC_CATEGORY_LT, UTF8PROC_CATEGORY_LM,
        UTF8PROC_CATEGORY_LO, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_MC, UTF8PROC_CATEGORY_ME,
        UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NL, UTF8PROC_CATEGORY_PC};
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code_point);
    bool is_word = code_point == 0x200C || code_point == 0x200D;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        is_word = is_word || category == words[i];
    }
    return is_word;
}

size_t text_leading_space(const char *text, size_t n)
{
    size_t i = 0;

    while (i < n) {
        uint32_t code_point = 0;
        const size_t length = utf8_sequence(text + i, n - i, &code_point);
        if (length == 0 || !code_point_is_space(code_point)) {
            break;
        }
        i += length;
    }
    return i;
}

/* Bytes of the last character of text[0..n), n > 0, with its code point. */
static size_t decode_last(const char *text, size_t n, uint32_t *code_point)
{
    size_t start = n - 1;

    while (start > 0 && n - start < 4 && ((unsigned char)text[start] & 0xC0) == 0x80) {
        start--;
    }
    return utf8_sequence(text + start, n - start, code_point);
}

size_t text_trailing_space(const char *text, size_t n)
{
    size_t left = n;

    while (left > 0) {
        uint32_t code_point = 0;
        const size_t length = decode_last(text, left, &code_point);
        if (length == 0 || !code_point_is_space(code_point)) {
            break;
        }
        left -= length;
    }
    return n - left;
}

bool text_starts_with_word(const char *text, size_t n)
{
    uint32_t code_point = 0;

    return n > 0 && utf8_sequence(text, n, &code_point) > 0 && code_point_is_word(code_point);
}

bool text_ends_with_word(const char *text, size_t n)
{
    uint32_t code_point = 0;

    return n > 0 && decode_last(text, n, &code_point) > 0 && code_point_is_word(code_point);
}

/* --- Normal forms --- */

/* Below U+0300 every character is its own NFC form and nothing combines; for the other forms that
 * holds of ASCII. */
static bool is_plainly_normal(enum text_form form, const char *text, size_t n)
{
    const unsigned char limit = form == TEXT_NFC ? 0xCC : 0x80;

    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] >= limit) {
            return false;
        }
    }
    return true;
}

static utf8proc_option_t form_options(enum text_form form)
{
    const bool composes = form == TEXT_NFC || form == TEXT_NFKC;
    const bool is_compatible = form == TEXT_NFKC || form == TEXT_NFKD;
    const unsigned options = (unsigned)UTF8PROC_STABLE |
                             (unsigned)(composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                             (is_compatible ? (unsigned)UTF8PROC_COMPAT : 0U);

    return (utf8proc_option_t)options;
}

/* The code points of text's form in points[0..*n_points): utf8proc's two steps, in memory that is
 * counted. */
static enum status normal_points(enum text_form form, const char *text, size_t n,
                                 utf8proc_int32_t **points, size_t *n_points)
{
    const utf8proc_option_t options = form_options(form);
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    const utf8proc_ssize_t wanted =
        utf8proc_decompose(bytes, (utf8proc_ssize_t)n, NULL, 0, options);

    if (wanted < 0) {
        return status_set(STATUS_BAD_FORMAT, "normal form: %s", utf8proc_errmsg(wanted));
    }
    TRY(memory_alloc((size_t)wanted + 1, sizeof(**points), points));
    utf8proc_ssize_t result =
        utf8proc_decompose(bytes, (utf8proc_ssize_t)n, *points, wanted, options);
    if (result >= 0 && ((unsigned)options & (unsigned)UTF8PROC_COMPOSE) != 0) {
        result = utf8proc_normalize_utf32(*points, result, options);
    }
    if (result < 0) {
        return status_set(STATUS_BAD_FORMAT, "normal form: %s", utf8proc_errmsg(result));
    }
    *n_points = (size_t)result;
    return STATUS_OK;
}

static enum status put_point(struct text_buffer *out, utf8proc_int32_t point)
{
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t length = utf8proc_encode_char(point, bytes);

    return text_buffer_put(out, (const char *)bytes, (size_t)length);
}

enum status text_normalize(enum text_form form, const char *text, size_t n, struct text_buffer *out)
{
    utf8proc_int32_t *points = NULL;
    size_t n_points = 0;

    if (is_plainly_normal(form, text, n)) {
        return text_buffer_put(out, text, n);
    }
    enum status status = normal_points(form, text, n, &points, &n_points);
    if (status == STATUS_OK) {
        status = text_buffer_reserve(out, n_points * 4);
    }
    for (size_t i = 0; status == STATUS_OK && i < n_points; i++) {
        status = put_point(out, points[i]);
    }
    memory_free(points);
    return status;
}

/* --- Case and marks --- */

enum status text_lower(const char *text, size_t n, struct text_buffer *out)
{
    static const char dotted_i[] = "i\xCC\x87"; /* of U+0130: the one that becomes two */

    for (size_t i = 0; i < n;) {
        uint32_t point = 0;
        const size_t length = utf8_sequence(text + i, n - i, &point);
        const enum status status = point == 0x130
                                       ? text_buffer_put(out, dotted_i, sizeof(dotted_i) - 1)
                                       : put_point(out, utf8proc_tolower((utf8proc_int32_t)point));
        TRY(status);
        i += length > 0 ? length : 1;
    }
    return STATUS_OK;
}

enum status text_without_marks(const char *text, size_t n, struct text_buffer *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t point = 0;
        const size_t length = utf8_sequence(text + i, n - i, &point);
        const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)point);
        const bool is_mark = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                             category == UTF8PROC_CATEGORY_ME;
        TRY(text_buffer_put(out, text + i, is_mark ? 0 : length));
        i += length > 0 ? length : 1;
    }
    return STATUS_OK;
}
