/* Owns reading a template: its text, tags and statements. */
#include "base/memory.h"
#include "model/jinja_internal.h"
#include "model/tokenizer_text.h"

#include <string.h>

#define DEPTH_MAX 64u

bool word_is(struct word word, const char *text)
{
    return word.text != NULL && word.n == strlen(text) && memcmp(word.text, text, word.n) == 0;
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

/* --- Tokens --- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool follows(const struct parser *p, const char *text)
{
    const size_t n = strlen(text);

    return p->n - p->at >= n && memcmp(p->text + p->at, text, n) == 0;
}

/* A character for the one behind a backslash. */
static char unescape(char c)
{
    static const char from[] = "ntrbf0", to[] = "\n\t\r\b\f";
    const char *found = strchr(from, c);

    if (c == '\0' || found == NULL || *found == '0') {
        return c;
    }
    return to[found - from];
}

static enum status read_string(struct parser *p)
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
        const bool is_escape = p->text[i] == '\\';
        if (is_escape && strchr("xuUN01234567a\n", p->text[i + 1]) != NULL) {
            return jinja_fail(p->program, i, "this escape is not known", (struct word){0});
        }
        i += is_escape ? 1 : 0;
        value[count] = p->text[i];
        if (is_escape) {
            value[count] = unescape(p->text[i]);
        }
        count++;
    }
    p->token.kind = TOKEN_STRING;
    p->token.text = (struct word){value, count};
    p->at = end + 1;
    return STATUS_OK;
}

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
    for (size_t i = start; i < p->at; i++) {
        if (p->text[i] < '0' || p->text[i] > '9' || i - start > 15) {
            return jinja_fail(p->program, start, "not an integer:", p->token.text);
        }
        p->token.number = p->token.number * 10 + (p->text[i] - '0');
    }
    return STATUS_OK;
}

/* Whether a tag ends here; eats its end and the blanks it takes along. */
static bool ends_tag(struct parser *p)
{
    const char sign = p->text[p->at];
    const bool has_sign = sign == '-' || sign == '+';
    struct parser inside = *p;

    inside.at += has_sign ? 1 : 0;
    const bool is_block = follows(&inside, "%}");
    if (!is_block && !follows(&inside, "}}")) {
        return false;
    }
    p->at = inside.at + 2;
    if (sign == '-') {
        while (p->at < p->n && is_blank(p->text[p->at])) {
            p->at++;
        }
    } else if (is_block && sign != '+' && p->at < p->n && p->text[p->at] == '\n') {
        p->at++;
    }
    p->begins_line = p->text[p->at - 1] == '\n';
    return true;
}

static enum status read_sign(struct parser *p)
{
    static const char *const pairs[] = {"==", "!=", "<=", ">=", "//"};
    size_t n = 1;

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        n = follows(p, pairs[i]) ? 2 : n;
    }
    p->token.kind = TOKEN_SIGN;
    p->token.text = (struct word){p->text + p->at, n};
    if (n == 1 && strchr("+-~*%()[].,:|<>=", p->text[p->at]) == NULL) {
        return jinja_fail(p->program, p->at, "this cannot stand here:", p->token.text);
    }
    p->at += n;
    return STATUS_OK;
}

enum status parser_next(struct parser *p)
{
    while (p->at < p->n && is_blank(p->text[p->at])) {
        p->at++;
    }
    p->token = (struct token){.kind = TOKEN_END, .at = p->at};
    if (p->at >= p->n) {
        return jinja_fail(p->program, p->at, "the template ends inside a tag", (struct word){0});
    }
    if (ends_tag(p)) {
        return STATUS_OK;
    }
    const char c = p->text[p->at];
    if (c == '\'' || c == '"') {
        return read_string(p);
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
        return jinja_fail(p->program, p->token.at, "expected", (struct word){sign, strlen(sign)});
    }
    return parser_next(p);
}

enum status parser_node(struct parser *p, enum node_kind kind, struct node **out)
{
    TRY(arena_alloc(p->program->arena, 1, sizeof(**out), out));
    (*out)->kind = kind;
    (*out)->at = p->token.at;
    return STATUS_OK;
}

/* --- Statements --- */

/* A list being built. */
struct node_list {
    struct node *first, *last;
};

static void list_add(struct node_list *list, struct node *node)
{
    if (list->first == NULL) {
        list->first = node;
    } else {
        list->last->next = node;
    }
    list->last = node;
}

