/* Owns y = x . w^T on packed weights. A tile is R rows by V vectors of sixteen columns whose R * V
 * sums stay in registers while k runs; each of them is its own chain, so no choice of tile, thread
 * or row count changes a bit (cpu.md 5.1 to 5.5).
 *
 * The order for one output: K blocks of 64, each a chain of fma over ascending k from zero, block
 * sums added ascending, then the bias, then (accumulate) y + that. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/gemm_tile.h"
#include "kernels/cpu/simd/pairs.h"

#include <stdbool.h>

/* Rows of a work unit: its x stays in the second-level cache while the panels pass. */
#define UNIT_ROWS ((size_t)96)
#define UNIT_ROWS_MIN ((size_t)12)

/* One K block from k to k_end: sums = the chains from zero. */
SIMD_INLINE void block_sums(const struct gemm_tile *tile, size_t k, size_t k_end, f32x16 *sums,
                            const size_t rows, const size_t vectors, const size_t lines)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < rows * vectors; i++) {
        sums[i] = vec_zero();
    }
    const float *const x = tile->x;
    const size_t x_stride = tile->x_stride;
    const float *fetch = tile->fetch + k * lines * SIMD_LANES;
    for (; k < k_end; k++) {
        f32x16 w[8];
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) {
            w[v] = vec_load(tile->w + tile_offset(tile, v) + k * PANEL_COLUMNS);
        }
        fetch = tile_fetch(fetch, lines);
#pragma GCC unroll 12
        for (size_t r = 0; r < rows; r++) {
            const f32x16 a = vec_set1(x[r * x_stride + k]);
#pragma GCC unroll 8
            for (size_t v = 0; v < vectors; v++) {
                sums[r * vectors + v] = vec_fma(a, w[v], sums[r * vectors + v]);
            }
        }
    }
}

/* Between K blocks the running totals are on the stack: sums += total. */
SIMD_INLINE void add_total(f32x16 *sums, const float *total, const size_t n)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < n; i++) {
        sums[i] = vec_add(vec_load(total + i * SIMD_LANES), sums[i]);
    }
}

SIMD_INLINE void run_chains(const struct gemm_tile *tile, const size_t rows, const size_t vectors,
                            const size_t lines)
{
    f32x16 sums[TILE_SUMS_MAX];
    float total[TILE_SUMS_MAX * SIMD_LANES];
    size_t k = 0;
    bool has_total = tile->continues;
    if (has_total) {
        tile_load_y(tile, total, rows, vectors);
    }
    do {
        const size_t left = tile->n_in - k;
        const size_t k_end = k + (left < GEMM_K_BLOCK ? left : GEMM_K_BLOCK);
        block_sums(tile, k, k_end, sums, rows, vectors, lines);
        if (has_total) {
            add_total(sums, total, rows * vectors);
        }
        if (k_end < tile->n_in) {
            tile_keep(sums, total, rows * vectors);
            has_total = true;
        }
        k = k_end;
    } while (k < tile->n_in);
    tile_store(tile, sums, rows, vectors, false);
}

SIMD_INLINE void run_tile(const struct gemm_tile *tile, const size_t rows, const size_t vectors)
{
#define CHAINS(lines) run_chains(tile, rows, vectors, lines)
    TILE_WITH_LINES(tile, rows, vectors, CHAINS);
#undef CHAINS
}

#define TILE(rows, vectors)                                                                        \
    static void tile_##rows##_##vectors(const struct gemm_tile *tile)                              \
    {                                                                                              \
        run_tile(tile, rows, vectors);                                                             \
    }
TILE(1, 1)
TILE(2, 1)
TILE(3, 1)
TILE(4, 1)
TILE(5, 1)
TILE(6, 1)
#if SIMD_TILE_VECTORS >= 4
TILE(7, 1)
TILE(8, 1)
TILE(9, 1)
TILE(10, 1)
TILE(11, 1)
TILE(12, 1)
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
TILE(1, 8)
TILE(2, 8)
TILE(3, 8)
#endif

