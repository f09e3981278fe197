/* Owns the arithmetic of attention over a cache of bfloat16 entries: products of pairs (pairs.h),
 * and the two forms in which a block of keys takes part in them. A word is two values.
 *
 * Every product is y (rows, columns) = sum over k of x[row][k] . w[k][column], x and w pairs, one
 * chain per element over k ascending from zero (or from y):
 *   scores   k = two dimensions of a key, an odd last one with zero;  column = key
 *   values   k = keys 2 j and 2 j + 1 of the block, an odd last one with zero; column = dimension
 */
#ifndef HONE_KERNELS_CPU_SIMD_ATTENTION_PAIRS_H
#define HONE_KERNELS_CPU_SIMD_ATTENTION_PAIRS_H

#include "kernels/cpu/simd/attention_tile.h"
#include "kernels/cpu/simd/pair_rows.h"

/* Whether the products zip rows without help from memory. */
#ifdef __AVX512BW__
#define PAIRS_FROM_ROWS true
#else
#define PAIRS_FROM_ROWS false
#endif

struct pair_product {
    const float *x; /* pairs of PAIR_WORDS words */
    size_t x_stride;
    const float *w;
    size_t w_stride;
    const float *last; /* a row of w behind the n_pairs, or NULL */
    /* In place of w and last, where PAIRS_FROM_ROWS: keys whose rows are zipped on their way into
     * the product. n_columns is a multiple of PAIR_VALUES then. */
    const struct key_rows *rows;
    bool is_odd; /* of rows: one more key behind the n_pairs */
    float *y;
    size_t y_stride;
    size_t n_rows, n_pairs, n_columns;
    bool accumulate;
    struct fetch_pace pace;
};

void ISA(pair_multiply)(const struct pair_product *product);

/* n values, padded with zeros to whole PAIR_VALUES -> pairs of a row of x; in place is legal. */
void ISA(pair_round)(const float *values, size_t n, float *pairs);

/* to[d][token] = values 2 d, 2 d + 1 of the tokens of a step, as tile_transpose_step, entry_stride
 * words apart; an odd width's last value goes with zero. */
void ISA(pair_transpose_step)(const float *entries, size_t n_tokens, size_t entry_stride,
                              size_t width, float *to, size_t to_stride);

/* to[c] = values c of two keys, `second` NULL: with zero. */
void ISA(pair_zip)(const float *first, const float *second, size_t width, float *to);

/* The same for n_pairs times two keys that lie `stride` words apart. */
void ISA(pair_zip_step)(const float *rows, size_t stride, size_t n_pairs, size_t width, float *to,
                        size_t to_stride);

/* Words of n values. */
static inline size_t half_words(size_t n)
{
    return (n + 1) / 2;
}

/* Words of a row of x with n values. */
static inline size_t pair_row_words(size_t n)
{
    return (n + PAIR_VALUES - 1) / PAIR_VALUES * SIMD_LANES * PAIR_WORDS;
}

#endif
