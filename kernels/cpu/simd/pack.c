/* Owns the packing of weights into panels of 32 columns, k contiguous inside a panel. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <string.h>

/* A cache line of k from each of the panel's rows is turned at a time. */
#define TURN_K SIMD_LANES

static void pack_panel_turned(const struct pack_args *args, size_t column, size_t n, float *dst)
{
    for (size_t k = 0; k < args->n_in; k += TURN_K) {
        const size_t k_end = k + TURN_K < args->n_in ? k + TURN_K : args->n_in;
        for (size_t c = 0; c < n; c++) {
            const float *const src = args->src + (column + c) * args->src_stride;
            for (size_t i = k; i < k_end; i++) {
                dst[i * PANEL_COLUMNS + c] = src[i];
            }
        }
    }
}

static void pack_panel(const struct pack_args *args, size_t panel)
{
    const size_t stride = args->panel_stride != 0 ? args->panel_stride : PANEL_COLUMNS * args->n_in;
    const size_t column = panel * PANEL_COLUMNS;
    const size_t left = args->n_out - column;
    const size_t n = left < PANEL_COLUMNS ? left : PANEL_COLUMNS;
    float *const dst = args->dst + panel * stride;
    if (n < PANEL_COLUMNS) {
        memset(dst, 0, args->n_in * PANEL_COLUMNS * sizeof(*dst));
    }
    if (!args->transposed) {
        pack_panel_turned(args, column, n, dst);
        return;
    }
    for (size_t k = 0; k < args->n_in; k++) {
        memcpy(dst + k * PANEL_COLUMNS, args->src + k * args->src_stride + column,
               n * sizeof(*dst));
    }
}

static void pack_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct pack_args *const args = context;
    size_t panel = 0;
    size_t panel_end = 0;
    pool_share((args->n_out + PANEL_COLUMNS - 1) / PANEL_COLUMNS, thread_index, n_threads, &panel,
               &panel_end);
    for (; panel < panel_end; panel++) {
        pack_panel(args, panel);
    }
}

enum status ISA(op_pack)(struct backend *backend, const struct pack_args *args)
{
    struct pack_args copy = *args;
    if (args->precision != PRECISION_F32 || args->rounding != PRECISION_F32) {
        return ISA(pack_rounded)(backend, args);
    }
    cpu_run(backend, 4 * args->n_in * args->n_out, pack_task, &copy);
    return STATUS_OK;
}
