/* RMSNorm against a double oracle, numeric gradients, and exactness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>
#include <string.h>

#define EPS 1e-6F

static const size_t widths[] = {1, 7, 8, 17, 127, 129};

struct norm_case {
    size_t n_rows, d;
    float *x, *w, *dy;
};

/* y then rstd. */
static void run_forward(struct backend *b, const void *context, float *out)
{
    const struct norm_case *c = context;
    assert_ok(b->ops->rms_norm(b, &(struct rms_norm_args){.x = c->x,
                                                          .x_stride = c->d,
                                                          .w = c->w,
                                                          .y = out,
                                                          .y_stride = c->d,
                                                          .rstd = out + c->n_rows * c->d,
                                                          .n_rows = c->n_rows,
                                                          .d = c->d,
                                                          .eps = EPS}));
}

/* dx then dw. */
static void run_backward(struct backend *b, const void *context, float *out)
{
    const struct norm_case *c = context;
    float *forward = new_floats(c->n_rows * (c->d + 1));

    run_forward(b, c, forward);
    assert_ok(b->ops->rms_norm_backward(
        b, &(struct rms_norm_backward_args){.x = c->x,
                                            .x_stride = c->d,
                                            .w = c->w,
                                            .rstd = forward + c->n_rows * c->d,
                                            .dy = c->dy,
                                            .dy_stride = c->d,
                                            .dx = out,
                                            .dx_stride = c->d,
                                            .dw = out + c->n_rows * c->d,
                                            .n_rows = c->n_rows,
                                            .d = c->d}));
    memory_free(forward);
}

static double oracle_rstd(const double *x, size_t d)
{
    double sum = 0.0;
    for (size_t j = 0; j < d; j++) {
        sum += x[j] * x[j];
    }
    return 1.0 / sqrt(sum / (double)d + (double)EPS);
}

/* parameters: x (n_rows, d), then w (d). Loss: <dy, y>. */
static double oracle_loss_of(const double *parameters, const void *context)
{
    const struct norm_case *c = context;
    const double *w = parameters + c->n_rows * c->d;
    double loss = 0.0;

    for (size_t row = 0; row < c->n_rows; row++) {
        const double *x = parameters + row * c->d;
        const double r = oracle_rstd(x, c->d);
        for (size_t j = 0; j < c->d; j++) {
            loss += (double)c->dy[row * c->d + j] * w[j] * x[j] * r;
        }
    }
    return loss;
}

static void make_case(struct norm_case *c, size_t n_rows, size_t d)
{
    *c = (struct norm_case){.n_rows = n_rows,
                            .d = d,
                            .x = random_floats(n_rows * d, 1, 1.0F),
                            .w = random_floats(d, 2, 1.0F),
                            .dy = random_floats(n_rows * d, 3, 1.0F)};
}

static void drop_case(const struct norm_case *c)
{
    memory_free(c->x);
    memory_free(c->w);
    memory_free(c->dy);
}

static void forward_agrees_with_the_oracle(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        struct norm_case c;
        make_case(&c, 5, widths[i]);
        const size_t n = c.n_rows * c.d;
        float *got = new_floats(n + c.n_rows);
        double *want = widen(c.x, n);
        run_everywhere(run_forward, &c, n + c.n_rows, got);
        for (size_t row = 0; row < c.n_rows; row++) {
            const double r = oracle_rstd(want + row * c.d, c.d);
            for (size_t j = 0; j < c.d; j++) {
                want[row * c.d + j] *= r * (double)c.w[j];
            }
        }
        compare_to_double("y", got, want, n, 1e-6);
        memory_free(want);
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
        const size_t n = c.n_rows * c.d;
        float *got = new_floats(n + c.d);
        double *at = new_doubles(n + c.d), *want = new_doubles(n + c.d);
        for (size_t j = 0; j < n + c.d; j++) {
            at[j] = (double)(j < n ? c.x[j] : c.w[j - n]);
        }
        run_everywhere(run_backward, &c, n + c.d, got);
        numeric_gradient(oracle_loss_of, &c, at, n + c.d, want);
        compare_to_double("dx, dw", got, want, n + c.d, 3e-6);
        memory_free(want);
        memory_free(at);
        memory_free(got);
        drop_case(&c);
    }
}

/* Forward and backward on 6 rows, or on 2 rows of 3 heads with a gap behind; y, rstd, dx, dw. */
static void run_heads(struct backend *b, const struct norm_case *c, size_t n_heads, size_t gap,
                      float *out)
{
    const size_t d = c->d, n_rows = c->n_rows / n_heads, stride = n_heads * d + gap;
    float *buffer = new_floats(4 * n_rows * stride);
    float *x = buffer, *y = x + n_rows * stride, *dy = y + n_rows * stride;
    float *dx = dy + n_rows * stride;

    for (size_t i = 0; i < n_rows; i++) {
        memcpy(x + i * stride, c->x + i * n_heads * d, n_heads * d * sizeof(float));
        memcpy(dy + i * stride, c->dy + i * n_heads * d, n_heads * d * sizeof(float));
    }
    assert_ok(b->ops->rms_norm(b, &(struct rms_norm_args){.x = x,
                                                          .x_stride = stride,
                                                          .w = c->w,
                                                          .y = y,
                                                          .y_stride = stride,
                                                          .rstd = out + c->n_rows * d,
                                                          .n_rows = n_rows,
                                                          .d = d,
                                                          .n_heads = n_heads,
                                                          .eps = EPS}));
    assert_ok(b->ops->rms_norm_backward(
        b, &(struct rms_norm_backward_args){.x = x,
                                            .x_stride = stride,
                                            .w = c->w,
                                            .rstd = out + c->n_rows * d,
                                            .dy = dy,
                                            .dy_stride = stride,
                                            .dx = dx,
                                            .dx_stride = stride,
                                            .dw = out + c->n_rows * (2 * d + 1),
                                            .n_rows = n_rows,
                                            .d = d,
                                            .n_heads = n_heads}));
    for (size_t i = 0; i < n_rows; i++) {
        memcpy(out + i * n_heads * d, y + i * stride, n_heads * d * sizeof(float));
        memcpy(out + c->n_rows * (d + 1) + i * n_heads * d, dx + i * stride,
               n_heads * d * sizeof(float));
    }
    memory_free(buffer);
}

