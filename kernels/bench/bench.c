/* Owns the meter and the order of the measurements. */
#include "kernels/bench/bench.h"

#include "base/memory.h"
#include "base/pool.h"
#include "kernels/bench/bench_internal.h"
#include "kernels/cpu/cpu_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BURST_SECONDS 40e-6
#define PEAK_SECONDS 20e-3
#define LOOK_SECONDS 500e-6
#define LOOK_BURSTS ((size_t)8) /* at least: the first one may have to wait for a core */
/* Fresh threads may share a core until the scheduler moves one: the peak is not believed before all
 * of them together reach this part of as many single threads, or this time is over. */
#define SPREAD_SHARE 0.75
#define SPREAD_SECONDS_MAX 500e-3
#define QUIET_SHARE (1.0 / 1.18)
#define QUIET_SECONDS_MAX 50e-3
#define SINGLE_BURSTS ((size_t)50)
#define LINE_FLOATS ((size_t)16)
#define LINE_DOUBLES ((size_t)8)

double bench_now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void burst_task(void *context, size_t thread_index, size_t n_threads)
{
    struct bench_meter *const meter = context;
    (void)n_threads;
    float *const sink = &meter->sinks[thread_index * LINE_FLOATS];
    const size_t flop = meter->precision == PRECISION_F32
                            ? cpu_fma_burst(meter->backend, meter->n_rounds, sink)
                            : cpu_pair_burst(meter->backend, meter->n_rounds, sink);
    meter->flop_done[thread_index * LINE_DOUBLES] = (double)flop;
}

static double burst_rate(struct bench_meter *meter, size_t n_threads)
{
    double flop = 0.0;
    const double start = bench_now();
    if (n_threads == 1) {
        burst_task(meter, 0, 1);
    } else {
        pool_run(cpu_pool(meter->backend), burst_task, meter);
    }
    const double seconds = bench_now() - start;
    for (size_t i = 0; i < n_threads; i++) {
        flop += meter->flop_done[i * LINE_DOUBLES];
    }
    return flop / seconds;
}

double bench_burst(struct bench_meter *meter)
{
    const double rate = burst_rate(meter, meter->backend->n_threads);
    meter->peak = rate > meter->peak ? rate : meter->peak;
    return rate;
}

void bench_wait_quiet(struct bench_meter *meter)
{
    const double start = bench_now();
    while (bench_burst(meter) < QUIET_SHARE * meter->peak &&
           bench_now() - start < QUIET_SECONDS_MAX) {
    }
}

/* The shortest of three: whoever takes the core away from one of them does not stay for all. */
static double burst_seconds(struct bench_meter *meter)
{
    double shortest = 0.0;
    for (size_t i = 0; i < 3; i++) {
        const double start = bench_now();
        burst_task(meter, 0, 1);
        const double seconds = bench_now() - start;
        shortest = i == 0 || seconds < shortest ? seconds : shortest;
    }
    return shortest;
}

/* Doubles the burst until it lasts as long as it should. One that is too short, because an early
 * one was interrupted, would measure little but the way between threads for the rest of the
 * process. */
static void calibrate(struct bench_meter *meter)
{
    double seconds = 0.0;
    for (meter->n_rounds = 1; seconds < BURST_SECONDS / 1.5; meter->n_rounds *= 2) {
        seconds = burst_seconds(meter);
    }
    meter->n_rounds /= 2;
}

void bench_find_peak(struct bench_meter *meter)
{
    const double start = bench_now();
    double single = 0.0;
    double seconds = 0.0;
    for (size_t i = 0; i < SINGLE_BURSTS; i++) {
        const double rate = burst_rate(meter, 1);
        single = rate > single ? rate : single;
    }
    const double wanted = SPREAD_SHARE * single * (double)meter->backend->n_threads;
    while (seconds < PEAK_SECONDS || (meter->peak < wanted && seconds < SPREAD_SECONDS_MAX)) {
        (void)bench_burst(meter);
        seconds = bench_now() - start;
    }
}

void bench_look_at_peak(struct bench_meter *meter)
{
    const double start = bench_now();
    for (size_t i = 0; i < LOOK_BURSTS || bench_now() - start < LOOK_SECONDS; i++) {
        (void)bench_burst(meter);
    }
}

void bench_raise_peak(struct bench_meter *meter, double flops_per_s)
{
    meter->peak = flops_per_s > meter->peak ? flops_per_s : meter->peak;
}

enum status bench_meter_init(struct backend *backend, enum precision precision,
                             struct bench_meter *meter)
{
    *meter = (struct bench_meter){.backend = backend, .precision = precision};
    TRY(memory_alloc(backend->n_threads * LINE_FLOATS, sizeof(float), &meter->sinks));
    const enum status status =
        memory_alloc(backend->n_threads * LINE_DOUBLES, sizeof(double), &meter->flop_done);
    if (status != STATUS_OK) {
        bench_meter_dispose(meter);
        return status;
    }
    calibrate(meter);
    return STATUS_OK;
}

