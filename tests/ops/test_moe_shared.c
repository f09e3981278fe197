/* Shared experts beside the routed ones: the bits of a dense MLP and then the routed experts, in
 * every precision, for threads and instruction sets alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/moe_group.h"
#include "tests/ops/op_fixture.h"

#define N_EXPERTS ((size_t)3)
#define TOP_K ((size_t)2)
#define D ((size_t)130)
#define F ((size_t)40)
#define SHARED_F ((size_t)70)
#define UP_AT ((size_t)96) /* the first panel behind gate */
#define GATE_UP_STRIDE (UP_AT + SHARED_F + 3)

/* Operands; w: of all matrices, one behind the other. */
struct problem {
    enum precision precision;
    size_t n_rows;
    bool is_apart; /* the shared experts by ops of their own */
    float *x, *y, *w, *weights;
    int32_t *indices;
};

static struct problem problem_make(enum precision precision, size_t n_rows)
{
    struct problem p = {.precision = precision, .n_rows = n_rows};

    p.x = random_floats(n_rows * D, 1, 1.0F);
    p.y = random_floats(n_rows * D, 2, 1.0F);
    p.w = random_floats(3 * N_EXPERTS * D * F + (UP_AT + 2 * SHARED_F) * D, 3, 0.3F);
    p.weights = random_floats(n_rows * TOP_K, 4, 1.0F);
    assert_ok(memory_alloc(n_rows * TOP_K, sizeof(*p.indices), &p.indices));
    for (size_t i = 0; i < n_rows * TOP_K; i++) {
        p.indices[i] = (int32_t)((i / TOP_K * 5 / 3 + i % TOP_K) % N_EXPERTS);
    }
    return p;
}

static void problem_free(struct problem *p)
{
    memory_free(p->x);
    memory_free(p->y);
    memory_free(p->w);
    memory_free(p->weights);
    memory_free(p->indices);
}

/* y, then gate and up of the shared experts. */
static size_t out_floats(const struct problem *p)
{
    return p->n_rows * (D + GATE_UP_STRIDE);
}

static void pack(struct backend *backend, const struct problem *p, const float *src, size_t n_in,
                 size_t n_out, float *dst, size_t panel_stride)
{
    assert_ok(backend->ops->pack(backend, &(struct pack_args){.src = src,
                                                              .src_stride = n_in,
                                                              .n_in = n_in,
                                                              .n_out = n_out,
                                                              .dst = dst,
                                                              .panel_stride = panel_stride,
                                                              .precision = p->precision}));
}

struct packed {
    float *gate_up, *down, *shared_gate_up, *shared_down;
};

static struct packed packed_make(struct backend *backend, const struct problem *p)
{
    const size_t in = packed_words(p->precision, D, F), out = packed_words(p->precision, F, D);
    const size_t panel = packed_words(p->precision, D, 1);
    const float *shared = p->w + 3 * N_EXPERTS * D * F;
    struct packed packed = {new_floats(2 * N_EXPERTS * in), new_floats(N_EXPERTS * out),
                            new_floats(packed_words(p->precision, D, UP_AT + SHARED_F)),
                            new_floats(packed_words(p->precision, SHARED_F, D))};

    for (size_t i = 0; i < N_EXPERTS; i++) {
        const float *w = p->w + 3 * i * D * F;

        pack(backend, p, w, D, F, packed.gate_up + 2 * i * in, 2 * panel);
        pack(backend, p, w + D * F, D, F, packed.gate_up + 2 * i * in + panel, 2 * panel);
        pack(backend, p, w + 2 * D * F, F, D, packed.down + i * out, 0);
    }
    pack(backend, p, shared, D, UP_AT + SHARED_F, packed.shared_gate_up, 0);
    pack(backend, p, shared + (UP_AT + SHARED_F) * D, SHARED_F, D, packed.shared_down, 0);
    return packed;
}

static void packed_free(struct packed *packed)
{
    memory_free(packed->gate_up);
    memory_free(packed->down);
    memory_free(packed->shared_gate_up);
    memory_free(packed->shared_down);
}

