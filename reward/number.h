/* Owns numbers in text: exact rationals where they fit, doubles where they do not (grpo.md 15.2,
 * numeric stage). Pure. */
#ifndef HONE_REWARD_NUMBER_H
#define HONE_REWARD_NUMBER_H

#include "reward/builtin_internal.h"

#include <stdbool.h>

__extension__ typedef __int128 int128;

struct number {
    int128 p, q; /* p / q in lowest terms, q > 0, when is_exact */
    double value;
    bool is_exact;
    bool is_decimal; /* written with a point or an exponent */
    bool is_percent; /* written with %: value is already divided by 100 */
};

/* Reads the whole of text: sign, digits with or without thousands separators (1,234), a decimal
 * part (.5 too), an exponent, a fraction a/b, a trailing %, a leading $. White space around it is
 * allowed. */
bool number_parse(struct text text, struct number *out);
/* The last number in a text; *where is its place. */
bool number_find_last(struct text text, struct number *out, struct text *where);
/* Equal rationals; or, when either is a decimal or inexact, within tolerance * max(1, |gold| /
 * 1000): relative alone would take 604872.5 for 604872. A percent equals both x / 100 and x when
 * the gold has no percent sign, unless is_percent_strict. */
bool number_equal(const struct number *a, const struct number *gold, double tolerance,
                  bool is_percent_strict);
/* p / q in lowest terms; inexact when it does not fit. */
struct number number_from_ratio(int128 p, int128 q);

#endif
