/* Experts backward in BF16 and with FP8 weights: the bits of their products one by one, and close
 * to the same op in fp32; threads and instruction sets by bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/moe_group.h"
#include "tests/ops/precision_fixture.h"

#define N_EXPERTS ((size_t)5)
#define TOP_K ((size_t)2)

/* Experts backward: what they read, and in which precision. */
struct expert_case {
    size_t n_rows, d, f;
    enum precision precision, rounding;
    float *x, *dy, *weights, *saved, *w;
    int32_t *indices;
};

static size_t matrix_floats(const struct expert_case *c)
{
    return c->d * c->f;
}

static struct expert_case experts_make(size_t n_rows, size_t d, size_t f)
{
    struct expert_case c = {.n_rows = n_rows, .d = d, .f = f};

    c.x = random_floats(n_rows * d, 1, 1.0F);
    c.dy = random_floats(n_rows * d, 2, 1.0F);
    c.weights = random_floats(n_rows * TOP_K, 3, 0.5F);
    c.saved = random_floats(n_rows * TOP_K * 2 * f, 4, 1.0F);
    c.w = random_floats(3 * N_EXPERTS * d * f, 5, 0.2F);
    assert_ok(memory_alloc(n_rows * TOP_K, sizeof(*c.indices), &c.indices));
    for (size_t i = 0; i < n_rows * TOP_K; i++) {
        const uint64_t first = random_below(6, RANDOM_TEST, i / TOP_K, 0, N_EXPERTS - 1);
        c.indices[i] = (int32_t)((first + i % TOP_K) % N_EXPERTS); /* the last one: seldom */
    }
    return c;
}

/* The same with items as long as they get: two of each expert. */
static struct expert_case full_items_make(size_t d, size_t f)
{
    struct expert_case c = experts_make(2 * MOE_ITEM_ROWS * N_EXPERTS / TOP_K, d, f);

    for (size_t i = 0; i < c.n_rows * TOP_K; i++) {
        c.indices[i] = (int32_t)(i % N_EXPERTS);
    }
    return c;
}

static void experts_free(struct expert_case *c)
{
    memory_free(c->x);
    memory_free(c->dy);
    memory_free(c->weights);
    memory_free(c->saved);
    memory_free(c->w);
    memory_free(c->indices);
}

/* dx, d_weights, then the gradients of gate, up and down. */
static void run_experts(struct backend *backend, const void *context, float *out)
{
    const struct expert_case *c = context;
    const size_t matrix = matrix_floats(c);
    float *const dw = out + c->n_rows * (c->d + TOP_K);

    assert_ok(backend->ops->moe_ffn_backward(
        backend, &(struct moe_ffn_backward_args){.dy = c->dy,
                                                 .dy_stride = c->d,
                                                 .x = c->x,
                                                 .x_stride = c->d,
                                                 .indices = c->indices,
                                                 .weights = c->weights,
                                                 .saved_gate_up = c->saved,
                                                 .w_gate = c->w,
                                                 .w_up = c->w + matrix,
                                                 .w_down = c->w + 2 * matrix,
                                                 .w_stride = 3 * matrix,
                                                 .precision = c->precision,
                                                 .rounding = c->rounding,
                                                 .dx = out,
                                                 .dx_stride = c->d,
                                                 .d_weights = out + c->n_rows * c->d,
                                                 .d_gate = dw,
                                                 .d_up = dw + matrix,
                                                 .d_down = dw + 2 * matrix,
                                                 .grad_stride = 3 * matrix,
                                                 .n_rows = c->n_rows,
                                                 .d = c->d,
                                                 .f = c->f,
                                                 .n_experts = N_EXPERTS,
                                                 .top_k = TOP_K}));
}

/* Rows of one expert in one block of the call, side by side, and what products make of them. */
struct expert_rows {
    size_t expert, n;
    uint32_t *slots;               /* (n) ascending */
    float *x, *dy, *dx;            /* (n, d) */
    float *saved;                  /* (n, 2 f) */
    float *dh, *h, *d_gate, *d_up; /* (n, f) */
};

static struct expert_rows rows_make(const struct expert_case *c)
{
    const size_t most = MOE_BLOCK_ROWS * TOP_K;
    struct expert_rows r = {.n = 0};