/* Reads until a tag that is none of its own (else, endif ...), whose word is the token then. */
static enum status parse_body(struct parser *p, struct node **out);

static enum status end_of_tag(struct parser *p)
{
    if (p->token.kind != TOKEN_END) {
        return jinja_fail(p->program, p->token.at, "the tag should end before", p->token.text);
    }
    return STATUS_OK;
}

/* The end of a statement's tag, then its body. */
static enum status tag_then_body(struct parser *p, struct node **out)
{
    TRY(end_of_tag(p));
    return parse_body(p, out);
}

static enum status parse_else(struct parser *p, struct node *node, const char *end)
{
    if (parser_sees(p, "else")) {
        TRY(parser_next(p));
        TRY(tag_then_body(p, &node->other));
    }
    return parser_expect(p, end);
}

/* Behind "if" or "elif". */
static enum status parse_if(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_IF, &node));
    *out = node;
    TRY(parser_next(p));
    TRY(parse_expression(p, &node->a));
    TRY(tag_then_body(p, &node->body));
    while (parser_sees(p, "elif")) {
        TRY(parser_node(p, NODE_IF, &node->other));
        node = node->other;
        TRY(parser_next(p));
        TRY(parse_expression(p, &node->a));
        TRY(tag_then_body(p, &node->body));
    }
    return parse_else(p, node, "endif");
}

static enum status parse_name(struct parser *p, struct word *out)
{
    if (p->token.kind != TOKEN_NAME) {
        return jinja_fail(p->program, p->token.at, "expected a name", (struct word){0});
    }
    *out = p->token.text;
    return parser_next(p);
}

/* Behind what the loop walks over: a filter perhaps, then the bodies. */
static enum status parse_loop_body(struct parser *p, struct node *node)
{
    if (parser_sees(p, "if")) {
        TRY(parser_next(p));
        TRY(parse_expression(p, &node->b));
    }
    TRY(tag_then_body(p, &node->body));
    return parse_else(p, node, "endfor");
}

static enum status parse_for(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_FOR, &node));
    *out = node;
    TRY(parser_next(p));
    TRY(parse_name(p, &node->name));
    if (parser_sees(p, ",")) {
        TRY(parser_next(p));
        TRY(parse_name(p, &node->second));
    }
    TRY(parser_expect(p, "in"));
    TRY(parse_logic(p, &node->a));
    return parse_loop_body(p, node);
}

static enum status parse_set(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_SET, &node));
    *out = node;
    TRY(parser_next(p));
    TRY(parse_name(p, &node->name));
    if (parser_sees(p, ".")) {
        TRY(parser_next(p));
        TRY(parse_name(p, &node->second));
    }
    TRY(parser_expect(p, "="));
    return parse_expression(p, &node->a);
}

/* Behind "{%", whose word is the token. *is_stop: it belongs to a statement further out. */
static enum status parse_statement(struct parser *p, struct node **out, bool *is_stop)
{
    static const char *const stops[] = {"elif", "else", "endif", "endfor"};

    *is_stop = false;
    for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
        *is_stop = *is_stop || parser_sees(p, stops[i]);
    }
    if (*is_stop) {
        return STATUS_OK;
    }
    if (parser_sees(p, "if")) {
        TRY(parse_if(p, out));
    } else if (parser_sees(p, "for")) {
        TRY(parse_for(p, out));
    } else if (parser_sees(p, "set")) {
        TRY(parse_set(p, out));
    } else {
        return jinja_fail(p->program, p->token.at, "this statement is not known:", p->token.text);
    }
    return end_of_tag(p);
}

/* --- Text between tags --- */

/* Where the text before a tag ends, once the blanks that the tag takes along are gone. */
static size_t trimmed_end(const struct parser *p, size_t start)
{
    const char *tag = p->text + p->at;
    size_t end = p->at;

    if (p->at + 2 >= p->n || tag[2] == '+' || (tag[1] == '{' && tag[2] != '-')) {
        return end;
    }
    if (tag[2] == '-') {
        while (end > start && is_blank(p->text[end - 1])) {
            end--;
        }
        return end;
    }
    while (end > start && is_blank(p->text[end - 1]) && p->text[end - 1] != '\n') {
        end--; /* blanks before a statement that begins its line */
    }
    const bool begins_line = end > start ? p->text[end - 1] == '\n' : p->begins_line;
    return begins_line ? end : p->at;
}

