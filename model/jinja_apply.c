/* Owns reading what is applied to a value: calls with their arguments, attributes and methods,
 * filters, tests. What is not known is told here, when a template is loaded. */
#include "model/jinja_internal.h"

#include <string.h>

/* --- Arguments --- */

/* A value, or keyword = value. */
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

/* Up to `end`, which is eaten; the token is the "(" or a "," before. */
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

enum status parse_list(struct parser *p, const char *end, struct node **out)
{
    TRY(parse_arguments(p, end, out));
    for (const struct node *node = *out; node != NULL; node = node->next) {
        if (node->name.text != NULL) {
            return jinja_fail(p->program, node->at, "a keyword in a list:", node->name);
        }
    }
    return STATUS_OK;
}

static enum status parse_member(struct parser *p, struct node **out)
{
    struct node *node = NULL;

    TRY(parser_node(p, NODE_ARGUMENT, &node));
    *out = node;
    TRY(parse_expression(p, &node->a));
    TRY(parser_expect(p, ":"));
    TRY(parse_expression(p, &node->b));
    return parser_sees(p, "}") ? STATUS_OK : parser_expect(p, ",");
}

enum status parse_dict(struct parser *p, struct node **out)
{
    TRY(parser_next(p));
    while (!parser_sees(p, "}")) {
        TRY(parse_member(p, out));
        out = &(*out)->next;
    }
    return parser_next(p);
}

/* Index of a parameter: by keyword, else by position. ARGUMENTS_MAX: there is none. */
static size_t parameter_of(const struct signature *signature, struct word keyword, size_t position)
{
    if (keyword.text == NULL) {
        return position < ARGUMENTS_MAX && signature->parameters[position] != NULL ? position
                                                                                   : ARGUMENTS_MAX;
    }
    for (size_t i = 0; i < ARGUMENTS_MAX && signature->parameters[i] != NULL; i++) {
        if (word_is(keyword, signature->parameters[i])) {
            return i;
        }
    }
    return ARGUMENTS_MAX;
}

/* Gives each argument its parameter. */
static enum status bind_arguments(struct parser *p, const struct signature *signature,
                                  const struct node *node)
{
    bool is_given[ARGUMENTS_MAX] = {false};
    size_t position = 0;

    for (struct node *item = node->body; item != NULL; item = item->next) {
        const size_t index = parameter_of(signature, item->name, position++);
        if (index == ARGUMENTS_MAX || is_given[index]) {
            return jinja_fail(p->program, item->at,
                              "this argument is not known:", word_of(signature->name));
        }
        is_given[index] = true;
        item->number = (int64_t)index;
    }
    for (size_t i = 0; i < signature->n_required; i++) {
        if (!is_given[i]) {
            return jinja_fail(p->program, node->at,
                              "an argument is missing:", word_of(signature->name));
        }
    }
    return STATUS_OK;
}

enum status parse_call(struct parser *p, const struct signature *signature, struct node *node)
{
    if (parser_sees(p, "(")) {
        TRY(parse_arguments(p, ")", &node->body));
    }
    return bind_arguments(p, signature, node);
}

/* --- Calls --- */

static const struct macro *find_macro(const struct parser *p, struct word name)
{
    const struct macro *macro = p->program->macros;

    while (macro != NULL && !word_equals(macro->name, name)) {
        macro = macro->next;
    }
    return macro;
}

/* Index of a macro's parameter, SIZE_MAX if there is none. */
static size_t macro_parameter(const struct macro *macro, struct word keyword, size_t position)
{
    size_t index = 0;

    for (const struct node *node = macro->parameters; node != NULL; node = node->next) {
        if (keyword.text == NULL ? index == position : word_equals(node->name, keyword)) {
            return index;
        }
        index++;
    }
    return SIZE_MAX;
}

static enum status parse_macro_call(struct parser *p, const struct macro *macro, struct node *node)
{
    size_t position = 0;

    node->kind = NODE_MACRO_CALL;
    node->macro = macro;
    TRY(parse_arguments(p, ")", &node->body));
    for (struct node *item = node->body; item != NULL; item = item->next) {
        const size_t index = macro_parameter(macro, item->name, position++);
        if (index == SIZE_MAX) {
            return jinja_fail(p->program, item->at, "this argument is not known:", macro->name);
        }
        item->number = (int64_t)index;
    }
    return STATUS_OK;
}

static enum status parse_namespace(struct parser *p, struct node *node)
{
    TRY(parse_arguments(p, ")", &node->body));
    for (const struct node *item = node->body; item != NULL; item = item->next) {
        if (item->name.text == NULL) {
            return jinja_fail(p->program, item->at, "namespace() takes name=value",
                              (struct word){0});
        }
    }
    return STATUS_OK;
}

enum status parse_name(struct parser *p, struct node *node)
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
    const struct macro *macro = find_macro(p, node->name);
    if (macro != NULL) {
        return parse_macro_call(p, macro, node);
    }
    const struct signature *signature = function_signature(node->name);
    node->kind = NODE_CALL;
    if (word_is(node->name, "namespace")) {
        return parse_namespace(p, node);
    }
    if (signature == NULL) {
        return jinja_fail(p->program, node->at, "this function is not known:", node->name);
    }
    return parse_call(p, signature, node);
}

