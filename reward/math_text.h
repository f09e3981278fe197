/* Owns the string stage of mathematical answers (grpo.md 15.2): LaTeX dressing off, one spelling
 * for each thing. Pure. */
#ifndef HONE_REWARD_MATH_TEXT_H
#define HONE_REWARD_MATH_TEXT_H

#include "reward/builtin_internal.h"

#define MATH_TEXT_MAX ((size_t)4096) /* longer answers are not compared */

/* Normal form of text into out (MATH_TEXT_MAX bytes). false: too long. */
bool math_normalise(struct text text, char *out, size_t *n_out);
/* Content of the last \boxed{...} or \fbox{...} (or of `\boxed 5`); false when there is none or its
 * braces do not match. */
bool math_find_boxed(struct text text, struct text *out);

#endif
