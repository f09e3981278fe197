/* Products backward in BF16: gemm_dw by the exact order of backend.h in scalar loops, a head's
 * gradients by products of its dz, and against the same op in fp32; threads and instruction sets by
 * bits. Experts: test_moe_precision.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/quant.h"
#include "tests/ops/precision_fixture.h"

struct dw_case {
    size_t n_rows, n_in, n_out, n_batch;
    size_t dy_stride, x_stride;
    float *dy, *x, *dw;
};

static struct dw_case dw_make(size_t n_rows, size_t n_in, size_t n_out, size_t n_batch)
{
    struct dw_case c = {.n_rows = n_rows, .n_in = n_in, .n_out = n_out, .n_batch = n_batch};

    c.dy_stride = n_batch * n_out + 3;
    c.x_stride = n_batch * n_in + 5;
    c.dy = random_floats(n_rows * c.dy_stride, 1, 1.0F);
    c.x = random_floats(n_rows * c.x_stride, 2, 1.0F);
    c.dw = random_floats(n_batch * n_in * n_out, 3, 1.0F);
    c.dw[0] = 0x1p-130F; /* subnormal: counts as zero */
    return c;
}

static void dw_free(struct dw_case *c)
{
    memory_free(c->dy);
    memory_free(c->x);
    memory_free(c->dw);
}

static size_t dw_floats(const struct dw_case *c)
{
    return c->n_batch * c->n_in * c->n_out;
}

/* Rows [row, row_end), added to out. */
static void add_rows(struct backend *backend, const struct dw_case *c, size_t row, size_t row_end,
                     float *out)
{
    assert_ok(
        backend->ops->gemm_dw(backend, &(struct gemm_dw_args){.dy = c->dy + row * c->dy_stride,
                                                              .dy_stride = c->dy_stride,
                                                              .x = c->x + row * c->x_stride,
                                                              .x_stride = c->x_stride,
                                                              .dw = out,
                                                              .dw_stride = c->n_in,
                                                              .n_rows = row_end - row,
                                                              .n_in = c->n_in,
                                                              .n_out = c->n_out,
                                                              .n_batch = c->n_batch,
                                                              .dy_batch = c->n_out,
                                                              .x_batch = c->n_in,
                                                              .dw_batch = c->n_in * c->n_out,
                                                              .precision = PRECISION_BF16}));
}

static void run_dw(struct backend *backend, const void *context, float *out)
{
    const struct dw_case *c = context;

    memcpy(out, c->dw, dw_floats(c) * sizeof(*out));
    add_rows(backend, c, 0, c->n_rows, out);
}

static float flush(float x)
{
    return fabsf(x) < 0x1p-126F ? copysignf(0.0F, x) : x;
}

static float bf16(float x)
{
    return quant_bf16_value(quant_bf16_bits(flush(x)));
}

static float exact_element(const struct dw_case *c, size_t batch, size_t o, size_t i)
{
    const float *dy = c->dy + batch * c->n_out + o, *x = c->x + batch * c->n_in + i;
    float sum = flush(c->dw[(batch * c->n_out + o) * c->n_in + i]);

    for (size_t row = 0; row < c->n_rows; row += 2) {
        const bool is_alone = row + 1 == c->n_rows;
        const float x_odd = is_alone ? 0.0F : bf16(x[(row + 1) * c->x_stride]);
        const float dy_odd = is_alone ? 0.0F : bf16(dy[(row + 1) * c->dy_stride]);

        sum = flush(fmaf(dy_odd, x_odd, sum));
        sum = flush(fmaf(bf16(dy[row * c->dy_stride]), bf16(x[row * c->x_stride]), sum));
    }
    return sum;
}

static void check_case(const struct dw_case *c)
{
    const size_t n_in = c->n_in, n_out = c->n_out;
    float *got = new_floats(dw_floats(c)), *want = new_floats(dw_floats(c));

    run_everywhere(run_dw, c, dw_floats(c), got);
    for (size_t at = 0; at < dw_floats(c); at++) {
        want[at] = exact_element(c, at / n_in / n_out, at / n_in % n_out, at % n_in);
    }
    assert_same_bits("gemm_dw", got, want, dw_floats(c));
    memory_free(got);
    memory_free(want);
}

static void check_dw(size_t n_rows, size_t n_in, size_t n_out, size_t n_batch)
{
    struct dw_case c = dw_make(n_rows, n_in, n_out, n_batch);

    check_case(&c);
    dw_free(&c);
}

