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
    const float *next; /* panels of the next tile column, fetched ahead; NULL: none */
    float *y;
    size_t y_stride;
    const float *bias; /* NULL: none */
    size_t n_in;
    size_t columns; /* that exist from the tile's first on */
    bool accumulate;
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

/* sums + bias (+ y); is_flushed: sums that are subnormal become zero. */
SIMD_INLINE void tile_store_row(const struct gemm_tile *tile, const f32x16 *sums, size_t r,
                                const size_t n, const bool is_flushed)
{
    float *const y = tile->y + r * tile->y_stride;
#pragma GCC unroll 8
    for (size_t v = 0; v < n; v++) {
        const size_t lanes = tile_lanes(tile, v);
        f32x16 sum = sums[v];
        if (tile->bias != NULL) {
            sum = vec_add(sum, vec_load_n(tile->bias + v * SIMD_LANES, lanes));
            sum = is_flushed ? vec_flush(sum) : sum;
        }
        if (tile->accumulate) {
            sum = vec_add(vec_load_n(y + v * SIMD_LANES, lanes), sum);
            sum = is_flushed ? vec_flush(sum) : sum;
        }
        if (lanes == SIMD_LANES) {
            vec_store(y + v * SIMD_LANES, sum);
        } else {
            vec_store_n(y + v * SIMD_LANES, sum, lanes);
        }
    }
}

#endif
