/* builtin:boxed_math: the answer in <answer> tags or the last box, compared as a string, as
 * numbers, as lists, as expressions, in this order (grpo.md 15.1, 15.2). For reinforcement learning
 * nothing malformed is repaired: a wrong acceptance teaches to cheat. */
#include "reward/math_relation.h"
#include "reward/math_text.h"
#include "reward/math_value.h"
#include "reward/number.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define TOLERANCE 1e-6
#define POINTS 8
#define LIST_DEPTH_MAX 4
#define INTERVAL_ROOM 256
#define SET_ITEMS_MAX 64 /* every item meets every other */

static bool find_answer(struct text final, struct text *out)
{
    static const char open[] = "<answer>";
    const char *close = text_find_last(final, "</answer>");
    if (close == NULL) {
        return math_find_boxed(final, out);
    }
    const char *begin =
        text_find_last((struct text){final.data, (size_t)(close - final.data)}, open);
    if (begin == NULL) {
        return false;
    }
    begin += strlen(open);
    const struct text content = text_trim((struct text){begin, (size_t)(close - begin)});
    *out = content;
    (void)math_find_boxed(content, out); /* a box inside the tags is what is meant */
    return content.n > 0;
}

static bool is_near(double a, double b)
{
    return isfinite(a) && isfinite(b) && fabs(a - b) <= TOLERANCE * fmax(1.0, 1e-3 * fabs(b));
}

/* Fixed pseudo-random points in [0.5, 2.5]: away from poles and branch cuts of school expressions.
 */
static void fill_point(struct math_point *point, unsigned index)
{
    unsigned state = 2463534242U + 7919U * index;
    for (size_t i = 0; i < 52; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        point->letters[i] = 0.5 + 2.0 * (double)(state >> 8) / 16777216.0;
    }
}

/* Three letters or more and nothing else are a word, not a product of variables. */
static bool is_word(struct text text)
{
    for (size_t i = 0; i < text.n; i++) {
        const char c = (char)(text.data[i] | 0x20);
        if (c < 'a' || c > 'z') {
            return false;
        }
    }
    return text.n > 2 || (text.n == 2 && strncasecmp(text.data, "no", 2) == 0);
}

static bool are_equal_expressions(struct text a, struct text b)
{
    for (unsigned i = 0; i < POINTS; i++) {
        struct math_point point;
        double x = 0.0;
        double y = 0.0;
        bool x_varies = false;
        bool y_varies = false;
        fill_point(&point, i);
        if (!math_evaluate(a, &point, &x, &x_varies) || !math_evaluate(b, &point, &y, &y_varies) ||
            !is_near(x, y)) {
            return false;
        }
        if (!x_varies && !y_varies) {
            break; /* constants: one point is all */
        }
    }
    return true;
}

/* One past the item that starts text: up to the next comma outside brackets. */
static size_t item_length(struct text text)
{
    long depth = 0;
    for (size_t i = 0; i < text.n; i++) {
        const char c = text.data[i];
        depth += c == '(' || c == '[' || c == '{' ? 1 : 0;
        depth -= c == ')' || c == ']' || c == '}' ? 1 : 0;
        if (c == ',' && depth <= 0) {
            return i;
        }
    }
    return text.n;
}

static bool are_equal(const struct builtin_options *options, struct text a, struct text b,
                      int depth);

/* The brackets around a list, if it has any, taken off: '{' a set (its brace is "{{"), '(' '[' '<'
 * (open, then closed) and '>' (closed, then open); '\0' for none. */
static char unwrap(struct text *text)
{
    static const char kinds[2][2] = {{'(', '<'}, {'>', '['}};
    const size_t n = text->n;
    if (n >= 4 && memcmp(text->data, "{{", 2) == 0 && memcmp(text->data + n - 2, "}}", 2) == 0) {
        *text = (struct text){text->data + 2, n - 4};
        return '{';
    }
    const int first = n >= 2 ? text->data[0] : 0;
    const int last = n >= 2 ? text->data[n - 1] : 0;
    if ((first != '(' && first != '[') || (last != ')' && last != ']')) {
        return '\0';
    }
    *text = (struct text){text->data + 1, n - 2};
    return kinds[first == '[' ? 1 : 0][last == ']' ? 1 : 0];
}

static bool are_equal_in_order(const struct builtin_options *options, struct text a, struct text b,
                               int depth)
{
    for (;;) {
        const size_t n = item_length(a);
        const size_t m = item_length(b);
        if (!are_equal(options, (struct text){a.data, n}, (struct text){b.data, m}, depth + 1)) {
            return false;
        }
        if ((n == a.n) != (m == b.n)) {
            return false;
        }
        if (n == a.n) {
            return true;
        }
        a = (struct text){a.data + n + 1, a.n - n - 1};
        b = (struct text){b.data + m + 1, b.n - m - 1};
    }
}

static size_t count_items(struct text text)
{
    size_t n = 1;
    for (size_t i = item_length(text); i < text.n; n++) {
        text = (struct text){text.data + i + 1, text.n - i - 1};
        i = item_length(text);
    }
    return n;
}

