/* Owns what the files of Jinja share: the tree of a template, values, the state of a rendering.
 * Nothing outside model/jinja*.c includes it. */
#ifndef HONE_MODEL_JINJA_INTERNAL_H
#define HONE_MODEL_JINJA_INTERNAL_H

#include "base/arena.h"
#include "model/jinja.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARGUMENTS_MAX 4u
#define BYTES_PER_STEP 256u /* going through a text counts as steps, too */

/* --- The tree (jinja_lexer.c, jinja_string.c, jinja_parse.c, jinja_expression.c, jinja_apply.c)
 * --- */

struct word {
    const char *text; /* NULL: none */
    size_t n;
};
bool word_is(struct word word, const char *text);
bool word_equals(struct word a, struct word b);
struct word word_of(const char *text);

enum node_kind {
    NODE_TEXT,     /* name */
    NODE_OUTPUT,   /* a */
    NODE_IF,       /* a: condition, body, other */
    NODE_FOR,      /* name, second: targets; a: what; b: filter or NULL; body; other: if empty */
    NODE_SET,      /* name, second: attribute or none; a, or NULL: what body writes */
    NODE_BREAK,    /* of the innermost loop */
    NODE_CONTINUE, /* of the innermost loop */
    NODE_STRING,   /* name */
    NODE_INTEGER,
    NODE_CONSTANT,   /* number: 0 false, 1 true, 2 none */
    NODE_NAME,       /* name */
    NODE_LIST,       /* body: arguments */
    NODE_DICT,       /* body: arguments, key a, value b */
    NODE_ATTRIBUTE,  /* a, name */
    NODE_INDEX,      /* a[b] */
    NODE_SLICE,      /* a[b:c:d], any of b c d NULL */
    NODE_CALL,       /* name(body) */
    NODE_MACRO_CALL, /* macro(body) */
    NODE_METHOD,     /* a.name(body) */
    NODE_FILTER,     /* a | name(body); b: the filter that map applies, or NULL */
    NODE_TEST,       /* a is name(body); number 1: is not */
    NODE_BINARY,     /* a name b */
    NODE_NOT,
    NODE_NEGATE,
    NODE_CHOICE,  /* b if a else c (or NULL) */
    NODE_ARGUMENT /* a; name: keyword or none; number: which parameter it is for */
};
struct macro;
struct node {
    enum node_kind kind;
    size_t at; /* byte of the template */
    struct word name, second;
    int64_t number;
    struct node *a, *b, *c, *d;
    struct node *body, *other; /* lists through next */
    struct node *next;
    const struct macro *macro;
};
/* It can call macros that end before it begins, so that there is no recursion. */
struct macro {
    struct word name;
    struct node *parameters; /* NODE_ARGUMENT: name; a: default or NULL */
    struct node *body;
    struct macro *next;
};
struct jinja {
    struct arena *arena;
    char *text; /* line ends are "\n" */
    size_t n;
    unsigned char *ones; /* (n): the marks of what stands in the template */
    struct node *body;
    struct macro *macros;
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
    struct token token;         /* the next one inside a tag */
    bool begins_line;           /* the tag before ended a line */
    size_t n_open;              /* brackets inside the tag */
    unsigned depth;             /* of statements and expressions */
    unsigned n_blocks, n_loops; /* that are open */
};
/* "line:column: message" and BAD_FORMAT. */
MUST_CHECK enum status jinja_fail(const struct jinja *program, size_t at, const char *message,
                                  struct word word);
MUST_CHECK enum status parser_next(struct parser *p);   /* reads p->token */
MUST_CHECK enum status parser_string(struct parser *p); /* at its quote */
MUST_CHECK enum status parser_expect(struct parser *p, const char *sign);
MUST_CHECK enum status parser_name(struct parser *p, struct word *out);
bool parser_sees(const struct parser *p, const char *text); /* a name or sign */
MUST_CHECK enum status parser_node(struct parser *p, enum node_kind kind, struct node **out);
/* Puts *node under a new one, as its a. */
MUST_CHECK enum status parser_wrap(struct parser *p, enum node_kind kind, struct node **node);
/* Text up to the next tag, *out NULL if there is none; p->at is the tag's "{" (or the end)
 * afterwards. */
