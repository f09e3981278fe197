/* A tile that has its sums in registers waits for two things: the values that are already in dw,
 * for which the tile before it asks, and rows that no cache has yet, for which all tiles of the
 * rows before them ask, in equal parts. */
#include "kernels/cpu/simd/gemm_dw_tile.h"

#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/pairs.h"
#include "kernels/cpu/simd/tile_sums.h"

#include <stdbool.h>

/* Steps between two rounds of asking. */
#define STEPS_A_ROUND ((size_t)8)

struct dw_tile {
    const float *dy;
    size_t dy_stride;
    const float *x;
    size_t x_stride;
    float *dw;
    const float *dw_next; /* the next tile's */
    size_t dw_stride;
    size_t n_steps;
    size_t lanes;           /* columns that exist of a tile of one vector */
    struct dw_fetch *fetch; /* two */
    size_t lines[2];        /* of each in a round */
};
typedef void tile_function(const struct dw_tile *tile);

SIMD_INLINE void fetch_lines(struct dw_fetch *fetch, size_t n)
{
    for (; n > 0 && fetch->n_rows > 0; n--) {
        __builtin_prefetch(fetch->row + fetch->at, 0, 2);
        fetch->at += SIMD_LANES;
        if (fetch->at >= fetch->width) {
            fetch->at = 0;
            fetch->row += fetch->stride;
            fetch->n_rows--;
        }
    }
}

SIMD_INLINE f32x16 load_columns(const float *p, size_t v, const size_t vectors, size_t lanes)
{
    return vectors == 1 ? vec_load_n(p, lanes) : vec_load(p + v * SIMD_LANES);
}

