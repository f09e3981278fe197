/* Owns what the files of Jinja share: the tree of a template, values, the state of a rendering.
 * Nothing outside model/jinja*.c includes it. */
#ifndef HONE_MODEL_JINJA_INTERNAL_H
#define HONE_MODEL_JINJA_INTERNAL_H

#include "base/arena.h"
#include "model/jinja.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- The tree (jinja_parse.c, jinja_expression.c) --- */

struct word {
    const char *text; /* NULL: none */
    size_t n;
};
bool word_is(struct word word, const char *text);

enum node_kind {
    NODE_TEXT,   /* name */
    NODE_OUTPUT, /* a */
    NODE_IF,     /* a: condition, body, other */
    NODE_FOR,    /* name, second: targets; a: what; b: filter or NULL; body; other: if empty */
    NODE_SET,    /* name, second: attribute or none; a */
    NODE_STRING, /* name */
    NODE_INTEGER,
    NODE_CONSTANT,  /* number: 0 false, 1 true, 2 none */
    NODE_NAME,      /* name */
    NODE_LIST,      /* body: arguments */
    NODE_ATTRIBUTE, /* a, name */
    NODE_INDEX,     /* a[b] */
    NODE_SLICE,     /* a[b:c:d], any of b c d NULL */
    NODE_CALL,      /* name(body) */
    NODE_METHOD,    /* a.name(body) */
    NODE_FILTER,    /* a | name(body) */
    NODE_TEST,      /* a is name; number 1: is not */
    NODE_BINARY,    /* a name b */
    NODE_NOT,
    NODE_NEGATE,
    NODE_CHOICE,  /* b if a else c (or NULL) */
    NODE_ARGUMENT /* a; name: keyword or none */
};
struct node {
    enum node_kind kind;
    size_t at; /* byte of the template */
    struct word name, second;
    int64_t number;
    struct node *a, *b, *c, *d;
    struct node *body, *other; /* lists through next */
    struct node *next;
};
struct jinja {
    struct arena *arena;
    char *text;
    size_t n;
    struct node *body;
};

enum token_kind { TOKEN_END, TOKEN_NAME, TOKEN_STRING, TOKEN_INTEGER, TOKEN_SIGN };
struct token {
    enum token_kind kind;
    struct word text; /* of a string: its value */
    size_t at;
    int64_t number;
};
struct parser {
    struct jinja *program;
    const char *text;
    size_t n, at;
    struct token token; /* the next one inside a tag */
    bool begins_line;   /* the tag before ended a line */
    unsigned depth;
};
/* "line:column: message" and BAD_FORMAT. */
MUST_CHECK enum status jinja_fail(const struct jinja *program, size_t at, const char *message,
                                  struct word word);
MUST_CHECK enum status parser_next(struct parser *p); /* reads p->token */
MUST_CHECK enum status parser_expect(struct parser *p, const char *sign);
bool parser_sees(const struct parser *p, const char *text); /* a name or sign */
MUST_CHECK enum status parser_node(struct parser *p, enum node_kind kind, struct node **out);
MUST_CHECK enum status parse_expression(struct parser *p, struct node **out);
/* One level below choices ("x if y else z"): of what a loop walks over. */
MUST_CHECK enum status parse_logic(struct parser *p, struct node **out);

/* --- Values (jinja_value.c, jinja_call.c) --- */

enum value_kind {
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,    /* number */
    VALUE_INTEGER, /* number */
    VALUE_STRING,
    VALUE_LIST,      /* items, or json */
    VALUE_DICT,      /* json */
    VALUE_OTHER,     /* json: a real number */
    VALUE_NAMESPACE, /* space */
    VALUE_LOOP       /* number: index0; n: count */
};
struct variable;
struct value {
    enum value_kind kind;
    int64_t number;
    const char *text;
    const unsigned char *marks; /* NULL: all data */
    size_t n;                   /* bytes of a string, items of a list */
    const struct value *items;
    const struct json *json;
    struct variable **space;
};
struct variable {
    struct word name;
    struct value value;
    struct variable *next; /* in a namespace */
};

#define ARGUMENTS_MAX 4u
struct arguments {
    struct value items[ARGUMENTS_MAX];
    struct word keywords[ARGUMENTS_MAX];
    size_t count;
};

struct run {
    const struct jinja *program;
    const struct jinja_input *input;
    struct arena *arena;
    struct variable *variables;
    size_t n_variables, room;
    size_t frame; /* where the innermost loop body's variables begin */
    size_t n_steps, n_bytes, depth;
    struct jinja_output out;
};
/* Zeroed, until the rendering ends; bounded. */
MUST_CHECK enum status run_alloc(struct run *run, size_t n, size_t size, void *out_pointer);
MUST_CHECK enum status run_fail(const struct run *run, const struct node *node,
                                const char *message);

struct value value_from_json(const struct json *json);
struct value value_data(const char *text, size_t n);
struct value value_bool(bool value);
struct value value_integer(int64_t value);
bool value_is_true(const struct value *value);
bool value_equals(const struct value *a, const struct value *b);
struct value list_at(const struct value *list, size_t index);
/* Part of a string, with its marks. */
struct value string_part(const struct value *text, size_t start, size_t end);
MUST_CHECK enum status string_join(struct run *run, const struct value *a, const struct value *b,
                                   struct value *out);
/* What {{ }} writes and ~ joins. */
MUST_CHECK enum status value_print(struct run *run, const struct node *node,
                                   const struct value *value, struct value *out);
MUST_CHECK enum status value_tojson(struct run *run, const struct value *value, struct value *out);
/* Where part stands in text at or after from, or SIZE_MAX. */
size_t string_find(const struct value *text, const struct value *part, size_t from);

bool filter_is_known(struct word name);
bool method_is_known(struct word name);
bool test_is_known(struct word name);
MUST_CHECK enum status call_filter(struct run *run, const struct node *node,
                                   const struct value *subject, const struct arguments *arguments,
                                   struct value *out);
MUST_CHECK enum status call_method(struct run *run, const struct node *node,
                                   const struct value *subject, const struct arguments *arguments,
                                   struct value *out);
bool call_test(struct word name, const struct value *subject);

/* --- Running (jinja_evaluate.c) --- */

MUST_CHECK enum status evaluate(struct run *run, const struct node *node, struct value *out);
struct variable *run_find(struct run *run, struct word name);
MUST_CHECK enum status run_set(struct run *run, struct word name, const struct value *value);
struct value value_attribute(const struct value *subject, struct word name);

#endif
