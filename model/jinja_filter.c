/* Owns the filters of templates. */
#include "base/utf8.h"
#include "model/jinja_internal.h"

static enum status filter_length(struct run *run, const struct node *node,
                                 const struct value *subject, const struct arguments *arguments,
                                 struct value *out)
{
    (void)arguments;
    if (subject->kind != VALUE_STRING && subject->kind != VALUE_LIST &&
        subject->kind != VALUE_DICT && subject->kind != VALUE_UNDEFINED) {
        return run_fail(run, node, "this has no length");
    }
    TRY(run_steps(run, node, subject->n / BYTES_PER_STEP));
    const size_t n = subject->kind == VALUE_STRING ? string_length(subject) : subject->n;
    *out = value_integer((int64_t)n);
    return STATUS_OK;
}

static enum status filter_trim(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    struct value text;
    const struct value *set = &arguments->items[0];

    if (set->kind != VALUE_STRING && set->kind != VALUE_UNDEFINED && set->kind != VALUE_NONE) {
        return run_fail(run, node, "trim wants a text");
    }
    TRY(value_print(run, node, subject, &text));
    *out = string_strip(&text, set->kind == VALUE_STRING ? set : NULL, true, true);
    return STATUS_OK;
}

static enum status filter_join(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    const struct value nothing = value_data("", 0);
    const struct value *between = arguments->is_given[0] ? &arguments->items[0] : &nothing;
    struct value list;
    struct value *texts = NULL;

    if (between->kind != VALUE_STRING) {
        return run_fail(run, node, "join wants a text");
    }
    TRY(value_items(run, node, subject, &list));
    TRY(run_alloc(run, list.n, sizeof(*texts), &texts));
    for (size_t i = 0; i < list.n; i++) {
        const struct value item = list_at(&list, i);
        TRY(value_print(run, node, &item, &texts[i]));
    }
    return string_join(run, texts, list.n, between, out);
}

static enum status filter_default(struct run *run, const struct node *node,
                                  const struct value *subject, const struct arguments *arguments,
                                  struct value *out)
{
    const bool for_false = value_is_true(&arguments->items[1]);

    (void)run;
    (void)node;
    *out = *subject;
    if (subject->kind == VALUE_UNDEFINED || (for_false && !value_is_true(subject))) {
        *out = arguments->is_given[0] ? arguments->items[0] : value_data("", 0);
    }
    return STATUS_OK;
}

static enum status filter_tojson(struct run *run, const struct node *node,
                                 const struct value *subject, const struct arguments *arguments,
                                 struct value *out)
{
    const struct value *indent = &arguments->items[1], *separators = &arguments->items[2];
    struct json_style style = {
        .is_ascii = value_is_true(&arguments->items[0]),
        .sorts_keys = value_is_true(&arguments->items[3]),
        .indent = -1,
        .item_separator = value_data(", ", 2),
        .key_separator = value_data(": ", 2),
    };

    if (value_is_number(indent)) {
        style.indent = indent->number < 0 ? 0 : indent->number > 64 ? 64 : indent->number;
        style.item_separator = value_data(",", 1);
    } else if (indent->kind != VALUE_UNDEFINED && indent->kind != VALUE_NONE) {
        return run_fail(run, node, "the indent of tojson is a whole number");
    }
    if (separators->kind == VALUE_LIST && separators->n == 2) {
        style.item_separator = list_at(separators, 0);
        style.key_separator = list_at(separators, 1);
    } else if (separators->kind != VALUE_UNDEFINED && separators->kind != VALUE_NONE) {
        return run_fail(run, node, "the separators of tojson are two texts");
    }
    if (style.item_separator.kind != VALUE_STRING || style.key_separator.kind != VALUE_STRING) {
        return run_fail(run, node, "the separators of tojson are two texts");
    }
    return value_print_json(run, node, subject, &style, out);
}

static enum status filter_from_json(struct run *run, const struct node *node,
                                    const struct value *subject, const struct arguments *arguments,
                                    struct value *out)
{
    (void)arguments;
    if (subject->kind != VALUE_STRING) {
        return run_fail(run, node, "from_json wants a text");
    }
    return value_parse_json(run, node, subject, out);
}

/* first and last, of lists and texts */
static enum status filter_end(struct run *run, const struct node *node, const struct value *subject,
                              const struct arguments *arguments, struct value *out)
{
    struct value list;

    (void)arguments;
    TRY(value_items(run, node, subject, &list));
    *out = list_at(&list, word_is(node->name, "first") ? 0 : list.n - 1);
    return STATUS_OK;
}

static enum status filter_list(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    (void)arguments;
    return value_items(run, node, subject, out);
}

static enum status filter_reverse(struct run *run, const struct node *node,
                                  const struct value *subject, const struct arguments *arguments,
                                  struct value *out)
{
    const struct value nothing = value_data("", 0);
    struct value list;
    struct value *items = NULL;

    (void)arguments;
    TRY(value_items(run, node, subject, &list));
    TRY(run_alloc(run, list.n, sizeof(*items), &items));
    for (size_t i = 0; i < list.n; i++) {
        items[i] = list_at(&list, list.n - 1 - i);
    }
    *out = value_list(items, list.n);
    return subject->kind == VALUE_STRING ? string_join(run, items, list.n, &nothing, out)
                                         : STATUS_OK;
}

