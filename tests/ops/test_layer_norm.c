/* LayerNorm against a double oracle, numeric gradients, and exactness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>
#include <string.h>

#define EPS 1e-6F

static const size_t widths[] = {2, 7, 8, 17, 64, 127, 129};

struct norm_case {
    size_t n_rows, d;
    float *x, *w, *b, *dy;
};

/* y then mean, rstd. */
static void run_forward(struct backend *b, const void *context, float *out)
{
    const struct norm_case *c = context;
    float *mean = out + c->n_rows * c->d;
    assert_ok(b->ops->layer_norm(b, &(struct layer_norm_args){.x = c->x,
                                                              .x_stride = c->d,
                                                              .w = c->w,
                                                              .b = c->b,
                                                              .y = out,
                                                              .y_stride = c->d,
                                                              .mean = mean,
                                                              .rstd = mean + c->n_rows,
                                                              .n_rows = c->n_rows,
                                                              .d = c->d,
                                                              .eps = EPS}));
}

/* Rows [first, first + n) alone; dw and db are added to. */
static void run_rows(struct backend *b, const struct norm_case *c, size_t first, size_t n,
                     float *out)
{
    const struct norm_case rows = {.n_rows = n,
                                   .d = c->d,
                                   .x = c->x + first * c->d,
                                   .w = c->w,
                                   .b = c->b,
                                   .dy = c->dy + first * c->d};
    float *forward = new_floats(n * (c->d + 2)), *dw = out + c->n_rows * c->d;

    run_forward(b, &rows, forward);
    assert_ok(b->ops->layer_norm_backward(
        b, &(struct layer_norm_backward_args){.x = rows.x,
                                              .x_stride = c->d,
                                              .w = c->w,
                                              .mean = forward + n * c->d,
                                              .rstd = forward + n * c->d + n,
                                              .dy = rows.dy,
                                              .dy_stride = c->d,
                                              .dx = out + first * c->d,
                                              .dx_stride = c->d,
                                              .dw = dw,
                                              .db = dw + c->d,
                                              .n_rows = n,
                                              .d = c->d}));
    memory_free(forward);
}

/* dx then dw, db. */
static void run_backward(struct backend *b, const void *context, float *out)
{
    const struct norm_case *c = context;
    run_rows(b, c, 0, c->n_rows, out);
}

/* y of one row. */
static void oracle_row(const double *x, const double *w, const double *b, size_t d, double *y)
{
    double mean = 0.0, variance = 0.0;

    for (size_t j = 0; j < d; j++) {
        mean += x[j] / (double)d;
    }
    for (size_t j = 0; j < d; j++) {
        variance += (x[j] - mean) * (x[j] - mean) / (double)d;
    }
    for (size_t j = 0; j < d; j++) {
        y[j] = w[j] * (x[j] - mean) / sqrt(variance + (double)EPS) + b[j];
    }
}

/* parameters: x (n_rows, d), then w, b (d). Loss: <dy, y>. */
static double oracle_loss_of(const double *parameters, const void *context)
{
    const struct norm_case *c = context;
    const double *w = parameters + c->n_rows * c->d;
    double *y = new_doubles(c->d), loss = 0.0;

    for (size_t row = 0; row < c->n_rows; row++) {
        oracle_row(parameters + row * c->d, w, w + c->d, c->d, y);
        for (size_t j = 0; j < c->d; j++) {
            loss += (double)c->dy[row * c->d + j] * y[j];
        }
    }
    memory_free(y);
    return loss;
}

static void make_case(struct norm_case *c, size_t n_rows, size_t d)
{
    *c = (struct norm_case){.n_rows = n_rows,
                            .d = d,
                            .x = random_floats(n_rows * d, 1, 1.0F),
                            .w = random_floats(d, 2, 1.0F),
                            .b = random_floats(d, 3, 1.0F),
                            .dy = random_floats(n_rows * d, 4, 1.0F)};
}

static void drop_case(const struct norm_case *c)
{
    memory_free(c->x);
    memory_free(c->w);
    memory_free(c->b);
    memory_free(c->dy);
}

static double *operands(const struct norm_case *c)
{
    const size_t n = c->n_rows * c->d;
    double *x = new_doubles(n + 2 * c->d);

    for (size_t i = 0; i < n; i++) {
        x[i] = (double)c->x[i];
    }
    for (size_t j = 0; j < c->d; j++) {
        x[n + j] = (double)c->w[j];
        x[n + c->d + j] = (double)c->b[j];
    }
    return x;
}

static void forward_agrees_with_the_oracle(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        struct norm_case c;
        make_case(&c, 5, widths[i]);
        const size_t n = c.n_rows * c.d;
        float *got = new_floats(n + 2 * c.n_rows);
        double *x = operands(&c), *want = new_doubles(n);
        run_everywhere(run_forward, &c, n + 2 * c.n_rows, got);
        for (size_t row = 0; row < c.n_rows; row++) {
            oracle_row(x + row * c.d, x + n, x + n + c.d, c.d, want + row * c.d);
        }
        compare_to_double("y", got, want, n, 3e-6);
        memory_free(want);
        memory_free(x);
        memory_free(got);
        drop_case(&c);
    }
}

static void gradient_agrees_with_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        struct norm_case c;
        make_case(&c, 3, widths[i]);
        const size_t n = c.n_rows * c.d + 2 * c.d;
        float *got = new_floats(n);
        double *x = operands(&c), *want = new_doubles(n);
        run_everywhere(run_backward, &c, n, got);
        numeric_gradient(oracle_loss_of, &c, x, n, want);
        compare_to_double("dx, dw, db", got, want, n, 1e-5);
        memory_free(want);
        memory_free(x);
        memory_free(got);
        drop_case(&c);
    }
}

static void rows_may_be_cut_anywhere(void **state)
{
    struct norm_case c;
    struct backend *b;
    (void)state;

    make_case(&c, 11, 33);
    const size_t n = c.n_rows * c.d + 2 * c.d;
    float *whole = new_floats(n), *pieces = new_floats(n);
    assert_ok(backend_open("cpu", 2, &b));
    run_backward(b, &c, whole);
    run_rows(b, &c, 0, 4, pieces);
    run_rows(b, &c, 4, 1, pieces);
    run_rows(b, &c, 5, 6, pieces);
    assert_same_bits("dx, dw, db", pieces, whole, n);
    backend_close(b);
    memory_free(pieces);
    memory_free(whole);
    drop_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_oracle),
        cmocka_unit_test(gradient_agrees_with_differences),
        cmocka_unit_test(rows_may_be_cut_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
