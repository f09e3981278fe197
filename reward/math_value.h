/* Owns the value of a normalised expression: + - * / ^ ( ), \frac, \sqrt[n], \pi, factorial,
 * single-letter variables (grpo.md 15.2). Pure and bounded: depth 64. */
#ifndef HONE_REWARD_MATH_VALUE_H
#define HONE_REWARD_MATH_VALUE_H

#include "reward/builtin_internal.h"

/* Values of the letters a..z, A..Z when there are any. */
struct math_point {
    double letters[52];
};

/* true and *out = the value when all of text is one expression; *has_letters tells whether a
 * variable occurs. */
bool math_evaluate(struct text text, const struct math_point *point, double *out,
                   bool *has_letters);

#endif