/* out: y with the shared experts, as a dense MLP, and their gate and up. */
static void run_apart(struct backend *backend, const struct problem *p, const struct packed *packed,
                      float *out)
{
    float *gate_up = out + p->n_rows * D;
    const struct gemm_args up = {.x = p->x,
                                 .x_stride = D,
                                 .w = packed->shared_gate_up,
                                 .precision = p->precision,
                                 .y = gate_up,
                                 .y_stride = GATE_UP_STRIDE,
                                 .n_rows = p->n_rows,
                                 .n_in = D,
                                 .n_out = UP_AT + SHARED_F};
    float *h = new_floats(p->n_rows * SHARED_F);
    const struct gemm_args down = {.x = h,
                                   .x_stride = SHARED_F,
                                   .w = packed->shared_down,
                                   .precision = p->precision,
                                   .y = out,
                                   .y_stride = D,
                                   .n_rows = p->n_rows,
                                   .n_in = SHARED_F,
                                   .n_out = D,
                                   .accumulate = true};

    memcpy(out, p->y, p->n_rows * D * sizeof(*out));
    assert_ok(backend->ops->gemm(backend, &up));
    assert_ok(backend->ops->swiglu(backend, &(struct swiglu_args){.gate = gate_up,
                                                                  .up = gate_up + UP_AT,
                                                                  .in_stride = GATE_UP_STRIDE,
                                                                  .h = h,
                                                                  .h_stride = SHARED_F,
                                                                  .n_rows = p->n_rows,
                                                                  .f = SHARED_F}));
    assert_ok(backend->ops->gemm(backend, &down));
    memory_free(h);
}

static void run_layer(struct backend *backend, const void *context, float *out)
{
    const struct problem *p = context;
    struct packed packed = packed_make(backend, p);
    const struct moe_shared shared = {.w_gate_up = packed.shared_gate_up,
                                      .w_down = packed.shared_down,
                                      .gate_up = out + p->n_rows * D,
                                      .gate_up_stride = GATE_UP_STRIDE,
                                      .f = SHARED_F,
                                      .up_at = UP_AT};

    if (p->is_apart) {
        run_apart(backend, p, &packed, out);
    } else {
        memcpy(out, p->y, p->n_rows * D * sizeof(*out));
    }
    assert_ok(backend->ops->moe_ffn(backend,
                                    &(struct moe_ffn_args){.x = p->x,
                                                           .x_stride = D,
                                                           .indices = p->indices,
                                                           .weights = p->weights,
                                                           .w_gate_up = packed.gate_up,
                                                           .w_down = packed.down,
                                                           .precision = p->precision,
                                                           .shared = p->is_apart ? NULL : &shared,
                                                           .y = out,
                                                           .y_stride = D,
                                                           .n_rows = p->n_rows,
                                                           .d = D,
                                                           .f = F,
                                                           .n_experts = N_EXPERTS,
                                                           .top_k = TOP_K}));
    packed_free(&packed);
}

static void check_rows(enum precision precision, size_t n_rows)
{
    struct problem p = problem_make(precision, n_rows);
    float *together = new_floats(out_floats(&p)), *apart = new_floats(out_floats(&p));

    run_everywhere(run_layer, &p, out_floats(&p), together);
    p.is_apart = true;
    run_everywhere(run_layer, &p, out_floats(&p), apart);
    assert_same_bits("shared experts", together, apart, out_floats(&p));
    memory_free(together);
    memory_free(apart);
    problem_free(&p);
}

static void shared_experts_are_a_dense_mlp_before_the_routed_ones(void **state)
{
    static const enum precision precisions[] = {PRECISION_F32, PRECISION_BF16, PRECISION_FP8};
    static const size_t n_rows[] = {1, 7, 8, MOE_ITEM_ROWS + 1};
    (void)state;

    for (size_t i = 0; i < 12; i++) {
        check_rows(precisions[i % 3], n_rows[i / 3]);
    }
    check_rows(PRECISION_FP8, MOE_BLOCK_ROWS + 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_experts_are_a_dense_mlp_before_the_routed_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
