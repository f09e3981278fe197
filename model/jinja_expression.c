/* Owns reading expressions of templates: operators and literals. What is applied to a value, such
 * as calls and filters, is in jinja_apply.c. */
#include "model/jinja_internal.h"

#include <string.h>

#define DEPTH_MAX 64u

/* --- Literals --- */

/* Neighbouring strings are one. */
static enum status parse_string(struct parser *p, struct node *node)
{
    node->kind = NODE_STRING;
    node->name = p->token.text;
    TRY(parser_next(p));
    while (p->token.kind == TOKEN_STRING) {
        const struct word more = p->token.text;
        char *both = NULL;
        TRY(arena_alloc(p->program->arena, node->name.n + more.n + 1, 1, &both));
        memcpy(both, node->name.text, node->name.n);
        memcpy(both + node->name.n, more.text, more.n);
        node->name = (struct word){both, node->name.n + more.n};
        TRY(parser_next(p));
    }
    return STATUS_OK;
}

/* (a) is a; (a, b) and () are lists. */
static enum status parse_bracket(struct parser *p, struct node **out)
{
    struct node *first = NULL;
    struct node *list = *out;

    TRY(parser_next(p));
    if (!parser_sees(p, ")")) {
        TRY(parser_node(p, NODE_ARGUMENT, &first));
        TRY(parse_expression(p, &first->a));
        if (parser_sees(p, ")")) {
            *out = first->a;
            return parser_next(p);
        }
        if (!parser_sees(p, ",")) {
            return parser_expect(p, ")");
        }
        TRY(parse_list(p, ")", &first->next));
    } else {
        TRY(parser_next(p));
    }
    list->kind = NODE_LIST;
    list->body = first;
    return STATUS_OK;
}

static enum status parse_primary(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_NAME, &node));
    *out = node;
    if (p->token.kind == TOKEN_NAME) {
        return parse_name(p, node);
    }
    if (p->token.kind == TOKEN_STRING) {
        return parse_string(p, node);
    }
    if (p->token.kind == TOKEN_INTEGER) {
        node->kind = NODE_INTEGER;
        node->number = p->token.number;
        return parser_next(p);
    }
    if (parser_sees(p, "(")) {
        return parse_bracket(p, out);
    }
    if (parser_sees(p, "[")) {
        node->kind = NODE_LIST;
        return parse_list(p, "]", &node->body);
    }
    if (parser_sees(p, "{")) {
        node->kind = NODE_DICT;
        return parse_dict(p, &node->body);
    }
    return jinja_fail(p->program, p->token.at, "a value should stand here", (struct word){0});
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
    TRY(parser_wrap(p, NODE_INDEX, node));
    TRY(parser_next(p));
    TRY(parse_bound(p, &(*node)->b));
    if (!parser_sees(p, ":")) {
        if ((*node)->b == NULL) {
            return jinja_fail(p->program, (*node)->at, "a subscript without a value",
                              (struct word){0});
        }
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

enum status parse_value(struct parser *p, bool with_filters, struct node **out)
{
    enum status status = parse_primary(p, out);

    while (status == STATUS_OK && (parser_sees(p, ".") || parser_sees(p, "["))) {
        status = parser_sees(p, ".") ? parse_dot(p, out) : parse_subscript(p, out);
    }
    while (status == STATUS_OK && with_filters && (parser_sees(p, "|") || parser_sees(p, "is"))) {
        status = parser_sees(p, "|") ? parse_filter(p, out) : parse_test(p, out);
    }
    return status;
}

/* A sign stands closer than a filter: -x|f is (-x)|f. */
static enum status parse_unary(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    if (!parser_sees(p, "-")) {
        return parse_value(p, true, out);
    }
    TRY(parser_node(p, NODE_NEGATE, &node));
    *out = node;
    TRY(parser_next(p));
    TRY(parse_value(p, false, &node->a));
    enum status status = STATUS_OK;
    while (status == STATUS_OK && (parser_sees(p, "|") || parser_sees(p, "is"))) {
        status = parser_sees(p, "|") ? parse_filter(p, out) : parse_test(p, out);
    }
    return status;
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
    TRY(parser_wrap(p, NODE_BINARY, node));
    (*node)->name = p->token.text;
    TRY(parser_next(p));
    if (word_is((*node)->name, "not")) {
        TRY(parser_expect(p, "in"));
    }
    TRY(parse_operand(p, level + 1, &(*node)->b));
    if (level == LEVEL_COMPARE && sees_level(p, level)) {
        return jinja_fail(p->program, p->token.at, "a chain of comparisons:", p->token.text);
    }
    return STATUS_OK;
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

/* Behind a value: "if a else" or nothing. *place: where the value after "else" belongs, or NULL. */
static enum status parse_choice(struct parser *p, struct node **out, struct node ***place)
{
    struct node *node = NULL;

    *place = NULL;
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
    *place = &node->c;
    return parser_next(p);
}

/* "x if a else y if b else z" is a chain in the place of the last value. */
enum status parse_expression(struct parser *p, struct node **out)
{
    struct node **place = out;

    while (place != NULL) {
        out = place;
        TRY(parse_logic(p, out));
        TRY(parse_choice(p, out, &place));
    }
    return STATUS_OK;
}
