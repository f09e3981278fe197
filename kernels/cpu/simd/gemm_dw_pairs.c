/* Owns dw += dy^T . x in BF16: rows are taken in pairs, 2 i and 2 i + 1 of a call, and each element
 * is one chain over pairs ascending that starts from the value already there, subnormals as zero:
 * acc = fma(x_even, dy_even, fma(x_odd, dy_odd, acc)), see pairs.h. A last row without a partner
 * has zeroes beside it, so calls may be cut behind an even number of rows without changing a bit.
 */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/pairs.h"

#include <stdbool.h>

#define ROW_BLOCK ((size_t)128)
#define PAIR_BLOCK (ROW_BLOCK / 2)
#define TILE_SUMS_MAX 24

/* R outputs by V vectors of inputs; x and dy hold words of pairs. */
struct dw_tile {
    const float *dy;
    size_t dy_stride;
    const float *x;
    size_t x_stride;
    float *dw;
    size_t dw_stride;
    size_t n_pairs;
    size_t lanes; /* columns that exist of a tile of one vector */
};
typedef void tile_function(const struct dw_tile *tile);

SIMD_INLINE void load_sums(const struct dw_tile *tile, f32x16 *sums, const size_t outputs,
                           const size_t vectors)
{
#pragma GCC unroll 12
    for (size_t o = 0; o < outputs; o++) {
        const float *const dw = tile->dw + o * tile->dw_stride;
#pragma GCC unroll 4
        for (size_t v = 0; v < vectors; v++) {
            const f32x16 sum =
                vectors == 1 ? vec_load_n(dw, tile->lanes) : vec_load(dw + v * SIMD_LANES);
            sums[o * vectors + v] = vec_flush_memory(sum);
        }
    }
}

SIMD_INLINE void store_sums(const struct dw_tile *tile, const f32x16 *sums, const size_t outputs,
                            const size_t vectors)
{
#pragma GCC unroll 12
    for (size_t o = 0; o < outputs; o++) {
        float *const dw = tile->dw + o * tile->dw_stride;
#pragma GCC unroll 4
        for (size_t v = 0; v < vectors; v++) {
            if (vectors == 1) {
                vec_store_n(dw, sums[o], tile->lanes);
            } else {
                vec_store(dw + v * SIMD_LANES, sums[o * vectors + v]);
            }
        }
    }
}

SIMD_INLINE void run_tile(const struct dw_tile *tile, const size_t outputs, const size_t vectors)
{
    f32x16 sums[TILE_SUMS_MAX];
    const float *x = tile->x;
    const float *dy = tile->dy;
    load_sums(tile, sums, outputs, vectors);
    for (size_t pair = 0; pair < tile->n_pairs; pair++) {
        pair16 in[4];
#pragma GCC unroll 4
        for (size_t v = 0; v < vectors; v++) {
            in[v] = pairs_load(x + v * SIMD_LANES);
        }
#pragma GCC unroll 12
        for (size_t o = 0; o < outputs; o++) {
            const pair_x d = pair_broadcast_joined(dy + o);
#pragma GCC unroll 4
            for (size_t v = 0; v < vectors; v++) {
                sums[o * vectors + v] = pair_fma(d, in[v], sums[o * vectors + v]);
            }
        }
        x += tile->x_stride;
        dy += tile->dy_stride;
    }
    store_sums(tile, sums, outputs, vectors);
}

#define TILE(outputs, vectors)                                                                     \
    static void tile_##outputs##_##vectors(const struct dw_tile *tile)                             \
    {                                                                                              \
        run_tile(tile, outputs, vectors);                                                          \
    }
TILE(1, 1)
TILE(2, 1)
TILE(3, 1)
TILE(4, 1)
TILE(5, 1)
TILE(6, 1)
#if SIMD_TILE_VECTORS >= 4
TILE(1, 2)
TILE(2, 2)
TILE(3, 2)
TILE(4, 2)
TILE(5, 2)
TILE(6, 2)
TILE(7, 2)
TILE(8, 2)
TILE(9, 2)
TILE(10, 2)
TILE(11, 2)
TILE(12, 2)
TILE(1, 4)
TILE(2, 4)
TILE(3, 4)
TILE(4, 4)
TILE(5, 4)
TILE(6, 4)
#endif

