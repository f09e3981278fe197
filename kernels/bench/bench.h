/* Owns the measurement of the kernels on the machine it runs on: the shipped ops, against the FMA
 * peak measured in the same run. Other processes and the host disturb such numbers, so cases are
 * interleaved, each repetition waits for a quiet moment, and medians are reported beside the best.
 */
#ifndef HONE_KERNELS_BENCH_BENCH_H
#define HONE_KERNELS_BENCH_BENCH_H

#include "base/status.h"
#include "kernels/backend.h"

#include <stddef.h>

#define BENCH_RESULTS_MAX ((size_t)128)

struct bench_result {
    char name[64];    /* "gemm 8 x 1024 x 1024" (rows, in, out) */
    const char *unit; /* "GFLOP/s", "GB/s", "G/s" */
    double value;     /* median of the repetitions */
    double best;
    double limit;        /* what the machine could do, same unit; 0: no limit known */
    double share;        /* value / limit, or 0 */
    const char *dtype;   /* "fp32"; NULL where it means nothing */
    size_t n_rows;       /* of a product over tokens, else 0 */
    double tokens_per_s; /* of these rows, median */
};

/* The register-only rate of all the backend's threads, measured beside other things, so that all
 * see the same machine. */
struct bench_meter;
/* precision: whose rate, fp32 FMA or products of bf16 pairs (which FP8 uses too). Errors:
 * NO_MEMORY.
 */
MUST_CHECK enum status bench_meter_create(struct backend *backend, enum precision precision,
                                          struct bench_meter **out);
/* The best of about 20 ms, up to half a second where the threads first share a core. */
void bench_find_peak(struct bench_meter *meter);
/* The best of about half a millisecond, eight bursts at least: for a machine that others have used
 * up to now. */
void bench_look_at_peak(struct bench_meter *meter);
/* A rate that was reached: the peak is no lower. */
void bench_raise_peak(struct bench_meter *meter, double flops_per_s);
void bench_meter_destroy(struct bench_meter *meter);
/* Bursts of products, about 40 us each, until one is within 18 % of the peak; gives up after 50 ms.
 * The best of all becomes the peak. */
void bench_wait_quiet(struct bench_meter *meter);
double bench_meter_peak(const struct bench_meter *meter); /* flop/s, so far; 0: not measured */
/* Seconds, monotonic. */
double bench_now(void);

/* What all threads read from memory at best, in GB/s: about 100 ms, 128 MB. */
MUST_CHECK enum status bench_memory_rate(struct backend *backend, double *gb_per_s);

/* Measures peaks, memory bandwidth, exp, draws, GEMM forms and experts: about 6 s, 300 MB. results
 * has room for BENCH_RESULTS_MAX. Errors: NO_MEMORY, and what the ops give. */
MUST_CHECK enum status bench_kernels(struct backend *backend, struct bench_result *results,
                                     size_t *n_results);

#endif
