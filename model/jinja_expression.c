/* Owns reading expressions of templates. */
#include "model/jinja_internal.h"

#include <string.h>

#define DEPTH_MAX 64u

static enum status wrap(struct parser *p, enum node_kind kind, struct node **node)
{
    struct node *outer = NULL;

    TRY(parser_node(p, kind, &outer));
    outer->a = *node;
    *node = outer;
    return STATUS_OK;
}

/* Up to `end`: values and keyword = value. */
static enum status parse_argument(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_ARGUMENT, &node));
    *out = node;
    TRY(parse_expression(p, &node->a));
    if (!parser_sees(p, "=")) {
        return STATUS_OK;
    }
    if (node->a->kind != NODE_NAME) {
        return jinja_fail(p->program, node->at, "a keyword must be a name", (struct word){0});
    }
    node->name = node->a->name;
    TRY(parser_next(p));
    return parse_expression(p, &node->a);
}

static enum status parse_arguments(struct parser *p, const char *end, struct node **out)
{
    struct node **link = out;
    enum status status = parser_next(p);

    while (status == STATUS_OK && !parser_sees(p, end)) {
        status = parse_argument(p, link);
        link = status == STATUS_OK ? &(*link)->next : link;
        if (status == STATUS_OK && !parser_sees(p, end)) {
            status = parser_expect(p, ",");
        }
    }
    return status == STATUS_OK ? parser_next(p) : status;
}

/* --- Behind a value --- */

/* One of the three parts of a slice, or none. */
static enum status parse_bound(struct parser *p, struct node **out)
{
    if (parser_sees(p, ":") || parser_sees(p, "]")) {
        return STATUS_OK;
    }
    return parse_expression(p, out);
}

static enum status parse_subscript(struct parser *p, struct node **node)
{
    TRY(wrap(p, NODE_INDEX, node));
    TRY(parser_next(p));
    TRY(parse_bound(p, &(*node)->b));
    if (!parser_sees(p, ":")) {
        return parser_expect(p, "]");
    }
    (*node)->kind = NODE_SLICE;
    TRY(parser_next(p));
    TRY(parse_bound(p, &(*node)->c));
    if (parser_sees(p, ":")) {
        TRY(parser_next(p));
        TRY(parse_bound(p, &(*node)->d));
    }
    return parser_expect(p, "]");
}

static enum status parse_dot(struct parser *p, struct node **node)
{
    TRY(wrap(p, NODE_ATTRIBUTE, node));
    TRY(parser_next(p));
    if (p->token.kind != TOKEN_NAME) {
        return jinja_fail(p->program, p->token.at, "expected a name", (struct word){0});
    }
    (*node)->name = p->token.text;
    TRY(parser_next(p));
    if (!parser_sees(p, "(")) {
        return STATUS_OK;
    }
    if (!method_is_known((*node)->name)) {
        return jinja_fail(p->program, (*node)->at, "this method is not known:", (*node)->name);
    }
    (*node)->kind = NODE_METHOD;
    return parse_arguments(p, ")", &(*node)->body);
}

static enum status parse_filter(struct parser *p, struct node **node)
{
    TRY(wrap(p, NODE_FILTER, node));
    TRY(parser_next(p));
    (*node)->name = p->token.text;
    if (p->token.kind != TOKEN_NAME || !filter_is_known((*node)->name)) {
        return jinja_fail(p->program, p->token.at, "this filter is not known:", p->token.text);
    }
    TRY(parser_next(p));
    return parser_sees(p, "(") ? parse_arguments(p, ")", &(*node)->body) : STATUS_OK;
}

static enum status parse_test(struct parser *p, struct node **node)
{
    TRY(wrap(p, NODE_TEST, node));
    TRY(parser_next(p));
    if (parser_sees(p, "not")) {
        (*node)->number = 1;
        TRY(parser_next(p));
    }
    (*node)->name = p->token.text;
    if (p->token.kind != TOKEN_NAME || !test_is_known((*node)->name)) {
        return jinja_fail(p->program, p->token.at, "this test is not known:", p->token.text);
    }
    return parser_next(p);
}

static enum status parse_suffixes(struct parser *p, struct node **node)
{
    enum status status = STATUS_OK;
    bool has_more = true;

    while (status == STATUS_OK && has_more) {
        if (parser_sees(p, ".")) {
            status = parse_dot(p, node);
        } else if (parser_sees(p, "[")) {
            status = parse_subscript(p, node);
        } else if (parser_sees(p, "|")) {
            status = parse_filter(p, node);
        } else if (parser_sees(p, "is")) {
            status = parse_test(p, node);
        } else {
            has_more = false;
        }
    }
    return status;
}

/* --- Values --- */

static enum status parse_called_name(struct parser *p, struct node *node)
{
    static const char *const constants[] = {"false", "true", "none"};
    static const char *const capitals[] = {"False", "True", "None"};