/* Every item of a is one of b: with equal counts that makes equal sets of distinct items. */
static bool is_subset(const struct builtin_options *options, struct text a, struct text b,
                      int depth)
{
    for (;;) {
        const size_t n = item_length(a);
        bool is_found = false;
        struct text rest = b;
        for (size_t m = item_length(rest); !is_found; m = item_length(rest)) {
            is_found = are_equal(options, (struct text){a.data, n}, (struct text){rest.data, m},
                                 depth + 1);
            if (m == rest.n) {
                break;
            }
            rest = (struct text){rest.data + m + 1, rest.n - m - 1};
        }
        if (!is_found || n == a.n) {
            return is_found;
        }
        a = (struct text){a.data + n + 1, a.n - n - 1};
    }
}

static bool are_equal_lists(const struct builtin_options *options, struct text a, struct text b,
                            int depth)
{
    const char kind_a = unwrap(&a);
    const char kind_b = unwrap(&b);
    const bool has_items = item_length(a) < a.n && item_length(b) < b.n;
    const bool is_set = kind_b == '{' && (kind_a == '{' || (kind_a == '\0' && has_items));
    if (depth >= LIST_DEPTH_MAX || (kind_a != kind_b && !is_set) ||
        (!has_items && kind_a == '\0') || count_items(a) != count_items(b)) {
        return false;
    }
    return is_set ? count_items(a) <= SET_ITEMS_MAX && is_subset(options, a, b, depth) &&
                        is_subset(options, b, a, depth)
                  : are_equal_in_order(options, a, b, depth);
}

static bool are_equal_sides(const struct builtin_options *options, const struct math_relation *a,
                            const struct math_relation *b, int depth)
{
    return a->sign == b->sign && are_equal(options, a->left, b->left, depth) &&
           are_equal(options, a->right, b->right, depth);
}

/* Relations with one another, and a relation with the interval that it is. */
static bool are_equal_relations(const struct builtin_options *options, struct text a, struct text b,
                                int depth)
{
    char interval[INTERVAL_ROOM];
    struct math_relation left;
    struct math_relation right;
    struct text list = {interval, 0};
    const bool has_left = math_split_relation(a, &left);
    const bool has_right = math_split_relation(b, &right);
    if (has_left && has_right) {
        const struct math_relation flipped = math_flip_relation(&right);
        return are_equal_sides(options, &left, &right, depth) ||
               are_equal_sides(options, &left, &flipped, depth);
    }
    if (has_left) {
        return math_relation_interval(&left, interval, sizeof(interval), &list.n) &&
               are_equal_lists(options, list, b, depth);
    }
    return has_right && math_relation_interval(&right, interval, sizeof(interval), &list.n) &&
           are_equal_lists(options, a, list, depth);
}

/* The letter of "b", "B" or "(B)" in lower case; 0 for anything else. */
static int choice_letter(struct text text)
{
    if (text.n == 3 && text.data[0] == '(' && text.data[2] == ')') {
        text = (struct text){text.data + 1, 1};
    }
    const int c = text.n == 1 ? text.data[0] | 0x20 : 0;
    return c >= 'a' && c <= 'z' ? c : 0;
}

static bool are_equal(const struct builtin_options *options, struct text a, struct text b,
                      int depth)
{
    struct number x;
    struct number y;
    const int letter = choice_letter(b);
    if (text_equal(a, b)) {
        return a.n > 0;
    }
    if (letter != 0 && choice_letter(a) == letter) {
        return true;
    }
    if (is_word(a) || is_word(b)) {
        return a.n == b.n && strncasecmp(a.data, b.data, a.n) == 0;
    }
    if (number_parse(a, &x) && number_parse(b, &y)) {
        return number_equal(&x, &y, TOLERANCE, options->is_percent_strict);
    }
    return are_equal_lists(options, a, b, depth) || are_equal_relations(options, a, b, depth) ||
           are_equal_expressions(a, b);
}

/* a = b = 101 counts when it ends in the gold; a gold of the same form is compared whole first. */
static struct text last_side(struct text text)
{
    const char *equals = text_find_last(text, "=");
    if (equals == NULL) {
        return text;
    }
    return (struct text){equals + 1, text.n - (size_t)(equals + 1 - text.data)};
}

struct verdict score_boxed_math(const struct builtin_options *options,
                                const struct score_sample *sample, struct text completion,
                                struct text answer)
{
    char left[MATH_TEXT_MAX];
    char right[MATH_TEXT_MAX];
    size_t n_left = 0;
    size_t n_right = 0;
    struct text found = {NULL, 0};
    struct text gold = answer;
    const struct text final = text_final_part(options, completion);
    (void)sample;
    if (final.data == NULL || !find_answer(final, &found)) {
        return (struct verdict){.reason = "no answer"};
    }
    (void)math_find_boxed(answer, &gold);
    if (!math_normalise(found, left, &n_left) || !math_normalise(gold, right, &n_right)) {
        return (struct verdict){.reason = "too long", .extracted = found};
    }
    const struct text a = {left, n_left};
    const struct text b = {right, n_right};
    const bool is_right =
        are_equal(options, a, b, 0) || are_equal(options, last_side(a), last_side(b), 0);
    return (struct verdict){.value = is_right ? 1.0 : 0.0, .extracted = found};
}
