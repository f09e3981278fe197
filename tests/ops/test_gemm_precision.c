/* gemm in BF16 and FP8: the exact order of op_packing.h by scalar loops, values by a double
 * oracle, quantisation by model/quant.h, and independence of rows, threads and instruction sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/quant.h"
#include "tests/ops/gemm_fixture.h"
#include "tests/ops/rounded_operand.h"

#include <math.h>

static struct problem rounded_problem(enum precision precision, size_t n_rows, size_t n_in,
                                      size_t n_out)
{
    struct problem p = problem_make(n_rows, n_in, n_out, 1);
    p.precision = precision;
    return p;
}

/* One output's chain over pairs of k. */
static float exact_chain(const float *x, const float *w, size_t n)
{
    float sum = 0.0F;
    for (size_t k = 0; k < n; k += 2) {
        const float x_odd = k + 1 < n ? x[k + 1] : 0.0F;
        const float w_odd = k + 1 < n ? w[k + 1] : 0.0F;
        sum = flush(fmaf(x[k], w[k], flush(fmaf(x_odd, w_odd, sum))));
    }
    return sum;
}

static float exact_dot(const struct problem *p, const struct operand *x, const struct operand *w,
                       size_t row, size_t o)
{
    const float *a = x->values + row * p->n_in, *b = w->values + o * p->n_in;
    const size_t n_blocks = quant_blocks(p->n_in);
    float total = 0.0F;
    if (p->precision == PRECISION_BF16) {
        return exact_chain(a, b, p->n_in);
    }
    for (size_t i = 0; i < n_blocks; i++) {
        const size_t k = i * QUANT_BLOCK;
        const size_t n = p->n_in - k < QUANT_BLOCK ? p->n_in - k : QUANT_BLOCK;
        const float scale =
            x->scales[row * n_blocks + i] * w->scales[o / QUANT_BLOCK * n_blocks + i];
        total = fmaf(exact_chain(a + k, b + k, n), scale, total);
    }
    return total;
}

/* Rows of one batch entry. */
static void exact_entry(const struct problem *p, size_t entry, float *out)
{
    const bool is_flushed = p->precision == PRECISION_BF16;
    struct operand x = operand_make(p->precision, p->x + entry * p->n_rows * p->x_stride,
                                    p->x_stride, p->n_rows, p->n_in, 1);
    struct operand w = operand_make(p->precision, p->w + entry * p->n_out * p->n_in, p->n_in,
                                    p->n_out, p->n_in, QUANT_BLOCK);
    for (size_t i = 0; i < p->n_rows * p->n_out; i++) {
        const size_t row = i / p->n_out, o = i % p->n_out;
        float *y = out + row * p->y_stride + o;
        float sum = exact_dot(p, &x, &w, row, o);
        sum = p->has_bias ? sum + p->bias[o] : sum;
        sum = is_flushed ? flush(sum) : sum;
        sum = p->accumulate ? *y + sum : sum;
        *y = is_flushed ? flush(sum) : sum;
    }
    operand_free(&x);
    operand_free(&w);
}

static void exact_gemm(const struct problem *p, float *out)
{
    memcpy(out, p->y, y_floats(p) * sizeof(*out));
    for (size_t entry = 0; entry < p->n_batch; entry++) {
        exact_entry(p, entry, out + entry * p->n_rows * p->y_stride);
    }
}

static void check_gemm(const struct problem *p)
{
    check_products(p, exact_gemm);
}

static void edge_shapes(enum precision precision)
{
    for (size_t i = 0; i < N_EDGES * N_EDGES * N_EDGES; i++) {
        struct problem p =
            rounded_problem(precision, edges[i % N_EDGES], edges[i / N_EDGES % N_EDGES],
                            edges[i / N_EDGES / N_EDGES]);
        p.has_bias = i % 2 == 1;
        p.accumulate = i % 3 == 1;
        check_gemm(&p);
        problem_free(&p);
    }
}

static void bf16_follows_its_order_at_edge_shapes(void **state)
{
    (void)state;
    edge_shapes(PRECISION_BF16);
}

static void fp8_follows_its_order_at_edge_shapes(void **state)
{
    (void)state;
    edge_shapes(PRECISION_FP8);
}

static void long_rows_keep_their_order(void **state)
{
    static const size_t sizes[] = {255, 256, 257, 384, 1025};
    (void)state;
    for (size_t i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct problem p = rounded_problem(i % 2 == 0 ? PRECISION_BF16 : PRECISION_FP8, 1 + 4 * i,
                                           sizes[i / 2], 272);
        p.has_bias = i % 4 < 2;
        check_gemm(&p);
        problem_free(&p);
    }
}

