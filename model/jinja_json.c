/* Owns tojson and from_json: JSON as Python's json module writes and reads it. */
#include "base/memory.h"
#include "base/utf8.h"
#include "model/jinja_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 64u

/* --- Numbers --- */

/* Digits d.ddd x 10^exponent as Python writes a float: with an exponent below 1e-4 and from 1e16.
 */
static void lay_out(const char *digits, size_t n, int exponent, char *out, size_t room)
{
    if (exponent < -4 || exponent >= 16) {
        (void)snprintf(out, room, "%c%s%.*se%c%02d", digits[0], n > 1 ? "." : "", (int)n - 1,
                       digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        (void)snprintf(out, room, "0.%.*s%.*s", -exponent - 1, "000", (int)n, digits);
    } else if ((size_t)exponent + 1 >= n) {
        (void)snprintf(out, room, "%.*s%.*s.0", (int)n, digits, exponent + 1 - (int)n,
                       "0000000000000000");
    } else {
        (void)snprintf(out, room, "%.*s.%.*s", exponent + 1, digits, (int)n - exponent - 1,
                       digits + exponent + 1);
    }
}

/* The shortest digits that read back as the number. */
void real_text(double number, char *out, size_t room)
{
    char text[40] = "", digits[20] = "", laid[40] = "";
    size_t n = 0;

    for (int precision = 14; precision <= 16; precision++) { /* behind the point */
        (void)snprintf(text, sizeof(text), "%.*e", precision, number);
        if (strtod(text, NULL) == number) {
            break;
        }
    }
    for (const char *at = text; *at != 'e' && *at != '\0'; at++) {
        if (*at >= '0' && *at <= '9') {
            digits[n++] = *at;
        }
    }
    while (n > 1 && digits[n - 1] == '0') {
        n--;
    }
    const char *exponent = strchr(text, 'e');
    lay_out(digits, n, exponent == NULL ? 0 : (int)strtol(exponent + 1, NULL, 10), laid,
            sizeof(laid));
    (void)snprintf(out, room, "%s%s", text[0] == '-' ? "-" : "", laid);
}

/* --- Strings --- */

struct writer {
    struct run *run;
    const struct node *node;
    const struct json_style *style;
    struct text_buffer text;
};

static enum status put_word(struct writer *w, const char *text)
{
    return text_buffer_put(&w->text, text, strlen(text));
}

static enum status put_escape(struct writer *w, uint32_t code)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *found = code == 0 || code > 0x7F ? NULL : strchr(from, (int)code);
    char escape[16] = "";

    if (found != NULL) {
        const char pair[] = {'\\', to[found - from], '\0'};
        return put_word(w, pair);
    }
    if (code > 0xFFFF) {
        (void)snprintf(escape, sizeof(escape), "\\u%04x\\u%04x", 0xD7C0U + (code >> 10),
                       0xDC00U + (code & 0x3FFU));
    } else {
        (void)snprintf(escape, sizeof(escape), "\\u%04x", code);
    }
    return put_word(w, escape);
}

static enum status put_quoted(struct writer *w, const struct value *text)
{
    TRY(put_word(w, "\""));
    for (size_t i = 0; i < text->n;) {
        uint32_t code = 0;
        const size_t n = utf8_sequence(text->text + i, text->n - i, &code);
        const bool is_escaped =
            code < 0x20 || code == '"' || code == '\\' || (w->style->is_ascii && code > 0x7E);
        TRY(n > 0 && is_escaped ? put_escape(w, code)
                                : text_buffer_put(&w->text, text->text + i, n > 0 ? n : 1));
        i += n > 0 ? n : 1;
    }
    return put_word(w, "\"");
}

/* --- Values --- */

static enum status put_value(struct writer *w, const struct value *value, unsigned depth);

/* What stands before an item: the separator and, with an indent, a line's beginning. */
static enum status put_gap(struct writer *w, bool is_first, unsigned depth)
{
    const struct value *separator = &w->style->item_separator;

    if (!is_first) {
        TRY(text_buffer_put(&w->text, separator->text, separator->n));
    }
    if (w->style->indent < 0) {
        return STATUS_OK;
    }
    TRY(put_word(w, "\n"));
    for (int64_t i = 0; i < w->style->indent * (int64_t)depth; i++) {
        TRY(put_word(w, " "));
    }
    return STATUS_OK;
}

/* What stands before the closing bracket. */
static enum status put_end(struct writer *w, size_t n, unsigned depth, const char *bracket)
{
    if (n > 0) {
        TRY(put_gap(w, true, depth));
    }
    return put_word(w, bracket);
}

static int compare_keys(const void *a, const void *b)
{
    const struct value *x = a, *y = b; /* keys, each followed by its value */
    const int order = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);

    return order != 0 ? order : (x->n > y->n) - (x->n < y->n);
}

/* The mapping with its members in the order of their keys. */
static enum status sort_members(struct writer *w, const struct value *dict, struct value *out)
{
    struct dict_walk walk = {.dict = dict};
    struct value *items = NULL;

