#include "reward/math_relation.h"

#include <stdio.h>

static bool is_sign(char c)
{
    return c == '<' || c == '>' || c == MATH_LESS_EQUAL || c == MATH_GREATER_EQUAL ||
           c == MATH_NOT_EQUAL;
}

bool math_split_relation(struct text text, struct math_relation *out)
{
    size_t n_signs = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (is_sign(text.data[i])) {
            n_signs++;
            *out = (struct math_relation){.sign = text.data[i],
                                          .left = {text.data, i},
                                          .right = {text.data + i + 1, text.n - i - 1}};
        }
    }
    return n_signs == 1 && out->left.n > 0 && out->right.n > 0;
}

static char flipped(char sign)
{
    switch (sign) {
    case '<':
        return '>';
    case '>':
        return '<';
    case MATH_LESS_EQUAL:
        return MATH_GREATER_EQUAL;
    case MATH_GREATER_EQUAL:
        return MATH_LESS_EQUAL;
    default:
        return sign;
    }
}

struct math_relation math_flip_relation(const struct math_relation *relation)
{
    return (struct math_relation){
        .sign = flipped(relation->sign), .left = relation->right, .right = relation->left};
}

static bool is_letter(struct text text)
{
    const int c = text.n == 1 ? text.data[0] | 0x20 : 0;
    return c >= 'a' && c <= 'z';
}

bool math_relation_interval(const struct math_relation *relation, char *out, size_t room,
                            size_t *n_out)
{
    const struct math_relation r =
        is_letter(relation->left) ? *relation : math_flip_relation(relation);
    const int bound_bytes = r.right.n < room ? (int)r.right.n : 0;
    int n = -1;
    if (!is_letter(r.left) || is_letter(r.right) || bound_bytes == 0) {
        return false;
    }
    if (r.sign == '>' || r.sign == MATH_GREATER_EQUAL) {
        n = snprintf(out, room, "%c%.*s,inf)", r.sign == '>' ? '(' : '[', bound_bytes,
                     r.right.data);
    } else if (r.sign == '<' || r.sign == MATH_LESS_EQUAL) {
        n = snprintf(out, room, "(-inf,%.*s%c", bound_bytes, r.right.data,
                     r.sign == '<' ? ')' : ']');
    }
    *n_out = n < 0 ? 0 : (size_t)n;
    return n > 0 && (size_t)n < room;
}