MUST_CHECK enum status parser_text(struct parser *p, struct node **out);
MUST_CHECK enum status parser_comment(struct parser *p); /* behind "{#" */
/* At "{%": if it is a raw block, reads it as text and sets *is_raw. */
MUST_CHECK enum status parser_raw(struct parser *p, struct node **out, bool *is_raw);

MUST_CHECK enum status parse_expression(struct parser *p, struct node **out);
/* One level below choices ("x if y else z"): of what a loop walks over. */
MUST_CHECK enum status parse_logic(struct parser *p, struct node **out);
/* A value and what may stand behind it: attributes, subscripts, calls, filters, tests. */
MUST_CHECK enum status parse_value(struct parser *p, bool with_filters, struct node **out);

/* What a filter, method, test or function takes. */
struct signature {
    const char *name;
    size_t n_required;
    const char *parameters[ARGUMENTS_MAX];
};
/* Arguments behind the "(" that is the token, each bound to a parameter. */
MUST_CHECK enum status parse_call(struct parser *p, const struct signature *signature,
                                  struct node *node);
MUST_CHECK enum status parse_list(struct parser *p, const char *end, struct node **out);
MUST_CHECK enum status parse_dict(struct parser *p, struct node **out);
MUST_CHECK enum status parse_filter(struct parser *p, struct node **node);
MUST_CHECK enum status parse_test(struct parser *p, struct node **node);
MUST_CHECK enum status parse_dot(struct parser *p, struct node **node);
MUST_CHECK enum status parse_name(struct parser *p, struct node *node);

/* --- Values (jinja_value.c, jinja_json.c) --- */

enum value_kind {
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,    /* number */
    VALUE_INTEGER, /* number */
    VALUE_STRING,
    VALUE_LIST,      /* items, or json */
    VALUE_DICT,      /* items (keys and values in turn), or json */
    VALUE_OTHER,     /* json: a real number */
    VALUE_NAMESPACE, /* space */
    VALUE_LOOP       /* number: index0; items: the list */
};
struct variable;
struct value {
    enum value_kind kind;
    int64_t number;
    const char *text;
    const unsigned char *marks; /* NULL: all data */
    size_t n;                   /* bytes of a string, items of a list, members of a dict */
    const struct value *items;
    const struct json *json;
    struct variable **space;
};
struct variable {
    struct word name;
    struct value value;
    struct variable *next; /* in a namespace */
};
/* UNDEFINED where nothing was given. */
struct arguments {
    struct value items[ARGUMENTS_MAX];
    bool is_given[ARGUMENTS_MAX];
};

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };
struct parsed_json {
    struct json *value;
    struct parsed_json *next;
};
struct run {
    const struct jinja *program;
    const struct jinja_input *input;
    struct arena *arena;
    struct variable *variables;
    size_t n_variables, room;
    size_t frame;                  /* where the innermost loop body's variables begin */
    size_t n_scopes;               /* loops, macros and set blocks that run */
    size_t n_globals;              /* variables outside of all of them */
    size_t hidden_from, hidden_to; /* the caller's, which a macro does not see */
    size_t n_steps, n_bytes, depth;
    enum flow flow;
    struct parsed_json *parsed; /* by from_json, until the end */
    struct jinja_output *out;   /* where text goes: the result or a capture */
};
/* Zeroed, until the rendering ends; bounded. */
MUST_CHECK enum status run_alloc(struct run *run, size_t n, size_t size, void *out_pointer);
MUST_CHECK enum status run_fail(const struct run *run, const struct node *node,
                                const char *message);
MUST_CHECK enum status run_steps(struct run *run, const struct node *node, size_t n);

struct value value_from_json(const struct json *json);
struct value value_data(const char *text, size_t n);
struct value value_own(const struct run *run, const char *text, size_t n); /* the template's */
struct value value_bool(bool value);
struct value value_integer(int64_t value);
struct value value_list(const struct value *items, size_t n);
bool value_is_true(const struct value *value);
bool value_is_number(const struct value *value); /* whole, or a bool */
MUST_CHECK enum status value_equals(struct run *run, const struct node *node, const struct value *a,
                                    const struct value *b, bool *out);