    assert_ok(memory_alloc(most, sizeof(*r.slots), &r.slots));
    r.x = new_floats(most * (3 * c->d + 6 * c->f));
    r.dy = r.x + most * c->d;
    r.dx = r.dy + most * c->d;
    r.saved = r.dx + most * c->d;
    r.dh = r.saved + most * 2 * c->f;
    r.h = r.dh + most * c->f;
    r.d_gate = r.h + most * c->f;
    r.d_up = r.d_gate + most * c->f;
    return r;
}

static void rows_free(struct expert_rows *r)
{
    memory_free(r->slots);
    memory_free(r->x);
}

static void rows_gather(const struct expert_case *c, size_t row, size_t expert,
                        struct expert_rows *r)
{
    const size_t left = c->n_rows - row;
    const size_t end = row + (left < MOE_BLOCK_ROWS ? left : MOE_BLOCK_ROWS);

    r->expert = expert;
    r->n = 0;
    for (size_t slot = row * TOP_K; slot < end * TOP_K; slot++) {
        const size_t from = slot / TOP_K * c->d;

        if ((size_t)c->indices[slot] != expert) {
            continue;
        }
        memcpy(r->x + r->n * c->d, c->x + from, c->d * sizeof(float));
        memcpy(r->dy + r->n * c->d, c->dy + from, c->d * sizeof(float));
        memcpy(r->saved + r->n * 2 * c->f, c->saved + slot * 2 * c->f, 2 * c->f * sizeof(float));
        r->slots[r->n++] = (uint32_t)slot;
    }
}

/* Matrix 0, 1, 2 of the expert: gate, up, down. */
static const float *expert_weight(const struct expert_case *c, size_t expert, size_t matrix)
{
    return c->w + (3 * expert + matrix) * matrix_floats(c);
}

static void rows_dx(struct backend *backend, const struct expert_case *c,
                    const struct expert_rows *r, size_t matrix, const float *dy, float *dx)
{
    const size_t n_out = matrix == 2 ? c->d : c->f, n_in = matrix == 2 ? c->f : c->d;
    const float *w = expert_weight(c, r->expert, matrix);

    assert_ok(backend->ops->gemm_dx(backend, &(struct gemm_dx_args){.dy = dy,
                                                                    .dy_stride = n_out,
                                                                    .parts = {{.w = w, .n = n_out}},
                                                                    .n_parts = 1,
                                                                    .w_stride = n_in,
                                                                    .accumulate = matrix == 1,
                                                                    .precision = c->precision,
                                                                    .rounding = c->rounding,
                                                                    .dx = dx,
                                                                    .dx_stride = n_in,
                                                                    .n_rows = r->n,
                                                                    .n_in = n_in,
                                                                    .n_out = n_out}));
}

static void rows_dw(struct backend *backend, const struct expert_case *c,
                    const struct expert_rows *r, size_t matrix, float *dw)
{
    const bool is_down = matrix == 2;
    const float *const dy[] = {r->d_gate, r->d_up, r->dy};

    assert_ok(backend->ops->gemm_dw(
        backend, &(struct gemm_dw_args){.dy = dy[matrix],
                                        .dy_stride = is_down ? c->d : c->f,
                                        .x = is_down ? r->h : r->x,
                                        .x_stride = is_down ? c->f : c->d,
                                        .dw = dw + (3 * r->expert + matrix) * matrix_floats(c),
                                        .dw_stride = is_down ? c->f : c->d,
                                        .n_rows = r->n,
                                        .n_in = is_down ? c->f : c->d,
                                        .n_out = is_down ? c->d : c->f,
                                        .precision = c->precision}));
}

