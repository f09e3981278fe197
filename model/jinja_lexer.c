/* Owns the words of a template: its text between tags, with the blanks that tags take along, and
 * the tokens inside them. As jinja2's lexer with trim_blocks and lstrip_blocks. */
#include "base/utf8.h"
#include "model/jinja_internal.h"
#include "model/tokenizer_text.h"

#include <string.h>

bool word_is(struct word word, const char *text)
{
    return word.text != NULL && word.n == strlen(text) && memcmp(word.text, text, word.n) == 0;
}

bool word_equals(struct word a, struct word b)
{
    return a.n == b.n && memcmp(a.text, b.text, a.n) == 0;
}

struct word word_of(const char *text)
{
    return (struct word){text, strlen(text)};
}

enum status jinja_fail(const struct jinja *program, size_t at, const char *message,
                       struct word word)
{
    size_t line = 1, column = 1;

    for (size_t i = 0; i < at && i < program->n; i++) {
        const bool is_end = program->text[i] == '\n';
        line += is_end ? 1 : 0;
        column = is_end ? 1 : column + 1;
    }
    return status_set(STATUS_BAD_FORMAT, "chat template:%zu:%zu: %s%s%.*s", line, column, message,
                      word.text == NULL ? "" : " ", word.text == NULL ? 0 : (int)word.n,
                      word.text == NULL ? "" : word.text);
}

/* --- Characters --- */

/* Bytes of the blank (Python's str.isspace) at text[at], 0 if there is none. */
static size_t blank_at(const struct parser *p, size_t at)
{
    uint32_t code = 0;
    const size_t n = at < p->n ? utf8_sequence(p->text + at, p->n - at, &code) : 0;

    return n > 0 && (code_point_is_space(code) || (code >= 0x1C && code <= 0x1F)) ? n : 0;
}

/* Bytes of the blank that ends at text[end]. */
static size_t blank_before(const struct parser *p, size_t start, size_t end)
{
    size_t at = end;

    while (at > start) {
        at--;
        if (((unsigned char)p->text[at] & 0xC0) != 0x80) {
            break;
        }
    }
    return at < end && blank_at(p, at) == end - at ? end - at : 0;
}

static void skip_blanks(struct parser *p)
{
    for (size_t n = blank_at(p, p->at); n > 0; n = blank_at(p, p->at)) {
        p->at += n;
    }
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool follows(const struct parser *p, size_t at, const char *text)
{
    const size_t n = strlen(text);

    return p->n >= at && p->n - at >= n && memcmp(p->text + at, text, n) == 0;
}

/* --- Tokens --- */

static enum status read_word(struct parser *p)
{
    const size_t start = p->at;

    while (p->at < p->n && is_name_byte(p->text[p->at])) {
        p->at++;
    }
    p->token.text = (struct word){p->text + start, p->at - start};
    p->token.kind = TOKEN_NAME;
    if (p->text[start] < '0' || p->text[start] > '9') {
        return STATUS_OK;
    }
    p->token.kind = TOKEN_INTEGER;
    const bool is_real = follows(p, p->at, ".") && p->at + 1 < p->n && p->text[p->at + 1] >= '0' &&
                         p->text[p->at + 1] <= '9';
    for (size_t i = start; i < p->at; i++) {
        if (is_real || p->text[i] < '0' || p->text[i] > '9' || i - start > 15) {
            return jinja_fail(p->program, start, "not an integer:", p->token.text);
        }
        p->token.number = p->token.number * 10 + (p->text[i] - '0');
    }
    return STATUS_OK;
}

/* Behind the end of a tag: the blanks that it takes along. */
static void end_tag(struct parser *p, char sign, bool takes_newline)
{
    if (sign == '-') {
        skip_blanks(p);
    } else if (takes_newline && sign != '+' && follows(p, p->at, "\n")) {
        p->at++;
    }
    p->begins_line = p->text[p->at - 1] == '\n';
}

/* Whether a tag ends here; eats its end and the blanks it takes along. */
static bool ends_tag(struct parser *p)
{
    const char sign = p->text[p->at];
    const size_t end = p->at + (sign == '-' || sign == '+' ? 1 : 0);
    const bool is_block = follows(p, end, "%}");

    if (p->n_open > 0 || (!is_block && (sign == '+' || !follows(p, end, "}}")))) {
        return false;
    }
    p->at = end + 2;
    end_tag(p, sign, is_block);
    return true;
}

/* A closing bracket without an opening one stays a token, which no rule of the grammar takes. */
static void count_bracket(struct parser *p, char c)
{
    if (strchr("([{", c) != NULL) {
        p->n_open++;
    } else if (strchr(")]}", c) != NULL && p->n_open > 0) {
        p->n_open--;
    }
}

static enum status read_sign(struct parser *p)
{
    static const char *const pairs[] = {"==", "!=", "<=", ">=", "//"};
    size_t n = 1;

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        n = follows(p, p->at, pairs[i]) ? 2 : n;
    }
    const char c = p->text[p->at];
    p->token.kind = TOKEN_SIGN;
    p->token.text = (struct word){p->text + p->at, n};
    if (n == 1 && (c == '\0' || strchr("+-~*%()[]{}.,:|<>=", c) == NULL)) {
        return jinja_fail(p->program, p->at, "this cannot stand here:", p->token.text);
    }
    count_bracket(p, c);
    p->at += n;
    return STATUS_OK;
}