/* Tiles of one width; of_outputs[r - 1] takes r outputs. */
struct tile_shape {
    size_t vectors, outputs_max;
    tile_function *of_outputs[12];
};

static const struct tile_shape shape_1 = {
    1, 6, {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1}};
#if SIMD_TILE_VECTORS >= 4
static const struct tile_shape shape_4 = {
    4, 6, {tile_1_4, tile_2_4, tile_3_4, tile_4_4, tile_5_4, tile_6_4}};
static const struct tile_shape shape_2 = {2,
                                          12,
                                          {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2,
                                           tile_6_2, tile_7_2, tile_8_2, tile_9_2, tile_10_2,
                                           tile_11_2, tile_12_2}};
#endif

static const struct tile_shape *choose_shape(size_t n_columns)
{
#if SIMD_TILE_VECTORS >= 4
    if (n_columns >= 4 * SIMD_LANES) {
        return &shape_4;
    }
    if (n_columns >= 2 * SIMD_LANES) {
        return &shape_2;
    }
#endif
    (void)n_columns;
    return &shape_1;
}

/* All outputs of one tile column, dealt evenly. */
static void run_column(struct dw_tile *tile, const float *dy, float *dw, size_t n_out,
                       const struct tile_shape *shape)
{
    const size_t n_tiles = (n_out + shape->outputs_max - 1) / shape->outputs_max;
    size_t output = 0;
    for (size_t i = 0; i < n_tiles; i++) {
        const size_t output_end = n_out * (i + 1) / n_tiles;
        tile->dy = dy + output;
        tile->dw = dw + output * tile->dw_stride;
        shape->of_outputs[output_end - output - 1](tile);
        output = output_end;
    }
}

/* n columns of rows 0 .. n_rows - 1 as pairs of rows, in whole vectors. */
static void join_rows(const float *rows, size_t stride, size_t n_rows, size_t n, float *pairs,
                      size_t pairs_stride)
{
    for (size_t row = 0; row < n_rows; row += 2) {
        const float *const even = rows + row * stride;
        const bool is_alone = row + 1 == n_rows;
        float *const out = pairs + row / 2 * pairs_stride;
        for (size_t i = 0; i < n; i += SIMD_LANES) {
            const size_t lanes = lanes_left(i, n);
            const f32x16 odd = is_alone ? vec_zero() : lanes_load(even + stride + i, lanes);
            vec_store(out + i, pairs_join(lanes_load(even + i, lanes), odd));
        }
    }
}

static size_t pairs_stride(size_t n)
{
    return cpu_padded_stride((n + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES);
}

size_t ISA(dw_pairs_words)(size_t n_in, size_t n_out)
{
    return PAIR_BLOCK * (pairs_stride(n_in) + pairs_stride(n_out));
}

/* Rows of one block, joined. */
static void run_block(const struct dw_block *block, size_t n_rows, float *pairs)
{
    struct dw_tile tile = {
        .x = pairs,
        .x_stride = pairs_stride(block->n_in),
        .dy_stride = pairs_stride(block->n_out),
        .dw_stride = block->dw_stride,
        .n_pairs = (n_rows + 1) / 2,
    };
    float *const dy = pairs + PAIR_BLOCK * tile.x_stride;
    join_rows(block->x, block->x_stride, n_rows, block->n_in, pairs, tile.x_stride);
    join_rows(block->dy, block->dy_stride, n_rows, block->n_out, dy, tile.dy_stride);
    for (size_t column = 0; column < block->n_in;) {
        const struct tile_shape *const shape = choose_shape(block->n_in - column);
        tile.x = pairs + column;
        tile.lanes = lanes_left(column, block->n_in);
        run_column(&tile, dy, block->dw + column, block->n_out, shape);
        column += shape->vectors * SIMD_LANES;
    }
}

void ISA(dw_pairs_block)(const struct dw_block *block, float *pairs)
{
    struct dw_block part = *block;
    if (block->n_out == 0) {
        return;
    }
    const uint32_t mode = flush_begin();
    for (size_t row = 0; row < block->n_rows; row += ROW_BLOCK) {
        const size_t left = block->n_rows - row;
        part.dy = block->dy + row * block->dy_stride;
        part.x = block->x + row * block->x_stride;
        run_block(&part, left < ROW_BLOCK ? left : ROW_BLOCK, pairs);
    }
    flush_end(mode);
}