static void heads_side_by_side_are_as_many_rows(void **state)
{
    struct norm_case c;
    struct backend *b;

    (void)state;
    make_case(&c, 6, 24);
    const size_t n = 6 * (2 * 24 + 1) + 24;
    float *rows = new_floats(n), *heads = new_floats(n);

    assert_ok(backend_open("cpu", 2, &b));
    run_heads(b, &c, 1, 0, rows);
    run_heads(b, &c, 3, 16, heads);
    assert_memory_equal(rows, heads, n * sizeof(float));
    backend_close(b);
    memory_free(rows);
    memory_free(heads);
    drop_case(&c);
}

static void a_row_does_not_depend_on_its_batch(void **state)
{
    struct norm_case c;
    struct backend *b;
    (void)state;

    make_case(&c, 700, 129); /* enough work for two threads */
    const size_t n = c.n_rows * c.d;
    float *all = new_floats(n + c.n_rows), *one = new_floats(c.d + 1);
    run_everywhere(run_forward, &c, n + c.n_rows, all);
    assert_ok(backend_open("cpu", 1, &b));
    for (size_t row = 0; row < c.n_rows; row += 99) {
        run_forward(b, &(struct norm_case){.n_rows = 1, .d = c.d, .x = c.x + row * c.d, .w = c.w},
                    one);
        assert_same_bits("row", one, all + row * c.d, c.d);
    }
    backend_close(b);
    memory_free(one);
    memory_free(all);
    drop_case(&c);
}

static void weight_gradient_may_be_cut_into_batches(void **state)
{
    struct norm_case c;
    struct backend *b;
    (void)state;

    make_case(&c, 301, 129);
    const size_t n = c.n_rows * c.d;
    float *all = new_floats(n + c.d), *part = new_floats(n + c.d), *rstd = new_floats(n + c.n_rows);
    run_everywhere(run_backward, &c, n + c.d, all);
    assert_ok(backend_open("cpu", 2, &b));
    run_forward(b, &c, rstd);
    for (size_t first = 0; first < c.n_rows; first += 43) {
        const struct rms_norm_backward_args args = {.x = c.x + first * c.d,
                                                    .x_stride = c.d,
                                                    .w = c.w,
                                                    .rstd = rstd + n + first,
                                                    .dy = c.dy + first * c.d,
                                                    .dy_stride = c.d,
                                                    .dx = part + first * c.d,
                                                    .dx_stride = c.d,
                                                    .dw = part + n,
                                                    .n_rows = 43,
                                                    .d = c.d};
        assert_ok(b->ops->rms_norm_backward(b, &args));
    }
    assert_same_bits("dx, dw", part, all, n + c.d);
    backend_close(b);
    memory_free(rstd);
    memory_free(part);
    memory_free(all);
    drop_case(&c);
}

static void accumulate_adds_to_dx_and_works_in_place(void **state)
{
    struct norm_case c;
    struct backend *b;
    (void)state;

    make_case(&c, 4, 17);
    const size_t n = c.n_rows * c.d;
    float *rstd = new_floats(n + c.n_rows), *dx = new_floats(n + c.d), *sum = new_floats(n);
    float *y = new_floats(n);
    assert_ok(backend_open("cpu", 1, &b));
    run_forward(b, &c, rstd);
    run_backward(b, &c, dx);
    memcpy(sum, c.dy, n * sizeof(*sum)); /* dx and dy may be one buffer, its old value the sum's */
    struct rms_norm_backward_args args = {.x = c.x,
                                          .x_stride = c.d,
                                          .w = c.w,
                                          .rstd = rstd + n,
                                          .dy = c.dy,
                                          .dy_stride = c.d,
                                          .dx = sum,
                                          .dx_stride = c.d,
                                          .n_rows = c.n_rows,
                                          .d = c.d,
                                          .accumulate = true};
    assert_ok(b->ops->rms_norm_backward(b, &args));
    for (size_t j = 0; j < n; j++) {
        assert_true(sum[j] == c.dy[j] + dx[j]);
    }
    memcpy(y, c.x, n * sizeof(*y));
    assert_ok(b->ops->rms_norm(b, &(struct rms_norm_args){.x = y,
                                                          .x_stride = c.d,
                                                          .w = c.w,
                                                          .y = y,
                                                          .y_stride = c.d,
                                                          .n_rows = c.n_rows,
                                                          .d = c.d,
                                                          .eps = EPS}));
    assert_same_bits("in place", y, rstd, n);
    backend_close(b);
    memory_free(y);
    memory_free(sum);
    memory_free(dx);
    memory_free(rstd);
    drop_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_oracle),
        cmocka_unit_test(gradient_agrees_with_differences),
        cmocka_unit_test(heads_side_by_side_are_as_many_rows),
        cmocka_unit_test(a_row_does_not_depend_on_its_batch),
        cmocka_unit_test(weight_gradient_may_be_cut_into_batches),
        cmocka_unit_test(accumulate_adds_to_dx_and_works_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
