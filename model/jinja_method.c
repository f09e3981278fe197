/* Owns the methods of texts and mappings of templates. */
#include "base/utf8.h"
#include "model/jinja_internal.h"
#include "model/tokenizer_text.h"

#include <string.h>

/* --- Strings --- */

static bool is_blank(uint32_t code_point)
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
    return utf8_sequence(text, n, &code_point) > 0 && is_blank(code_point);
}

struct value string_strip(const struct value *text, const struct value *set, bool left, bool right)
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

static char change_letter(char c, bool to_upper)
{
    const bool is_lower = c >= 'a' && c <= 'z', is_upper = c >= 'A' && c <= 'Z';

    if (to_upper ? is_lower : is_upper) {
        return (char)((unsigned char)c ^ 0x20U); /* the bit between the two cases */
    }
    return c;
}

/* What stands before a word, for title. */
static bool begins_word(char c)
{
    return (c >= '\t' && c <= '\r') || (c >= 0x1C && c <= 0x1F) ||
           (c != '\0' && strchr(" -({[<", c) != NULL);
}

/* upper, lower, capitalize or title, of ASCII: what other letters become is not known here. */
enum status string_change_case(struct run *run, const struct node *node, const struct value *text,
                               struct word how, struct value *out)
{
    const bool is_upper = word_is(how, "upper"), is_title = word_is(how, "title");
    bool is_start = !word_is(how, "lower");
    char *copy = NULL;

    TRY(run_alloc(run, text->n + 1, 1, &copy));
    for (size_t i = 0; i < text->n; i++) {
        if (((unsigned char)text->text[i] & 0x80) != 0) {
            return run_fail(run, node, "changing the case of letters beyond ASCII");
        }
        copy[i] = change_letter(text->text[i], is_upper || is_start);
        is_start = is_title && begins_word(text->text[i]);
    }
    *out = *text;
    out->text = copy;
    return STATUS_OK;
}

enum status string_replace(struct run *run, const struct node *node, const struct value *text,
                           const struct arguments *arguments, struct value *out)
{
    const struct value *from = &arguments->items[0], *to = &arguments->items[1];
    struct value *parts = NULL;
    size_t n = 1, start = 0, count = 0;

    if (from->kind != VALUE_STRING || to->kind != VALUE_STRING || from->n == 0) {
        return run_fail(run, node, "replace wants two texts");
    }
    TRY(run_steps(run, node, text->n / BYTES_PER_STEP));
    for (size_t at = string_find(text, from, 0); at != SIZE_MAX;
         at = string_find(text, from, at + from->n)) {
        n++;
    }
    TRY(run_steps(run, node, n));
    TRY(run_alloc(run, n, sizeof(*parts), &parts));
    while (count + 1 < n) {
        const size_t at = string_find(text, from, start);
        parts[count++] = string_part(text, start, at);
        start = at + from->n;
    }
    parts[count++] = string_part(text, start, text->n);
    return string_join(run, parts, count, to, out);
}

/* --- split --- */

/* At most n_max cuts at `by`. */
static enum status split_at(struct run *run, const struct node *node, const struct value *text,
                            const struct value *by, size_t n_max, struct value *out)
{
    struct value *items = NULL;
    size_t n_items = 1, from = 0, count = 0;

    for (size_t at = string_find(text, by, 0); at != SIZE_MAX && n_items <= n_max;
         at = string_find(text, by, at + by->n)) {
        n_items++;
    }
    TRY(run_steps(run, node, n_items));
    TRY(run_alloc(run, n_items, sizeof(*items), &items));
    while (count + 1 < n_items) {
        const size_t at = string_find(text, by, from);
        items[count++] = string_part(text, from, at);
        from = at + by->n;
    }
    items[count++] = string_part(text, from, text->n);
    *out = value_list(items, count);
    return STATUS_OK;
}

/* Where the word at the start of text ends. */
static size_t word_end(const struct value *text)
{
    size_t at = 0;

    while (at < text->n) {
        uint32_t code = 0;
        const size_t n = utf8_sequence(text->text + at, text->n - at, &code);
        if (n > 0 && is_blank(code)) {
            break;
        }
        at += n > 0 ? n : 1;
    }
    return at;
}

/* At runs of blanks, of which none is left at the ends; at most n_max cuts. */
static enum status split_words(struct run *run, const struct node *node, const struct value *text,
                               size_t n_max, struct value *out)
{
    struct value rest = string_strip(text, NULL, true, false);
    struct value *items = NULL;
    size_t count = 0;

    TRY(run_steps(run, node, text->n / 2));
    TRY(run_alloc(run, text->n / 2 + 1, sizeof(*items), &items));
    while (rest.n > 0) {
        const size_t end = count < n_max ? word_end(&rest) : rest.n;
        items[count++] = string_part(&rest, 0, end);
        rest = string_part(&rest, end, rest.n);
        rest = string_strip(&rest, NULL, true, false);
    }
    *out = value_list(items, count);
    return STATUS_OK;
}

static enum status split_method(struct run *run, const struct node *node,
                                const struct value *subject, const struct arguments *arguments,
                                struct value *out)
{
    const struct value *by = &arguments->items[0], *limit = &arguments->items[1];
    const bool has_limit = value_is_number(limit) && limit->number >= 0;
    const size_t n_max = has_limit ? (size_t)limit->number : SIZE_MAX - 1;