SIMD_INLINE void load_sums(const struct dw_tile *tile, f32x16 *sums, const size_t outputs,
                           const size_t vectors, const bool is_flushed)
{
#pragma GCC unroll 12
    for (size_t o = 0; o < outputs; o++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < vectors; v++) {
            const f32x16 sum =
                load_columns(tile->dw + o * tile->dw_stride, v, vectors, tile->lanes);
            sums[o * vectors + v] = is_flushed ? vec_flush_memory(sum) : sum;
            __builtin_prefetch(tile->dw_next + o * tile->dw_stride + v * SIMD_LANES, 0, 2);
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

/* One step: a row, or a pair of rows. */
SIMD_INLINE void add_step(const float *dy, const float *x, f32x16 *sums, const size_t outputs,
                          const size_t vectors, const bool is_paired, size_t lanes)
{
    if (is_paired) {
        pair16 in[4];
#pragma GCC unroll 4
        for (size_t v = 0; v < vectors; v++) {
            in[v] = pairs_load(x + v * SIMD_LANES);
        }
        sums_add_pairs(sums, dy, 1, in, outputs, vectors, true);
    } else {
        f32x16 in[4];
#pragma GCC unroll 4
        for (size_t v = 0; v < vectors; v++) {
            in[v] = load_columns(x, v, vectors, lanes);
        }
        sums_add_floats(sums, dy, 1, in, outputs, vectors);
    }
}

SIMD_INLINE void run_tile(const struct dw_tile *tile, const size_t outputs, const size_t vectors,
                          const bool is_paired)
{
    f32x16 sums[TILE_SUMS_MAX];
    const float *x = tile->x;
    const float *dy = tile->dy;
    load_sums(tile, sums, outputs, vectors, is_paired && !PAIRS_FLUSH_THEMSELVES);
    for (size_t step = 0; step < tile->n_steps;) {
        const size_t left = tile->n_steps - step;
        const size_t end = step + (left < STEPS_A_ROUND ? left : STEPS_A_ROUND);
        fetch_lines(&tile->fetch[0], tile->lines[0]);
        fetch_lines(&tile->fetch[1], tile->lines[1]);
        for (; step < end; step++) {
            add_step(dy, x, sums, outputs, vectors, is_paired, tile->lanes);
            x += tile->x_stride;
            dy += tile->dy_stride;
        }
    }
    store_sums(tile, sums, outputs, vectors);
}

SIMD_INLINE void plain_rows(const struct dw_tile *tile, const size_t outputs, const size_t vectors)
{
    run_tile(tile, outputs, vectors, false);
}

SIMD_INLINE void paired_rows(const struct dw_tile *tile, const size_t outputs, const size_t vectors)
{
    run_tile(tile, outputs, vectors, true);
}

#define DW_TILE(kind, r, v)                                                                        \
    static void kind##_##r##_##v(const struct dw_tile *tile)                                       \
    {                                                                                              \
        kind##_rows(tile, r, v);                                                                   \
    }
#if SIMD_TILE_VECTORS >= 4
TILES_6(DW_TILE, plain, 4)
TILES_6(DW_TILE, paired, 4)
TILES_12(DW_TILE, plain, 2)
TILES_12(DW_TILE, paired, 2)
#endif
TILES_6(DW_TILE, plain, 1)
TILES_6(DW_TILE, paired, 1)

/* Tiles of one width; of_outputs[r - 1] takes r outputs. */
struct tile_shape {
    size_t vectors, outputs_max;
    tile_function *of_outputs[TILE_ROWS_MAX];
};
/* Widest first; plain, paired. */
static const struct tile_shape shapes[][2] = {
#if SIMD_TILE_VECTORS >= 4
    {{4, 6, TILE_NAMES(6, plain, 4)}, {4, 6, TILE_NAMES(6, paired, 4)}},
    {{2, 12, TILE_NAMES(12, plain, 2)}, {2, 12, TILE_NAMES(12, paired, 2)}},
#endif
    {{1, 6, TILE_NAMES(6, plain, 1)}, {1, 6, TILE_NAMES(6, paired, 1)}},
};

static const struct tile_shape *choose_shape(size_t n_columns, bool is_paired)
{
    size_t i = 0;
    while (shapes[i][is_paired].vectors > 1 &&
           n_columns < shapes[i][is_paired].vectors * SIMD_LANES) {
        i++;
    }
    return &shapes[i][is_paired];
}

static size_t count_tiles(size_t n_out, const struct tile_shape *shape)
{
    return (n_out + shape->outputs_max - 1) / shape->outputs_max;
}

/* Lines that each round asks for, so that the last tile has asked for all. */
static void plan_fetch(const struct dw_columns *c, bool is_paired, struct dw_tile *tile)
{
    size_t n_tiles = 0;
    for (size_t column = 0; column < c->n_in;) {
        const struct tile_shape *const shape = choose_shape(c->n_in - column, is_paired);
        n_tiles += count_tiles(c->n_out, shape);
        column += shape->vectors * SIMD_LANES;
    }
    const size_t n_rounds = n_tiles * ((c->n_steps + STEPS_A_ROUND - 1) / STEPS_A_ROUND);
    for (size_t i = 0; i < 2; i++) {
        const struct dw_fetch *const f = &c->next[i];
        const size_t n_lines = f->n_rows * ((f->width + SIMD_LANES - 1) / SIMD_LANES);
        tile->lines[i] = (n_lines + n_rounds - 1) / n_rounds;
    }
}

/* All outputs of one tile column, dealt evenly. */
static void run_column(const struct dw_columns *c, size_t column, const struct tile_shape *shape,
                       struct dw_tile *tile)
{
    const size_t n_tiles = count_tiles(c->n_out, shape);
    size_t output = 0;
    for (size_t i = 0; i < n_tiles; i++) {
        const size_t output_end = c->n_out * (i + 1) / n_tiles;
        tile->dy = c->dy + output;
        tile->dw = c->dw + output * c->dw_stride + column;
        tile->dw_next = i + 1 < n_tiles ? c->dw + output_end * c->dw_stride + column
                                        : c->dw + column + shape->vectors * SIMD_LANES;
        shape->of_outputs[output_end - output - 1](tile);
        output = output_end;
    }
}

static void run_columns(struct dw_columns *c, bool is_paired)
{
    struct dw_tile tile = {
        .dy_stride = c->dy_stride,
        .x_stride = c->x_stride,
        .dw_stride = c->dw_stride,
        .n_steps = c->n_steps,
        .fetch = c->next,
    };
    if (c->n_out == 0 || c->n_in == 0 || c->n_steps == 0) {
        return;
    }
    plan_fetch(c, is_paired, &tile);
    for (size_t column = 0; column < c->n_in;) {
        const struct tile_shape *const shape = choose_shape(c->n_in - column, is_paired);
        tile.x = c->x + column;
        tile.lanes = lanes_left(column, c->n_in);
        run_column(c, column, shape, &tile);
        column += shape->vectors * SIMD_LANES;
    }
}

void ISA(dw_columns)(struct dw_columns *columns)
{
    run_columns(columns, false);
}

void ISA(dw_pair_columns)(struct dw_columns *columns)
{
    const uint32_t mode = flush_begin();
    run_columns(columns, true);
    flush_end(mode);
}