/* dh -> d_gate, d_up, and h times the slot's weight. */
static void rows_swiglu(struct backend *backend, const struct expert_case *c,
                        const struct expert_rows *r)
{
    assert_ok(backend->ops->swiglu(backend, &(struct swiglu_args){.gate = r->saved,
                                                                  .up = r->saved + c->f,
                                                                  .in_stride = 2 * c->f,
                                                                  .h = r->h,
                                                                  .h_stride = c->f,
                                                                  .n_rows = r->n,
                                                                  .f = c->f}));
    for (size_t i = 0; i < r->n * c->f; i++) {
        r->h[i] *= c->weights[r->slots[i / c->f]];
        r->dh[i] *= c->weights[r->slots[i / c->f]];
    }
    assert_ok(
        backend->ops->swiglu_backward(backend, &(struct swiglu_backward_args){.gate = r->saved,
                                                                              .up = r->saved + c->f,
                                                                              .in_stride = 2 * c->f,
                                                                              .dh = r->dh,
                                                                              .dh_stride = c->f,
                                                                              .d_gate = r->d_gate,
                                                                              .d_up = r->d_up,
                                                                              .d_stride = c->f,
                                                                              .n_rows = r->n,
                                                                              .f = c->f}));
}

/* What run_experts gives, op by op; d_weights stay zero. */
static void compose_experts(struct backend *backend, const struct expert_case *c, float *out)
{
    float *const dw = out + c->n_rows * (c->d + TOP_K);
    float *slots = new_floats(c->n_rows * TOP_K * c->d);
    struct expert_rows r = rows_make(c);

    for (size_t i = 0; i < (c->n_rows + MOE_BLOCK_ROWS - 1) / MOE_BLOCK_ROWS * N_EXPERTS; i++) {
        rows_gather(c, i / N_EXPERTS * MOE_BLOCK_ROWS, i % N_EXPERTS, &r);
        rows_dx(backend, c, &r, 2, r.dy, r.dh);
        rows_swiglu(backend, c, &r);
        rows_dx(backend, c, &r, 0, r.d_gate, r.dx);
        rows_dx(backend, c, &r, 1, r.d_up, r.dx);
        for (size_t matrix = 0; matrix < 3; matrix++) {
            rows_dw(backend, c, &r, matrix, dw);
        }
        for (size_t k = 0; k < r.n; k++) {
            memcpy(slots + r.slots[k] * c->d, r.dx + k * c->d, c->d * sizeof(float));
        }
    }
    for (size_t i = 0; i < c->n_rows * TOP_K * c->d; i++) {
        out[i / c->d / TOP_K * c->d + i % c->d] += slots[i];
    }
    rows_free(&r);
    memory_free(slots);
}

static void check_composition(struct expert_case *c)
{
    const size_t n_dx = c->n_rows * c->d, n_dw = 3 * N_EXPERTS * matrix_floats(c);
    const size_t at_dw = n_dx + c->n_rows * TOP_K;
    float *got = new_floats(at_dw + n_dw), *want = new_floats(at_dw + n_dw);
    struct backend *backend;

    assert_ok(backend_open("auto", 2, &backend));
    run_everywhere(run_experts, c, at_dw + n_dw, got);
    compose_experts(backend, c, want);
    assert_same_bits("dx of experts", got, want, n_dx);
    assert_same_bits("dw of experts", got + at_dw, want + at_dw, n_dw);
    backend_close(backend);
    memory_free(got);
    memory_free(want);
}

static void experts_are_their_products_one_by_one(void **state)
{
    static const enum precision forms[][2] = {{PRECISION_F32, PRECISION_F32},
                                              {PRECISION_BF16, PRECISION_BF16},
                                              {PRECISION_BF16, PRECISION_FP8}};
    (void)state;
    for (size_t i = 0; i < 9; i++) {
        struct expert_case c = i < 3   ? experts_make(MOE_BLOCK_ROWS + 91, 70, 41)
                               : i < 6 ? experts_make(77, 130, 140)
                                       : full_items_make(40, 33);

        c.precision = forms[i % 3][0];
        c.rounding = forms[i % 3][1];
        check_composition(&c);
        experts_free(&c);
    }
}

static void experts_in_bf16_are_close_to_floats(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES; i++) {
        struct expert_case c =
            experts_make(600 + edges[i], edges[i] + 8, edges[N_EDGES - 1 - i] + 8);
        const size_t pieces[] = {c.n_rows * c.d, c.n_rows * TOP_K,
                                 3 * N_EXPERTS * matrix_floats(&c)};

        compare_precisions(run_experts, &c, &c.precision, pieces, 3);
        experts_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_their_products_one_by_one),
        cmocka_unit_test(experts_in_bf16_are_close_to_floats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
