/* Owns dw += dy^T . x, the gradient of a weight, and the gradient of a bias. Each element is ONE
 * chain of fma over rows ascending that starts from the value already there, so rows may be cut
 * into batches anywhere: here into blocks whose x and dy stay in the cache while all tiles of dw
 * pass (cpu.md 5.10). Threads share out tiles, never rows. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <stdbool.h>

#define ROW_BLOCK ((size_t)128)
#define TILE_SUMS_MAX 24

/* R outputs by V vectors of inputs. */
struct dw_tile {
    const float *dy;
    size_t dy_stride;
    const float *x;
    size_t x_stride;
    float *dw;
    size_t dw_stride;
    size_t n_rows;
    size_t last_lanes; /* columns of the only vector of a tile of one, 1..16 */
};
typedef void tile_function(const struct dw_tile *tile);

/* Vectors of one row of memory, or the only and partial one. */
SIMD_INLINE void load_vectors(const float *p, f32x16 *out, const size_t vectors, size_t lanes,
                              const bool is_partial)
{
#pragma GCC unroll 4
    for (size_t v = 0; v < vectors; v++) {
        out[v] = is_partial ? vec_load_n(p, lanes) : vec_load(p + v * SIMD_LANES);
    }
}

SIMD_INLINE void store_vectors(float *p, const f32x16 *in, const size_t vectors, size_t lanes,
                               const bool is_partial)
{
#pragma GCC unroll 4
    for (size_t v = 0; v < vectors; v++) {
        if (is_partial) {
            vec_store_n(p, in[v], lanes);
        } else {
            vec_store(p + v * SIMD_LANES, in[v]);
        }
    }
}

SIMD_INLINE void run_tile(const struct dw_tile *tile, const size_t outputs, const size_t vectors,
                          const bool is_partial)
{
    f32x16 sums[TILE_SUMS_MAX];
    const size_t lanes = tile->last_lanes;
    const float *x = tile->x;
    const float *dy = tile->dy;
#pragma GCC unroll 12
    for (size_t o = 0; o < outputs; o++) {
        load_vectors(tile->dw + o * tile->dw_stride, sums + o * vectors, vectors, lanes,
                     is_partial);
    }
    for (size_t row = 0; row < tile->n_rows; row++) {
        f32x16 in[4];
        load_vectors(x, in, vectors, lanes, is_partial);
#pragma GCC unroll 12
        for (size_t o = 0; o < outputs; o++) {
            const f32x16 d = vec_set1(dy[o]);
#pragma GCC unroll 4
            for (size_t v = 0; v < vectors; v++) {
                sums[o * vectors + v] = vec_fma(d, in[v], sums[o * vectors + v]);
            }
        }
        x += tile->x_stride;
        dy += tile->dy_stride;
    }
#pragma GCC unroll 12
    for (size_t o = 0; o < outputs; o++) {
        store_vectors(tile->dw + o * tile->dw_stride, sums + o * vectors, vectors, lanes,
                      is_partial);
    }
}

#define TILE(outputs, vectors)                                                                     \
    static void tile_##outputs##_##vectors(const struct dw_tile *tile)                             \
    {                                                                                              \
        run_tile(tile, outputs, vectors, false);                                                   \
    }
#define TILE_PARTIAL(outputs)                                                                      \
    static void tile_##outputs##_partial(const struct dw_tile *tile)                               \
    {                                                                                              \
        run_tile(tile, outputs, 1, true);                                                          \
    }
TILE(1, 1)
TILE(2, 1)
TILE(3, 1)
TILE(4, 1)
TILE(5, 1)
TILE(6, 1)
TILE_PARTIAL(1)
TILE_PARTIAL(2)
TILE_PARTIAL(3)
TILE_PARTIAL(4)
TILE_PARTIAL(5)
TILE_PARTIAL(6)
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

static const struct tile_shape shape_partial = {1,
                                                6,
                                                {tile_1_partial, tile_2_partial, tile_3_partial,
                                                 tile_4_partial, tile_5_partial, tile_6_partial}};
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
    return n_columns >= SIMD_LANES ? &shape_1 : &shape_partial;
}

/* All outputs of one tile column, dealt evenly. */
static void run_column(const struct dw_block *block, size_t column, const struct tile_shape *shape)
{
    const size_t n_tiles = (block->n_out + shape->outputs_max - 1) / shape->outputs_max;
    const size_t left = block->n_in - column;
    struct dw_tile tile = {
        .dy_stride = block->dy_stride,
        .x = block->x + column,
        .x_stride = block->x_stride,
        .dw_stride = block->dw_stride,
        .n_rows = block->n_rows,
        .last_lanes = left < SIMD_LANES ? left : SIMD_LANES,
    };
    size_t output = 0;
    for (size_t i = 0; i < n_tiles; i++) {
        const size_t output_end = block->n_out * (i + 1) / n_tiles;
        tile.dy = block->dy + output;
        tile.dw = block->dw + output * block->dw_stride + column;
        shape->of_outputs[output_end - output - 1](&tile);
        output = output_end;
    }
}