static void gemm_dw_is_one_chain_over_pairs_of_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES * N_EDGES; i++) {
        check_dw(edges[i % N_EDGES], edges[i / N_EDGES], edges[(i + i / N_EDGES) % N_EDGES], 1);
    }
    check_dw(301, 40, 24, 3);
}

/* The smallest normal product on top of a subnormal sum shows whether that counts. */
static void a_subnormal_sum_counts_as_zero(void **state)
{
    struct dw_case c = dw_make(2, 40, 3, 1);

    (void)state;
    c.dy[0] = c.x[0] = 0.0F; /* the odd row of a pair is added first */
    c.dy[c.dy_stride] = c.x[c.x_stride] = 0x1p-63F;
    check_case(&c);
    dw_free(&c);
}

static void gemm_dw_may_be_cut_behind_an_even_row(void **state)
{
    static const size_t cuts[] = {2, 130, 132, 259};
    struct dw_case c = dw_make(259, 33, 50, 1);
    float *whole = new_floats(dw_floats(&c)), *parts = new_floats(dw_floats(&c));
    struct backend *backend;
    size_t row = 0;

    (void)state;
    assert_ok(backend_open("auto", 2, &backend));
    run_dw(backend, &c, whole);
    memcpy(parts, c.dw, dw_floats(&c) * sizeof(*parts));
    for (size_t i = 0; i < 4; i++) {
        add_rows(backend, &c, row, cuts[i], parts);
        row = cuts[i];
    }
    assert_same_bits("cut gemm_dw", parts, whole, dw_floats(&c));
    backend_close(backend);
    memory_free(whole);
    memory_free(parts);
    dw_free(&c);
}

/* A head whose forward pass is in fp32 and whose gradients are in `precision`. */
struct head_case {
    size_t n_rows, d, vocab;
    enum precision precision, rounding;
    float *x, *w, *packed, *g, *h;
    const float *weights; /* of the gradients; NULL: w */
    int32_t *targets;
    struct sampling_params sampling;
};

static void run_head(struct backend *backend, const void *context, float *out)
{
    const struct head_case *c = context;
    float *values = new_floats(3 * c->n_rows);
    struct lm_head_backward_args args = {.forward = {.x = c->x,
                                                     .x_stride = c->d,
                                                     .w = c->packed,
                                                     .targets = c->targets,
                                                     .logp = values,
                                                     .entropy = values + c->n_rows,
                                                     .lse = values + 2 * c->n_rows,
                                                     .n_rows = c->n_rows,
                                                     .d = c->d,
                                                     .vocab = c->vocab,
                                                     .sampling = c->sampling},
                                         .weights = c->weights != NULL ? c->weights : c->w,
                                         .precision = c->precision,
                                         .rounding = c->rounding,
                                         .g = c->g,
                                         .h = c->h,
                                         .dx_stride = c->d,
                                         .dw = out + c->n_rows * c->d};

    args.dx = out;
    assert_ok(backend->ops->pack(
        backend,
        &(struct pack_args){
            .src = c->w, .src_stride = c->d, .n_in = c->d, .n_out = c->vocab, .dst = c->packed}));
    assert_ok(backend->ops->lm_head_logprob(backend, &args.forward));
    assert_ok(backend->ops->lm_head_backward(backend, &args));
    memory_free(values);
}

static struct head_case head_make(size_t n_rows, size_t d, size_t vocab, float top_p)
{
    struct head_case c = {.n_rows = n_rows, .d = d, .vocab = vocab};

    c.sampling = (struct sampling_params){.temperature = 0.9F, .top_p = top_p};
    c.x = random_floats(c.n_rows * c.d, 1, 1.0F);
    c.w = random_floats(c.vocab * c.d, 2, 0.4F);
    c.packed = new_floats(packed_floats(c.d, c.vocab));
    c.g = random_floats(c.n_rows, 3, 1.0F);
    c.h = random_floats(c.n_rows, 4, 0.1F);
    c.g[7] = c.h[7] = 0.0F;
    assert_ok(memory_alloc(c.n_rows, sizeof(*c.targets), &c.targets));
    for (size_t row = 0; row < c.n_rows; row++) {
        c.targets[row] = (int32_t)random_below(5, RANDOM_TEST, row, 0, c.vocab);
    }
    return c;
}