    TRY(run_alloc(w->run, 2 * dict->n, sizeof(*items), &items));
    for (size_t i = 0; dict_next(&walk); i++) {
        items[2 * i] = walk.key;
        items[2 * i + 1] = walk.value;
    }
    if (dict->n > 1) {
        qsort(items, dict->n, 2 * sizeof(*items), compare_keys);
    }
    *out = (struct value){.kind = VALUE_DICT, .items = items, .n = dict->n};
    return STATUS_OK;
}

static enum status put_members(struct writer *w, const struct value *value, unsigned depth)
{
    const struct value *colon = &w->style->key_separator;
    struct value dict = *value;
    enum status status = STATUS_OK;

    if (w->style->sorts_keys) {
        TRY(sort_members(w, value, &dict));
    }
    struct dict_walk walk = {.dict = &dict};
    TRY(put_word(w, "{"));
    while (status == STATUS_OK && dict_next(&walk)) {
        TRY(put_gap(w, walk.index == 1, depth + 1));
        TRY(put_quoted(w, &walk.key));
        TRY(text_buffer_put(&w->text, colon->text, colon->n));
        status = put_value(w, &walk.value, depth + 1);
    }
    return status == STATUS_OK ? put_end(w, dict.n, depth, "}") : status;
}

static enum status put_items(struct writer *w, const struct value *value, unsigned depth)
{
    TRY(put_word(w, "["));
    for (size_t i = 0; i < value->n; i++) {
        const struct value item = list_at(value, i);
        TRY(put_gap(w, i == 0, depth + 1));
        TRY(put_value(w, &item, depth + 1));
    }
    return put_end(w, value->n, depth, "]");
}

static enum status put_value(struct writer *w, const struct value *value, unsigned depth)
{
    char text[40] = "";

    TRY(run_steps(w->run, w->node, 1));
    if (depth > DEPTH_MAX) {
        return run_fail(w->run, w->node, "tojson of something too deep");
    }
    switch (value->kind) {
    case VALUE_STRING:
        TRY(run_steps(w->run, w->node, value->n / BYTES_PER_STEP));
        return put_quoted(w, value);
    case VALUE_LIST:
        return put_items(w, value, depth);
    case VALUE_DICT:
        return put_members(w, value, depth);
    case VALUE_BOOL:
        return put_word(w, value->number != 0 ? "true" : "false");
    case VALUE_INTEGER:
        (void)snprintf(text, sizeof(text), "%lld", (long long)value->number);
        return put_word(w, text);
    case VALUE_OTHER:
        real_text(json_number(value->json, 0.0), text, sizeof(text));
        return put_word(w, text);
    case VALUE_NONE:
        return put_word(w, "null");
    case VALUE_UNDEFINED:
    case VALUE_NAMESPACE:
    case VALUE_LOOP:
        break;
    }
    return run_fail(w->run, w->node, "tojson of something undefined");
}

enum status value_print_json(struct run *run, const struct node *node, const struct value *value,
                             const struct json_style *style, struct value *out)
{
    struct writer w = {.run = run, .node = node, .style = style};
    char *copy = NULL;
    enum status status = put_value(&w, value, 0);

    if (status == STATUS_OK) {
        status = run_alloc(run, w.text.count + 1, 1, &copy);
    }
    if (status == STATUS_OK && w.text.count > 0) {
        memcpy(copy, w.text.bytes, w.text.count);
        *out = value_data(copy, w.text.count);
    }
    text_buffer_dispose(&w.text);
    return status;
}

enum status jinja_tojson(const struct json *value, char **out, size_t *n_out)
{
    static const struct jinja no_template = {.text = NULL};
    static const struct json_style style = {
        .indent = -1,
        .item_separator = {.kind = VALUE_STRING, .text = ", ", .n = 2},
        .key_separator = {.kind = VALUE_STRING, .text = ": ", .n = 2},
    };
    struct run run = {.program = &no_template};
    struct writer w = {.run = &run, .style = &style};
    const struct value whole = value_from_json(value);

    *out = NULL;
    const enum status status = put_value(&w, &whole, 0);
    if (status != STATUS_OK) {
        text_buffer_dispose(&w.text);
        return status;
    }
    *out = w.text.bytes;
    *n_out = w.text.count;
    return STATUS_OK;
}

/* --- Reading --- */

enum status value_parse_json(struct run *run, const struct node *node, const struct value *text,
                             struct value *out)
{
    struct parsed_json *parsed = NULL;

    TRY(run_steps(run, node, text->n / BYTES_PER_STEP));
    TRY(run_alloc(run, 1, sizeof(*parsed), &parsed));
    const enum status status = json_parse_with_nul(text->text, text->n, DEPTH_MAX, &parsed->value);
    if (status == STATUS_NO_MEMORY) {
        return status;
    }
    if (status != STATUS_OK) {
        return run_fail(run, node, "from_json of what is not JSON");
    }
    parsed->next = run->parsed;
    run->parsed = parsed;
    *out = value_from_json(parsed->value);
    return STATUS_OK;
}
