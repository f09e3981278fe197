/* Owns dw += dy^T . x, the gradient of a weight, and the gradient of a bias. Each element is ONE
 * chain that starts from the value already there, of fma over rows ascending or, in BF16, over
 * pairs of rows 2 i and 2 i + 1 of a call, subnormals as zero: acc = fma(x_even, dy_even,
 * fma(x_odd, dy_odd, acc)), see pairs.h; a last row without a partner has zeroes beside it. So rows
 * may be cut into batches anywhere (BF16: behind an even number): here into blocks whose x and dy
 * stay in the cache while all tiles of dw pass (cpu.md 5.10). Threads share out tiles, never rows.
 */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/gemm_dw_tile.h"
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/pairs.h"

#include <stdbool.h>

/* Rows of a block, or pairs: a tile's columns of them fill half of the first cache. */
#define BLOCK_STEPS ((size_t)128)
#define BLOCK_STEPS_MIN ((size_t)64)
/* Words of joined rows that leave room in the second-level cache. */
#define JOINED_WORDS ((size_t)1 << 17)

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

static size_t joined_stride(size_t n)
{
    return cpu_padded_stride((n + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES);
}

/* Most rows of a block. */
static size_t block_rows_max(const struct dw_block *block)
{
    if (block->precision == PRECISION_F32) {
        return BLOCK_STEPS;
    }
    const size_t steps = JOINED_WORDS / (joined_stride(block->n_in) + joined_stride(block->n_out));
    const size_t at_least = steps > BLOCK_STEPS_MIN ? steps : BLOCK_STEPS_MIN;
    return 2 * (at_least < BLOCK_STEPS ? at_least : BLOCK_STEPS);
}

/* Rows of a block, dealt evenly and in pairs: few rows would load and store all sums for little. */
static size_t block_rows(const struct dw_block *block)
{
    const size_t most = block_rows_max(block);
    const size_t n_blocks = (block->n_rows + most - 1) / most;
    const size_t rows = n_blocks > 0 ? (block->n_rows + n_blocks - 1) / n_blocks : most;
    return rows + rows % 2;
}

size_t ISA(dw_joined_words)(enum precision precision, size_t n_in, size_t n_out)
{
    const size_t of_step = joined_stride(n_in) + joined_stride(n_out);
    const size_t least = BLOCK_STEPS_MIN * of_step;
    const size_t most = least > JOINED_WORDS ? least : JOINED_WORDS;
    if (precision == PRECISION_F32) {
        return 0;
    }
    return most < BLOCK_STEPS * of_step ? most : BLOCK_STEPS * of_step;
}

/* Rows of memory that hold n rows. */
static size_t rows_held(const struct dw_block *block, size_t n)
{
    return block->is_joined ? (n + 1) / 2 : n;
}

/* One block of rows; next: what comes after it. */
static void run_rows(const struct dw_block *block, const struct dw_block *next)
{
    struct dw_columns columns = {
        .dy = block->dy,
        .dy_stride = block->dy_stride,
        .x = block->x,
        .x_stride = block->x_stride,
        .dw = block->dw,
        .dw_stride = block->dw_stride,
        .n_steps = block->n_rows,
        .n_in = block->n_in,
        .n_out = block->n_out,
        .next = {{.row = next->x,
                  .stride = next->x_stride,
                  .n_rows = rows_held(next, next->n_rows),
                  .width = next->n_in},
                 {.row = next->dy,
                  .stride = next->dy_stride,
                  .n_rows = rows_held(next, next->n_rows),
                  .width = next->n_out}},
    };
    if (block->precision == PRECISION_F32) {
        ISA(dw_columns)(&columns);
        return;
    }
    columns.n_steps = (block->n_rows + 1) / 2;
    if (block->is_joined) {
        ISA(dw_pair_columns)(&columns);
        return;
    }
    columns.x_stride = joined_stride(block->n_in);
    columns.dy_stride = joined_stride(block->n_out);
    float *const dy = block->joined + columns.n_steps * columns.x_stride;
    join_rows(block->x, block->x_stride, block->n_rows, block->n_in, block->joined,
              columns.x_stride);
    join_rows(block->dy, block->dy_stride, block->n_rows, block->n_out, dy, columns.dy_stride);
    columns.x = block->joined;
    columns.dy = dy;
    ISA(dw_pair_columns)(&columns);
}

/* Batch entries side by side, in blocks of rows: those that a row of memory holds follow each
 * other. */
struct dw_batches {
    struct dw_block first; /* all rows */
    size_t rows;           /* of a block */
    size_t n, dy_batch, x_batch, dw_batch;
};

/* Blocks in the order in which they are taken; behind the last one, no rows. */
static struct dw_block block_at(const struct dw_batches *batches, size_t index)
{
    struct dw_block block = batches->first;
    const size_t rows = batches->rows;
    const size_t row = index / batches->n * rows;
    const size_t batch = index % batches->n;
    const size_t left = row < block.n_rows ? block.n_rows - row : 0;
    const size_t held = rows_held(&block, row);
    block.dy += held * block.dy_stride + batch * batches->dy_batch;
    block.x += held * block.x_stride + batch * batches->x_batch;
    block.dw += batch * batches->dw_batch;
    block.n_rows = left < rows ? left : rows;
    return block;
}

static void run_batches(struct dw_batches *batches)
{
    batches->rows = block_rows(&batches->first);
    struct dw_block block = block_at(batches, 0);
    if (block.n_out == 0 || block.n_in == 0) {
        return;
    }
    for (size_t i = 0; block.n_rows > 0; i++) {
        const struct dw_block next = block_at(batches, i + 1);
        const bool is_last = next.n_rows == 0 && batches->first.next != NULL;
        run_rows(&block, is_last ? batches->first.next : &next);
        block = next;
    }
}

void ISA(dw_block)(const struct dw_block *block)
{
    struct dw_batches alone = {.first = *block, .n = 1};
    run_batches(&alone);
}

/* A thread takes a range of outputs, or of input columns where there are more of those; with
 * batches the longer of the two is cut inside each batch entry. */
struct dw_plan {
    const struct gemm_dw_args *args;
    size_t n_batch;
    float *joined; /* of a thread: (n_threads, joined_words) */
    size_t joined_words;
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
    struct dw_batches batches = {
        .first = {.dy = args->dy + batch * args->dy_batch,
                  .dy_stride = args->dy_stride,
                  .x = args->x + batch * args->x_batch,
                  .x_stride = args->x_stride,
                  .dw = args->dw + batch * args->dw_batch,
                  .dw_stride = args->dw_stride,
                  .n_rows = args->n_rows,
                  .n_in = args->n_in,
                  .n_out = args->n_out,
                  .joined = plan->joined + thread_index * plan->joined_words,
                  .precision = args->precision},
        .n = batch_end - batch,
        .dy_batch = args->dy_batch,
        .x_batch = args->x_batch,
        .dw_batch = args->dw_batch,
    };
    if (!by_batch) {
        dw_share(args, thread_index, n_threads, &batches.first);
    }
    run_batches(&batches);
}

enum status ISA(op_gemm_dw)(struct backend *backend, const struct gemm_dw_args *args)
{
    struct dw_plan plan = {
        .args = args,
        .n_batch = args->n_batch == 0 ? 1 : args->n_batch,
        .joined_words = ISA(dw_joined_words)(args->precision, args->n_in, args->n_out),
    };
    const size_t work = 2 * plan.n_batch * args->n_rows * args->n_in * args->n_out;
    TRY(cpu_scratch_acquire(backend, backend->n_threads * plan.joined_words, sizeof(float),
                            &plan.joined));
    cpu_run(backend, work, gemm_dw_task, &plan);
    cpu_scratch_release(backend, plan.joined);
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
