/* Owns the filters, methods and tests of templates. */
#include "base/utf8.h"
#include "model/jinja_internal.h"
#include "model/tokenizer_text.h"

#include <string.h>

/* --- Strings --- */

static bool is_space(uint32_t code_point)
{
    return code_point_is_space(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

/* Whether the character at text, of n bytes, is to be stripped: in `set`, or a space without one.
 */
static bool is_stripped(const char *text, size_t n, const struct value *set)
{
    uint32_t code_point = 0;
    const struct value one = value_data(text, n);

    if (set != NULL) {
        return string_find(set, &one, 0) != SIZE_MAX;
    }
    return utf8_sequence(text, n, &code_point) > 0 && is_space(code_point);
}

static struct value strip(const struct value *text, const struct value *set, bool left, bool right)
{
    size_t start = 0, end = text->n;

    while (left && start < end) {
        const size_t length = utf8_sequence(text->text + start, end - start, NULL);
        if (length == 0 || !is_stripped(text->text + start, length, set)) {
            break;
        }
        start += length;
    }
    while (right && end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)text->text[last] & 0xC0) == 0x80) {
            last--;
        }
        if (!is_stripped(text->text + last, end - last, set)) {
            break;
        }
        end = last;
    }
    return string_part(text, start, end);
}

static enum status change_case(struct run *run, const struct value *text, bool to_upper,
                               struct value *out)
{
    char *copy = NULL;

    TRY(run_alloc(run, text->n + 1, 1, &copy));
    for (size_t i = 0; i < text->n; i++) {
        const char c = text->text[i];
        const bool is_lower = c >= 'a' && c <= 'z', is_upper = c >= 'A' && c <= 'Z';
        copy[i] = c;
        if (to_upper ? is_lower : is_upper) {
            copy[i] = (char)((unsigned char)c ^ 0x20U); /* the bit between the two cases */
        }
    }
    *out = *text;
    out->text = copy;
    return STATUS_OK;
}

/* At most n_max cuts at `by`. */
static enum status split(struct run *run, const struct value *text, const struct value *by,
                         size_t n_max, struct value *out)
{
    struct value *items = NULL;
    size_t n_items = 1, from = 0, count = 0;

    for (size_t at = string_find(text, by, 0); at != SIZE_MAX && n_items <= n_max;
         at = string_find(text, by, at + by->n)) {
        n_items++;
    }
    TRY(run_alloc(run, n_items, sizeof(*items), &items));
    while (count + 1 < n_items) {
        const size_t at = string_find(text, by, from);
        items[count++] = string_part(text, from, at);
        from = at + by->n;
    }
    items[count++] = string_part(text, from, text->n);
    *out = (struct value){.kind = VALUE_LIST, .items = items, .n = count};
    return STATUS_OK;
}

/* --- Methods --- */

static const char *const methods[] = {"split",    "strip", "lstrip", "rstrip", "startswith",
                                      "endswith", "items", "get",    "upper",  "lower"};

bool method_is_known(struct word name)
{
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        if (word_is(name, methods[i])) {
            return true;
        }
    }
    return false;
}

/* Pairs of key and value, in the file's order. */
static enum status dict_items(struct run *run, const struct value *dict, struct value *out)
{
    struct json_iterator it = {.object = dict->json};
    struct value *pairs = NULL;
    size_t count = 0;

    TRY(run_alloc(run, dict->n, sizeof(*pairs), &pairs));
    while (json_next(&it)) {
        struct value *pair = NULL;
        TRY(run_alloc(run, 2, sizeof(*pair), &pair));
        pair[0] = value_data(it.key, it.key_bytes);
        pair[1] = value_from_json(it.value);
        pairs[count++] = (struct value){.kind = VALUE_LIST, .items = pair, .n = 2};
    }
    *out = (struct value){.kind = VALUE_LIST, .items = pairs, .n = count};
    return STATUS_OK;
}

