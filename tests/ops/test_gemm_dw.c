/* gemm_dw and column_sums: one chain over rows by a scalar fmaf loop, whatever the cut into
 * micro-batches, heads, threads and instruction sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/gemm_fixture.h"

#include <math.h>

/* dy is the problem's y, dw starts from w. */
static struct gemm_dw_args dw_args(const struct problem *p, float *dw)
{
    return (struct gemm_dw_args){
        .dy = p->y,
        .dy_stride = p->y_stride,
        .x = p->x,
        .x_stride = p->x_stride,
        .dw = dw,
        .dw_stride = p->n_in,
        .n_rows = p->n_rows,
        .n_in = p->n_in,
        .n_out = p->n_out,
        .n_batch = p->n_batch,
        .dy_batch = p->n_rows * p->y_stride,
        .x_batch = p->n_rows * p->x_stride,
        .dw_batch = p->n_out * p->n_in,
    };
}

static void run_dw(struct backend *backend, const void *context, float *out)
{
    const struct problem *p = context;
    const struct gemm_dw_args args = dw_args(p, out);
    memcpy(out, p->w, w_floats(p) * sizeof(*out));
    assert_ok(backend->ops->gemm_dw(backend, &args));
}

static void exact_dw(const struct problem *p, float *out)
{
    memcpy(out, p->w, w_floats(p) * sizeof(*out));
    for (size_t i = 0; i < w_floats(p); i++) {
        const size_t b = i / (p->n_out * p->n_in);
        const float *dy = p->y + b * p->n_rows * p->y_stride + i / p->n_in % p->n_out;
        const float *x = p->x + b * p->n_rows * p->x_stride + i % p->n_in;
        for (size_t row = 0; row < p->n_rows; row++) {
            out[i] = fmaf(dy[row * p->y_stride], x[row * p->x_stride], out[i]);
        }
    }
}

static void check_dw(const struct problem *p)
{
    float *got = new_floats(w_floats(p));
    float *want = new_floats(w_floats(p));
    char what[96];
    (void)snprintf(what, sizeof(what), "gemm_dw %zu x %zu x %zu, %zu batches", p->n_rows, p->n_in,
                   p->n_out, p->n_batch);
    exact_dw(p, want);
    run_everywhere(run_dw, p, w_floats(p), got);
    assert_same_bits(what, got, want, w_floats(p));
    memory_free(got);
    memory_free(want);
}

static void gemm_dw_is_one_chain_over_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES * N_EDGES * N_EDGES; i++) {
        const size_t n_rows = edges[i % N_EDGES];
        const size_t n_in = edges[i / N_EDGES % N_EDGES];
        struct problem p = problem_make(n_rows, n_in, edges[i / N_EDGES / N_EDGES], 1);
        check_dw(&p);
        problem_free(&p);
    }
    struct problem heads = problem_make(70, 40, 48, 3);
    check_dw(&heads);
    heads.n_batch = 2;
    check_dw(&heads);
    problem_free(&heads);
}

static void gemm_dw_may_be_cut_anywhere(void **state)
{
    static const size_t cuts[][3] = {{1, 2, 300}, {127, 129, 300}, {128, 256, 300}, {0, 299, 300}};
    (void)state;
    struct problem p = problem_make(300, 72, 50, 1);
    struct backend *backend = NULL;
    float *whole = new_floats(w_floats(&p));
    float *parts = new_floats(w_floats(&p));
    assert_ok(backend_open("auto", 2, &backend));
    run_dw(backend, &p, whole);
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        size_t row = 0;
        memcpy(parts, p.w, w_floats(&p) * sizeof(*parts));
        for (size_t j = 0; j < 3; j++) {
            struct gemm_dw_args args = dw_args(&p, parts);
            args.dy += row * p.y_stride;
            args.x += row * p.x_stride;
            args.n_rows = cuts[i][j] - row;
            assert_ok(backend->ops->gemm_dw(backend, &args));
            row = cuts[i][j];
        }
        assert_same_bits("cut gemm_dw", parts, whole, w_floats(&p));
    }
    backend_close(backend);
    memory_free(whole);
    memory_free(parts);
    problem_free(&p);
}

static void run_column_sums(struct backend *backend, const void *context, float *out)
{
    const struct problem *p = context;
    memcpy(out, p->bias, p->n_out * sizeof(*out));
    assert_ok(backend->ops->column_sums(backend, &(struct column_sums_args){
                                                     .dy = p->y,
                                                     .dy_stride = p->y_stride,
                                                     .db = out,
                                                     .n_rows = p->n_rows,
                                                     .n = p->n_out,
                                                 }));
}

static void column_sums_are_chains_over_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES; i++) {
        struct problem p = problem_make(700, 1, edges[i], 1);
        float *got = new_floats(p.n_out);
        run_everywhere(run_column_sums, &p, p.n_out, got);
        for (size_t row = 0; row < p.n_rows; row++) {
            for (size_t c = 0; c < p.n_out; c++) {
                p.bias[c] += p.y[row * p.y_stride + c];
            }
        }
        assert_same_bits("column_sums", got, p.bias, p.n_out);
        memory_free(got);
        problem_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_dw_is_one_chain_over_rows),
        cmocka_unit_test(gemm_dw_may_be_cut_anywhere),
        cmocka_unit_test(column_sums_are_chains_over_rows),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