    node->name = p->token.text;
    for (size_t i = 0; i < 3; i++) {
        if (word_is(node->name, constants[i]) || word_is(node->name, capitals[i])) {
            node->kind = NODE_CONSTANT;
            node->number = (int64_t)i;
        }
    }
    TRY(parser_next(p));
    if (!parser_sees(p, "(")) {
        return STATUS_OK;
    }
    if (!word_is(node->name, "namespace") && !word_is(node->name, "raise_exception")) {
        return jinja_fail(p->program, node->at, "this function is not known:", node->name);
    }
    node->kind = NODE_CALL;
    return parse_arguments(p, ")", &node->body);
}

static enum status parse_primary(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_NAME, &node));
    *out = node;
    if (p->token.kind == TOKEN_NAME) {
        return parse_called_name(p, node);
    }
    if (p->token.kind == TOKEN_STRING || p->token.kind == TOKEN_INTEGER) {
        node->kind = p->token.kind == TOKEN_STRING ? NODE_STRING : NODE_INTEGER;
        node->name = p->token.text;
        node->number = p->token.number;
        return parser_next(p);
    }
    if (parser_sees(p, "(")) {
        TRY(parser_next(p));
        TRY(parse_expression(p, out));
        return parser_expect(p, ")");
    }
    if (parser_sees(p, "[")) {
        node->kind = NODE_LIST;
        return parse_arguments(p, "]", &node->body);
    }
    return jinja_fail(p->program, p->token.at, "a value should stand here", (struct word){0});
}

static enum status parse_unary(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    if (!parser_sees(p, "-")) {
        TRY(parse_primary(p, out));
        return parse_suffixes(p, out);
    }
    TRY(parser_node(p, NODE_NEGATE, &node));
    *out = node;
    TRY(parser_next(p));
    TRY(parse_primary(p, &node->a));
    return parse_suffixes(p, &node->a);
}

/* --- Operators --- */

/* From the loosest to the tightest; NULL ends a row. "not" stands between the second and third. */
static const char *const levels[][9] = {
    {"or"},     {"and"}, {"==", "!=", "<", ">", "<=", ">=", "in", "not"},
    {"+", "-"}, {"~"},   {"*", "//", "%"},
};
#define LEVEL_COMPARE 2u
#define N_LEVELS (sizeof(levels) / sizeof(levels[0]))

static bool sees_level(const struct parser *p, size_t level)
{
    for (size_t i = 0; i < 9 && levels[level][i] != NULL; i++) {
        if (parser_sees(p, levels[level][i])) {
            return true;
        }
    }
    return false;
}

static enum status parse_level(struct parser *p, size_t level, struct node **out);

static enum status parse_operand(struct parser *p, size_t level, struct node **out)
{
    struct node *node = NULL;

    if (level == N_LEVELS) {
        return parse_unary(p, out);
    }
    if (level != LEVEL_COMPARE || !parser_sees(p, "not")) {
        return parse_level(p, level, out);
    }
    TRY(parser_node(p, NODE_NOT, &node));
    *out = node;
    TRY(parser_next(p));
    if (parser_sees(p, "not")) {
        return jinja_fail(p->program, p->token.at, "\"not\" twice", (struct word){0});
    }
    return parse_operand(p, level, &node->a);
}

/* Behind a left operand: an operator of this level and its right operand. */
static enum status parse_operator(struct parser *p, size_t level, struct node **node)
{
    TRY(wrap(p, NODE_BINARY, node));
    (*node)->name = p->token.text;
    TRY(parser_next(p));
    if (word_is((*node)->name, "not")) {
        TRY(parser_expect(p, "in"));
    }
    return parse_operand(p, level + 1, &(*node)->b);
}

static enum status parse_level(struct parser *p, size_t level, struct node **out)
{
    if (++p->depth > DEPTH_MAX * N_LEVELS) {
        return jinja_fail(p->program, p->token.at, "nested too deeply", (struct word){0});
    }
    enum status status = parse_operand(p, level + 1, out);
    while (status == STATUS_OK && sees_level(p, level)) {
        status = parse_operator(p, level, out);
    }
    p->depth--;
    return status;
}

enum status parse_logic(struct parser *p, struct node **out)
{
    return parse_level(p, 0, out);
}

enum status parse_expression(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parse_logic(p, out));
    if (!parser_sees(p, "if")) {
        return STATUS_OK;
    }
    TRY(parser_node(p, NODE_CHOICE, &node));
    node->b = *out;
    *out = node;
    TRY(parser_next(p));
    TRY(parse_logic(p, &node->a));
    if (!parser_sees(p, "else")) {
        return STATUS_OK;
    }
    TRY(parser_next(p));
    return parse_expression(p, &node->c);
}
