/* Owns the table of matrix products that decide hone's speed, and their measurement, interleaved:
 * every repetition visits every case. */
#include "base/memory.h"
#include "kernels/bench/bench_internal.h"
#include "kernels/bench/bench_shape.h"

#include <stdbool.h>
#include <stdio.h>

static const char *const form_names[] = {"gemm",    "gemm",    "gemm_dx",
                                         "gemm_dw", "experts", "experts backward"};

/* Shortest measurement; shorter ops are repeated. */
#define SAMPLE_FLOP 8e6
static const struct bench_shape shapes[] = {
    {1, 1024, 1024, FORM_Y, PRECISION_F32},
    {8, 1024, 1024, FORM_Y, PRECISION_F32},
    {32, 1024, 1024, FORM_Y, PRECISION_F32},
    {64, 1024, 1024, FORM_Y, PRECISION_F32},
    {32, 256, 1280, FORM_Y, PRECISION_F32},
    {64, 256, 4096, FORM_Y, PRECISION_F32},
    {64, 128, 512, FORM_Y, PRECISION_F32},
    {64, 256, 256, FORM_Y, PRECISION_F32},
    {512, 512, 512, FORM_Y, PRECISION_F32},
    {64, 128, 384, FORM_Y, PRECISION_F32},
    {2048, 128, 384, FORM_Y, PRECISION_F32},
    {2048, 384, 128, FORM_Y, PRECISION_F32},
    {2048, 128, 64, FORM_Y, PRECISION_F32},
    {2048, 64, 128, FORM_Y, PRECISION_F32},
    {7168, 128, 128, FORM_Y, PRECISION_F32},
    {2048, 256, 256, FORM_Y, PRECISION_F32},
    {2048, 512, 512, FORM_Y, PRECISION_F32},
    {2048, 128, 384, FORM_DX, PRECISION_F32},
    {2048, 512, 512, FORM_DX, PRECISION_F32},
    {256, 512, 512, FORM_DX, PRECISION_F32},
    {2048, 128, 384, FORM_DW, PRECISION_F32},
    {2048, 384, 128, FORM_DW, PRECISION_F32},
    {2048, 128, 64, FORM_DW, PRECISION_F32},
    {2048, 64, 128, FORM_DW, PRECISION_F32},
    {7168, 128, 128, FORM_DW, PRECISION_F32},
    {2048, 256, 256, FORM_DW, PRECISION_F32},
    {2048, 512, 512, FORM_DW, PRECISION_F32},
    {64, 128, 192, FORM_EXPERTS, PRECISION_F32},
    {64, 256, 128, FORM_EXPERTS, PRECISION_F32},
    {2048, 128, 192, FORM_EXPERTS, PRECISION_F32},
    {2048, 128, 192, FORM_EXPERTS_BACKWARD, PRECISION_F32},
    {1, 1024, 1024, FORM_Y, PRECISION_BF16},
    {8, 1024, 1024, FORM_Y, PRECISION_BF16},
    {32, 1024, 1024, FORM_Y, PRECISION_BF16},
    {64, 1024, 1024, FORM_Y, PRECISION_BF16},
    {512, 512, 512, FORM_Y, PRECISION_BF16},
    {64, 256, 4096, FORM_Y, PRECISION_BF16},
    {64, 128, 512, FORM_Y, PRECISION_BF16},
    {64, 256, 256, FORM_Y, PRECISION_BF16},
    {64, 128, 384, FORM_Y, PRECISION_BF16},
    {64, 128, 192, FORM_EXPERTS, PRECISION_BF16},
    {64, 256, 128, FORM_EXPERTS, PRECISION_BF16},
    {2048, 128, 192, FORM_EXPERTS, PRECISION_BF16},
    {2048, 128, 384, FORM_DX, PRECISION_BF16},
    {2048, 512, 512, FORM_DX, PRECISION_BF16},
    {256, 512, 512, FORM_DX, PRECISION_BF16},
    {2048, 128, 384, FORM_DW, PRECISION_BF16},
    {2048, 128, 64, FORM_DW, PRECISION_BF16},
    {2048, 512, 512, FORM_DW, PRECISION_BF16},
    {2048, 128, 192, FORM_EXPERTS_BACKWARD, PRECISION_BF16},
    {1, 4096, 12288, FORM_STREAM, PRECISION_BF16},
    {8, 1024, 1024, FORM_Y, PRECISION_FP8},
    {32, 1024, 1024, FORM_Y, PRECISION_FP8},
    {64, 1024, 1024, FORM_Y, PRECISION_FP8},
    {512, 512, 512, FORM_Y, PRECISION_FP8},
    {64, 256, 256, FORM_Y, PRECISION_FP8},
    {64, 128, 192, FORM_EXPERTS, PRECISION_FP8},
    {64, 256, 128, FORM_EXPERTS, PRECISION_FP8},
    {1, 8192, 12288, FORM_STREAM, PRECISION_FP8},
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))
/* Two precisions, each with two rows of peaks and two of streams beside the shapes. */
_Static_assert(N_SHAPES + 8 <= BENCH_RESULTS_MAX, "more results than there is room for");

