/* gemm: the exact order of backend.h by a scalar fmaf loop, values by a double oracle, and
 * independence of rows, threads and instruction sets; pack of floats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/gemm_fixture.h"

#include <math.h>

static float exact_dot(const float *x, const float *w, size_t n)
{
    float total = 0.0F;
    for (size_t k = 0; k < n; k += GEMM_K_BLOCK) {
        const size_t end = k + GEMM_K_BLOCK < n ? k + GEMM_K_BLOCK : n;
        float sum = 0.0F;
        for (size_t i = k; i < end; i++) {
            sum = fmaf(x[i], w[i], sum);
        }
        total = k == 0 ? sum : total + sum;
    }
    return total;
}

static void exact_gemm(const struct problem *p, float *out)
{
    memcpy(out, p->y, y_floats(p) * sizeof(*out));
    for (size_t row = 0; row < p->n_batch * p->n_rows; row++) {
        const float *w = p->w + row / p->n_rows * p->n_out * p->n_in;
        float *y = out + row * p->y_stride;
        for (size_t o = 0; o < p->n_out; o++) {
            float sum = exact_dot(p->x + row * p->x_stride, w + o * p->n_in, p->n_in);
            sum = p->has_bias ? sum + p->bias[o] : sum;
            y[o] = p->accumulate ? y[o] + sum : sum;
        }
    }
}

static void check_gemm(const struct problem *p)
{
    check_products(p, exact_gemm);
}

static void gemm_follows_its_order_at_edge_shapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES * N_EDGES * N_EDGES; i++) {
        const size_t n_rows = edges[i % N_EDGES];
        const size_t n_in = edges[i / N_EDGES % N_EDGES];
        struct problem p = problem_make(n_rows, n_in, edges[i / N_EDGES / N_EDGES], 1);
        p.has_bias = i % 2 == 1;
        p.accumulate = i % 3 == 1;
        check_gemm(&p);
        problem_free(&p);
    }
}

static void gemm_adds_k_blocks_ascending(void **state)
{
    static const size_t sizes[] = {255, 256, 257, 511, 512, 513, 1025};
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct problem p = problem_make(1 + 4 * i, sizes[i], 80, 1);
        p.has_bias = i % 2 == 0;
        p.accumulate = i % 3 == 0;
        check_gemm(&p);
        problem_free(&p);
    }
}

/* From one tile of rows to many: what tiles ask for ahead is cut differently for each count. */
static void gemm_keeps_its_order_at_every_number_of_tiles(void **state)
{
    (void)state;
    for (size_t n_rows = 2; n_rows < 50; n_rows += n_rows < 14 ? 1 : 5) {
        struct problem p = problem_make(n_rows, 66, 176, 1);
        p.accumulate = n_rows % 2 == 1;
        check_gemm(&p);
        problem_free(&p);
    }
}

static void gemm_runs_a_batch_of_heads(void **state)
{
    static const size_t batches[] = {2, 3, 4};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct problem p = problem_make(33, 40, 64, batches[i]);
        check_gemm(&p);
        problem_free(&p);
    }
}

static void gemm_is_close_to_double(void **state)
{
    (void)state;
    struct problem p = problem_make(17, 513, 100, 1);
    float *got = new_floats(y_floats(&p));
    double *want = new_doubles(y_floats(&p));
    run_everywhere(run_gemm, &p, y_floats(&p), got);
    for (size_t row = 0; row < p.n_rows; row++) {
        for (size_t o = 0; o < p.y_stride; o++) {
            double sum = o < p.n_out ? 0.0 : (double)p.y[row * p.y_stride + o];
            for (size_t k = 0; o < p.n_out && k < p.n_in; k++) {
                sum += (double)p.x[row * p.x_stride + k] * (double)p.w[o * p.n_in + k];
            }
            want[row * p.y_stride + o] = sum;
        }
    }
    compare_to_double("gemm", got, want, y_floats(&p), 2e-5);
    memory_free(got);
    memory_free(want);
    problem_free(&p);
}

/* Rows 0..M-1 together against each alone, M = 1..65. */
static void a_row_does_not_depend_on_the_rows_around_it(void **state)
{
    (void)state;
    struct problem p = problem_make(65, 130, 200, 1);
    struct backend *backend = NULL;
    float *alone = new_floats(65 * p.y_stride);
    float *together = new_floats(65 * p.y_stride);
    assert_ok(backend_open("auto", 2, &backend));
    for (size_t row = 0; row < 65; row++) {
        struct problem one = p;
        one.n_rows = 1;
        one.x += row * p.x_stride;
        one.y += row * p.y_stride;
        run_gemm(backend, &one, alone + row * p.y_stride);
    }
    for (size_t n_rows = 1; n_rows <= 65; n_rows++) {
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

static void pack_puts_a_matrix_into_panels(void **state)
{
    enum { N_IN = 19, N_OUT = 45, FLOATS = 2 * 32 * N_IN };
    (void)state;
    float *src = random_floats((size_t)N_IN * N_OUT, 5, 1.0F);
    float *turned = new_floats((size_t)N_IN * N_OUT);
    float *packed = new_floats(2 * (size_t)FLOATS);
    float *packed_turned = new_floats(2 * (size_t)FLOATS);
    struct backend *backend = NULL;
    for (size_t i = 0; i < (size_t)N_IN * N_OUT; i++) {
        turned[i % N_IN * N_OUT + i / N_IN] = src[i];
    }
    assert_ok(backend_open("auto", 1, &backend));
    assert_int_equal(packed_floats(N_IN, N_OUT), FLOATS);
    struct pack_args args = {.src = src,
                             .src_stride = N_IN,
                             .n_in = N_IN,
                             .n_out = N_OUT,
                             .dst = packed,
                             .panel_stride = 2 * PANEL_COLUMNS * N_IN};
    assert_ok(backend->ops->pack(backend, &args));
    args.src = turned;
    args.src_stride = N_OUT;
    args.transposed = true;
    args.dst = packed_turned;
    assert_ok(backend->ops->pack(backend, &args));
    assert_same_bits("transposed", packed_turned, packed, 2 * (size_t)FLOATS);
    for (size_t c = 0; c < 64; c++) {
        for (size_t k = 0; k < N_IN; k++) {
            const float got = packed[c / 32 * args.panel_stride + k * 32 + c % 32];
            const float want = c < N_OUT ? src[c * N_IN + k] : 0.0F;
            assert_memory_equal(&got, &want, sizeof(got));
        }
    }
    backend_close(backend);
    memory_free(src);
    memory_free(turned);
    memory_free(packed);
    memory_free(packed_turned);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_follows_its_order_at_edge_shapes),
        cmocka_unit_test(gemm_adds_k_blocks_ascending),
        cmocka_unit_test(gemm_keeps_its_order_at_every_number_of_tiles),
        cmocka_unit_test(gemm_runs_a_batch_of_heads),
        cmocka_unit_test(gemm_is_close_to_double),
        cmocka_unit_test(a_row_does_not_depend_on_the_rows_around_it),
        cmocka_unit_test(pack_puts_a_matrix_into_panels),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
