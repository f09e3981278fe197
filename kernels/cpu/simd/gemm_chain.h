/* Owns what tiles of y = x . w^T share inside, whatever the precision: the products along k, what
 * they ask memory for, and how sums come from y and go there. */
#ifndef HONE_KERNELS_CPU_SIMD_GEMM_CHAIN_H
#define HONE_KERNELS_CPU_SIMD_GEMM_CHAIN_H

#include "kernels/cpu/simd/gemm_tile.h"
#include "kernels/cpu/simd/pairs.h"

#include <stdbool.h>

/* Words from a tile's first vector to its vector v; tiles of several vectors start on a panel. */
SIMD_INLINE size_t tile_offset(const struct gemm_tile *tile, size_t v)
{
    return v / PANEL_VECTORS * tile->panel_stride + v % PANEL_VECTORS * SIMD_LANES;
}

/* Columns of the tile's vector v that exist. */
SIMD_INLINE size_t tile_lanes(const struct gemm_tile *tile, size_t v)
{
    const size_t at = v * SIMD_LANES;
    if (at + SIMD_LANES <= tile->columns) {
        return SIMD_LANES;
    }
    return at < tile->columns ? tile->columns - at : 0;
}

/* Only tiles that have time for it ask for what comes later (cpu.md 5.4). */
#define TILE_FETCH_ROWS_MIN 4

/* Asks for the lines of one step, a constant, and returns where those of the next begin. */
SIMD_INLINE const float *tile_fetch(const float *fetch, const size_t lines)
{
#pragma GCC unroll 4
    for (size_t i = 0; i < lines; i++) {
        __builtin_prefetch(fetch + i * SIMD_LANES, 0, 2);
    }
    return fetch + lines * SIMD_LANES;
}

/* A stretch of n steps of k, which are pairs but for F32: x of the first row, weights of the first
 * vector, and what to ask for. */
struct chain {
    const float *x, *w, *fetch;
    size_t n;
};

/* The weights of one pair of k: V vectors from the words at w. */
SIMD_INLINE void chain_load_pairs(const struct gemm_tile *tile, const float *w, pair16 *out,
                                  const size_t vectors, const bool is_coded)
{
#pragma GCC unroll 4
    for (size_t v = 0; v < vectors; v += PANEL_VECTORS) {
        const float *const at = w + tile_offset(tile, v);
        if (is_coded) {
            pairs_decode(at, &out[v], &out[v + 1]);
        } else {
            out[v] = pairs_load(at);
            out[v + 1] = pairs_load(at + SIMD_LANES);
        }
    }
}

/* The sums go on along the chain, precision a constant; lines: to ask for in each step. */
SIMD_INLINE void chain_sums(const struct gemm_tile *tile, struct chain chain, f32x16 *sums,
                            const size_t rows, const size_t vectors, const enum precision precision,
                            const size_t lines)
{
    const bool is_coded = precision == PRECISION_FP8;
    const size_t x_stride = tile->x_stride;
    for (; chain.n > 0; chain.n--) {
        if (precision == PRECISION_F32) {
            f32x16 w[TILE_VECTORS_MAX];
#pragma GCC unroll 8
            for (size_t v = 0; v < vectors; v++) {
                w[v] = vec_load(chain.w + tile_offset(tile, v));
            }
            chain.fetch = tile_fetch(chain.fetch, lines);
            sums_add_floats(sums, chain.x, x_stride, w, rows, vectors);
            chain.x++;
        } else {
            pair16 w[TILE_VECTORS_MAX];
            chain_load_pairs(tile, chain.w, w, vectors, is_coded);
            chain.fetch = tile_fetch(chain.fetch, lines);
            sums_add_pairs(sums, chain.x, x_stride, w, rows, vectors, false);
            chain.x += PAIR_WORDS;
        }
        chain.w += is_coded ? SIMD_LANES : PANEL_COLUMNS;
    }
}

