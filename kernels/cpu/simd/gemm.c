/* Owns the op y = x . w^T on packed weights: how it is cut into units of rows and columns, and
 * which threads take them. Its tiles are gemm_block's; no choice of unit or thread changes a bit.
 */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <stdbool.h>

/* Rows of a work unit: its x stays in the second-level cache while the panels pass. */
#define UNIT_ROWS ((size_t)96)
#define UNIT_ROWS_MIN ((size_t)12)

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
