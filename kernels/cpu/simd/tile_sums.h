/* Owns what the matrix tiles of products (gemm_tile.h) and of weight gradients (gemm_dw_tile.h)
 * have in common: R rows by V vectors of sixteen columns whose R * V sums stay in registers while k
 * runs, and a function for each such R and V.
 *
 * R, V and flags are constants where these functions end up. Every loop over sums is unrolled by
 * pragma: an array that one loop indexes by a variable would be on the stack (cpu.md 5.7). */
#ifndef HONE_KERNELS_CPU_SIMD_TILE_SUMS_H
#define HONE_KERNELS_CPU_SIMD_TILE_SUMS_H

#include "kernels/cpu/simd/pairs.h"
#include "kernels/cpu/simd/simd.h"

#include <stdbool.h>

#define TILE_SUMS_MAX 24
#define TILE_VECTORS_MAX 8
#define TILE_ROWS_MAX 12

/* TILE(kind, R, V) for R of one to 2, 3, 6 or 12; and the functions' names, in that order. */
#define TILES_2(TILE, kind, v) TILE(kind, 1, v) TILE(kind, 2, v)
#define TILES_3(TILE, kind, v) TILES_2(TILE, kind, v) TILE(kind, 3, v)
#define TILES_6(TILE, kind, v)                                                                     \
    TILES_3(TILE, kind, v) TILE(kind, 4, v) TILE(kind, 5, v) TILE(kind, 6, v)
#define TILES_12(TILE, kind, v)                                                                    \
    TILES_6(TILE, kind, v)                                                                         \
    TILE(kind, 7, v)                                                                               \
    TILE(kind, 8, v)                                                                               \
    TILE(kind, 9, v)                                                                               \
    TILE(kind, 10, v)                                                                              \
    TILE(kind, 11, v)                                                                              \
    TILE(kind, 12, v)
#define TILE_NAME(kind, r, v) kind##_##r##_##v,
#define TILE_NAMES(n, kind, v)                                                                     \
    {                                                                                              \
        TILES_##n(TILE_NAME, kind, v)                                                              \
    }

SIMD_INLINE void sums_clear(f32x16 *sums, const size_t n)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < n; i++) {
        sums[i] = vec_zero();
    }
}

/* Sums that leave the registers for a while. */
SIMD_INLINE void sums_keep(const f32x16 *sums, float *kept, const size_t n)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < n; i++) {
        vec_store(kept + i * SIMD_LANES, sums[i]);
    }
}

/* And return. */
SIMD_INLINE void sums_resume(f32x16 *sums, const float *kept, const size_t n)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < n; i++) {
        sums[i] = vec_load(kept + i * SIMD_LANES);
    }
}

/* One k of floats: a row's value is at a, the next row's a_stride behind it. */
SIMD_INLINE void sums_add_floats(f32x16 *sums, const float *a, const size_t a_stride,
                                 const f32x16 *b, const size_t rows, const size_t vectors)
{
#pragma GCC unroll 12
    for (size_t r = 0; r < rows; r++) {
        const f32x16 x = vec_set1(a[r * a_stride]);
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) {
            sums[r * vectors + v] = vec_fma(x, b[v], sums[r * vectors + v]);
        }
    }
}

/* One pair of k; is_joined: a's words are those of pairs_join, else of pairs_store. */
SIMD_INLINE void sums_add_pairs(f32x16 *sums, const float *a, size_t a_stride, const pair16 *b,
                                const size_t rows, const size_t vectors, const bool is_joined)
{
#pragma GCC unroll 12
    for (size_t r = 0; r < rows; r++) {
        const float *const words = a + r * a_stride;
        const pair_x x = is_joined ? pair_broadcast_joined(words) : pair_broadcast(words);
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) {
            sums[r * vectors + v] = pair_fma(x, b[v], sums[r * vectors + v]);
        }
    }
}

#endif
