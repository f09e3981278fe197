/* AdamW over a table: which rows move, which decay, how many calls of the op that takes, and the
 * arithmetic against double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "kernels/backend.h"
#include "tests/support/support.h"
#include "trainer/optimizer.h"

#include <math.h>
#include <string.h>

#define N_FLOATS 160
#define CALLS_MAX 64

/* Two decayed rows with padding between them, a norm, a router bias, an MTP matrix and norm, and a
 * decayed row at the end. */
static struct weight_row rows[] = {
    {.name = "a", .offset = 0, .count = 12, .decays = true, .is_trainable = true},
    {.name = "b", .offset = 16, .count = 16, .decays = true, .is_trainable = true},
    {.name = "norm", .offset = 32, .count = 5, .is_trainable = true},
    {.name = "router_bias", .offset = 48, .count = 16},
    {.name = "mtp",
     .offset = 64,
     .count = 32,
     .decays = true,
     .is_trainable = true,
     .is_mtp = true},
    {.name = "mtp_norm", .offset = 96, .count = 8, .is_trainable = true, .is_mtp = true},
    {.name = "last", .offset = 112, .count = 40, .decays = true, .is_trainable = true},
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))
static const struct weight_table table = {.rows = rows, .n_rows = N_ROWS, .n_floats = N_FLOATS};

/* The CPU's table with an adamw that writes down what it was called with. */
static struct backend_ops watched;
static enum status (*real_adamw)(struct backend *, const struct adamw_args *);
static size_t n_calls;
static size_t lengths[CALLS_MAX];

static enum status watch_adamw(struct backend *backend, const struct adamw_args *args)
{
    assert_true(n_calls < CALLS_MAX);
    lengths[n_calls++] = args->n;
    return real_adamw(backend, args);
}

struct bench {
    struct backend *backend;
    struct optimizer *optimizer;
    float weights[N_FLOATS], before[N_FLOATS], gradients[N_FLOATS];
};

static const struct optimizer_options plain = {
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};

static void bench_open(struct bench *bench, const struct optimizer_options *options)
{
    memset(bench, 0, sizeof(*bench));
    assert_ok(backend_open("cpu", 1, &bench->backend));
    watched = *bench->backend->ops;
    real_adamw = watched.adamw;
    watched.adamw = watch_adamw;
    bench->backend->ops = &watched;
    n_calls = 0;
    for (size_t r = 0; r < N_ROWS; r++) {
        for (size_t i = rows[r].offset; i < rows[r].offset + rows[r].count; i++) {
            bench->weights[i] = random_normal(1, RANDOM_TEST, 0, i);
            bench->gradients[i] = random_normal(1, RANDOM_TEST, 1, i);
        }
    }
    memcpy(bench->before, bench->weights, sizeof(bench->before));
    assert_ok(optimizer_create(bench->backend, &table, options, &bench->optimizer));
}

static void bench_close(struct bench *bench)
{
    optimizer_destroy(bench->optimizer);
    backend_close(bench->backend);
}

static void step(struct bench *bench, double learning_rate, double *grad_norm)
{
    assert_ok(optimizer_step(bench->optimizer, bench->weights, bench->gradients, learning_rate,
                             grad_norm));
}

static void assert_row(const struct bench *bench, size_t r, bool has_changed)
{
    const size_t offset = rows[r].offset;
    const bool is_same =
        memcmp(bench->weights + offset, bench->before + offset, rows[r].count * sizeof(float)) == 0;
    if (is_same == has_changed) {
        fail_msg("row %s has%s changed", rows[r].name, has_changed ? " not" : "");
    }
}

static void every_trainable_row_moves_and_padding_stays_zero(void **state)
{
    struct bench bench;
    double grad_norm = 0.0;
    (void)state;
    bench_open(&bench, &plain);
    step(&bench, 0.01, &grad_norm);
    for (size_t r = 0; r < N_ROWS; r++) {
        assert_row(&bench, r, rows[r].is_trainable);
    }
    for (size_t i = 12; i < 16; i++) {
        assert_true(bench.weights[i] == 0.0F);
    }
    assert_int_equal(optimizer_updates(bench.optimizer), 1);
    bench_close(&bench);
}

static void frozen_mtp_rows_keep_weights_and_moments(void **state)
{
    struct optimizer_options options = plain;
    struct bench bench;
    double grad_norm = 0.0;
    (void)state;
    options.freezes_mtp = true;
    bench_open(&bench, &options);
    step(&bench, 0.01, &grad_norm);
    for (size_t r = 0; r < N_ROWS; r++) {
        assert_row(&bench, r, rows[r].is_trainable && !rows[r].is_mtp);
    }
    for (size_t i = rows[4].offset; i < rows[5].offset + rows[5].count; i++) {
        assert_true(optimizer_first_moment(bench.optimizer)[i] == 0.0F);
        assert_true(optimizer_second_moment(bench.optimizer)[i] == 0.0F);
    }
    bench_close(&bench);
}

static void neighbours_that_are_updated_alike_are_one_call(void **state)
{
    struct optimizer_options options = plain;
    struct bench bench;
    double grad_norm = 0.0;
    (void)state;
    bench_open(&bench, &options); /* a b | norm | mtp | mtp_norm | last */
    step(&bench, 0.01, &grad_norm);
    assert_int_equal(n_calls, 5);
    assert_int_equal(lengths[0], 32);
    assert_int_equal(lengths[1], 5);
    assert_int_equal(lengths[4], 40);
    bench_close(&bench);
    options.weight_decay = 0.0; /* then decay is no difference: a b norm | mtp mtp_norm last */
    bench_open(&bench, &options);
    step(&bench, 0.01, &grad_norm);
    assert_int_equal(n_calls, 2);
    assert_int_equal(lengths[0], 37);
    assert_int_equal(lengths[1], 88);
    bench_close(&bench);
}

