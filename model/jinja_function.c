/* Owns the functions of templates. */
#include "model/jinja_internal.h"

#define RANGE_MAX 100000
#define RANGE_BOUND_MAX INT64_C(1000000)

static const struct signature functions[] = {
    {"namespace", 0, {NULL}},
    {"raise_exception", 1, {"message"}},
    {"range", 1, {"start", "stop", "step"}},
    {"strftime_now", 1, {"format"}},
};

const struct signature *function_signature(struct word name)
{
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (word_is(name, functions[i].name)) {
            return &functions[i];
        }
    }
    return NULL;
}

static enum status make_range(struct run *run, const struct node *node,
                              const struct arguments *arguments, struct value *out)
{
    int64_t bounds[] = {0, 0, 1};
    struct value *items = NULL;
    size_t n = 0;

    for (size_t i = 0; i < 3; i++) {
        const struct value *value = &arguments->items[i];
        if (arguments->is_given[i] && (!value_is_number(value) || value->number > RANGE_BOUND_MAX ||
                                       value->number < -RANGE_BOUND_MAX)) {
            return run_fail(run, node, "range() wants whole numbers, at most 10^6");
        }
        bounds[i] = arguments->is_given[i] ? value->number : bounds[i];
    }
    if (!arguments->is_given[1]) {
        bounds[1] = bounds[0];
        bounds[0] = 0;
    }
    if (bounds[2] == 0) {
        return run_fail(run, node, "range() with a step of 0");
    }
    const int64_t width = bounds[2] > 0 ? bounds[1] - bounds[0] : bounds[0] - bounds[1];
    const int64_t step = bounds[2] > 0 ? bounds[2] : -bounds[2];
    n = width <= 0 ? 0 : (size_t)((width - 1) / step + 1);
    if (n > RANGE_MAX) {
        return run_fail(run, node, "range() of more than 100000 numbers");
    }
    TRY(run_alloc(run, n, sizeof(*items), &items));
    for (size_t i = 0; i < n; i++) {
        items[i] = value_integer(bounds[0] + (int64_t)i * bounds[2]);
    }
    *out = value_list(items, n);
    return STATUS_OK;
}

enum status call_function(struct run *run, const struct node *node,
                          const struct arguments *arguments, struct value *out)
{
    const struct value *message = &arguments->items[0];

    if (word_is(node->name, "range")) {
        return make_range(run, node, arguments, out);
    }
    if (word_is(node->name, "strftime_now")) {
        /* prompts would differ from day to day: "strftime_now is defined" is false here */
        return run_fail(run, node, "the template asks for today's date, which is not given to it");
    }
    if (message->kind != VALUE_STRING) {
        return run_fail(run, node, "raise_exception wants a text");
    }
    return jinja_fail(run->program, node->at,
                      "the template refuses:", (struct word){message->text, message->n});
}