/* What a mapping has as a method is not its member: x.items without a call. */
static bool is_dict_method(struct word name)
{
    static const char *const names[] = {"items",      "keys",    "values",  "get",
                                        "copy",       "pop",     "clear",   "update",
                                        "setdefault", "popitem", "fromkeys"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (word_is(name, names[i])) {
            return true;
        }
    }
    return false;
}

static bool is_loop_attribute(struct word name)
{
    static const char *const names[] = {"index0",    "index",    "first",    "last",    "length",
                                        "revindex0", "revindex", "previtem", "nextitem"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (word_is(name, names[i])) {
            return true;
        }
    }
    return false;
}

enum status parse_dot(struct parser *p, struct node **node)
{
    const bool is_loop = (*node)->kind == NODE_NAME && word_is((*node)->name, "loop");

    TRY(parser_wrap(p, NODE_ATTRIBUTE, node));
    TRY(parser_next(p));
    (*node)->at = p->token.at;
    TRY(parser_name(p, &(*node)->name));
    const struct word name = (*node)->name;
    if (!parser_sees(p, "(")) {
        if (is_loop ? !is_loop_attribute(name) : is_dict_method(name)) {
            return jinja_fail(p->program, (*node)->at, "this attribute is not known:", name);
        }
        return STATUS_OK;
    }
    const struct signature *signature = method_signature(name);
    if (signature == NULL) {
        return jinja_fail(p->program, (*node)->at, "this method is not known:", name);
    }
    (*node)->kind = NODE_METHOD;
    return parse_call(p, signature, *node);
}

/* --- Filters and tests --- */

/* map('filter', ...) applies a filter, whose node becomes b; map(attribute=...) looks up. */
static enum status parse_map(struct parser *p, struct node *map)
{
    struct node *first = map->body;
    struct node *inner = NULL;

    if (first == NULL || first->name.text != NULL || first->a->kind != NODE_STRING) {
        static const struct signature by_attribute = {
            "map(attribute)", 1, {"attribute", "default"}};
        const bool is_named = first != NULL && first->name.text != NULL;
        return is_named ? bind_arguments(p, &by_attribute, map)
                        : jinja_fail(p->program, map->at,
                                     "map takes a filter's name or attribute=", (struct word){0});
    }
    const struct signature *signature = filter_signature(first->a->name);
    if (signature == NULL || word_is(first->a->name, "map")) {
        return jinja_fail(p->program, first->at, "this filter is not known:", first->a->name);
    }
    TRY(parser_node(p, NODE_FILTER, &inner));
    inner->at = map->at;
    inner->name = first->a->name;
    inner->body = first->next;
    map->b = inner;
    map->body = NULL;
    return bind_arguments(p, signature, inner);
}

enum status parse_filter(struct parser *p, struct node **node)
{
    TRY(parser_wrap(p, NODE_FILTER, node));
    TRY(parser_next(p));
    (*node)->at = p->token.at;
    (*node)->name = p->token.text;
    const struct signature *signature =
        p->token.kind == TOKEN_NAME ? filter_signature((*node)->name) : NULL;
    if (signature == NULL) {
        return jinja_fail(p->program, p->token.at, "this filter is not known:", p->token.text);
    }
    TRY(parser_next(p));
    if (!word_is((*node)->name, "map")) {
        return parse_call(p, signature, *node);
    }
    if (parser_sees(p, "(")) {
        TRY(parse_arguments(p, ")", &(*node)->body));
    }
    return parse_map(p, *node);
}

/* An argument may stand without brackets, as in "x is in y". */
static enum status parse_bare_argument(struct parser *p, struct node *node)
{
    const bool is_value = p->token.kind == TOKEN_STRING || p->token.kind == TOKEN_INTEGER ||
                          p->token.kind == TOKEN_NAME || parser_sees(p, "[") || parser_sees(p, "{");

    if (!is_value || parser_sees(p, "else") || parser_sees(p, "or") || parser_sees(p, "and")) {
        return STATUS_OK;
    }
    TRY(parser_node(p, NODE_ARGUMENT, &node->body));
    return parse_value(p, false, &node->body->a);
}

enum status parse_test(struct parser *p, struct node **node)
{
    TRY(parser_wrap(p, NODE_TEST, node));
    TRY(parser_next(p));
    if (parser_sees(p, "not")) {
        (*node)->number = 1;
        TRY(parser_next(p));
    }
    (*node)->name = p->token.text;
    const struct signature *signature =
        p->token.kind == TOKEN_NAME ? test_signature((*node)->name) : NULL;
    if (signature == NULL) {
        return jinja_fail(p->program, p->token.at, "this test is not known:", p->token.text);
    }
    TRY(parser_next(p));
    if (!parser_sees(p, "(") && signature->n_required > 0) {
        TRY(parse_bare_argument(p, *node));
    }
    return parse_call(p, signature, *node);
}