/* Without a gradient only decay moves a weight: w (1 - lr wd), on rows that decay. */
static void decay_touches_the_rows_that_decay(void **state)
{
    struct bench bench;
    double grad_norm = 1.0;
    (void)state;
    bench_open(&bench, &plain);
    memset(bench.gradients, 0, sizeof(bench.gradients));
    step(&bench, 0.01, &grad_norm);
    assert_true(grad_norm == 0.0);
    for (size_t r = 0; r < N_ROWS; r++) {
        const bool decays = rows[r].is_trainable && rows[r].decays;
        for (size_t i = rows[r].offset; i < rows[r].offset + rows[r].count; i++) {
            const double want = (double)bench.before[i] * (decays ? 1.0 - 0.01 * 0.1 : 1.0);
            assert_true(fabs((double)bench.weights[i] - want) <= 1e-7 * (1.0 + fabs(want)));
        }
    }
    bench_close(&bench);
}

static void ten_steps_follow_double_arithmetic(void **state)
{
    struct optimizer_options options = plain;
    struct bench bench;
    double w = 0.0;
    double m = 0.0;
    double v = 0.0;
    (void)state;
    options.max_grad_norm = 0.5;
    bench_open(&bench, &options);
    w = (double)bench.weights[3];
    for (int t = 1; t <= 10; t++) {
        double squares = 0.0;
        double grad_norm = 0.0;
        for (size_t i = 0; i < N_FLOATS; i++) {
            bench.gradients[i] = random_normal(2, RANDOM_TEST, (uint64_t)t, i);
            squares += (double)bench.gradients[i] * (double)bench.gradients[i];
        }
        step(&bench, 0.01, &grad_norm);
        assert_true(fabs(grad_norm - sqrt(squares)) < 1e-6 * grad_norm);
        const double g = (double)bench.gradients[3] * 0.5 / (grad_norm + 1e-6);
        m = 0.9 * m + 0.1 * g;
        v = 0.95 * v + 0.05 * g * g;
        w *= 1.0 - 0.01 * 0.1;
        w -= 0.01 * (m / (1.0 - pow(0.9, t))) / (sqrt(v / (1.0 - pow(0.95, t))) + 1e-8);
        assert_true(fabs((double)bench.weights[3] - w) < 1e-5);
    }
    bench_close(&bench);
}

static void a_small_gradient_is_not_scaled_up(void **state)
{
    struct optimizer_options options = plain;
    struct bench clipped;
    struct bench free_one;
    double grad_norm = 0.0;
    (void)state;
    bench_open(&free_one, &options);
    step(&free_one, 0.01, &grad_norm);
    bench_close(&free_one);
    options.max_grad_norm = 1e6;
    bench_open(&clipped, &options);
    step(&clipped, 0.01, &grad_norm);
    bench_close(&clipped);
    assert_memory_equal(clipped.weights, free_one.weights, sizeof(clipped.weights));
}

static void a_gradient_that_is_not_finite_changes_nothing(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct bench bench;
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        double grad_norm = 0.0;
        bench_open(&bench, &plain);
        bench.gradients[33] = bad[i];
        assert_status(
            optimizer_step(bench.optimizer, bench.weights, bench.gradients, 0.1, &grad_norm),
            STATUS_NUMERICS, "gradient norm");
        assert_memory_equal(bench.weights, bench.before, sizeof(bench.before));
        assert_int_equal(optimizer_updates(bench.optimizer), 0);
        assert_true(optimizer_first_moment(bench.optimizer)[0] == 0.0F);
        bench_close(&bench);
    }
}

/* Moments and the count are all the state there is: a copy goes on with the same bits. */
static void restored_state_goes_on_with_the_same_bits(void **state)
{
    struct bench bench;
    struct bench copy;
    double grad_norm = 0.0;
    (void)state;
    bench_open(&bench, &plain);
    step(&bench, 0.01, &grad_norm);
    bench_open(&copy, &plain);
    memcpy(copy.weights, bench.weights, sizeof(copy.weights));
    memcpy(optimizer_first_moment(copy.optimizer), optimizer_first_moment(bench.optimizer),
           sizeof(copy.weights));
    memcpy(optimizer_second_moment(copy.optimizer), optimizer_second_moment(bench.optimizer),
           sizeof(copy.weights));
    optimizer_set_updates(copy.optimizer, optimizer_updates(bench.optimizer));
    step(&bench, 0.02, &grad_norm);
    step(&copy, 0.02, &grad_norm);
    assert_memory_equal(copy.weights, bench.weights, sizeof(copy.weights));
    bench_close(&copy);
    bench_close(&bench);
}

static enum status attempt(void *context)
{
    struct optimizer *optimizer = NULL;
    const enum status status = optimizer_create(context, &table, &plain, &optimizer);
    assert_true(status == STATUS_OK || optimizer == NULL);
    optimizer_destroy(optimizer);
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    struct backend *backend = NULL;
    (void)state;
    assert_ok(backend_open("cpu", 1, &backend));
    assert_true(support_fail_allocations(attempt, backend) >= 3);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_trainable_row_moves_and_padding_stays_zero),
        cmocka_unit_test(frozen_mtp_rows_keep_weights_and_moments),
        cmocka_unit_test(neighbours_that_are_updated_alike_are_one_call),
        cmocka_unit_test(decay_touches_the_rows_that_decay),
        cmocka_unit_test(ten_steps_follow_double_arithmetic),
        cmocka_unit_test(a_small_gradient_is_not_scaled_up),
        cmocka_unit_test(a_gradient_that_is_not_finite_changes_nothing),
        cmocka_unit_test(restored_state_goes_on_with_the_same_bits),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
