/* Owns how a tile of y = x . w^T is told what to do, and the list of tiles. A tile is R rows by V
 * vectors of sixteen columns whose R * V sums stay in registers while k runs. Tiles of F32 are in
 * gemm_floats.c, those of BF16 and FP8 in gemm_pairs.c; gemm_block.c calls them. */
#ifndef HONE_KERNELS_CPU_SIMD_GEMM_TILE_H
#define HONE_KERNELS_CPU_SIMD_GEMM_TILE_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/tile_sums.h"

#include <stdbool.h>

#define PANEL_VECTORS (PANEL_COLUMNS / SIMD_LANES)
#define FETCH_LINES_MAX ((size_t)4)

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

/* Tiles of one width: for as many rows as one tile takes, and for many_rows and more, which several
 * take. of_rows[r - 1] takes r rows. */
struct tile_shape {
    size_t vectors, rows_max, many_rows;
    tile_function *of_rows[TILE_ROWS_MAX];
};
#define NEVER_MANY SIZE_MAX

/* A precision's shapes, widest first; the last one takes any number of rows, and one panel (F32:
 * one vector) of columns. */
extern const struct tile_shape ISA(gemm_shapes_f32)[], ISA(gemm_shapes_bf16)[],
    ISA(gemm_shapes_fp8)[];

#endif
