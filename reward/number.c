#include "reward/number.h"

#include <math.h>
#include <stdlib.h>

#define INT128_LIMIT                                                                               \
    (((int128)1) << 100) /* operands stay below: sums and steps cannot overflow                    \
                          */

struct reader {
    const char *next, *end;
};

static int128 gcd(int128 a, int128 b)
{
    while (b != 0) {
        const int128 rest = a % b;
        a = b;
        b = rest;
    }
    return a < 0 ? -a : a;
}

struct number number_from_ratio(int128 p, int128 q)
{
    const int128 divisor = gcd(p, q);
    const int128 sign = q < 0 ? -1 : 1;
    struct number number = {.is_exact = divisor != 0};
    if (divisor != 0) {
        number.p = sign * p / divisor;
        number.q = sign * q / divisor;
        number.value = (double)number.p / (double)number.q;
    }
    return number;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool has(const struct reader *r, char c)
{
    return r->next < r->end && *r->next == c;
}

static bool take(struct reader *r, char c)
{
    if (!has(r, c)) {
        return false;
    }
    r->next++;
    return true;
}

/* A comma that is a thousands separator: exactly three digits follow. */
static bool is_separator(const struct reader *r)
{
    const char *p = r->next;
    return r->end - p >= 4 && *p == ',' && is_digit(p[1]) && is_digit(p[2]) && is_digit(p[3]) &&
           (r->end - p == 4 || !is_digit(p[4]));
}

struct digits {
    int128 value;
    double approximate;
    size_t n;
    bool fits;
};

static void add_digit(struct digits *digits, char c)
{
    digits->n++;
    digits->approximate = digits->approximate * 10.0 + (double)(c - '0');
    digits->fits = digits->fits && digits->value < INT128_LIMIT / 16;
    if (digits->fits) {
        digits->value = digits->value * 10 + (c - '0');
    }
}

static void read_integer(struct reader *r, struct digits *digits)
{
    while (r->next < r->end && (is_digit(*r->next) || (digits->n > 0 && is_separator(r)))) {
        if (*r->next != ',') {
            add_digit(digits, *r->next);
        }
        r->next++;
    }
}

/* Digits after a point; returns how many. */
static size_t read_decimals(struct reader *r, struct digits *digits)
{
    size_t n = 0;
    while (r->next < r->end && is_digit(*r->next)) {
        add_digit(digits, *r->next++);
        n++;
    }
    return n;
}

/* e or E, sign, digits; nothing is taken when that is not what follows. */
static bool read_exponent(struct reader *r, long *out)
{
    struct reader ahead = *r;
    long value = 0;
    if (!take(&ahead, 'e') && !take(&ahead, 'E')) {
        return false;
    }
    const bool is_negative = take(&ahead, '-');
    if (!is_negative) {
        (void)take(&ahead, '+');
    }
    if (ahead.next == ahead.end || !is_digit(*ahead.next)) {
        return false;
    }
    while (ahead.next < ahead.end && is_digit(*ahead.next)) {
        value = value < 100000 ? value * 10 + (*ahead.next - '0') : value;
        ahead.next++;
    }
    *out = is_negative ? -value : value;
    *r = ahead;
    return true;
}

/* digits * 10^exponent */
static struct number scale(const struct digits *digits, long exponent)
{
    int128 p = digits->value;
    int128 q = 1;
    bool fits = digits->fits;
    if (fits && p == 0) {
        return number_from_ratio(0, 1); /* 0e99999 needs no loop */
    }
    for (long i = 0; fits && i < labs(exponent); i++) {
        int128 *side = exponent < 0 ? &q : &p;
        fits = *side < INT128_LIMIT / 16;
        *side = fits ? *side * 10 : *side;
    }
    if (fits) {
        return number_from_ratio(p, q);
    }
    return (struct number){.value = digits->approximate * pow(10.0, (double)exponent)};
}

/* Unsigned: digits, point, decimals, exponent. */
static bool read_plain(struct reader *r, struct number *out)
{
    struct digits digits = {.fits = true};
    long exponent = 0;
    read_integer(r, &digits);
    bool is_decimal = false;
    size_t n_decimals = 0;
    if (has(r, '.') && r->next + 1 < r->end && is_digit(r->next[1])) {
        r->next++;
        n_decimals = read_decimals(r, &digits);
        is_decimal = true;
    }
    if (digits.n == 0) {
        return false;
    }
    is_decimal = read_exponent(r, &exponent) || is_decimal;
    *out = scale(&digits, exponent - (long)n_decimals);
    out->is_decimal = is_decimal;
    return true;
}

static bool is_small(int128 x)
{
    const int128 limit = (int128)1 << 60; /* products of two stay far from overflow */
    return x < limit && x > -limit;
}

static void divide(struct number *a, const struct number *b)
{
    const bool is_decimal = a->is_decimal || b->is_decimal;
    const bool is_exact = a->is_exact && b->is_exact && is_small(a->p) && is_small(a->q) &&
                          is_small(b->p) && is_small(b->q) && b->p != 0;
    *a = is_exact ? number_from_ratio(a->p * b->q, a->q * b->p)
                  : (struct number){.value = a->value / b->value};
    a->is_decimal = is_decimal;
}

static bool read_number(struct reader *r, struct number *out)
{
    struct number denominator;
    const bool is_negative = take(r, '-');
    if (!is_negative) {
        (void)take(r, '+');
    }
    (void)take(r, '$');
    if (!read_plain(r, out)) {
        return false;
    }
    struct reader ahead = *r;
    if (take(&ahead, '/') && read_plain(&ahead, &denominator) && denominator.value != 0.0) {
        divide(out, &denominator);
        *r = ahead;
    }
    if (take(r, '%')) {
        const struct number hundred = number_from_ratio(100, 1);
        divide(out, &hundred);
        out->is_percent = true;
    }
    if (is_negative) {
        out->p = -out->p;
        out->value = -out->value;
    }
    return true;
}

bool number_parse(struct text text, struct number *out)
{
    const struct text trimmed = text_trim(text);
    struct reader r = {trimmed.data, trimmed.data + trimmed.n};
    return trimmed.n > 0 && read_number(&r, out) && r.next == r.end;
}

/* A sign belongs to a number only when no digit, letter or bracket is before it (5-3 is 5 and 3).
 */
static const char *include_sign(const char *begin, const char *start)
{
    if (start > begin && start[-1] == '$') {
        start--;
    }
    const bool has_sign = start > begin && (start[-1] == '-' || start[-1] == '+');
    const bool is_binary =
        has_sign && start - 1 > begin &&
        (is_digit(start[-2]) || start[-2] == ')' || (start[-2] >= 'A' && start[-2] <= 'z'));
    return has_sign && !is_binary ? start - 1 : start;
}

bool number_find_last(struct text text, struct number *out, struct text *where)
{
    const char *end = text.data + text.n;
    bool is_found = false;
    for (const char *p = text.data; p < end;) {
        const bool starts = is_digit(*p) || (*p == '.' && p + 1 < end && is_digit(p[1]));
        struct number number = {0};
        if (!starts) {
            p++;
            continue;
        }
        const char *begin = include_sign(text.data, p);
        struct reader r = {begin, end};
        if (read_number(&r, &number)) {
            is_found = true;
            *out = number;
            *where = (struct text){begin, (size_t)(r.next - begin)};
            p = r.next;
        } else {
            p++;
        }
    }
    return is_found;
}

static bool is_same(const struct number *a, const struct number *gold, double tolerance)
{
    if (a->is_exact && gold->is_exact && a->p == gold->p && a->q == gold->q) {
        return true;
    }
    const bool may_differ = a->is_decimal || gold->is_decimal || !a->is_exact || !gold->is_exact;
    const double bound = tolerance * fmax(1.0, 1e-3 * fabs(gold->value));
    return may_differ && fabs(a->value - gold->value) <= bound;
}

bool number_equal(const struct number *a, const struct number *gold, double tolerance,
                  bool is_percent_strict)
{
    if (is_same(a, gold, tolerance)) {
        return true;
    }
    if (is_percent_strict || !a->is_percent || gold->is_percent) {
        return false;
    }
    struct number whole = *a;
    const struct number hundredth = number_from_ratio(1, 100);
    divide(&whole, &hundredth);
    return is_same(&whole, gold, tolerance);
}

struct verdict score_numeric(const struct builtin_options *options,
                             const struct score_sample *sample, struct text completion,
                             struct text answer)
{
    const struct text final = text_final_part(options, completion);
    struct number gold;
    struct number found;
    struct text where = {NULL, 0};
    (void)sample;
    if (!number_parse(answer, &gold) && !number_find_last(answer, &gold, &where)) {
        return (struct verdict){.status = SCORE_NA, .reason = "the answer is not a number"};
    }
    if (final.data == NULL || !number_find_last(final, &found, &where)) {
        return (struct verdict){.reason = "no number"};
    }
    const bool is_right =
        number_equal(&found, &gold, options->tolerance, options->is_percent_strict);
    return (struct verdict){.value = is_right ? 1.0 : 0.0, .extracted = where};
}
