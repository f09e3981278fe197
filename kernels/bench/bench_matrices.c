/* Owns the table of matrix products that decide hone's speed, and their measurement, interleaved:
 * every repetition visits every case. */
#include "base/memory.h"
#include "base/random.h"
#include "kernels/bench/bench_internal.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum form {
    FORM_Y,      /* y = x w^T */
    FORM_STREAM, /* the same of one row, by the bytes of its weights */
    FORM_DX,     /* dx = dy w, packing included */
    FORM_DW,     /* dw += dy^T x */
    FORM_EXPERTS,
    FORM_EXPERTS_BACKWARD,
};

static const char *const form_names[] = {"gemm",    "gemm",    "gemm_dx",
                                         "gemm_dw", "experts", "experts backward"};

/* n_rows tokens, n_in -> n_out; experts: d = n_in, width n_out. */
struct shape {
    size_t n_rows, n_in, n_out;
    enum form form;
    enum precision precision;
};

#define N_EXPERTS ((size_t)8)
#define TOP_K ((size_t)2)
/* Shortest measurement; shorter ops are repeated. */
#define SAMPLE_FLOP 8e6
#define PAD ((size_t)16) /* keeps strides off multiples of 4 KiB */

static const struct shape shapes[] = {
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

/* Operands all cases share, each as large as the largest case needs; one block, which x starts. */
struct operands {
    float *x, *y, *w, *dw, *saved, *weights, *d_weights;
    int32_t *indices;
};

/* Floats of the largest operand of each kind over the table. */
struct sizes {
    size_t x, y, w, dw, slots, saved;
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static bool is_experts(const struct shape *s)
{
    return s->form == FORM_EXPERTS || s->form == FORM_EXPERTS_BACKWARD;
}

/* Words of a case's packed weights; experts have three matrices each, in both directions. */
static size_t weight_words(const struct shape *s)
{
    const size_t forth = packed_words(s->precision, s->n_in, s->n_out);
    const size_t back = packed_words(s->precision, s->n_out, s->n_in);
    if (s->form == FORM_DX || s->form == FORM_EXPERTS_BACKWARD) { /* as they lie in memory */
        return (is_experts(s) ? 3 * N_EXPERTS : 1) * s->n_in * s->n_out;
    }
    return is_experts(s) ? 3 * N_EXPERTS * max_size(forth, back) : forth;
}

/* Floats of a case's gradients, which start from zero each time. */
static size_t gradient_floats(const struct shape *s)
{
    const size_t n_matrices = s->form == FORM_EXPERTS_BACKWARD ? 3 * N_EXPERTS : 1;
    return s->form == FORM_DW || s->form == FORM_EXPERTS_BACKWARD ? n_matrices * s->n_in * s->n_out
                                                                  : 0;
}

static struct sizes largest_sizes(void)
{
    struct sizes max = {0};
    for (size_t i = 0; i < N_SHAPES; i++) {
        const struct shape *const s = &shapes[i];
        const size_t width = max_size(s->n_in, s->n_out);
        max.x = max_size(max.x, s->n_rows * (width + PAD));
        max.y = max_size(max.y, s->n_rows * (width + PAD));
        max.w = max_size(max.w, weight_words(s));
        max.dw = max_size(max.dw, gradient_floats(s));
        max.slots = max_size(max.slots, s->n_rows * TOP_K);
        max.saved = max_size(max.saved, is_experts(s) ? 2 * s->n_rows * TOP_K * s->n_out : 0);
    }
    return max;
}

static void fill_small(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = random_uniform(1, RANDOM_TEST, i, 0) - 0.5F;
    }
}

static enum status operands_make(struct operands *out)
{
    const struct sizes n = largest_sizes();
    float *block = NULL;
    TRY(memory_alloc(n.x + n.y + n.w + n.dw + n.saved + 3 * n.slots, sizeof(float), &block));
    out->x = block;
    out->w = out->x + n.x;
    out->saved = out->w + n.w;
    out->weights = out->saved + n.saved;
    fill_small(block, n.x + n.w + n.saved + n.slots);
    out->d_weights = out->weights + n.slots;
    out->indices = (int32_t *)(void *)(out->d_weights + n.slots);
    out->y = out->d_weights + 2 * n.slots;
    out->dw = out->y + n.y;
    for (size_t i = 0; i < n.slots; i++) {
        const uint64_t first = random_below(1, RANDOM_TEST, i / TOP_K, 1, N_EXPERTS);
        out->indices[i] = (int32_t)((first + i % TOP_K) % N_EXPERTS);
    }
    return STATUS_OK;
}

static double shape_flop(const struct shape *s)
{
    const double products = (double)(s->n_rows * s->n_in * s->n_out);
    switch (s->form) {
    case FORM_EXPERTS:
        return 6.0 * (double)TOP_K * products;
    case FORM_EXPERTS_BACKWARD:
        return 12.0 * (double)TOP_K * products;
    case FORM_Y:
    case FORM_STREAM:
    case FORM_DX:
    case FORM_DW:
        break;
    }
    return 2.0 * products;
}

static enum status run_experts(struct backend *backend, const struct shape *s,
                               const struct operands *o)
{
    const size_t matrix = N_EXPERTS * packed_words(s->precision, s->n_in, s->n_out);
    return backend->ops->moe_ffn(backend, &(struct moe_ffn_args){
                                              .x = o->x,
                                              .x_stride = s->n_in + PAD,
                                              .indices = o->indices,
                                              .weights = o->weights,
                                              .w_gate_up = o->w,
                                              .w_down = o->w + 2 * matrix,
                                              .precision = s->precision,
                                              .y = o->y,
                                              .y_stride = s->n_in + PAD,
                                              .saved_gate_up = o->saved,
                                              .n_rows = s->n_rows,
                                              .d = s->n_in,
                                              .f = s->n_out,
                                              .n_experts = N_EXPERTS,
                                              .top_k = TOP_K,
                                          });
}

/* y is used as dx; dy is x. */
static enum status run_experts_backward(struct backend *backend, const struct shape *s,
                                        const struct operands *o)
{
    const size_t gradient = s->n_in * s->n_out;
    return backend->ops->moe_ffn_backward(backend, &(struct moe_ffn_backward_args){
                                                       .dy = o->x,
                                                       .dy_stride = s->n_in + PAD,
                                                       .x = o->x,
                                                       .x_stride = s->n_in + PAD,
                                                       .indices = o->indices,
                                                       .weights = o->weights,
                                                       .saved_gate_up = o->saved,
                                                       .w_gate = o->w,
                                                       .w_up = o->w + gradient,
                                                       .w_down = o->w + 2 * gradient,
                                                       .w_stride = 3 * gradient,
                                                       .precision = s->precision,
                                                       .rounding = s->precision,
                                                       .dx = o->y,
                                                       .dx_stride = s->n_in + PAD,
                                                       .d_weights = o->d_weights,
                                                       .d_gate = o->dw,
                                                       .d_up = o->dw + gradient,
                                                       .d_down = o->dw + 2 * gradient,
                                                       .grad_stride = 3 * gradient,
                                                       .n_rows = s->n_rows,
                                                       .d = s->n_in,
                                                       .f = s->n_out,
                                                       .n_experts = N_EXPERTS,
                                                       .top_k = TOP_K,
                                                   });
}

static enum status run_gemm(struct backend *backend, const struct shape *s,
                            const struct operands *o)
{
    return backend->ops->gemm(backend, &(struct gemm_args){
                                           .x = o->x,
                                           .x_stride = s->n_in + PAD,
                                           .w = o->w,
                                           .precision = s->precision,
                                           .y = o->y,
                                           .y_stride = s->n_out + PAD,
                                           .n_rows = s->n_rows,
                                           .n_in = s->n_in,
                                           .n_out = s->n_out,
                                       });
}

/* dy is x, dx is y. */
static enum status run_gemm_dx(struct backend *backend, const struct shape *s,
                               const struct operands *o)
{
    return backend->ops->gemm_dx(backend, &(struct gemm_dx_args){
                                              .dy = o->x,
                                              .dy_stride = s->n_out + PAD,
                                              .parts = {{.w = o->w, .n = s->n_out}},
                                              .n_parts = 1,
                                              .w_stride = s->n_in,
                                              .precision = s->precision,
                                              .rounding = s->precision,
                                              .dx = o->y,
                                              .dx_stride = s->n_in + PAD,
                                              .n_rows = s->n_rows,
                                              .n_in = s->n_in,
                                              .n_out = s->n_out,
                                          });
}

static enum status run_gemm_dw(struct backend *backend, const struct shape *s,
                               const struct operands *o)
{
    return backend->ops->gemm_dw(backend, &(struct gemm_dw_args){
                                              .dy = o->y,
                                              .dy_stride = s->n_out + PAD,
                                              .x = o->x,
                                              .x_stride = s->n_in + PAD,
                                              .dw = o->dw,
                                              .dw_stride = s->n_in,
                                              .n_rows = s->n_rows,
                                              .n_in = s->n_in,
                                              .n_out = s->n_out,
                                              .precision = s->precision,
                                          });
}

static enum status run_shape(struct backend *backend, const struct shape *s,
                             const struct operands *o)
{
    switch (s->form) {
    case FORM_Y:
    case FORM_STREAM:
        return run_gemm(backend, s, o);
    case FORM_DX:
        return run_gemm_dx(backend, s, o);
    case FORM_DW:
        return run_gemm_dw(backend, s, o);
    case FORM_EXPERTS:
        return run_experts(backend, s, o);
    case FORM_EXPERTS_BACKWARD:
        return run_experts_backward(backend, s, o);
    }
    return STATUS_OK;
}

/* Seconds of one run of a case, after one that warms the caches. Gradients start from zero each
 * time: sums that grow for ever would end in infinities. */
static enum status time_shape(struct bench_meter *meter, const struct shape *s,
                              const struct operands *o, double *seconds)
{
    struct backend *const backend = meter->backend;
    const double repeats_wanted = SAMPLE_FLOP / shape_flop(s);
    const size_t n = repeats_wanted > 1.0 ? (size_t)repeats_wanted : 1;
    TRY(backend->ops->fill(backend, o->dw, gradient_floats(s), 0.0F));
    TRY(run_shape(backend, s, o));
    bench_wait_quiet(meter);
    const double start = bench_now();
    for (size_t i = 0; i < n; i++) {
        TRY(run_shape(backend, s, o));
    }
    *seconds = (bench_now() - start) / (double)n;
    return STATUS_OK;
}

static bool is_measured(const struct bench_meter *meter, const struct shape *s)
{
    return (s->precision == PRECISION_F32) == (meter->precision == PRECISION_F32);
}

static enum status visit_all(struct bench_meter *meter, const struct operands *o, size_t repeat,
                             struct bench_samples *samples)
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

static enum status measure(struct bench_meter *meter, const struct operands *o,
                           struct bench_samples *samples)
{
    for (size_t repeat = 0; repeat < BENCH_REPEATS; repeat++) {
        TRY(visit_all(meter, o, repeat, samples));
    }
    return STATUS_OK;
}

static struct bench_result summarise(const struct shape *s, double peak, double memory_rate,
                                     struct bench_samples *samples)
{
    static const char *const dtypes[] = {"fp32", "bf16", "fp8"};
    const bool is_stream = s->form == FORM_STREAM;
    const double amount = is_stream ? 4.0 * (double)weight_words(s) : shape_flop(s);
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
    struct operands operands = {.x = NULL};
    TRY(operands_make(&operands));
    const enum status status = measure(meter, &operands, samples);
    for (size_t i = 0; status == STATUS_OK && i < N_SHAPES; i++) {
        if (is_measured(meter, &shapes[i])) {
            results[(*n_results)++] = summarise(&shapes[i], meter->peak, memory_rate, &samples[i]);
        }
    }
    memory_free(operands.x);
    return status;
}