static enum status dict_method(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    if (word_is(node->name, "items")) {
        return dict_items(run, subject, out);
    }
    if (!word_is(node->name, "get") || arguments->count == 0 ||
        arguments->items[0].kind != VALUE_STRING) {
        return run_fail(run, node, "a mapping has items() and get(key)");
    }
    const struct word key = {arguments->items[0].text, arguments->items[0].n};
    *out = value_attribute(subject, key);
    if (out->kind == VALUE_UNDEFINED) {
        *out = arguments->count > 1 ? arguments->items[1] : (struct value){.kind = VALUE_NONE};
    }
    return STATUS_OK;
}

static enum status split_method(struct run *run, const struct node *node,
                                const struct value *subject, const struct arguments *arguments,
                                struct value *out)
{
    const struct value *by = &arguments->items[0];
    const bool has_limit = arguments->count > 1 && arguments->items[1].kind == VALUE_INTEGER &&
                           arguments->items[1].number >= 0;

    if (arguments->count == 0 || by->kind != VALUE_STRING || by->n == 0) {
        return run_fail(run, node, "split() wants a text to split at");
    }
    return split(run, subject, by, has_limit ? (size_t)arguments->items[1].number : SIZE_MAX - 1,
                 out);
}

static enum status string_method(struct run *run, const struct node *node,
                                 const struct value *subject, const struct arguments *arguments,
                                 struct value *out)
{
    const struct value *set = arguments->count > 0 ? &arguments->items[0] : NULL;
    const bool is_left = word_is(node->name, "lstrip"), is_right = word_is(node->name, "rstrip");

    if (word_is(node->name, "split")) {
        return split_method(run, node, subject, arguments, out);
    }
    if (word_is(node->name, "upper") || word_is(node->name, "lower")) {
        return change_case(run, subject, word_is(node->name, "upper"), out);
    }
    if (set != NULL && set->kind != VALUE_STRING) {
        return run_fail(run, node, "this method wants a text");
    }
    if (is_left || is_right || word_is(node->name, "strip")) {
        *out = strip(subject, set, !is_right, !is_left);
        return STATUS_OK;
    }
    if (set == NULL || word_is(node->name, "items") || word_is(node->name, "get")) {
        return run_fail(run, node, "not a method of a text, or without its argument");
    }
    const bool fits = set->n <= subject->n;
    const size_t at = word_is(node->name, "startswith") || !fits ? 0 : subject->n - set->n;
    *out = value_bool(fits && memcmp(subject->text + at, set->text, set->n) == 0);
    return STATUS_OK;
}

enum status call_method(struct run *run, const struct node *node, const struct value *subject,
                        const struct arguments *arguments, struct value *out)
{
    if (subject->kind == VALUE_STRING) {
        return string_method(run, node, subject, arguments, out);
    }
    if (subject->kind == VALUE_DICT) {
        return dict_method(run, node, subject, arguments, out);
    }
    return run_fail(run, node, "a method of what is neither text nor mapping");
}

/* --- Filters --- */

static enum status filter_length(struct run *run, const struct node *node,
                                 const struct value *subject, const struct arguments *arguments,
                                 struct value *out)
{
    size_t n = subject->n;

    (void)arguments;
    if (subject->kind == VALUE_STRING) {
        n = 0;
        for (size_t i = 0; i < subject->n; i++) {
            n += ((unsigned char)subject->text[i] & 0xC0) != 0x80 ? 1 : 0;
        }
    } else if (subject->kind != VALUE_LIST && subject->kind != VALUE_DICT &&
               subject->kind != VALUE_UNDEFINED) {
        return run_fail(run, node, "this has no length");
    }
    *out = value_integer((int64_t)n);
    return STATUS_OK;
}

static enum status filter_trim(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    struct value text;
    const struct value *set = arguments->count > 0 ? &arguments->items[0] : NULL;

    if (set != NULL && set->kind != VALUE_STRING) {
        return run_fail(run, node, "trim wants a text");
    }
    TRY(value_print(run, node, subject, &text));
    *out = strip(&text, set, true, true);
    return STATUS_OK;
}