/* The function of one tile: kind_chains(tile, R, V, lines) with the constant that is the tile's
 * fetch_lines: as many as it has vectors, half of that, or one. */
#define GEMM_TILE(kind, r, v)                                                                      \
    static void kind##_##r##_##v(const struct gemm_tile *tile)                                     \
    {                                                                                              \
        if ((r) < TILE_FETCH_ROWS_MIN || tile->fetch_lines == 0) {                                 \
            kind##_chains(tile, r, v, 0);                                                          \
        } else if (tile->fetch_lines == 1) {                                                       \
            kind##_chains(tile, r, v, 1);                                                          \
        } else if ((v) <= 2 || tile->fetch_lines == 2) {                                           \
            kind##_chains(tile, r, v, 2);                                                          \
        } else {                                                                                   \
            kind##_chains(tile, r, v, FETCH_LINES_MAX);                                            \
        }                                                                                          \
    }

/* Sums from y, for chains that go on. */
static void tile_load_y(const struct gemm_tile *tile, float *kept, size_t rows, size_t vectors)
{
    for (size_t i = 0; i < rows * vectors; i++) {
        const size_t v = i % vectors;
        const float *const y = tile->y + i / vectors * tile->y_stride + v * SIMD_LANES;
        vec_store(kept + i * SIMD_LANES, vec_load_n(y, tile_lanes(tile, v)));
    }
}

/* kept sums + bias (+ y) of a tile with a bias or columns that do not exist. */
static void tile_store_kept(const struct gemm_tile *tile, const float *kept, size_t rows,
                            size_t vectors, bool is_flushed)
{
    for (size_t i = 0; i < rows * vectors; i++) {
        const size_t v = i % vectors;
        const size_t lanes = tile_lanes(tile, v);
        float *const y = tile->y + i / vectors * tile->y_stride + v * SIMD_LANES;
        f32x16 sum = vec_load(kept + i * SIMD_LANES);
        if (tile->bias != NULL) {
            sum = vec_add(sum, vec_load_n(tile->bias + v * SIMD_LANES, lanes));
            sum = is_flushed ? vec_flush(sum) : sum;
        }
        if (tile->accumulate) {
            sum = vec_add(vec_load_n(y, lanes), sum);
            sum = is_flushed ? vec_flush(sum) : sum;
        }
        vec_store_n(y, sum, lanes);
    }
}

/* y (+)= sums of a whole tile without a bias. */
SIMD_INLINE void tile_store_whole(const struct gemm_tile *tile, const f32x16 *sums,
                                  const size_t rows, const size_t vectors, const bool is_flushed,
                                  const bool accumulate)
{
#pragma GCC unroll 12
    for (size_t r = 0; r < rows; r++) {
        float *const y = tile->y + r * tile->y_stride;
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) {
            f32x16 sum = sums[r * vectors + v];
            if (accumulate) {
                sum = vec_add(vec_load(y + v * SIMD_LANES), sum);
                sum = is_flushed ? vec_flush(sum) : sum;
            }
            vec_store(y + v * SIMD_LANES, sum);
        }
    }
}

/* sums + bias (+ y); is_flushed: sums that are subnormal become zero. Few tiles are not whole: a
 * branch for each vector would cost short products a tenth. */
SIMD_INLINE void tile_store(const struct gemm_tile *tile, const f32x16 *sums, const size_t rows,
                            const size_t vectors, const bool is_flushed)
{
    if (tile->bias != NULL || tile->columns < vectors * SIMD_LANES) {
        float kept[TILE_SUMS_MAX * SIMD_LANES];
        sums_keep(sums, kept, rows * vectors);
        tile_store_kept(tile, kept, rows, vectors, is_flushed);
    } else if (tile->accumulate) {
        tile_store_whole(tile, sums, rows, vectors, is_flushed, true);
    } else {
        tile_store_whole(tile, sums, rows, vectors, is_flushed, false);
    }
}

#endif
