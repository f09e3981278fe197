/* Owns what the bench's files share: the meter, which knows the peak and when the machine is quiet.
 */
#ifndef HONE_KERNELS_BENCH_BENCH_INTERNAL_H
#define HONE_KERNELS_BENCH_BENCH_INTERNAL_H

#include "kernels/bench/bench.h"

#define BENCH_REPEATS ((size_t)25)

struct bench_meter {
    struct backend *backend;
    enum precision precision; /* of its peak: fp32 FMA, or (any other) products of bf16 pairs */
    size_t n_rounds;          /* of a burst of about 40 us */
    double peak;              /* best burst of all threads so far, flop/s */
    float *sinks;             /* one cache line a thread */
    double *flop_done;        /* likewise */
};

/* Repetitions of one case, in seconds. */
struct bench_samples {
    double seconds[BENCH_REPEATS];
    size_t count;
};

MUST_CHECK enum status bench_meter_init(struct backend *backend, enum precision precision,
                                        struct bench_meter *meter);
void bench_meter_dispose(struct bench_meter *meter);
/* One burst on every thread; returns its rate and keeps the best as the peak. */
double bench_burst(struct bench_meter *meter);

/* Median and best of samples of `amount` units each, as a result against limit (units a second).
 * Values are in units of 1e9. Sorts the samples. */
struct bench_result bench_summarise(const char *name, const char *unit,
                                    struct bench_samples *samples, double amount, double limit);

/* Append results; the GEMM forms and the routed experts at the sizes that matter, those whose peak
 * the meter measures. memory_rate: what streams are compared with, byte/s. */
MUST_CHECK enum status bench_matrices(struct bench_meter *meter, double memory_rate,
                                      struct bench_result *results, size_t *n_results);
/* Memory bandwidth and exp. */
MUST_CHECK enum status bench_streams(struct bench_meter *meter, struct bench_result *results,
                                     size_t *n_results);
/* Draws of tokens, in logits a second. exp_rate: what they are compared with, one exponential a
 * logit on all threads. */
MUST_CHECK enum status bench_draws(struct bench_meter *meter, double exp_rate,
                                   struct bench_result *results, size_t *n_results);

#endif