static enum status filter_join(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    const struct value nothing = value_data("", 0);
    const struct value *between = arguments->count > 0 ? &arguments->items[0] : &nothing;

    *out = nothing;
    if ((subject->kind != VALUE_LIST && subject->kind != VALUE_UNDEFINED) ||
        between->kind != VALUE_STRING) {
        return run_fail(run, node, "join wants a list and a text");
    }
    for (size_t i = 0; i < subject->n; i++) {
        const struct value item = list_at(subject, i);
        struct value text;
        TRY(value_print(run, node, &item, &text));
        TRY(string_join(run, out, i > 0 ? between : &nothing, out));
        TRY(string_join(run, out, &text, out));
    }
    return STATUS_OK;
}

static enum status filter_default(struct run *run, const struct node *node,
                                  const struct value *subject, const struct arguments *arguments,
                                  struct value *out)
{
    const bool for_false = arguments->count > 1 && value_is_true(&arguments->items[1]);

    (void)run;
    (void)node;
    *out = *subject;
    if (subject->kind == VALUE_UNDEFINED || (for_false && !value_is_true(subject))) {
        *out = arguments->count > 0 ? arguments->items[0] : value_data("", 0);
    }
    return STATUS_OK;
}

static enum status filter_tojson(struct run *run, const struct node *node,
                                 const struct value *subject, const struct arguments *arguments,
                                 struct value *out)
{
    if (arguments->count > 0) {
        return run_fail(run, node, "tojson takes nothing here");
    }
    return value_tojson(run, subject, out);
}

static enum status filter_end(struct run *run, const struct node *node, const struct value *subject,
                              const struct arguments *arguments, struct value *out)
{
    (void)arguments;
    if (subject->kind != VALUE_LIST) {
        return run_fail(run, node, "first and last want a list");
    }
    *out = list_at(subject, word_is(node->name, "first") ? 0 : subject->n - 1);
    return STATUS_OK;
}

static enum status filter_text(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    struct value text;

    (void)arguments;
    TRY(value_print(run, node, subject, &text));
    *out = text;
    if (word_is(node->name, "string")) {
        return STATUS_OK;
    }
    return change_case(run, &text, word_is(node->name, "upper"), out);
}

typedef enum status filter(struct run *run, const struct node *node, const struct value *subject,
                           const struct arguments *arguments, struct value *out);
static const struct {
    const char *name;
    filter *call;
} filters[] = {
    {"length", filter_length}, {"count", filter_length},    {"trim", filter_trim},
    {"join", filter_join},     {"default", filter_default}, {"d", filter_default},
    {"tojson", filter_tojson}, {"first", filter_end},       {"last", filter_end},
    {"string", filter_text},   {"upper", filter_text},      {"lower", filter_text},
};

static filter *find_filter(struct word name)
{
    for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++) {
        if (word_is(name, filters[i].name)) {
            return filters[i].call;
        }
    }
    return NULL;
}

bool filter_is_known(struct word name)
{
    return find_filter(name) != NULL;
}

enum status call_filter(struct run *run, const struct node *node, const struct value *subject,
                        const struct arguments *arguments, struct value *out)
{
    return find_filter(node->name)(run, node, subject, arguments, out);
}

/* --- Tests --- */

static const struct {
    const char *name;
    unsigned kinds; /* bits of enum value_kind */
} tests[] = {
    {"undefined", 1U << VALUE_UNDEFINED},
    {"none", 1U << VALUE_NONE},
    {"string", 1U << VALUE_STRING},
    {"mapping", 1U << VALUE_DICT},
    {"boolean", 1U << VALUE_BOOL},
    {"sequence", 1U << VALUE_LIST | 1U << VALUE_STRING | 1U << VALUE_DICT},
    {"iterable", 1U << VALUE_LIST | 1U << VALUE_STRING | 1U << VALUE_DICT},
    {"defined", ~(1U << VALUE_UNDEFINED)},
    {"true", 0},
    {"false", 0},
};

bool test_is_known(struct word name)
{
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (word_is(name, tests[i].name)) {
            return true;
        }
    }
    return false;
}

bool call_test(struct word name, const struct value *subject)
{
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (word_is(name, tests[i].name) && tests[i].kinds != 0) {
            return (tests[i].kinds >> subject->kind & 1U) != 0;
        }
    }
    return subject->kind == VALUE_BOOL && (subject->number != 0) == word_is(name, "true");
}
