/* Owns what the matrix tiles of all precisions share: a tile is R rows by V vectors of sixteen
 * columns whose R * V sums stay in registers. */
#ifndef HONE_KERNELS_CPU_SIMD_GEMM_TILE_H
#define HONE_KERNELS_CPU_SIMD_GEMM_TILE_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/pairs.h"
#include "kernels/cpu/simd/simd.h"

#include <stdbool.h>

#define PANEL_VECTORS (PANEL_COLUMNS / SIMD_LANES)
#define TILE_SUMS_MAX 24

/* Strides of x and w are in words of 4 bytes. */
struct gemm_tile {
    const float *x;
    size_t x_stride;
    const float *w; /* first vector of the tile; the next ones by tile_offset */
    size_t panel_stride;
    const float
        *fetch; /* weights that are read later: cache lines to ask for, one behind another */
    float *y;
    size_t y_stride;
    const float *bias; /* NULL: none */
    size_t n_in;
    size_t columns;     /* that exist from the tile's first on */
    size_t fetch_lines; /* for each k, or pair of k: 0, 1, 2 or 4 */
    bool accumulate;
    bool continues; /* the chains go on from y */
};
typedef void tile_function(const struct gemm_tile *tile);

/* Tiles of one width; of_rows[r - 1] takes r rows. */
struct tile_shape {
    size_t vectors, rows_max;
    tile_function *of_rows[12];
};

/* The tiles of BF16 and FP8 (gemm_pairs.c): whole panels, so n_vectors is even. */
const struct tile_shape *ISA(pair_shape)(enum precision precision, size_t n_rows, size_t n_vectors);

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
#define FETCH_LINES_MAX ((size_t)4)

/* Asks for the lines of one step, a constant, and returns where those of the next begin. */
SIMD_INLINE const float *tile_fetch(const float *fetch, const size_t lines)
{
#pragma GCC unroll 4
    for (size_t i = 0; i < lines; i++) {
        __builtin_prefetch(fetch + i * SIMD_LANES, 0, 2);
    }
    return fetch + lines * SIMD_LANES;
}

/* CHAIN(lines) with the constant that is the tile's fetch_lines: as many as it has vectors, half
 * of that, or one. */
#define TILE_WITH_LINES(tile, rows, vectors, CHAIN)                                                \
    do {                                                                                           \
        if ((rows) < TILE_FETCH_ROWS_MIN || (tile)->fetch_lines == 0) {                            \
            CHAIN(0);                                                                              \
        } else if ((tile)->fetch_lines == 1) {                                                     \
            CHAIN(1);                                                                              \
        } else if ((vectors) <= 2 || (tile)->fetch_lines == 2) {                                   \
            CHAIN(2);                                                                              \
        } else {                                                                                   \
            CHAIN(FETCH_LINES_MAX);                                                                \
        }                                                                                          \
    } while (0)

/* Sums that leave the registers for a while, and return. */
SIMD_INLINE void tile_keep(const f32x16 *sums, float *kept, const size_t n)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < n; i++) {
        vec_store(kept + i * SIMD_LANES, sums[i]);
    }
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
        tile_keep(sums, kept, rows * vectors);
        tile_store_kept(tile, kept, rows, vectors, is_flushed);
    } else if (tile->accumulate) {
        tile_store_whole(tile, sums, rows, vectors, is_flushed, true);
    } else {
        tile_store_whole(tile, sums, rows, vectors, is_flushed, false);
    }
}

#endif