void bench_meter_dispose(struct bench_meter *meter)
{
    memory_free(meter->sinks);
    memory_free(meter->flop_done);
    *meter = (struct bench_meter){.backend = meter->backend};
}

enum status bench_meter_create(struct backend *backend, enum precision precision,
                               struct bench_meter **out)
{
    struct bench_meter *meter = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*meter), &meter));
    const enum status status = bench_meter_init(backend, precision, meter);
    if (status != STATUS_OK) {
        memory_free(meter);
        return status;
    }
    *out = meter;
    return STATUS_OK;
}

void bench_meter_destroy(struct bench_meter *meter)
{
    if (meter != NULL) {
        bench_meter_dispose(meter);
        memory_free(meter);
    }
}

double bench_meter_peak(const struct bench_meter *meter)
{
    return meter->peak;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench_result bench_summarise(const char *name, const char *unit,
                                    struct bench_samples *samples, double amount, double limit)
{
    struct bench_result out = {.unit = unit, .limit = 1e-9 * limit};
    (void)snprintf(out.name, sizeof(out.name), "%s", name);
    qsort(samples->seconds, samples->count, sizeof(double), compare_doubles);
    out.value = 1e-9 * amount / samples->seconds[samples->count / 2];
    out.best = 1e-9 * amount / samples->seconds[0];
    out.share = limit > 0.0 ? out.value / out.limit : 0.0;
    return out;
}

/* The peak of one thread and of all, as rows of their own. */
static void report_peaks(struct bench_meter *meter, struct bench_result *results, size_t *n_results)
{
    const size_t thread_counts[2] = {1, meter->backend->n_threads};
    for (size_t i = 0; i < (thread_counts[1] > 1 ? 2U : 1U); i++) {
        struct bench_samples samples = {.count = BENCH_REPEATS};
        char name[64];
        for (size_t j = 0; j < BENCH_REPEATS; j++) {
            bench_wait_quiet(meter);
            samples.seconds[j] = 1.0 / burst_rate(meter, thread_counts[i]);
        }
        (void)snprintf(name, sizeof(name), "%s, registers only, %zu thread%s",
                       meter->precision == PRECISION_F32 ? "fp32 FMA" : "bf16 pairs",
                       thread_counts[i], i == 0 ? "" : "s");
        results[(*n_results)++] = bench_summarise(name, "GFLOP/s", &samples, 1.0, 0.0);
    }
}

enum status bench_memory_rate(struct backend *backend, double *gb_per_s)
{
    struct bench_meter meter;
    struct bench_result results[BENCH_RESULTS_MAX];
    size_t n = 0;
    *gb_per_s = 0.0;
    TRY(bench_meter_init(backend, PRECISION_F32, &meter));
    bench_find_peak(&meter);
    const enum status status = bench_streams(&meter, results, &n);
    bench_meter_dispose(&meter);
    *gb_per_s = n > 0 ? results[0].best : 0.0;
    return status;
}

/* What is not a product, and the rate at which memory is read. */
static enum status measure_others(struct bench_meter *meter, double *memory_rate,
                                  struct bench_result *results, size_t *n_results)
{
    const size_t at = *n_results;

    TRY(bench_streams(meter, results, n_results));
    *memory_rate = 1e9 * results[at].best;
    const double exp_rate = 1e9 * results[at + 1].best * (double)meter->backend->n_threads;
    return bench_draws(meter, exp_rate, results, n_results);
}

/* Peak and matrices of one kind of arithmetic; the first time, with *memory_rate 0, the rest too.
 */
static enum status measure_kind(struct backend *backend, enum precision precision,
                                double *memory_rate, struct bench_result *results,
                                size_t *n_results)
{
    struct bench_meter meter;
    enum status status = STATUS_OK;
    TRY(bench_meter_init(backend, precision, &meter));
    bench_find_peak(&meter);
    report_peaks(&meter, results, n_results);
    if (*memory_rate <= 0.0) {
        status = measure_others(&meter, memory_rate, results, n_results);
    }
    if (status == STATUS_OK) {
        status = bench_matrices(&meter, *memory_rate, results, n_results);
    }
    bench_meter_dispose(&meter);
    return status;
}

enum status bench_kernels(struct backend *backend, struct bench_result *results, size_t *n_results)
{
    double memory_rate = 0.0;
    *n_results = 0;
    TRY(measure_kind(backend, PRECISION_F32, &memory_rate, results, n_results));
    return measure_kind(backend, PRECISION_BF16, &memory_rate, results, n_results);
}