void ISA(dw_block)(const struct dw_block *block)
{
    struct dw_block part = *block;
    if (block->n_out == 0) {
        return;
    }
    for (size_t row = 0; row < block->n_rows; row += ROW_BLOCK) {
        const size_t left = block->n_rows - row;
        part.n_rows = left < ROW_BLOCK ? left : ROW_BLOCK;
        part.dy = block->dy + row * block->dy_stride;
        part.x = block->x + row * block->x_stride;
        for (size_t column = 0; column < block->n_in;) {
            const struct tile_shape *const shape = choose_shape(block->n_in - column);
            run_column(&part, column, shape);
            column += shape->vectors * SIMD_LANES;
        }
    }
}

/* A thread takes a range of outputs, or of input columns where there are more of those; with
 * batches the longer of the two is cut inside each batch entry. */
struct dw_plan {
    const struct gemm_dw_args *args;
    size_t n_batch;
    float *pairs; /* of a thread: (n_threads, pairs_words); BF16 alone */
    size_t pairs_words;
};

static void dw_share(const struct gemm_dw_args *args, size_t thread_index, size_t n_threads,
                     struct dw_block *block)
{
    size_t begin = 0;
    size_t end = 0;
    if (args->n_out >= 12 * n_threads || args->n_out >= args->n_in) {
        pool_share(args->n_out, thread_index, n_threads, &begin, &end);
        block->dy += begin;
        block->dw += begin * args->dw_stride;
        block->n_out = end - begin;
        return;
    }
    pool_share((args->n_in + SIMD_LANES - 1) / SIMD_LANES, thread_index, n_threads, &begin, &end);
    begin *= SIMD_LANES;
    end = end * SIMD_LANES < args->n_in ? end * SIMD_LANES : args->n_in;
    block->x += begin;
    block->dw += begin;
    block->n_in = end > begin ? end - begin : 0;
}

static void gemm_dw_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct dw_plan *const plan = context;
    const struct gemm_dw_args *const args = plan->args;
    const bool by_batch = plan->n_batch % n_threads == 0;
    size_t batch = 0;
    size_t batch_end = plan->n_batch;
    if (by_batch) {
        pool_share(plan->n_batch, thread_index, n_threads, &batch, &batch_end);
    }
    for (; batch < batch_end; batch++) {
        struct dw_block block = {
            .dy = args->dy + batch * args->dy_batch,
            .dy_stride = args->dy_stride,
            .x = args->x + batch * args->x_batch,
            .x_stride = args->x_stride,
            .dw = args->dw + batch * args->dw_batch,
            .dw_stride = args->dw_stride,
            .n_rows = args->n_rows,
            .n_in = args->n_in,
            .n_out = args->n_out,
        };
        if (!by_batch) {
            dw_share(args, thread_index, n_threads, &block);
        }
        if (args->precision == PRECISION_F32) {
            ISA(dw_block)(&block);
        } else {
            ISA(dw_pairs_block)(&block, plan->pairs + thread_index * plan->pairs_words);
        }
    }
}

enum status ISA(op_gemm_dw)(struct backend *backend, const struct gemm_dw_args *args)
{
    struct dw_plan plan = {.args = args, .n_batch = args->n_batch == 0 ? 1 : args->n_batch};
    const size_t work = 2 * plan.n_batch * args->n_rows * args->n_in * args->n_out;
    if (args->precision != PRECISION_F32) {
        plan.pairs_words = ISA(dw_pairs_words)(args->n_in, args->n_out);
        TRY(cpu_scratch_acquire(backend, backend->n_threads * plan.pairs_words, sizeof(float),
                                &plan.pairs));
    }
    cpu_run(backend, work, gemm_dw_task, &plan);
    cpu_scratch_release(backend, plan.pairs);
    return STATUS_OK;
}

static void column_sums_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct column_sums_args *const args = context;
    size_t vector = 0;
    size_t vector_end = 0;
    pool_share((args->n + SIMD_LANES - 1) / SIMD_LANES, thread_index, n_threads, &vector,
               &vector_end);
    for (; vector < vector_end; vector++) {
        const size_t column = vector * SIMD_LANES;
        const size_t left = args->n - column;
        const size_t lanes = left < SIMD_LANES ? left : SIMD_LANES;
        f32x16 sum = vec_load_n(args->db + column, lanes);
        for (size_t row = 0; row < args->n_rows; row++) {
            sum = vec_add(sum, vec_load_n(args->dy + row * args->dy_stride + column, lanes));
        }
        vec_store_n(args->db + column, sum, lanes);
    }
}

enum status ISA(op_column_sums)(struct backend *backend, const struct column_sums_args *args)
{
    struct column_sums_args copy = *args;
    cpu_run(backend, 2 * args->n_rows * args->n, column_sums_task, &copy);
    return STATUS_OK;
}
