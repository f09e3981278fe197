/* moe_ffn and lm_head with weights in BF16 and FP8: the bits of the same steps made of gemm, on
 * every instruction set, for any cut of the batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>

enum { ROWS = 70, D = 150, F = 72, EXPERTS = 5, TOP_K = 3, VOCAB = 300 };

struct layer {
    enum precision precision;
    float *x, *weights, *gate, *up, *down;
    int32_t indices[ROWS * TOP_K];
    size_t cut; /* rows of the first of two calls */
};

static struct layer layer_make(enum precision precision)
{
    struct layer l = {.precision = precision, .cut = ROWS};
    l.x = random_floats((size_t)ROWS * D, 1, 1.0F);
    l.weights = random_floats((size_t)ROWS * TOP_K, 2, 1.0F);
    l.gate = random_floats((size_t)EXPERTS * F * D, 3, 0.1F);
    l.up = random_floats((size_t)EXPERTS * F * D, 4, 0.1F);
    l.down = random_floats((size_t)EXPERTS * F * D, 5, 0.1F);
    for (size_t i = 0; i < (size_t)ROWS * TOP_K; i++) {
        const uint64_t first = random_below(6, RANDOM_TEST, i / TOP_K, 0, EXPERTS);
        l.indices[i] = (int32_t)((first + i % TOP_K) % EXPERTS);
    }
    return l;
}

static void layer_free(struct layer *l)
{
    memory_free(l->x);
    memory_free(l->weights);
    memory_free(l->gate);
    memory_free(l->up);
    memory_free(l->down);
}

static void pack(struct backend *backend, enum precision precision, const float *src, size_t n_in,
                 size_t n_out, float *dst, size_t panel_stride)
{
    assert_ok(backend->ops->pack(backend, &(struct pack_args){.src = src,
                                                              .src_stride = n_in,
                                                              .n_in = n_in,
                                                              .n_out = n_out,
                                                              .dst = dst,
                                                              .panel_stride = panel_stride,
                                                              .precision = precision}));
}

static void run_experts(struct backend *backend, const void *context, float *out)
{
    const struct layer *l = context;
    const size_t in = packed_words(l->precision, D, F), down = packed_words(l->precision, F, D);
    const size_t panel = packed_words(l->precision, D, 1);
    float *w = new_floats((size_t)EXPERTS * (2 * in + down));
    struct moe_ffn_args args = {.x_stride = D,
                                .w_gate_up = w,
                                .w_down = w + (size_t)EXPERTS * 2 * in,
                                .precision = l->precision,
                                .y_stride = D,
                                .d = D,
                                .f = F,
                                .n_experts = EXPERTS,
                                .top_k = TOP_K};
    for (size_t i = 0; i < EXPERTS; i++) {
        const size_t at = i * (size_t)F * D;
        pack(backend, l->precision, l->gate + at, D, F, w + i * 2 * in, 2 * panel);
        pack(backend, l->precision, l->up + at, D, F, w + i * 2 * in + panel, 2 * panel);
        pack(backend, l->precision, l->down + at, F, D, w + (size_t)EXPERTS * 2 * in + i * down, 0);
    }
    for (size_t row = 0; row < ROWS; row += args.n_rows) {
        args.n_rows = row == 0 ? l->cut : ROWS - row;
        args.x = l->x + row * D;
        args.indices = l->indices + row * TOP_K;
        args.weights = l->weights + row * TOP_K;
        args.y = out + row * D;
        assert_ok(backend->ops->moe_ffn(backend, &args));
    }
    memory_free(w);
}

struct size {
    size_t n_rows, n_in, n_out;
};

static void one_gemm(struct backend *backend, enum precision precision, const float *x,
                     const float *w, struct size size, float *y)
{
    float *packed = new_floats(packed_words(precision, size.n_in, size.n_out));
    pack(backend, precision, w, size.n_in, size.n_out, packed, 0);
    assert_ok(backend->ops->gemm(backend, &(struct gemm_args){.x = x,
                                                              .x_stride = size.n_in,
                                                              .w = packed,
                                                              .precision = precision,
                                                              .y = y,
                                                              .y_stride = size.n_out,
                                                              .n_rows = size.n_rows,
                                                              .n_in = size.n_in,
                                                              .n_out = size.n_out}));
    memory_free(packed);
}

/* All rows through every expert, then each row's sum over its slots. */
static void exact_experts(struct backend *backend, const struct layer *l, float *out)
{
    float *gate = new_floats(3 * (size_t)ROWS * F), *up = gate + (size_t)ROWS * F;
    float *h = up + (size_t)ROWS * F;
    float *y = new_floats((size_t)EXPERTS * ROWS * D);
    for (size_t i = 0; i < EXPERTS; i++) {
        const size_t at = i * (size_t)F * D;
        one_gemm(backend, l->precision, l->x, l->gate + at, (struct size){ROWS, D, F}, gate);
        one_gemm(backend, l->precision, l->x, l->up + at, (struct size){ROWS, D, F}, up);
        assert_ok(backend->ops->swiglu(backend, &(struct swiglu_args){.gate = gate,
                                                                      .up = up,
                                                                      .in_stride = F,
                                                                      .h = h,
                                                                      .h_stride = F,
                                                                      .n_rows = ROWS,
                                                                      .f = F}));
        one_gemm(backend, l->precision, h, l->down + at, (struct size){ROWS, F, D},
                 y + i * (size_t)ROWS * D);
    }
    for (size_t i = 0; i < (size_t)ROWS * D; i++) {
        float sum = 0.0F;
        for (size_t k = 0; k < TOP_K; k++) {
            const size_t slot = i / D * TOP_K + k;
            sum = fmaf(l->weights[slot], y[(size_t)l->indices[slot] * ROWS * D + i], sum);
        }
        out[i] += sum;
    }
    memory_free(gate);
    memory_free(y);
}

