#include "reward/math_value.h"

#include <math.h>
#include <string.h>

#define DEPTH_MAX 64
#define PI 3.14159265358979323846

struct parser {
    const char *next, *end;
    const struct math_point *point;
    int depth;
    bool has_failed, has_letters;
};

static double parse_sum(struct parser *p);

static bool take(struct parser *p, const char *token)
{
    const size_t n = strlen(token);
    if ((size_t)(p->end - p->next) < n || memcmp(p->next, token, n) != 0) {
        return false;
    }
    p->next += n;
    return true;
}

static double fail(struct parser *p)
{
    p->has_failed = true;
    p->next = p->end;
    return (double)NAN;
}

static double parse_group(struct parser *p, const char *close)
{
    if (++p->depth > DEPTH_MAX) {
        return fail(p);
    }
    const double value = parse_sum(p);
    p->depth--;
    return take(p, close) ? value : fail(p);
}

static double parse_braced(struct parser *p)
{
    return take(p, "{") ? parse_group(p, "}") : fail(p);
}

static double parse_root(struct parser *p)
{
    const double degree = take(p, "[") ? parse_group(p, "]") : 2.0;
    const double radicand = parse_braced(p);
    return degree == 2.0 ? sqrt(radicand) : pow(radicand, 1.0 / degree);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits with at most one point among or before them. */
static double parse_number(struct parser *p)
{
    double value = 0.0;
    double unit = 1.0;
    size_t n_digits = 0;
    bool is_after_point = false;
    while (p->next < p->end && (is_digit(*p->next) || (*p->next == '.' && !is_after_point))) {
        if (*p->next == '.') {
            is_after_point = true;
        } else {
            n_digits++;
            value = value * 10.0 + (double)(*p->next - '0');
            unit = is_after_point ? unit * 10.0 : unit;
        }
        p->next++;
    }
    const bool has_second_point = p->next < p->end && *p->next == '.';
    return n_digits > 0 && !has_second_point ? value / unit : fail(p);
}

static double parse_letter(struct parser *p)
{
    const char c = *p->next++;
    p->has_letters = true;
    return p->point->letters[c >= 'a' ? c - 'a' : 26 + c - 'A'];
}

static double parse_atom(struct parser *p)
{
    if (take(p, "(")) {
        return parse_group(p, ")");
    }
    if (take(p, "{")) {
        return parse_group(p, "}");
    }
    if (take(p, "\\frac")) {
        const double numerator = parse_braced(p);
        const double denominator = parse_braced(p);
        return numerator / denominator;
    }
    if (take(p, "\\sqrt")) {
        return parse_root(p);
    }
    if (take(p, "\\pi")) {
        return PI;
    }
    if (p->next < p->end && (is_digit(*p->next) || *p->next == '.')) {
        return parse_number(p);
    }
    const bool is_letter = p->next < p->end && ((*p->next >= 'a' && *p->next <= 'z') ||
                                                (*p->next >= 'A' && *p->next <= 'Z'));
    return is_letter ? parse_letter(p) : fail(p);
}

static double parse_power(struct parser *p)
{
    double value = parse_atom(p);
    while (take(p, "!")) {
        value = value >= 0.0 && value <= 170.0 ? tgamma(value + 1.0) : fail(p);
    }
    while (take(p, "%")) {
        value /= 100.0;
    }
    if (!take(p, "^")) {
        return value;
    }
    const bool is_negative = take(p, "-");
    if (++p->depth > DEPTH_MAX) {
        return fail(p);
    }
    const double exponent = parse_power(p);
    p->depth--;
    return pow(value, is_negative ? -exponent : exponent);
}

static bool begins_factor(const struct parser *p)
{
    static const char *const never = "+-*/)]},=<>";
    return p->next < p->end && strchr(never, *p->next) == NULL;
}

/* Factors side by side are multiplied; 1\frac{2}{3} is a mixed number. */
static double parse_product(struct parser *p)
{
    const bool starts_with_digit = p->next < p->end && is_digit(*p->next);
    double value = parse_power(p);
    bool may_be_mixed = starts_with_digit && floor(value) == value;
    while (!p->has_failed) {
        const bool has_star = take(p, "*");
        if (!has_star && take(p, "/")) {
            value /= parse_power(p);
        } else if (has_star || begins_factor(p)) {
            const bool is_mixed = may_be_mixed && !has_star && p->end - p->next > 5 &&
                                  memcmp(p->next, "\\frac", 5) == 0;
            const double factor = parse_power(p);
            value = is_mixed ? value + factor : value * factor;
        } else {
            break;
        }
        may_be_mixed = false;
    }
    return value;
}

static double parse_sum(struct parser *p)
{
    double sign = take(p, "-") ? -1.0 : 1.0;
    double value = sign * parse_product(p);
    while (!p->has_failed) {
        if (take(p, "+")) {
            sign = 1.0;
        } else if (take(p, "-")) {
            sign = -1.0;
        } else {
            break;
        }
        value += sign * parse_product(p);
    }
    return value;
}

bool math_evaluate(struct text text, const struct math_point *point, double *out, bool *has_letters)
{
    struct parser p = {.next = text.data, .end = text.data + text.n, .point = point};
    if (text.n == 0) {
        return false;
    }
    *out = parse_sum(&p);
    *has_letters = p.has_letters;
    return !p.has_failed && p.next == p.end;
}