/* Seconds of one run of a case, after one that warms the caches. Gradients start from zero each
 * time: sums that grow for ever would end in infinities. */
static enum status time_shape(struct bench_meter *meter, const struct bench_shape *s,
                              const struct bench_operands *o, double *seconds)
{
    struct backend *const backend = meter->backend;
    const double repeats_wanted = SAMPLE_FLOP / bench_shape_flop(s);
    const size_t n = repeats_wanted > 1.0 ? (size_t)repeats_wanted : 1;
    TRY(backend->ops->fill(backend, o->dw, bench_shape_gradients(s), 0.0F));
    TRY(bench_shape_run(backend, s, o));
    bench_wait_quiet(meter);
    const double start = bench_now();
    for (size_t i = 0; i < n; i++) {
        TRY(bench_shape_run(backend, s, o));
    }
    *seconds = (bench_now() - start) / (double)n;
    return STATUS_OK;
}

static bool is_measured(const struct bench_meter *meter, const struct bench_shape *s)
{
    return (s->precision == PRECISION_F32) == (meter->precision == PRECISION_F32);
}

static enum status visit_all(struct bench_meter *meter, const struct bench_operands *o,
                             size_t repeat, struct bench_samples *samples)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        if (!is_measured(meter, &shapes[i])) {
            continue;
        }
        TRY(time_shape(meter, &shapes[i], o, &samples[i].seconds[repeat]));
        samples[i].count = repeat + 1;
    }
    return STATUS_OK;
}

static enum status measure(struct bench_meter *meter, const struct bench_operands *o,
                           struct bench_samples *samples)
{
    for (size_t repeat = 0; repeat < BENCH_REPEATS; repeat++) {
        TRY(visit_all(meter, o, repeat, samples));
    }
    return STATUS_OK;
}

static struct bench_result summarise(const struct bench_shape *s, double peak, double memory_rate,
                                     struct bench_samples *samples)
{
    static const char *const dtypes[] = {"fp32", "bf16", "fp8"};
    const bool is_stream = s->form == FORM_STREAM;
    const double amount = is_stream ? 4.0 * (double)bench_shape_words(s) : bench_shape_flop(s);
    const char *const dtype = dtypes[s->precision];
    char name[64];
    (void)snprintf(name, sizeof(name), "%s%s%s %zu x %zu x %zu", form_names[s->form],
                   s->precision == PRECISION_F32 ? "" : " ",
                   s->precision == PRECISION_F32 ? "" : dtype, s->n_rows, s->n_in, s->n_out);
    struct bench_result out = is_stream
                                  ? bench_summarise(name, "GB/s", samples, amount, memory_rate)
                                  : bench_summarise(name, "GFLOP/s", samples, amount, peak);
    out.dtype = dtype;
    out.n_rows = s->n_rows;
    out.tokens_per_s = 1e9 * out.value / amount * (double)s->n_rows;
    return out;
}

enum status bench_matrices(struct bench_meter *meter, double memory_rate,
                           struct bench_result *results, size_t *n_results)
{
    struct bench_samples samples[N_SHAPES] = {{{0.0}, 0}};
    struct bench_operands operands = {.x = NULL};
    TRY(bench_operands_make(shapes, N_SHAPES, &operands));
    const enum status status = measure(meter, &operands, samples);
    for (size_t i = 0; status == STATUS_OK && i < N_SHAPES; i++) {
        if (is_measured(meter, &shapes[i])) {
            results[(*n_results)++] = summarise(&shapes[i], meter->peak, memory_rate, &samples[i]);
        }
    }
    memory_free(operands.x);
    return status;
}