/* Text up to the next tag; p->at is the tag's "{" (or the end) afterwards. */
static enum status parse_text(struct parser *p, struct node **out)
{
    const size_t start = p->at;

    *out = NULL;
    while (p->at < p->n && !follows(p, "{{") && !follows(p, "{%") && !follows(p, "{#")) {
        p->at++;
    }
    const size_t end = trimmed_end(p, start);
    if (end == start) {
        return STATUS_OK;
    }
    p->token.at = start;
    TRY(parser_node(p, NODE_TEXT, out));
    (*out)->name = (struct word){p->text + start, end - start};
    return STATUS_OK;
}

static enum status skip_comment(struct parser *p)
{
    const size_t start = p->at;

    while (p->at < p->n && !follows(p, "#}")) {
        p->at++;
    }
    if (p->at >= p->n) {
        return jinja_fail(p->program, start, "a comment without end", (struct word){0});
    }
    const bool strips = p->text[p->at - 1] == '-';
    p->at += 2;
    if (!strips) {
        p->at += p->at < p->n && p->text[p->at] == '\n' ? 1 : 0;
    }
    while (strips && p->at < p->n && is_blank(p->text[p->at])) {
        p->at++;
    }
    p->begins_line = p->text[p->at - 1] == '\n';
    return STATUS_OK;
}

/* One tag; p->at is its "{". */
static enum status parse_tag(struct parser *p, struct node **out, bool *is_stop)
{
    const char kind = p->text[p->at + 1];

    *out = NULL;
    *is_stop = false;
    p->at += 2;
    if (kind == '#') {
        return skip_comment(p);
    }
    p->at += p->at < p->n && (p->text[p->at] == '-' || p->text[p->at] == '+') ? 1 : 0;
    TRY(parser_next(p));
    if (kind == '%') {
        return parse_statement(p, out, is_stop);
    }
    TRY(parser_node(p, NODE_OUTPUT, out));
    TRY(parse_expression(p, &(*out)->a));
    return end_of_tag(p);
}

static enum status parse_parts(struct parser *p, struct node_list *list)
{
    enum status status = STATUS_OK;
    bool is_stop = false;

    while (status == STATUS_OK && !is_stop) {
        struct node *node = NULL;
        status = parse_text(p, &node);
        if (node != NULL) {
            list_add(list, node);
        }
        if (status != STATUS_OK || p->at >= p->n) {
            p->token = (struct token){.kind = TOKEN_END, .at = p->n};
            break;
        }
        status = parse_tag(p, &node, &is_stop);
        if (status == STATUS_OK && node != NULL) {
            list_add(list, node);
        }
    }
    return status;
}

static enum status parse_body(struct parser *p, struct node **out)
{
    struct node_list list = {0};

    if (++p->depth > DEPTH_MAX) {
        return jinja_fail(p->program, p->at, "nested too deeply", (struct word){0});
    }
    TRY(parse_parts(p, &list));
    p->depth--;
    *out = list.first;
    return STATUS_OK;
}

/* --- The whole --- */

static enum status compile(const char *text, size_t n, struct jinja *program)
{
    const size_t n_kept = n > 0 && text[n - 1] == '\n' ? n - 1 : n;

    if (!text_is_utf8(text, n)) {
        return status_set(STATUS_BAD_FORMAT, "chat template: not UTF-8");
    }
    TRY(arena_create(1 << 16, &program->arena));
    TRY(arena_copy_text(program->arena, text, n_kept, &program->text));
    program->n = n_kept;
    struct parser p = {.program = program, .text = program->text, .n = n_kept, .begins_line = true};
    TRY(parse_body(&p, &program->body));
    if (p.token.kind != TOKEN_END) {
        return jinja_fail(program, p.token.at, "nothing is open here for", p.token.text);
    }
    return STATUS_OK;
}

enum status jinja_compile(const char *text, size_t n, struct jinja **out)
{
    struct jinja *program = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*program), &program));
    const enum status status = compile(text, n, program);
    if (status != STATUS_OK) {
        jinja_destroy(program);
        return status;
    }
    *out = program;
    return STATUS_OK;
}

void jinja_destroy(struct jinja *program)
{
    if (program == NULL) {
        return;
    }
    arena_destroy(program->arena);
    memory_free(program);
}