static void every_number_of_tiles_keeps_the_order(void **state)
{
    (void)state;
    for (size_t n_rows = 2; n_rows < 50; n_rows += n_rows < 14 ? 1 : 5) {
        for (size_t i = 0; i < 2; i++) {
            struct problem p =
                rounded_problem(i == 0 ? PRECISION_BF16 : PRECISION_FP8, n_rows, 130, 176);
            p.accumulate = n_rows % 2 == 1;
            check_gemm(&p);
            problem_free(&p);
        }
    }
}

static void a_batch_of_heads(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct problem p = problem_make(22, 40, 64, 3);
        p.precision = i == 0 ? PRECISION_BF16 : PRECISION_FP8;
        check_gemm(&p);
        problem_free(&p);
    }
}

/* Values whose products, sums and roundings end among the subnormals, and blocks of zeroes and of
 * tiny and large values. */
static void extreme_values_keep_their_order(void **state)
{
    static const float scales[] = {0x1p-100F, 0x1p-64F, 0x1p-63F, 0x1p-127F, 0.0F, 0x1p20F};
    (void)state;
    for (size_t i = 0; i < 12; i++) {
        struct problem p =
            rounded_problem(i % 2 == 0 ? PRECISION_BF16 : PRECISION_FP8, 13, 260, 160);
        for (size_t j = 0; j < p.n_rows * p.x_stride; j++) {
            p.x[j] *= scales[(j / 128 + i) % 6];
        }
        for (size_t j = 0; j < p.n_out * p.n_in; j++) {
            p.w[j] *= j / p.n_in % 3 == 0 ? scales[i / 2] : 0x1p-63F;
        }
        for (size_t j = 0; j < y_floats(&p); j++) {
            p.y[j] *= 0x1p-126F;
        }
        p.accumulate = i % 3 == 0;
        check_gemm(&p);
        problem_free(&p);
    }
}

/* The value of a finite code. */
static float code_value(size_t code)
{
    const size_t exponent = code / 8 % 16, mantissa = code % 8;
    const float size = exponent == 0 ? ldexpf((float)mantissa, -9)
                                     : ldexpf((float)(8 + mantissa), (int)exponent - 10);
    return code < 128 ? size : -size;
}

/* The largest code stands in the block, so that its scale is 1 and weights are what codes say. */
static void every_code_is_its_value(void **state)
{
    (void)state;
    struct problem p = rounded_problem(PRECISION_FP8, 7, 128, 128);
    for (size_t i = 0; i < p.n_out * p.n_in; i++) {
        p.w[i] = code_value((i + i / 256) % 128 == 127 ? 126 : (i + i / 256) % 256);
    }
    check_gemm(&p);
    problem_free(&p);
}

static void a_weight_that_is_no_number_spoils_its_output_alone(void **state)
{
    (void)state;
    struct problem p = rounded_problem(PRECISION_FP8, 3, 128, 64);
    struct backend *backend = NULL;
    float *got = new_floats(y_floats(&p));
    p.w[37 * p.n_in + 5] = NAN;
    assert_ok(backend_open("auto", 1, &backend));
    run_gemm(backend, &p, got);
    for (size_t i = 0; i < p.n_rows * p.n_out; i++) {
        const float y = got[i / p.n_out * p.y_stride + i % p.n_out];
        assert_int_equal(isnan(y) != 0, i % p.n_out == 37);
    }
    backend_close(backend);
    memory_free(got);
    problem_free(&p);
}

static double double_dot(const struct problem *p, const struct operand *x, const struct operand *w,
                         size_t row, size_t o)
{
    const size_t n = quant_blocks(p->n_in);
    double sum = 0.0;
    for (size_t k = 0; k < p->n_in; k++) {
        const double product =
            (double)x->values[row * p->n_in + k] * (double)w->values[o * p->n_in + k];
        const float x_scale = x->scales[row * n + k / QUANT_BLOCK];
        const float w_scale = w->scales[o / QUANT_BLOCK * n + k / QUANT_BLOCK];
        sum +=
            p->precision == PRECISION_FP8 ? product * (double)x_scale * (double)w_scale : product;
    }
    return sum;
}