struct value list_at(const struct value *list, size_t index);
/* A member of a mapping, else undefined. */
struct value dict_get(const struct value *dict, struct word key);
struct dict_walk {
    const struct value *dict;
    struct json_iterator it;
    size_t index;
    struct value key, value;
};
bool dict_next(struct dict_walk *walk);
/* Part of a string, with its marks. */
struct value string_part(const struct value *text, size_t start, size_t end);
/* `between` stands between the n texts. */
MUST_CHECK enum status string_join(struct run *run, const struct value *texts, size_t n,
                                   const struct value *between, struct value *out);
/* What {{ }} writes and ~ joins. */
MUST_CHECK enum status value_print(struct run *run, const struct node *node,
                                   const struct value *value, struct value *out);
/* Where part stands in text at or after from, or SIZE_MAX. */
size_t string_find(const struct value *text, const struct value *part, size_t from);
size_t string_length(const struct value *text); /* characters */
/* The items that a loop or filter walks over: of a list, a mapping's keys, a text's characters. */
MUST_CHECK enum status value_items(struct run *run, const struct node *node,
                                   const struct value *value, struct value *out);

/* Python's json.dumps with these; indent below 0: on one line. */
struct json_style {
    bool is_ascii, sorts_keys;
    int64_t indent;
    struct value item_separator, key_separator;
};
MUST_CHECK enum status value_print_json(struct run *run, const struct node *node,
                                        const struct value *value, const struct json_style *style,
                                        struct value *out);
MUST_CHECK enum status value_parse_json(struct run *run, const struct node *node,
                                        const struct value *text, struct value *out);
/* A real number as Python writes it. */
void real_text(double number, char *out, size_t room);

/* --- Filters, methods, tests (jinja_filter.c, jinja_method.c, jinja_test.c) --- */

const struct signature *filter_signature(struct word name); /* NULL: not known */
const struct signature *method_signature(struct word name);
const struct signature *test_signature(struct word name);
const struct signature *function_signature(struct word name);
MUST_CHECK enum status call_filter(struct run *run, const struct node *node,
                                   const struct value *subject, const struct arguments *arguments,
                                   struct value *out);
MUST_CHECK enum status call_method(struct run *run, const struct node *node,
                                   const struct value *subject, const struct arguments *arguments,
                                   struct value *out);
MUST_CHECK enum status call_test(struct run *run, const struct node *node,
                                 const struct value *subject, const struct arguments *arguments,
                                 bool *out);
MUST_CHECK enum status call_function(struct run *run, const struct node *node,
                                     const struct arguments *arguments, struct value *out);
/* Shared by methods and filters. */
struct value string_strip(const struct value *text, const struct value *set, bool left, bool right);
MUST_CHECK enum status string_change_case(struct run *run, const struct node *node,
                                          const struct value *text, struct word how,
                                          struct value *out);
MUST_CHECK enum status string_replace(struct run *run, const struct node *node,
                                      const struct value *text, const struct arguments *arguments,
                                      struct value *out);
MUST_CHECK enum status dict_items(struct run *run, const struct value *dict, struct value *out);

/* --- Running (jinja.c, jinja_statement.c, jinja_evaluate.c, jinja_operator.c, jinja_subscript.c)
 */

MUST_CHECK enum status run_body(struct run *run, const struct node *body);
/* What body writes, as a text. */
MUST_CHECK enum status run_capture(struct run *run, const struct node *body, struct value *out);
MUST_CHECK enum status run_write(struct run *run, const struct value *text);
MUST_CHECK enum status evaluate(struct run *run, const struct node *node, struct value *out);
MUST_CHECK enum status evaluate_arguments(struct run *run, const struct node *node,
                                          struct arguments *out);
MUST_CHECK enum status evaluate_index(struct run *run, const struct node *node, struct value *out);
MUST_CHECK enum status evaluate_slice(struct run *run, const struct node *node, struct value *out);
MUST_CHECK enum status evaluate_binary(struct run *run, const struct node *node, struct value *out);
struct variable *run_find(struct run *run, struct word name);
MUST_CHECK enum status run_set(struct run *run, struct word name, const struct value *value);
/* Variables set from here on end with run_leave, which is told what was before. */
void run_enter(struct run *run);
void run_leave(struct run *run, size_t n_variables, size_t frame);
struct value value_attribute(const struct value *subject, struct word name);
MUST_CHECK enum status value_contains(struct run *run, const struct node *node,
                                      const struct value *item, const struct value *whole,
                                      bool *out);

#endif
