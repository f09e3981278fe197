#include "kernels/bench/bench_shape.h"

#include "base/memory.h"
#include "base/random.h"

#include <stdbool.h>

#define N_EXPERTS ((size_t)8)
#define TOP_K ((size_t)2)
#define PAD ((size_t)16) /* keeps strides off multiples of 4 KiB */

/* Floats of the largest operand of each kind. */
struct sizes {
    size_t x, y, w, dw, slots, saved;
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static bool is_experts(const struct bench_shape *s)
{
    return s->form == FORM_EXPERTS || s->form == FORM_EXPERTS_BACKWARD;
}

size_t bench_shape_words(const struct bench_shape *s)
{
    const size_t forth = packed_words(s->precision, s->n_in, s->n_out);
    const size_t back = packed_words(s->precision, s->n_out, s->n_in);
    if (s->form == FORM_DX || s->form == FORM_EXPERTS_BACKWARD) { /* as they lie in memory */
        return (is_experts(s) ? 3 * N_EXPERTS : 1) * s->n_in * s->n_out;
    }
    return is_experts(s) ? 3 * N_EXPERTS * max_size(forth, back) : forth;
}

size_t bench_shape_gradients(const struct bench_shape *s)
{
    const size_t n_matrices = s->form == FORM_EXPERTS_BACKWARD ? 3 * N_EXPERTS : 1;
    return s->form == FORM_DW || s->form == FORM_EXPERTS_BACKWARD ? n_matrices * s->n_in * s->n_out
                                                                  : 0;
}

static struct sizes largest_sizes(const struct bench_shape *shapes, size_t n_shapes)
{
    struct sizes max = {0};
    for (size_t i = 0; i < n_shapes; i++) {
        const struct bench_shape *const s = &shapes[i];
        const size_t width = max_size(s->n_in, s->n_out);
        max.x = max_size(max.x, s->n_rows * (width + PAD));
        max.y = max_size(max.y, s->n_rows * (width + PAD));
        max.w = max_size(max.w, bench_shape_words(s));
        max.dw = max_size(max.dw, bench_shape_gradients(s));
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

enum status bench_operands_make(const struct bench_shape *shapes, size_t n_shapes,
                                struct bench_operands *out)
{
    const struct sizes n = largest_sizes(shapes, n_shapes);
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

double bench_shape_flop(const struct bench_shape *s)
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

static enum status run_experts(struct backend *backend, const struct bench_shape *s,
                               const struct bench_operands *o)
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
static enum status run_experts_backward(struct backend *backend, const struct bench_shape *s,
                                        const struct bench_operands *o)
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

static enum status run_gemm(struct backend *backend, const struct bench_shape *s,
                            const struct bench_operands *o)
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
static enum status run_gemm_dx(struct backend *backend, const struct bench_shape *s,
                               const struct bench_operands *o)
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

static enum status run_gemm_dw(struct backend *backend, const struct bench_shape *s,
                               const struct bench_operands *o)
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

enum status bench_shape_run(struct backend *backend, const struct bench_shape *s,
                            const struct bench_operands *o)
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
