/* gemm and pack in BF16 and FP8: the exact order of backend.h by scalar loops, values by a double
 * oracle, quantisation by model/quant.h, and independence of rows, threads and instruction sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/quant.h"
#include "tests/ops/op_fixture.h"

#include <math.h>

static const size_t edges[] = {1, 7, 8, 17, 127, 129};
#define N_EDGES (sizeof(edges) / sizeof(edges[0]))

struct problem {
    enum precision precision;
    size_t n_rows, n_in, n_out, n_batch;
    size_t x_stride, y_stride;
    bool has_bias, accumulate;
    float *x, *w, *y, *bias;
};

static struct problem problem_make(enum precision precision, size_t n_rows, size_t n_in,
                                   size_t n_out)
{
    struct problem p = {
        .precision = precision, .n_rows = n_rows, .n_in = n_in, .n_out = n_out, .n_batch = 1};
    p.x_stride = n_in + 3;
    p.y_stride = n_out + 5;
    p.x = random_floats(n_rows * p.x_stride, 1, 1.0F);
    p.w = random_floats(n_out * n_in, 2, 1.0F);
    p.y = random_floats(n_rows * p.y_stride, 3, 1.0F);
    p.bias = random_floats(n_out, 4, 1.0F);
    return p;
}

static void problem_free(struct problem *p)
{
    memory_free(p->x);
    memory_free(p->w);
    memory_free(p->y);
    memory_free(p->bias);
}

static size_t y_floats(const struct problem *p)
{
    return p->n_rows * p->y_stride;
}

/* n_batch: rows are split among as many equal products. */
static void run_gemm(struct backend *backend, const void *context, float *out)
{
    const struct problem *p = context;
    const size_t words = packed_words(p->precision, p->n_in, p->n_out);
    float *packed = new_floats(p->n_batch * words);
    for (size_t b = 0; b < p->n_batch; b++) {
        assert_ok(backend->ops->pack(backend, &(struct pack_args){.src = p->w,
                                                                  .src_stride = p->n_in,
                                                                  .n_in = p->n_in,
                                                                  .n_out = p->n_out,
                                                                  .dst = packed + b * words,
                                                                  .precision = p->precision}));
    }
    memcpy(out, p->y, y_floats(p) * sizeof(*out));
    const size_t n_rows = p->n_rows / p->n_batch;
    assert_ok(backend->ops->gemm(backend, &(struct gemm_args){.x = p->x,
                                                              .x_stride = p->x_stride,
                                                              .w = packed,
                                                              .precision = p->precision,
                                                              .bias = p->has_bias ? p->bias : NULL,
                                                              .next = p->accumulate ? NULL : packed,
                                                              .y = out,
                                                              .y_stride = p->y_stride,
                                                              .n_rows = n_rows,
                                                              .n_in = p->n_in,
                                                              .n_out = p->n_out,
                                                              .n_batch = p->n_batch,
                                                              .x_batch = n_rows * p->x_stride,
                                                              .w_batch = words,
                                                              .y_batch = n_rows * p->y_stride,
                                                              .accumulate = p->accumulate}));
    memory_free(packed);
}

static float flush(float x)
{
    return fabsf(x) < 0x1p-126F ? copysignf(0.0F, x) : x;
}

