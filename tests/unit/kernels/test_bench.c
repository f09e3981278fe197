/* The bench's arithmetic and its peak; the tables themselves are for `hone bench`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/bench/bench_internal.h"
#include "tests/support/support.h"

#include <math.h>

static void a_summary_has_median_best_and_share(void **state)
{
    struct bench_samples samples = {{4.0, 1.0, 2.0}, 3};
    (void)state;
    const struct bench_result r = bench_summarise("x", "GFLOP/s", &samples, 8e9, 16e9);
    assert_true(fabs(r.value - 4.0) < 1e-12 && fabs(r.best - 8.0) < 1e-12);
    assert_true(fabs(r.limit - 16.0) < 1e-12 && fabs(r.share - 0.25) < 1e-12);
    assert_string_equal(r.name, "x");
}

static void the_peak_is_a_rate_and_a_burst_is_no_faster(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    struct bench_meter meter;
    assert_ok(backend_open("auto", 2, &backend));
    assert_ok(bench_meter_init(backend, PRECISION_BF16, &meter));
    assert_true(bench_meter_peak(&meter) <= 0.0);
    bench_find_peak(&meter);
    const double peak = bench_meter_peak(&meter);
    assert_true(peak > 1e8 && peak < 1e14);
    const double burst = bench_burst(&meter);
    assert_true(burst > 0.0 && burst <= bench_meter_peak(&meter));
    bench_look_at_peak(&meter);
    assert_true(bench_meter_peak(&meter) >= peak);
    bench_raise_peak(&meter, 1e15);
    bench_raise_peak(&meter, peak);
    assert_true(bench_meter_peak(&meter) >= 1e15);
    bench_meter_dispose(&meter);
    backend_close(backend);
}

static enum status init_and_dispose(void *context)
{
    struct bench_meter meter;
    TRY(bench_meter_init(context, PRECISION_F32, &meter));
    bench_meter_dispose(&meter);
    return STATUS_OK;
}

static void the_meter_survives_every_failed_allocation(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    assert_ok(backend_open("auto", 1, &backend));
    assert_int_equal(support_fail_allocations(init_and_dispose, backend), 2);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_summary_has_median_best_and_share),
        cmocka_unit_test(the_peak_is_a_rate_and_a_burst_is_no_faster),
        cmocka_unit_test(the_meter_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
