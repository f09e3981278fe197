/* Owns x[i] and x[start:end:step] of templates, with Python's rules. */
#include "base/utf8.h"
#include "model/jinja_internal.h"

/* Byte offset of a character. */
static size_t character_at(const struct value *text, size_t index)
{
    size_t at = 0;

    for (size_t i = 0; i < index && at < text->n; i++) {
        const size_t length = utf8_sequence(text->text + at, text->n - at, NULL);
        at += length > 0 ? length : 1;
    }
    return at;
}

/* Items of a list or characters of a text. */
static size_t length_of(const struct value *value)
{
    return value->kind == VALUE_STRING ? string_length(value) : value->n;
}

enum status evaluate_index(struct run *run, const struct node *node, struct value *out)
{
    struct value subject, index;

    TRY(evaluate(run, node->a, &subject));
    TRY(evaluate(run, node->b, &index));
    if (subject.kind == VALUE_UNDEFINED) {
        return run_fail(run, node, "a member of something undefined");
    }
    if (index.kind == VALUE_STRING) {
        *out = value_attribute(&subject, (struct word){index.text, index.n});
        return STATUS_OK;
    }
    const bool has_items = subject.kind == VALUE_LIST || subject.kind == VALUE_STRING;
    *out = (struct value){0};
    if (!has_items || !value_is_number(&index)) {
        return STATUS_OK; /* undefined, as what is not there */
    }
    const size_t n = length_of(&subject);
    const int64_t at = index.number < 0 ? index.number + (int64_t)n : index.number;
    if (at < 0 || (size_t)at >= n) {
        return STATUS_OK;
    }
    *out = subject.kind == VALUE_LIST ? list_at(&subject, (size_t)at)
                                      : string_part(&subject, character_at(&subject, (size_t)at),
                                                    character_at(&subject, (size_t)at + 1));
    return STATUS_OK;
}

/* --- Slices --- */

/* start, start + step ... as long as it is before end. */
struct range {
    int64_t start, end, step;
};

/* One bound as Python clips it to lowest .. highest; node NULL or none: fallback. */
static enum status slice_bound(struct run *run, const struct node *node, int64_t n, int64_t lowest,
                               int64_t highest, int64_t *out)
{
    struct value bound;

    if (node == NULL) {
        return STATUS_OK; /* *out is the fallback */
    }
    TRY(evaluate(run, node, &bound));
    if (bound.kind == VALUE_NONE) {
        return STATUS_OK;
    }
    if (!value_is_number(&bound)) {
        return run_fail(run, node, "a slice wants whole numbers");
    }
    *out = bound.number < 0 ? bound.number + n : bound.number;
    *out = *out < lowest ? lowest : *out > highest ? highest : *out;
    return STATUS_OK;
}

static enum status slice_range(struct run *run, const struct node *node, int64_t n,
                               struct range *out)
{
    struct value step = value_integer(1);

    if (node->d != NULL) {
        TRY(evaluate(run, node->d, &step));
    }
    if (step.kind == VALUE_NONE) {
        step = value_integer(1);
    }
    if (!value_is_number(&step) || step.number == 0 || step.number == INT64_MIN) {
        return run_fail(run, node, "the step of a slice is a whole number, not 0");
    }
    const bool is_down = step.number < 0;
    const int64_t lowest = is_down ? -1 : 0, highest = is_down ? n - 1 : n;
    *out = (struct range){.start = is_down ? highest : lowest,
                          .end = is_down ? lowest : highest,
                          .step = step.number};
    TRY(slice_bound(run, node->b, n, lowest, highest, &out->start));
    return slice_bound(run, node->c, n, lowest, highest, &out->end);
}

static size_t range_count(const struct range *range)
{
    const int64_t width = range->step > 0 ? range->end - range->start : range->start - range->end;
    const int64_t step = range->step > 0 ? range->step : -range->step;

    return width <= 0 ? 0 : (size_t)((width - 1) / step + 1);
}

enum status evaluate_slice(struct run *run, const struct node *node, struct value *out)
{
    const struct value nothing = value_data("", 0);
    struct value subject, list;
    struct value *items = NULL;
    struct range range = {.step = 1};

    TRY(evaluate(run, node->a, &subject));
    if (subject.kind != VALUE_LIST && subject.kind != VALUE_STRING) {
        *out = (struct value){0};
        return subject.kind == VALUE_UNDEFINED
                   ? run_fail(run, node, "a slice of something undefined")
                   : STATUS_OK;
    }
    TRY(slice_range(run, node, (int64_t)length_of(&subject), &range));
    if (subject.kind == VALUE_STRING && range.step == 1) {
        const size_t start = character_at(&subject, (size_t)range.start);
        const size_t end = character_at(&subject, (size_t)range.end);
        *out = string_part(&subject, start, end > start ? end : start);
        return STATUS_OK;
    }
    TRY(value_items(run, node, &subject, &list));
    const size_t n = range_count(&range);
    TRY(run_alloc(run, n, sizeof(*items), &items));
    for (size_t i = 0; i < n; i++) {
        items[i] = list_at(&list, (size_t)(range.start + (int64_t)i * range.step));
    }
    *out = value_list(items, n);
    return subject.kind == VALUE_LIST ? STATUS_OK : string_join(run, items, n, &nothing, out);
}