#if SIMD_TILE_VECTORS >= 4
static const struct tile_shape shape_8 = {8, 3, {tile_1_8, tile_2_8, tile_3_8}};
static const struct tile_shape shape_4 = {
    4, 6, {tile_1_4, tile_2_4, tile_3_4, tile_4_4, tile_5_4, tile_6_4}};
static const struct tile_shape shape_2 = {2,
                                          12,
                                          {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2,
                                           tile_6_2, tile_7_2, tile_8_2, tile_9_2, tile_10_2,
                                           tile_11_2, tile_12_2}};
static const struct tile_shape shape_1 = {1,
                                          12,
                                          {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1,
                                           tile_6_1, tile_7_1, tile_8_1, tile_9_1, tile_10_1,
                                           tile_11_1, tile_12_1}};

/* Few rows stream the weights once through many short sums; many rows reuse each weight. In
 * between, weights often come from memory, and passes over a narrow panel, which the first cache
 * holds until the last of them, are a quarter faster than over a wide one. */
#define NARROW_ROWS_MAX ((size_t)36)
static const struct tile_shape *choose_shape(size_t n_rows, size_t n_vectors)
{
    if (n_rows <= shape_8.rows_max && n_vectors >= shape_8.vectors) {
        return &shape_8;
    }
    if (n_vectors >= shape_4.vectors && (n_rows <= shape_4.rows_max || n_rows > NARROW_ROWS_MAX)) {
        return &shape_4;
    }
    return n_vectors >= shape_2.vectors ? &shape_2 : &shape_1;
}
#else
static const struct tile_shape shape_1 = {
    1, 6, {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1}};

static const struct tile_shape *choose_shape(size_t n_rows, size_t n_vectors)
{
    (void)n_rows;
    (void)n_vectors;
    return &shape_1;
}
#endif

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
            is_plain ? choose_shape(block->n_rows, n_vectors - v)
                     : ISA(pair_shape)(block->precision, block->n_rows, n_vectors - v);
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

/* A gemm cut into units: rows of one batch entry times tile columns, in the order in which a thread
 * walks them (columns fastest). */
struct gemm_plan {
    const struct gemm_args *args;
    size_t n_batch, n_row_units, n_column_units;
    float *rows; /* a thread's converted rows of x: (n_threads, rows_words); unused for F32 */
    size_t row_words, rows_words;
    bool continues;
};
#define UNIT_COLUMNS (2 * PANEL_COLUMNS)
/* Weights that every thread may read whole: rows are then converted by one thread only. */
#define SHARED_WORDS ((size_t)1 << 17)

static struct gemm_plan plan_units(const struct gemm_args *args, size_t n_threads)
{
    struct gemm_plan plan = {.args = args, .n_batch = args->n_batch == 0 ? 1 : args->n_batch};
    plan.n_column_units = (args->n_out + UNIT_COLUMNS - 1) / UNIT_COLUMNS;
    if (args->precision != PRECISION_F32 && args->n_rows >= n_threads * UNIT_ROWS_MIN &&
        packed_words(args->precision, args->n_in, args->n_out) <= SHARED_WORDS) {
        const size_t rows = UNIT_ROWS * n_threads;
        plan.n_row_units = (args->n_rows + rows - 1) / rows * n_threads;
        return plan;
    }
    size_t rows = UNIT_ROWS;
    for (;;) {
        plan.n_row_units = (args->n_rows + rows - 1) / rows;
        const size_t n = plan.n_batch * plan.n_row_units * plan.n_column_units;
        if (n % n_threads == 0 || n >= 8 * n_threads || rows / 2 < UNIT_ROWS_MIN) {
            return plan;
        }
        rows /= 2;
    }
}

/* x as the product reads it; its stride goes to *stride. */
static const float *convert_rows(const struct gemm_plan *plan, const float *x, size_t n,
                                 float *rows, size_t *stride)
{
    const struct gemm_args *const args = plan->args;
    *stride = args->x_stride;
    if (args->precision == PRECISION_F32) {
        return x;
    }
    *stride = plan->row_words;
    for (size_t i = 0; i < n; i++) {
        ISA(gemm_convert)
        (args->precision, x + i * args->x_stride, args->n_in, rows + i * plan->row_words);
    }
    return rows;
}