    TRY(run_steps(run, node, subject->n / BYTES_PER_STEP));
    if (by->kind == VALUE_STRING && by->n > 0) {
        return split_at(run, node, subject, by, n_max, out);
    }
    if (by->kind != VALUE_NONE && by->kind != VALUE_UNDEFINED) {
        return run_fail(run, node, "split() wants a text to split at");
    }
    return split_words(run, node, subject, n_max, out);
}

/* --- Methods --- */

static const struct signature methods[] = {
    {"split", 0, {"sep", "maxsplit"}},
    {"strip", 0, {"chars"}},
    {"lstrip", 0, {"chars"}},
    {"rstrip", 0, {"chars"}},
    {"startswith", 1, {"prefix"}},
    {"endswith", 1, {"suffix"}},
    {"replace", 2, {"old", "new"}},
    {"upper", 0, {NULL}},
    {"lower", 0, {NULL}},
    {"capitalize", 0, {NULL}},
    {"items", 0, {NULL}},
    {"keys", 0, {NULL}},
    {"values", 0, {NULL}},
    {"get", 1, {"key", "default"}},
};

const struct signature *method_signature(struct word name)
{
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        if (word_is(name, methods[i].name)) {
            return &methods[i];
        }
    }
    return NULL;
}

/* Pairs of key and value, in the file's order. */
enum status dict_items(struct run *run, const struct value *dict, struct value *out)
{
    struct dict_walk walk = {.dict = dict};
    struct value *pairs = NULL;

    TRY(run_alloc(run, dict->n, sizeof(*pairs), &pairs));
    for (size_t i = 0; dict_next(&walk); i++) {
        struct value *pair = NULL;
        TRY(run_alloc(run, 2, sizeof(*pair), &pair));
        pair[0] = walk.key;
        pair[1] = walk.value;
        pairs[i] = value_list(pair, 2);
    }
    *out = value_list(pairs, dict->n);
    return STATUS_OK;
}

static enum status dict_values(struct run *run, const struct value *dict, struct value *out)
{
    struct dict_walk walk = {.dict = dict};
    struct value *values = NULL;

    TRY(run_alloc(run, dict->n, sizeof(*values), &values));
    for (size_t i = 0; dict_next(&walk); i++) {
        values[i] = walk.value;
    }
    *out = value_list(values, dict->n);
    return STATUS_OK;
}

static enum status dict_method(struct run *run, const struct node *node,
                               const struct value *subject, const struct arguments *arguments,
                               struct value *out)
{
    const struct value *key = &arguments->items[0];

    TRY(run_steps(run, node, subject->n));
    if (word_is(node->name, "items")) {
        return dict_items(run, subject, out);
    }
    if (word_is(node->name, "keys")) {
        return value_items(run, node, subject, out);
    }
    if (word_is(node->name, "values")) {
        return dict_values(run, subject, out);
    }
    if (!word_is(node->name, "get") || key->kind != VALUE_STRING) {
        return run_fail(run, node, "a mapping has items(), keys(), values() and get(key)");
    }
    *out = dict_get(subject, (struct word){key->text, key->n});
    if (out->kind == VALUE_UNDEFINED) {
        *out = arguments->is_given[1] ? arguments->items[1] : (struct value){.kind = VALUE_NONE};
    }
    return STATUS_OK;
}

static enum status strip_method(struct run *run, const struct node *node,
                                const struct value *subject, const struct arguments *arguments,
                                struct value *out)
{
    const struct value *set = &arguments->items[0];
    const bool is_left = word_is(node->name, "lstrip"), is_right = word_is(node->name, "rstrip");

    if (set->kind != VALUE_STRING && set->kind != VALUE_UNDEFINED && set->kind != VALUE_NONE) {
        return run_fail(run, node, "this method wants a text");
    }
    *out = string_strip(subject, set->kind == VALUE_STRING ? set : NULL, !is_right, !is_left);
    return STATUS_OK;
}

static enum status match_method(struct run *run, const struct node *node,
                                const struct value *subject, const struct arguments *arguments,
                                struct value *out)
{
    const struct value *part = &arguments->items[0];

    if (part->kind != VALUE_STRING) {
        return run_fail(run, node, "this method wants a text");
    }
    const bool fits = part->n <= subject->n;
    const size_t at = word_is(node->name, "startswith") || !fits ? 0 : subject->n - part->n;
    *out = value_bool(fits && memcmp(subject->text + at, part->text, part->n) == 0);
    return STATUS_OK;
}

static enum status string_method(struct run *run, const struct node *node,
                                 const struct value *subject, const struct arguments *arguments,
                                 struct value *out)
{
    const struct word name = node->name;

    if (word_is(name, "split")) {
        return split_method(run, node, subject, arguments, out);
    }
    if (word_is(name, "strip") || word_is(name, "lstrip") || word_is(name, "rstrip")) {
        return strip_method(run, node, subject, arguments, out);
    }
    if (word_is(name, "startswith") || word_is(name, "endswith")) {
        return match_method(run, node, subject, arguments, out);
    }
    if (word_is(name, "replace")) {
        return string_replace(run, node, subject, arguments, out);
    }
    if (word_is(name, "upper") || word_is(name, "lower") || word_is(name, "capitalize")) {
        return string_change_case(run, node, subject, name, out);
    }
    return run_fail(run, node, "not a method of a text");
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
