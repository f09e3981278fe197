/* Owns how two rows of floats become what products of pairs read (pairs.h): each row as pairs of
 * its values, and words of the values of both. */
#ifndef HONE_KERNELS_CPU_SIMD_PAIR_ROWS_H
#define HONE_KERNELS_CPU_SIMD_PAIR_ROWS_H

#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/pairs.h"

/* Values of a row that are rounded at a time: rows of pairs are padded to whole ones. */
#define PAIR_VALUES (2 * SIMD_LANES)

/* Where they go. Rows of pairs, padded with zeros; both or none. */
struct pair_rows {
    float *even, *odd;
    float *joined; /* whole vectors */
};

/* Values [k, k + n) of each, n at most 32; zeros behind them. */
SIMD_INLINE void pair_rows_store(const struct pair_rows *to, size_t k, size_t n,
                                 const f32x16 even[2], const f32x16 odd[2])
{
    const size_t at = k / 2 * PAIR_WORDS;

    if (to->even != NULL) {
        pairs_store(to->even + at, even[0], even[1]);
        pairs_store(to->odd + at, odd[0], odd[1]);
    }
    vec_store(to->joined + k, pairs_join(even[0], odd[0]));
    if (n > SIMD_LANES) {
        vec_store(to->joined + k + SIMD_LANES, pairs_join(even[1], odd[1]));
    }
}

/* The first n of 32 values, n > 0; zeros behind them, or zeros alone if there is no row. */
SIMD_INLINE void pair_values_load(const float *values, size_t n, const bool exists, f32x16 out[2])
{
    out[0] = exists ? lanes_load(values, lanes_left(0, n)) : vec_zero();
    out[1] = exists && n > SIMD_LANES ? lanes_load(values + SIMD_LANES, lanes_left(SIMD_LANES, n))
                                      : vec_zero();
}

/* Rows of n floats; odd NULL: zeros. */
static inline void pair_rows_convert(const float *even, const float *odd, size_t n,
                                     const struct pair_rows *to)
{
    for (size_t k = 0; k < n; k += PAIR_VALUES) {
        const size_t left = n - k < PAIR_VALUES ? n - k : PAIR_VALUES;
        f32x16 even_values[2], odd_values[2];

        pair_values_load(even + k, left, true, even_values);
        pair_values_load(odd == NULL ? even : odd + k, left, odd != NULL, odd_values);
        pair_rows_store(to, k, left, even_values, odd_values);
    }
}

#endif