/* Where the weights of a unit begin. */
static const float *unit_weights(const struct gemm_plan *plan, size_t unit)
{
    const struct gemm_args *const args = plan->args;
    const size_t batch = unit / plan->n_column_units / plan->n_row_units;
    const size_t column = unit % plan->n_column_units * UNIT_COLUMNS;
    return args->w + batch * args->w_batch + packed_words(args->precision, args->n_in, column);
}

/* n units that lie side by side in one row unit, in one call. next: weights that this thread reads
 * after theirs, or NULL. */
static void run_units(const struct gemm_plan *plan, size_t unit, size_t n, const float *next,
                      float *rows)
{
    const struct gemm_args *const args = plan->args;
    const size_t row_unit = unit / plan->n_column_units;
    const size_t batch = row_unit / plan->n_row_units;
    const size_t index = row_unit % plan->n_row_units;
    const size_t row = args->n_rows * index / plan->n_row_units;
    const size_t row_end = args->n_rows * (index + 1) / plan->n_row_units;
    const size_t column = unit % plan->n_column_units * UNIT_COLUMNS;
    const size_t column_end = column + n * UNIT_COLUMNS;
    struct gemm_block block = {
        .w = unit_weights(plan, unit),
        .next = next,
        .precision = args->precision,
        .y = args->y + batch * args->y_batch + row * args->y_stride + column,
        .y_stride = args->y_stride,
        .n_rows = row_end - row,
        .n_in = args->n_in,
        .n_out = (column_end < args->n_out ? column_end : args->n_out) - column,
        .bias = args->bias != NULL ? args->bias + column : NULL,
        .accumulate = args->accumulate,
        .continues = plan->continues,
    };
    block.x = convert_rows(plan, args->x + batch * args->x_batch + row * args->x_stride,
                           block.n_rows, rows, &block.x_stride);
    ISA(gemm_block)(&block);
}

static void gemm_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct gemm_plan *const plan = context;
    const size_t n_units = plan->n_batch * plan->n_row_units * plan->n_column_units;
    size_t unit = 0;
    size_t unit_end = 0;
    pool_share(n_units, thread_index, n_threads, &unit, &unit_end);
    while (unit < unit_end) {
        const size_t left = plan->n_column_units - unit % plan->n_column_units;
        const size_t n = left < unit_end - unit ? left : unit_end - unit;
        const float *const last = thread_index == 0 ? plan->args->next : NULL;
        run_units(plan, unit, n, unit + n < unit_end ? unit_weights(plan, unit + n) : last,
                  plan->rows + thread_index * plan->rows_words);
        unit += n;
    }
}

enum status ISA(op_gemm)(struct backend *backend, const struct gemm_args *args)
{
    return ISA(gemm_piece)(backend, args, false);
}

/* What the product costs one thread, in the units of CPU_WORK_MIN, 44 a nanosecond: 220 flop of
 * floats in one, or 440 of pairs; few rows read weights, 90 bytes in one. */
static size_t gemm_work(const struct gemm_args *args, size_t n_batch)
{
    const size_t flops = 2 * n_batch * args->n_rows * args->n_in * args->n_out;
    const size_t products = args->precision == PRECISION_F32 ? flops / 5 : flops / 10;
    const size_t reads = 2 * n_batch * packed_words(args->precision, args->n_in, args->n_out);
    return products > reads ? products : reads;
}

enum status ISA(gemm_piece)(struct backend *backend, const struct gemm_args *args, bool continues)
{
    if (args->n_rows == 0 || args->n_out == 0) {
        return STATUS_OK;
    }
    struct gemm_plan plan = plan_units(args, backend->n_threads);
    plan.continues = continues;
    if (args->precision != PRECISION_F32) {
        plan.row_words = ISA(gemm_row_words)(args->precision, args->n_in);
        plan.rows_words = (args->n_rows + plan.n_row_units - 1) / plan.n_row_units * plan.row_words;
        TRY(cpu_scratch_acquire(backend, backend->n_threads * plan.rows_words, sizeof(float),
                                &plan.rows));
    }
    cpu_run(backend, gemm_work(args, plan.n_batch), gemm_task, &plan);
    cpu_scratch_release(backend, plan.rows);
    return STATUS_OK;
}
