/* Owns reading a template: its statements, and the whole. */
#include "base/memory.h"
#include "model/jinja_internal.h"
#include "model/tokenizer_text.h"

#include <string.h>

#define DEPTH_MAX 64u

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

/* --- Statements --- */

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

/* Behind "if" or "elif": the condition and the body. */
static enum status parse_branch(struct parser *p, struct node **out)
{
    TRY(parser_node(p, NODE_IF, out));
    TRY(parser_next(p));
    TRY(parse_expression(p, &(*out)->a));
    return tag_then_body(p, &(*out)->body);
}

/* An "elif" is an if in the other's place. */
static enum status parse_if(struct parser *p, struct node **out)
{
    TRY(parse_branch(p, out));
    while (parser_sees(p, "elif")) {
        out = &(*out)->other;
        TRY(parse_branch(p, out));
    }
    return parse_else(p, *out, "endif");
}

/* "x in list" or "x, y in list", and a filter. */
static enum status parse_for_head(struct parser *p, struct node *node)
{
    TRY(parser_name(p, &node->name));
    if (parser_sees(p, ",")) {
        TRY(parser_next(p));
        TRY(parser_name(p, &node->second));
    }
    TRY(parser_expect(p, "in"));
    TRY(parse_logic(p, &node->a));
    if (!parser_sees(p, "if")) {
        return STATUS_OK;
    }
    TRY(parser_next(p));
    return parse_expression(p, &node->b);
}

static enum status parse_for(struct parser *p, struct node **out)
{
    TRY(parser_node(p, NODE_FOR, out));
    TRY(parser_next(p));
    TRY(parse_for_head(p, *out));
    p->n_loops++;
    TRY(tag_then_body(p, &(*out)->body));
    p->n_loops--;
    return parse_else(p, *out, "endfor");
}

static enum status parse_set(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_SET, &node));
    *out = node;
    TRY(parser_next(p));
    TRY(parser_name(p, &node->name));
    if (parser_sees(p, ".")) {
        TRY(parser_next(p));
        TRY(parser_name(p, &node->second));
    }
    if (p->token.kind == TOKEN_END) {
        TRY(parse_body(p, &node->body));
        return parser_expect(p, "endset");
    }
    TRY(parser_expect(p, "="));
    return parse_expression(p, &node->a);
}

static enum status parse_jump(struct parser *p, struct node **out)
{
    const bool is_break = parser_sees(p, "break");

    if (p->n_loops == 0) {
        return jinja_fail(p->program, p->token.at, "outside of a loop:", p->token.text);
    }
    TRY(parser_node(p, is_break ? NODE_BREAK : NODE_CONTINUE, out));
    return parser_next(p);
}

/* name or name=default */
static enum status parse_parameter(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_ARGUMENT, &node));
    *out = node;
    TRY(parser_name(p, &node->name));
    if (parser_sees(p, "=")) {
        TRY(parser_next(p));
        TRY(parse_expression(p, &node->a));
    }
    return parser_sees(p, ")") ? STATUS_OK : parser_expect(p, ",");
}

static enum status parse_parameters(struct parser *p, struct node **out)
{
    TRY(parser_expect(p, "("));
    while (!parser_sees(p, ")")) {
        TRY(parse_parameter(p, out));
        out = &(*out)->next;
    }
    return parser_next(p);
}

/* Leaves nothing to run: calls find it in the program. */
static enum status parse_macro(struct parser *p)
{
    struct macro *macro = NULL;

    if (p->n_blocks > 1) {
        return jinja_fail(p->program, p->token.at, "a macro inside of another statement",
                          (struct word){0});
    }
    TRY(arena_alloc(p->program->arena, 1, sizeof(*macro), &macro));
    TRY(parser_next(p));
    TRY(parser_name(p, &macro->name));
    TRY(parse_parameters(p, &macro->parameters));
    TRY(tag_then_body(p, &macro->body));
    TRY(parser_expect(p, "endmacro"));
    macro->next = p->program->macros;
    p->program->macros = macro;
    return STATUS_OK;
}

static enum status parse_known(struct parser *p, struct node **out)
{
    if (parser_sees(p, "if")) {
        return parse_if(p, out);
    }
    if (parser_sees(p, "for")) {
        return parse_for(p, out);
    }
    if (parser_sees(p, "set")) {
        return parse_set(p, out);
    }
    if (parser_sees(p, "macro")) {
        return parse_macro(p);
    }
    if (parser_sees(p, "break") || parser_sees(p, "continue")) {
        return parse_jump(p, out);
    }
    return jinja_fail(p->program, p->token.at, "this statement is not known:", p->token.text);
}

/* Behind "{%", whose word is the token. *is_stop: it belongs to a statement further out. */
static enum status parse_statement(struct parser *p, struct node **out, bool *is_stop)
{
    static const char *const stops[] = {"elif", "else", "endif", "endfor", "endset", "endmacro"};

    *is_stop = false;
    for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++) {
        *is_stop = *is_stop || parser_sees(p, stops[i]);
    }
    if (*is_stop) {
        return STATUS_OK;
    }
    p->n_blocks++;
    TRY(parse_known(p, out));
    p->n_blocks--;
    return end_of_tag(p);
}

/* --- Bodies --- */

/* One tag; p->at is its "{". */
static enum status parse_tag(struct parser *p, struct node **out, bool *is_stop)
{
    const char kind = p->text[p->at + 1];
    bool is_raw = false;

    *out = NULL;
    *is_stop = false;
    if (kind == '%') {
        TRY(parser_raw(p, out, &is_raw));
    }
    if (is_raw) {
        return STATUS_OK;
    }
    p->at += 2;
    if (kind == '#') {
        return parser_comment(p);
    }
    p->at += p->at < p->n && (p->text[p->at] == '-' || p->text[p->at] == '+') ? 1 : 0;
    p->n_open = 0;
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
        status = parser_text(p, &node);
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

/* Copies the text with "\n" for every line end and without the last one. */
static enum status take_text(const char *text, size_t n, struct jinja *program)
{
    size_t count = 0;

    TRY(arena_copy_text(program->arena, text, n, &program->text));
    for (size_t i = 0; i < n; i++) {
        const bool is_return = text[i] == '\r';
        if (is_return) {
            program->text[count++] = '\n';
        } else {
            program->text[count++] = text[i];
        }
        i += is_return && i + 1 < n && text[i + 1] == '\n' ? 1 : 0;
    }
    program->n = count > 0 && program->text[count - 1] == '\n' ? count - 1 : count;
    program->text[program->n] = '\0';
    TRY(arena_alloc(program->arena, n + 1, 1, &program->ones));
    memset(program->ones, 1, n + 1);
    return STATUS_OK;
}

static enum status compile(const char *text, size_t n, struct jinja *program)
{
    if (!text_is_utf8(text, n)) {
        return status_set(STATUS_BAD_FORMAT, "chat template: not UTF-8");
    }
    TRY(arena_create(1 << 16, &program->arena));
    TRY(take_text(text, n, program));
    struct parser p = {
        .program = program, .text = program->text, .n = program->n, .begins_line = true};
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