static enum status filter_items(struct run *run, const struct node *node,
                                const struct value *subject, const struct arguments *arguments,
                                struct value *out)
{
    (void)arguments;
    if (subject->kind != VALUE_DICT && subject->kind != VALUE_UNDEFINED) {
        return run_fail(run, node, "items wants a mapping");
    }
    TRY(run_steps(run, node, subject->n));
    return dict_items(run, subject, out);
}

static enum status filter_text(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    struct value text;

    TRY(value_print(run, node, subject, &text));
    *out = text;
    if (word_is(node->name, "string") || word_is(node->name, "safe")) {
        return STATUS_OK;
    }
    return word_is(node->name, "replace") ? string_replace(run, node, &text, arguments, out)
                                          : string_change_case(run, node, &text, node->name, out);
}

/* --- map --- */

/* A member by "a.b"; where one is missing the default steps in, at each step. */
static enum status member_by_path(struct run *run, const struct node *node,
                                  const struct value *item, const struct arguments *arguments,
                                  struct value *out)
{
    const struct value *path = &arguments->items[0], *fallback = &arguments->items[1];
    const struct value dot = value_data(".", 1);

    *out = *item;
    for (size_t start = 0; start <= path->n;) {
        const size_t found = string_find(path, &dot, start);
        const size_t end = found == SIZE_MAX ? path->n : found;
        if (out->kind == VALUE_UNDEFINED) {
            return run_fail(run, node, "a member of something undefined");
        }
        *out = value_attribute(out, (struct word){path->text + start, end - start});
        if (out->kind == VALUE_UNDEFINED && fallback->kind != VALUE_NONE) {
            *out = *fallback;
        }
        start = end + 1;
    }
    return STATUS_OK;
}

static enum status filter_map(struct run *run, const struct node *node, const struct value *subject,
                              const struct arguments *arguments, struct value *out)
{
    struct arguments inner = *arguments;
    struct value list;
    struct value *items = NULL;

    if (node->b != NULL) {
        TRY(evaluate_arguments(run, node->b, &inner));
    } else if (arguments->items[0].kind != VALUE_STRING) {
        return run_fail(run, node, "the attribute of map is a text");
    }
    list = value_list(NULL, 0);
    if (value_is_true(subject)) { /* of nothing, also of none and false, there are no items */
        TRY(value_items(run, node, subject, &list));
    }
    TRY(run_alloc(run, list.n, sizeof(*items), &items));
    for (size_t i = 0; i < list.n; i++) {
        const struct value item = list_at(&list, i);
        TRY(node->b != NULL ? call_filter(run, node->b, &item, &inner, &items[i])
                            : member_by_path(run, node, &item, &inner, &items[i]));
    }
    *out = value_list(items, list.n);
    return STATUS_OK;
}

/* --- All of them --- */

typedef enum status filter(struct run *run, const struct node *node, const struct value *subject,
                           const struct arguments *arguments, struct value *out);
static const struct {
    struct signature signature;
    filter *call;
} filters[] = {
    {{"length", 0, {NULL}}, filter_length},
    {{"count", 0, {NULL}}, filter_length},
    {{"trim", 0, {"chars"}}, filter_trim},
    {{"join", 0, {"d"}}, filter_join},
    {{"default", 0, {"default_value", "boolean"}}, filter_default},
    {{"d", 0, {"default_value", "boolean"}}, filter_default},
    {{"tojson", 0, {"ensure_ascii", "indent", "separators", "sort_keys"}}, filter_tojson},
    {{"from_json", 0, {NULL}}, filter_from_json},
    {{"map", 0, {NULL}}, filter_map}, /* its arguments: parse_map */
    {{"first", 0, {NULL}}, filter_end},
    {{"last", 0, {NULL}}, filter_end},
    {{"list", 0, {NULL}}, filter_list},
    {{"items", 0, {NULL}}, filter_items},
    {{"reverse", 0, {NULL}}, filter_reverse},
    {{"string", 0, {NULL}}, filter_text},
    {{"safe", 0, {NULL}}, filter_text},
    {{"upper", 0, {NULL}}, filter_text},
    {{"lower", 0, {NULL}}, filter_text},
    {{"capitalize", 0, {NULL}}, filter_text},
    {{"title", 0, {NULL}}, filter_text},
    {{"replace", 2, {"old", "new"}}, filter_text},
};

static size_t find_filter(struct word name)
{
    size_t i = 0;

    while (i < sizeof(filters) / sizeof(filters[0]) && !word_is(name, filters[i].signature.name)) {
        i++;
    }
    return i;
}

const struct signature *filter_signature(struct word name)
{
    const size_t i = find_filter(name);

    return i < sizeof(filters) / sizeof(filters[0]) ? &filters[i].signature : NULL;
}

enum status call_filter(struct run *run, const struct node *node, const struct value *subject,
                        const struct arguments *arguments, struct value *out)
{
    return filters[find_filter(node->name)].call(run, node, subject, arguments, out);
}