static void head_free(struct head_case *c)
{
    memory_free(c->x);
    memory_free(c->w);
    memory_free(c->packed);
    memory_free(c->g);
    memory_free(c->h);
    memory_free(c->targets);
}

/* dz (n_rows, d): what a head gives whose gradients' weights are the identity, in floats. */
static float *head_dz(struct backend *backend, const struct head_case *c)
{
    struct head_case plain = *c;
    float *unit = new_floats(c->vocab * c->d);
    float *dz = new_floats((c->n_rows + c->vocab) * c->d);

    for (size_t v = 0; v < c->vocab; v++) {
        unit[v * c->d + v] = 1.0F;
    }
    plain.weights = unit;
    plain.precision = plain.rounding = PRECISION_F32;
    run_head(backend, &plain, dz);
    memory_free(unit);
    return dz;
}

/* dx and dw as products of dz, whose row 7 does not exist. */
static void compose_head(struct backend *backend, const struct head_case *c, const float *dz,
                         float *out)
{
    float *rows = new_floats(2 * c->n_rows * c->d), *x = rows + c->n_rows * c->d;
    size_t n = 0;

    assert_ok(
        backend->ops->gemm_dx(backend, &(struct gemm_dx_args){.dy = dz,
                                                              .dy_stride = c->d,
                                                              .parts = {{.w = c->w, .n = c->vocab}},
                                                              .n_parts = 1,
                                                              .w_stride = c->d,
                                                              .precision = c->precision,
                                                              .rounding = c->rounding,
                                                              .dx = out,
                                                              .dx_stride = c->d,
                                                              .n_rows = c->n_rows,
                                                              .n_in = c->d,
                                                              .n_out = c->vocab}));
    for (size_t row = 0; row < c->n_rows; row++) {
        if (row != 7) {
            memcpy(rows + n * c->d, dz + row * c->d, c->d * sizeof(float));
            memcpy(x + n * c->d, c->x + row * c->d, c->d * sizeof(float));
            n++;
        }
    }
    assert_ok(backend->ops->gemm_dw(backend, &(struct gemm_dw_args){.dy = rows,
                                                                    .dy_stride = c->d,
                                                                    .x = x,
                                                                    .x_stride = c->d,
                                                                    .dw = out + c->n_rows * c->d,
                                                                    .dw_stride = c->d,
                                                                    .n_rows = n,
                                                                    .n_in = c->d,
                                                                    .n_out = c->vocab,
                                                                    .precision = c->precision}));
    memory_free(rows);
}

static void a_heads_gradients_are_products_of_dz(void **state)
{
    static const enum precision forms[][2] = {{PRECISION_F32, PRECISION_F32},
                                              {PRECISION_BF16, PRECISION_BF16},
                                              {PRECISION_BF16, PRECISION_FP8}};
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        struct head_case c = head_make(301, 160, 150, i < 3 ? 1.0F : 0.9F);
        const size_t n = (c.n_rows + c.vocab) * c.d;
        float *got = new_floats(n), *want = new_floats(n);
        struct backend *backend;

        c.precision = forms[i % 3][0];
        c.rounding = forms[i % 3][1];
        assert_ok(backend_open("auto", 2, &backend));
        float *dz = head_dz(backend, &c);
        compose_head(backend, &c, dz, want);
        run_everywhere(run_head, &c, n, got);
        assert_same_bits("gradients of a head", got, want, n);
        backend_close(backend);
        memory_free(dz);
        memory_free(got);
        memory_free(want);
        head_free(&c);
    }
}

static void a_head_in_bf16_is_close_to_floats(void **state)
{
    (void)state;
    /* more than one block of the vocabulary, then chunks of rows of a truncated distribution */
    for (size_t i = 0; i < 2; i++) {
        struct head_case c = head_make(i == 0 ? 2051 : 129, 24, 700, i == 0 ? 1.0F : 0.9F);
        const size_t pieces[] = {c.n_rows * c.d, c.vocab * c.d};

        compare_precisions(run_head, &c, &c.precision, pieces, 2);
        head_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_dw_is_one_chain_over_pairs_of_rows),
        cmocka_unit_test(a_subnormal_sum_counts_as_zero),
        cmocka_unit_test(gemm_dw_may_be_cut_behind_an_even_row),
        cmocka_unit_test(a_heads_gradients_are_products_of_dz),
        cmocka_unit_test(a_head_in_bf16_is_close_to_floats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