static float bf16(float x)
{
    return quant_bf16_value(quant_bf16_bits(flush(x)));
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

/* Values and scales of n rows as products see them; scales (n_rows, quant_blocks(n_in)). */
struct operand {
    float *values, *scales;
};

static struct operand operand_make(enum precision precision, const float *src, size_t stride,
                                   size_t n_rows, size_t n_in, size_t block_rows)
{
    struct operand out = {new_floats(n_rows * n_in), new_floats(n_rows * quant_blocks(n_in))};
    uint8_t *codes = NULL;
    assert_ok(memory_alloc(n_rows * n_in, 1, &codes));
    for (size_t i = 0; i < n_rows; i++) {
        memcpy(out.values + i * n_in, src + i * stride, n_in * sizeof(float));
    }
    if (precision == PRECISION_FP8) {
        quant_matrix(out.values, n_rows, n_in, block_rows, codes, out.scales);
    }
    for (size_t i = 0; i < n_rows * n_in; i++) {
        out.values[i] =
            precision == PRECISION_FP8 ? quant_e4m3_value(codes[i]) : bf16(out.values[i]);
    }
    memory_free(codes);
    return out;
}

static void operand_free(struct operand *operand)
{
    memory_free(operand->values);
    memory_free(operand->scales);
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

static void exact_gemm(const struct problem *p, float *out)
{
    const bool is_flushed = p->precision == PRECISION_BF16;
    struct operand x = operand_make(p->precision, p->x, p->x_stride, p->n_rows, p->n_in, 1);
    struct operand w = operand_make(p->precision, p->w, p->n_in, p->n_out, p->n_in, QUANT_BLOCK);
    memcpy(out, p->y, y_floats(p) * sizeof(*out));
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

static void check_gemm(const struct problem *p)
{
    float *got = new_floats(y_floats(p));
    float *want = new_floats(y_floats(p));
    char what[96];
    (void)snprintf(what, sizeof(what), "precision %d, %zu x %zu x %zu", (int)p->precision,
                   p->n_rows, p->n_in, p->n_out);
    exact_gemm(p, want);
    run_everywhere(run_gemm, p, y_floats(p), got);
    assert_same_bits(what, got, want, y_floats(p));
    memory_free(got);
    memory_free(want);
}

static void edge_shapes(enum precision precision)
{
    for (size_t i = 0; i < N_EDGES * N_EDGES * N_EDGES; i++) {
        struct problem p = problem_make(precision, edges[i % N_EDGES], edges[i / N_EDGES % N_EDGES],
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
        struct problem p =
            problem_make(i % 2 == 0 ? PRECISION_BF16 : PRECISION_FP8, 1 + 4 * i, sizes[i / 2], 272);
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
                problem_make(i == 0 ? PRECISION_BF16 : PRECISION_FP8, n_rows, 130, 176);
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
        struct problem p = problem_make(i == 0 ? PRECISION_BF16 : PRECISION_FP8, 66, 40, 64);
        p.n_batch = 3;
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
        struct problem p = problem_make(i % 2 == 0 ? PRECISION_BF16 : PRECISION_FP8, 13, 260, 160);
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
    struct problem p = problem_make(precision, 9, 700, 50);
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
    struct problem p = problem_make(precision, N_ROWS, 258, 200);
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

/* Everything that pack gives for one weight: rounded floats, transposed ones, a part of the rows,
 * and pairs. */
struct packing {
    float *w;
    size_t n_out, n_in, row_at, n_part;
    enum precision rounding;
};

static void run_packs(struct backend *backend, const void *context, float *out)
{
    const struct packing *p = context;
    struct pack_args args = {.src = p->w,
                             .src_stride = p->n_in,
                             .n_in = p->n_in,
                             .n_out = p->n_out,
                             .rounding = p->rounding};
    args.dst = out;
    assert_ok(backend->ops->pack(backend, &args));
    args.dst += packed_floats(p->n_in, p->n_out);
    args.src += p->row_at * p->n_in;
    args.row_at = p->row_at;
    args.whole_rows = p->n_out;
    args.n_out = p->n_part;
    assert_ok(backend->ops->pack(backend, &args));
    args.dst += packed_floats(p->n_in, p->n_part);
    args.transposed = true;
    args.n_in = p->n_part;
    args.n_out = p->n_in;
    assert_ok(backend->ops->pack(backend, &args));
    args.dst += packed_floats(p->n_part, p->n_in);
    args.precision = PRECISION_BF16;
    assert_ok(backend->ops->pack(backend, &args));
}

static float unpacked(const float *panels, size_t n_in, size_t o, size_t k)
{
    return panels[o / PANEL_COLUMNS * PANEL_COLUMNS * n_in + k * PANEL_COLUMNS + o % PANEL_COLUMNS];
}

static float unpacked_pair(const float *panels, size_t n_in, size_t o, size_t k)
{
    uint32_t word;
    memcpy(&word,
           panels + o / PANEL_COLUMNS * PANEL_COLUMNS * ((n_in + 1) / 2) + k / 2 * PANEL_COLUMNS +
               o % PANEL_COLUMNS,
           sizeof(word));
    return quant_bf16_value((uint16_t)(word >> 16 * (k % 2)));
}

static void check_packing(const struct packing *p)
{
    const size_t n = packed_floats(p->n_in, p->n_out) + packed_floats(p->n_in, p->n_part) +
                     packed_floats(p->n_part, p->n_in) +
                     packed_words(PRECISION_BF16, p->n_part, p->n_in);
    struct operand w = operand_make(p->rounding, p->w, p->n_in, p->n_out, p->n_in, QUANT_BLOCK);
    float *got = new_floats(n);
    run_everywhere(run_packs, p, n, got);
    const float *part = got + packed_floats(p->n_in, p->n_out);
    const float *turned = part + packed_floats(p->n_in, p->n_part);
    const float *pairs = turned + packed_floats(p->n_part, p->n_in);
    for (size_t i = 0; i < p->n_out * p->n_in; i++) {
        const size_t o = i / p->n_in, k = i % p->n_in, at = o - p->row_at;
        const float scale =
            p->rounding == PRECISION_FP8
                ? w.scales[o / QUANT_BLOCK * quant_blocks(p->n_in) + k / QUANT_BLOCK]
                : 1.0F;
        const float want = w.values[i] * scale;
        assert_true(unpacked(got, p->n_in, o, k) == want);
        if (o >= p->row_at && at < p->n_part) {
            assert_true(unpacked(part, p->n_in, at, k) == want);
            assert_true(unpacked(turned, p->n_part, k, at) == want);
            assert_true(unpacked_pair(pairs, p->n_part, k, at) == want);
        }
    }
    operand_free(&w);
    memory_free(got);
}

static void packed_floats_are_what_products_multiply(void **state)
{
    struct packing p = {.n_out = 300, .n_in = 150, .row_at = 100, .n_part = 77};
    (void)state;
    p.w = random_floats(p.n_out * p.n_in, 9, 0.02F);
    p.rounding = PRECISION_BF16;
    check_packing(&p);
    p.rounding = PRECISION_FP8;
    check_packing(&p);
    memory_free(p.w);
}

static void a_steady_state_allocates_nothing(void **state)
{
    (void)state;
    struct problem p = problem_make(PRECISION_FP8, 33, 300, 130);
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
        cmocka_unit_test(products_are_close_to_double),
        cmocka_unit_test(a_row_does_not_depend_on_the_rows_around_it),
        cmocka_unit_test(packed_floats_are_what_products_multiply),
        cmocka_unit_test(a_steady_state_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
