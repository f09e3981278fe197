/* Owns y = x . w^T of some rows on the calling thread: in which tiles, and what they ask memory
 * for. Each output is its own chain, so no choice of tile or row count changes a bit (cpu.md 5.1 to
 * 5.5). The tiles are in gemm_floats.c and gemm_pairs.c. */
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/gemm_tile.h"

#include <stdbool.h>

static const struct tile_shape *const shapes_of[] = {
    [PRECISION_F32] = ISA(gemm_shapes_f32),
    [PRECISION_BF16] = ISA(gemm_shapes_bf16),
    [PRECISION_FP8] = ISA(gemm_shapes_fp8),
};

static const struct tile_shape *choose_shape(enum precision precision, size_t n_rows,
                                             size_t n_vectors)
{
    const struct tile_shape *shape = shapes_of[precision];
    while (n_vectors < shape->vectors || (n_rows > shape->rows_max && n_rows < shape->many_rows)) {
        shape++;
    }
    return shape;
}

/* What the tiles of a column ask for: lines of each step, from next on, one tile behind another.
 * All at once they would fill the queues of memory, and the products wait behind them. Panels of
 * codes are small, decoding leaves time, and asked for again they come into the first cache: there
 * each tile asks for all. */
struct fetch_plan {
    const float *next; /* NULL: nothing */
    size_t first_tile; /* 1: the first one asks for its own weights, which nobody did before */
    size_t column_lines, lines, n_steps;
    size_t tile_lines; /* of a step, from one tile's to the next one's */
};
/* Steps between asking for a tile's own weights and reading them. */
#define STEPS_AHEAD ((size_t)32)

static struct fetch_plan plan_fetch(const struct gemm_block *block, size_t n_vectors,
                                    size_t n_tiles, bool is_cold)
{
    const bool is_coded = block->precision == PRECISION_FP8;
    const bool is_plain = block->precision == PRECISION_F32;
    struct fetch_plan plan = {
        .first_tile = is_cold && n_tiles > 1 ? 1 : 0,
        .column_lines = is_coded ? n_vectors / PANEL_VECTORS : n_vectors,
        .n_steps = is_plain ? block->n_in : (block->n_in + 1) / 2,
        .lines = 1,
    };
    const size_t n_asking = is_coded ? 1 : n_tiles - plan.first_tile;
    while (plan.lines * n_asking < plan.column_lines && plan.lines < FETCH_LINES_MAX) {
        plan.lines *= 2;
    }
    plan.tile_lines = is_coded ? 0 : plan.lines;
    return plan;
}

static void set_fetch(const struct fetch_plan *plan, size_t index, struct gemm_tile *tile)
{
    if (index < plan->first_tile) {
        tile->fetch_lines = plan->column_lines;
        tile->fetch = tile->w + STEPS_AHEAD * plan->column_lines * SIMD_LANES;
        return;
    }
    const size_t line = (index - plan->first_tile) * plan->tile_lines;
    tile->fetch_lines = plan->next != NULL && line < plan->column_lines ? plan->lines : 0;
    tile->fetch = tile->fetch_lines > 0 ? plan->next + line * plan->n_steps * SIMD_LANES : tile->w;
}

/* All rows of one tile column; rows are dealt evenly, so that no tile is much smaller than the
 * others. */
static void run_column(const struct gemm_block *block, struct gemm_tile *tile,
                       const struct tile_shape *shape, const float *next)
{
    const size_t n_tiles = (block->n_rows + shape->rows_max - 1) / shape->rows_max;
    const bool is_cold = tile->w == block->w && !block->is_fetched;
    struct fetch_plan plan = plan_fetch(block, shape->vectors, n_tiles, is_cold);
    size_t row = 0;
    plan.next = next;
    for (size_t i = 0; i < n_tiles; i++) {
        const size_t row_end = block->n_rows * (i + 1) / n_tiles;
        tile->x = block->x + row * block->x_stride;
        tile->y = block->y + row * block->y_stride;
        set_fetch(&plan, i, tile);
        shape->of_rows[row_end - row - 1](tile);
        row = row_end;
    }
}

static void run_columns(const struct gemm_block *block)
{
    const bool is_plain = block->precision == PRECISION_F32;
    const size_t panel_words = packed_words(block->precision, block->n_in, 1);
    const size_t panel_stride = block->panel_stride != 0 ? block->panel_stride : panel_words;
    const size_t n_panels = (block->n_out + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    const size_t n_vectors =
        is_plain ? (block->n_out + SIMD_LANES - 1) / SIMD_LANES : n_panels * PANEL_VECTORS;
    struct gemm_block at = *block;
    struct gemm_tile tile = {
        .w = block->w,
        .panel_stride = panel_stride,
        .x_stride = block->x_stride,
        .y_stride = block->y_stride,
        .n_in = block->n_in,
        .accumulate = block->accumulate,
        .continues = block->continues,
    };
    for (size_t v = 0; v < n_vectors;) {
        const struct tile_shape *const shape =
            choose_shape(block->precision, block->n_rows, n_vectors - v);
        const size_t v_end = v + shape->vectors;
        const size_t column = v * SIMD_LANES;
        const float *const w_end =
            block->w + v_end / PANEL_VECTORS * panel_stride + v_end % PANEL_VECTORS * SIMD_LANES;
        tile.columns = block->n_out - column;
        tile.bias = block->bias != NULL ? block->bias + column : NULL;
        at.y = block->y + column;
        run_column(&at, &tile, shape, v_end < n_vectors ? w_end : block->next);
        tile.w = w_end;
        v = v_end;
    }
}

void ISA(gemm_block)(const struct gemm_block *block)
{
    if (block->precision != PRECISION_BF16) {
        run_columns(block);
        return;
    }
    const uint32_t mode = flush_begin();
    run_columns(block);
    flush_end(mode);
}