static void experts_are_gemms_and_swiglu(void **state)
{
    static const enum precision precisions[] = {PRECISION_BF16, PRECISION_FP8};
    static const size_t cuts[] = {ROWS, 1, 17, 64};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct layer l = layer_make(precisions[i]);
        struct backend *backend = NULL;
        float *want = new_floats((size_t)ROWS * D), *got = new_floats((size_t)ROWS * D);
        assert_ok(backend_open("auto", 1, &backend));
        exact_experts(backend, &l, want);
        backend_close(backend);
        for (size_t j = 0; j < sizeof(cuts) / sizeof(cuts[0]); j++) {
            l.cut = cuts[j];
            run_everywhere(run_experts, &l, (size_t)ROWS * D, got);
            assert_same_bits("experts", got, want, (size_t)ROWS * D);
        }
        memory_free(want);
        memory_free(got);
        layer_free(&l);
    }
}

struct head {
    enum precision precision;
    size_t d;
    const float *x, *w;
    const int32_t *targets;
    const float *g;
};
#define HEAD_FLOATS ((size_t)ROWS * (3 + VOCAB))

/* logp, entropy, lse; then dx (T, d). */
static void run_head(struct backend *backend, const void *context, float *out)
{
    const struct head *h = context;
    float *w = new_floats(packed_words(h->precision, h->d, VOCAB));
    pack(backend, h->precision, h->w, h->d, VOCAB, w, 0);
    struct lm_head_backward_args args = {
        .forward = {.x = h->x,
                    .x_stride = h->d,
                    .w = w,
                    .precision = h->precision,
                    .targets = h->targets,
                    .entropy = out + ROWS,
                    .lse = out + 2 * (size_t)ROWS,
                    .n_rows = ROWS,
                    .d = h->d,
                    .vocab = VOCAB,
                    .sampling = {.temperature = 0.8F, .top_p = 1.0F}},
        .weights = h->w,
        .rounding = h->precision,
        .g = h->g,
        .dx = out + 3 * (size_t)ROWS,
        .dx_stride = h->d};
    args.forward.logp = out;
    assert_ok(backend->ops->lm_head_logprob(backend, &args.forward));
    assert_ok(backend->ops->lm_head_backward(backend, &args));
    memory_free(w);
}

/* A head of the identity over the logits that gemm gives; its dx is the logits' gradient. */
static void exact_head(struct backend *backend, const struct head *h, float *out)
{
    float *logits = new_floats((size_t)ROWS * VOCAB), *one = new_floats((size_t)VOCAB * VOCAB);
    float *w_t = new_floats(packed_floats(VOCAB, D));
    struct head plain = {PRECISION_F32, VOCAB, logits, one, h->targets, h->g};
    for (size_t i = 0; i < VOCAB; i++) {
        one[i * VOCAB + i] = 1.0F;
    }
    one_gemm(backend, h->precision, h->x, h->w, (struct size){ROWS, D, VOCAB}, logits);
    run_head(backend, &plain, out);
    assert_ok(backend->ops->pack(backend, &(struct pack_args){.src = h->w,
                                                              .src_stride = D,
                                                              .n_in = VOCAB,
                                                              .n_out = D,
                                                              .transposed = true,
                                                              .dst = w_t,
                                                              .rounding = h->precision}));
    memcpy(logits, out + 3 * (size_t)ROWS, (size_t)ROWS * VOCAB * sizeof(float));
    memset(out + 3 * (size_t)ROWS, 0, (size_t)ROWS * VOCAB * sizeof(float));
    assert_ok(backend->ops->gemm(backend, &(struct gemm_args){.x = logits,
                                                              .x_stride = VOCAB,
                                                              .w = w_t,
                                                              .y = out + 3 * (size_t)ROWS,
                                                              .y_stride = D,
                                                              .n_rows = ROWS,
                                                              .n_in = VOCAB,
                                                              .n_out = D}));
    memory_free(logits);
    memory_free(one);
    memory_free(w_t);
}

static void a_head_is_a_gemm_and_a_distribution(void **state)
{
    static const enum precision precisions[] = {PRECISION_BF16, PRECISION_FP8};
    int32_t targets[ROWS];
    (void)state;
    for (size_t i = 0; i < ROWS; i++) {
        targets[i] = (int32_t)(i * 37 % VOCAB);
    }
    for (size_t i = 0; i < 2; i++) {
        float *x = random_floats((size_t)ROWS * D, 1, 1.0F);
        float *w = random_floats((size_t)VOCAB * D, 2, 0.1F);
        float *g = random_floats(ROWS, 3, 1.0F);
        float *want = new_floats(HEAD_FLOATS), *got = new_floats(HEAD_FLOATS);
        const struct head h = {precisions[i], D, x, w, targets, g};
        struct backend *backend = NULL;
        assert_ok(backend_open("auto", 1, &backend));
        exact_head(backend, &h, want);
        backend_close(backend);
        run_everywhere(run_head, &h, HEAD_FLOATS, got);
        assert_same_bits("head", got, want, HEAD_FLOATS);
        memory_free(x);
        memory_free(w);
        memory_free(g);
        memory_free(want);
        memory_free(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_gemms_and_swiglu),
        cmocka_unit_test(a_head_is_a_gemm_and_a_distribution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