static void check_double(enum precision precision)
{
    struct problem p = rounded_problem(precision, 9, 700, 50);
    struct operand x = operand_make(p.precision, p.x, p.x_stride, p.n_rows, p.n_in, 1);
    struct operand w = operand_make(p.precision, p.w, p.n_in, p.n_out, p.n_in, QUANT_BLOCK);
    float *got = new_floats(y_floats(&p));
    double *want = new_doubles(y_floats(&p));
    run_everywhere(run_gemm, &p, y_floats(&p), got);
    for (size_t i = 0; i < y_floats(&p); i++) {
        const size_t row = i / p.y_stride, o = i % p.y_stride;
        want[i] = o < p.n_out ? double_dot(&p, &x, &w, row, o) : (double)p.y[i];
    }
    compare_to_double("gemm", got, want, y_floats(&p), 3e-5);
    memory_free(got);
    memory_free(want);
    operand_free(&x);
    operand_free(&w);
    problem_free(&p);
}

static void products_are_close_to_double(void **state)
{
    (void)state;
    check_double(PRECISION_BF16);
    check_double(PRECISION_FP8);
}

/* Rows 0..M-1 together against each alone, M = 1..65 and M = 512. */
static void rows_alone_and_together(enum precision precision)
{
    enum { N_ROWS = 200 };
    struct problem p = rounded_problem(precision, N_ROWS, 258, 200);
    struct backend *backend = NULL;
    float *alone = new_floats(N_ROWS * p.y_stride);
    float *together = new_floats(N_ROWS * p.y_stride);
    assert_ok(backend_open("auto", 2, &backend));
    for (size_t row = 0; row < N_ROWS; row++) {
        struct problem one = p;
        one.n_rows = 1;
        one.x += row * p.x_stride;
        one.y += row * p.y_stride;
        run_gemm(backend, &one, alone + row * p.y_stride);
    }
    for (size_t n_rows = 1; n_rows <= N_ROWS; n_rows += n_rows < 65 ? 1 : 135) {
        struct problem some = p;
        some.n_rows = n_rows;
        run_gemm(backend, &some, together);
        assert_same_bits("rows together", together, alone, n_rows * p.y_stride);
    }
    backend_close(backend);
    memory_free(alone);
    memory_free(together);
    problem_free(&p);
}

static void a_row_does_not_depend_on_the_rows_around_it(void **state)
{
    (void)state;
    rows_alone_and_together(PRECISION_BF16);
    rows_alone_and_together(PRECISION_FP8);
}

static void a_steady_state_allocates_nothing(void **state)
{
    (void)state;
    struct problem p = rounded_problem(PRECISION_FP8, 33, 300, 130);
    struct backend *backend = NULL;
    float *packed = new_floats(packed_words(PRECISION_FP8, 300, 130));
    const struct pack_args pack = {.src = p.w,
                                   .src_stride = p.n_in,
                                   .n_in = p.n_in,
                                   .n_out = p.n_out,
                                   .dst = packed,
                                   .precision = PRECISION_FP8};
    const struct gemm_args gemm = {.x = p.x,
                                   .x_stride = p.x_stride,
                                   .w = packed,
                                   .precision = PRECISION_FP8,
                                   .y = p.y,
                                   .y_stride = p.y_stride,
                                   .n_rows = p.n_rows,
                                   .n_in = p.n_in,
                                   .n_out = p.n_out};
    assert_ok(backend_open("auto", 2, &backend));
    size_t n_blocks = 0;
    for (size_t i = 0; i < 6; i++) {
        n_blocks = i == 3 ? memory_total_blocks() : n_blocks;
        assert_ok(backend->ops->pack(backend, &pack));
        assert_ok(backend->ops->gemm(backend, &gemm));
    }
    assert_int_equal(memory_total_blocks(), n_blocks);
    backend_close(backend);
    memory_free(packed);
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_follows_its_order_at_edge_shapes),
        cmocka_unit_test(fp8_follows_its_order_at_edge_shapes),
        cmocka_unit_test(long_rows_keep_their_order),
        cmocka_unit_test(every_number_of_tiles_keeps_the_order),
        cmocka_unit_test(a_batch_of_heads),
        cmocka_unit_test(extreme_values_keep_their_order),
        cmocka_unit_test(every_code_is_its_value),
        cmocka_unit_test(a_weight_that_is_no_number_spoils_its_output_alone),
        cmocka_unit_test(products_are_close_to_double),
        cmocka_unit_test(a_row_does_not_depend_on_the_rows_around_it),
        cmocka_unit_test(a_steady_state_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
