/* Owns string literals of templates: the escapes are Python's. */
#include "model/jinja_internal.h"

#include <string.h>

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    const char *found = c == '\0' ? NULL : strchr(digits, c);
    const int value = found == NULL ? -1 : (int)(found - digits);

    return value >= 16 ? value - 6 : value;
}

static size_t put_code_point(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char heads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80U | (code & 0x3FU));
        code >>= 6;
    }
    out[0] = (char)(heads[n] | code);
    return n;
}

/* \xhh, \uhhhh, \Uhhhhhhhh at p->text[i], behind the backslash. *i moves to the last digit. */
static bool read_hex_escape(const struct parser *p, size_t *i, size_t end, uint32_t *out)
{
    const char kind = p->text[*i];
    const size_t n = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;

    *out = 0;
    for (size_t k = 1; k <= n; k++) {
        const int digit = *i + k < end ? hex_digit(p->text[*i + k]) : -1;
        if (digit < 0) {
            return false;
        }
        *out = *out << 4 | (uint32_t)digit;
    }
    *i += n;
    return *out <= 0x10FFFF && (*out < 0xD800 || *out > 0xDFFF);
}

/* One escape of Python's: *i is behind the backslash, and at the last byte of it afterwards. */
static enum status read_escape(struct parser *p, size_t *i, size_t end, char *out, size_t *n_out)
{
    static const char from[] = "\\'\"nrtabfv", to[] = "\\'\"\n\r\t\a\b\f\v";
    const char c = p->text[*i];
    const char *found = c == '\0' ? NULL : strchr(from, c);
    uint32_t code = 0;

    if (found != NULL) {
        out[(*n_out)++] = to[found - from];
        return STATUS_OK;
    }
    if (c == '\n') {
        return STATUS_OK; /* goes on in the next line */
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        if (!read_hex_escape(p, i, end, &code)) {
            return jinja_fail(p->program, *i - 1, "this escape is not known", (struct word){0});
        }
        *n_out += put_code_point(code, out + *n_out);
        return STATUS_OK;
    }
    if (c == 'N' || (c >= '0' && c <= '7') || ((unsigned char)c & 0x80) != 0) {
        return jinja_fail(p->program, *i - 1, "this escape is not known", (struct word){0});
    }
    out[(*n_out)++] = '\\'; /* not an escape at all */
    out[(*n_out)++] = c;
    return STATUS_OK;
}

enum status parser_string(struct parser *p)
{
    const char quote = p->text[p->at];
    size_t end = p->at + 1, count = 0;
    char *value = NULL;

    while (end < p->n && p->text[end] != quote) {
        end += p->text[end] == '\\' ? 2 : 1;
    }
    if (end >= p->n) {
        return jinja_fail(p->program, p->at, "a string without end", (struct word){0});
    }
    TRY(arena_alloc(p->program->arena, end - p->at, 1, &value));
    for (size_t i = p->at + 1; i < end; i++) {
        if (p->text[i] != '\\') {
            value[count++] = p->text[i];
            continue;
        }
        i++;
        TRY(read_escape(p, &i, end, value, &count));
    }
    p->token.kind = TOKEN_STRING;
    p->token.text = (struct word){value, count};
    p->at = end + 1;
    return STATUS_OK;
}
