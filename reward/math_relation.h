/* Owns relations in normalised answers: x < 5 and 5 > x are one thing, and so are x > 5 and the
 * interval (5, inf) (grpo.md 15.2). Pure. */
#ifndef HONE_REWARD_MATH_RELATION_H
#define HONE_REWARD_MATH_RELATION_H

#include "reward/builtin_internal.h"

/* How the string stage spells what takes more than one character. */
#define MATH_LESS_EQUAL '\x01'
#define MATH_GREATER_EQUAL '\x02'
#define MATH_NOT_EQUAL '\x03'

struct math_relation {
    char sign; /* '<' '>' or one of the above */
    struct text left, right;
};

/* true when text is one relation with something on both sides. */
bool math_split_relation(struct text text, struct math_relation *out);
/* The same relation with its sides exchanged. */
struct math_relation math_flip_relation(const struct math_relation *relation);
/* "(5,inf)" for x>5: a letter compared with a bound, into out (room bytes). false when it is
 * something else or too long. */
bool math_relation_interval(const struct math_relation *relation, char *out, size_t room,
                            size_t *n_out);

#endif
