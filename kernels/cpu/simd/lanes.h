/* Owns small helpers for rows whose length is not a multiple of sixteen, and the split of columns
 * over threads. */
#ifndef HONE_KERNELS_CPU_SIMD_LANES_H
#define HONE_KERNELS_CPU_SIMD_LANES_H

#include "base/pool.h"
#include "kernels/cpu/simd/simd.h"

/* How many of the sixteen elements from `at` on exist. */
SIMD_INLINE size_t lanes_left(size_t at, size_t n)
{
    return n - at < SIMD_LANES ? n - at : SIMD_LANES;
}

SIMD_INLINE f32x16 lanes_load(const float *p, size_t n)
{
    return n == SIMD_LANES ? vec_load(p) : vec_load_n(p, n);
}

SIMD_INLINE void lanes_store(float *p, f32x16 a, size_t n)
{
    if (n == SIMD_LANES) {
        vec_store(p, a);
    } else {
        vec_store_n(p, a, n);
    }
}

/* Columns [*begin, *end) of n for one thread: whole vectors, so that no two threads write one cache
 * line. */
static inline void lanes_share(size_t n, size_t thread_index, size_t n_threads, size_t *begin,
                               size_t *end)
{
    pool_share((n + SIMD_LANES - 1) / SIMD_LANES, thread_index, n_threads, begin, end);
    *begin *= SIMD_LANES;
    *end = *end * SIMD_LANES < n ? *end * SIMD_LANES : n;
}

#endif