enum status parser_next(struct parser *p)
{
    skip_blanks(p);
    p->token = (struct token){.kind = TOKEN_END, .at = p->at};
    if (p->at >= p->n) {
        return jinja_fail(p->program, p->at, "the template ends inside a tag", (struct word){0});
    }
    if (ends_tag(p)) {
        return STATUS_OK;
    }
    const char c = p->text[p->at];
    if (c == '\'' || c == '"') {
        return parser_string(p);
    }
    return is_name_byte(c) ? read_word(p) : read_sign(p);
}

bool parser_sees(const struct parser *p, const char *text)
{
    return (p->token.kind == TOKEN_NAME || p->token.kind == TOKEN_SIGN) &&
           word_is(p->token.text, text);
}

enum status parser_expect(struct parser *p, const char *sign)
{
    if (!parser_sees(p, sign)) {
        return jinja_fail(p->program, p->token.at, "expected", word_of(sign));
    }
    return parser_next(p);
}

enum status parser_name(struct parser *p, struct word *out)
{
    if (p->token.kind != TOKEN_NAME) {
        return jinja_fail(p->program, p->token.at, "expected a name", (struct word){0});
    }
    *out = p->token.text;
    return parser_next(p);
}

/* --- Text between tags --- */

/* Where the text before a tag ends, once the blanks that the tag takes along are gone. */
static size_t trimmed_end(const struct parser *p, size_t start)
{
    size_t end = p->at;

    if (p->at + 2 >= p->n) {
        return end;
    }
    const char kind = p->text[p->at + 1], sign = p->text[p->at + 2];
    if (sign == '+' || (kind == '{' && sign != '-')) {
        return end;
    }
    for (size_t n = blank_before(p, start, end); n > 0; n = blank_before(p, start, end)) {
        if (sign != '-' && p->text[end - 1] == '\n') {
            break; /* without a "-" only the blanks before a statement that begins its line */
        }
        end -= n;
    }
    const bool begins_line = end > start ? p->text[end - 1] == '\n' : p->begins_line;
    return sign == '-' || begins_line ? end : p->at;
}

static enum status put_text(struct parser *p, size_t start, size_t end, struct node **out)
{
    *out = NULL;
    if (end == start) {
        return STATUS_OK;
    }
    p->token.at = start;
    TRY(parser_node(p, NODE_TEXT, out));
    (*out)->name = (struct word){p->text + start, end - start};
    return STATUS_OK;
}

enum status parser_text(struct parser *p, struct node **out)
{
    const size_t start = p->at;

    while (p->at < p->n && !follows(p, p->at, "{{") && !follows(p, p->at, "{%") &&
           !follows(p, p->at, "{#")) {
        p->at++;
    }
    return put_text(p, start, trimmed_end(p, start), out);
}

enum status parser_comment(struct parser *p)
{
    p->at += follows(p, p->at, "-") || follows(p, p->at, "+") ? 1 : 0;
    const size_t start = p->at;
    while (p->at < p->n && !follows(p, p->at, "#}")) {
        p->at++;
    }
    if (p->at >= p->n) {
        return jinja_fail(p->program, start, "a comment without end", (struct word){0});
    }
    char sign = '\0';
    if (p->at > start) {
        sign = p->text[p->at - 1];
    }
    p->at += 2;
    end_tag(p, sign, true);
    return STATUS_OK;
}

/* Whether the tag at `at` is {% word %}; *end is behind it, *sign the one before its end. */
static bool is_plain_tag(const struct parser *p, size_t at, const char *word, size_t *end,
                         char *sign)
{
    struct parser inside = *p;

    inside.at = at + 2;
    inside.at += follows(p, inside.at, "-") || follows(p, inside.at, "+") ? 1 : 0;
    skip_blanks(&inside);
    if (!follows(&inside, inside.at, word)) {
        return false;
    }
    inside.at += strlen(word);
    skip_blanks(&inside);
    *sign = '\0';
    if (inside.at < p->n) {
        *sign = p->text[inside.at];
    }
    inside.at += *sign == '-' || *sign == '+' ? 1 : 0;
    *end = inside.at + 2;
    return follows(p, inside.at, "%}");
}

enum status parser_raw(struct parser *p, struct node **out, bool *is_raw)
{
    size_t end = 0;
    char sign = '\0';
    const size_t tag = p->at;

    *out = NULL;
    *is_raw = is_plain_tag(p, p->at, "raw", &end, &sign) && sign != '+';
    if (!*is_raw) {
        return STATUS_OK;
    }
    p->at = end;
    end_tag(p, sign, false);
    const size_t start = p->at;
    while (p->at < p->n &&
           !(follows(p, p->at, "{%") && is_plain_tag(p, p->at, "endraw", &end, &sign))) {
        p->at++;
    }
    if (p->at >= p->n) {
        return jinja_fail(p->program, tag, "a raw block without end", (struct word){0});
    }
    TRY(put_text(p, start, trimmed_end(p, start), out));
    p->at = end;
    end_tag(p, sign, true);
    return STATUS_OK;
}

/* --- Nodes --- */

enum status parser_node(struct parser *p, enum node_kind kind, struct node **out)
{
    TRY(arena_alloc(p->program->arena, 1, sizeof(**out), out));
    (*out)->kind = kind;
    (*out)->at = p->token.at;
    return STATUS_OK;
}

enum status parser_wrap(struct parser *p, enum node_kind kind, struct node **node)
{
    struct node *outer = NULL;

    TRY(parser_node(p, kind, &outer));
    outer->a = *node;
    *node = outer;
    return STATUS_OK;
}
