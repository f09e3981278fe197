/* Owns the measurements that are not matrix products: memory bandwidth and exp. */
#include "base/memory.h"
#include "base/pool.h"
#include "kernels/bench/bench_internal.h"
#include "kernels/cpu/cpu_backend.h"

/* Larger than any last-level cache in sight, so that reads come from DRAM. */
#define READ_FLOATS ((size_t)1 << 25)
#define READ_ROUND ((size_t)128)
#define LINE_FLOATS ((size_t)16)
#define EXP_FLOATS ((size_t)1 << 13)
#define N_STREAM_REPEATS ((size_t)9)

struct read_job {
    struct backend *backend;
    const float *x;
    float *sums; /* one a thread, a line apart */
};

static void read_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct read_job *const job = context;
    size_t begin = 0;
    size_t end = 0;
    pool_share(READ_FLOATS / READ_ROUND, thread_index, n_threads, &begin, &end);
    job->sums[thread_index * LINE_FLOATS] =
        cpu_read_sum(job->backend, job->x + begin * READ_ROUND, (end - begin) * READ_ROUND);
}

static enum status measure_reads(struct bench_meter *meter, struct bench_result *out)
{
    struct bench_samples samples = {.count = N_STREAM_REPEATS};
    float *x = NULL;
    float *sums = NULL;
    TRY(memory_alloc(READ_FLOATS, sizeof(*x), &x));
    const enum status status =
        memory_alloc(meter->backend->n_threads * LINE_FLOATS, sizeof(*sums), &sums);
    if (status != STATUS_OK) {
        memory_free(x);
        return status;
    }
    for (size_t i = 0; i < READ_FLOATS; i++) {
        x[i] = 1.0F; /* a page that was never written is not memory yet */
    }
    struct read_job job = {meter->backend, x, sums};
    for (size_t i = 0; i < samples.count; i++) {
        bench_wait_quiet(meter);
        const double start = bench_now();
        pool_run(cpu_pool(meter->backend), read_task, &job);
        samples.seconds[i] = bench_now() - start;
    }
    *out = bench_summarise("memory read, all threads", "GB/s", &samples,
                           (double)(READ_FLOATS * sizeof(*x)), 0.0);
    memory_free(x);
    memory_free(sums);
    return STATUS_OK;
}

static enum status measure_exp(struct bench_meter *meter, struct bench_result *out)
{
    struct bench_samples samples = {.count = BENCH_REPEATS};
    float *x = NULL;
    TRY(memory_alloc(2 * EXP_FLOATS, sizeof(*x), &x));
    for (size_t i = 0; i < EXP_FLOATS; i++) {
        x[i] = -20.0F * (float)i / (float)EXP_FLOATS;
    }
    for (size_t i = 0; i < samples.count; i++) {
        bench_wait_quiet(meter);
        const double start = bench_now();
        cpu_math_map(meter->backend, CPU_MATH_EXP, x, x + EXP_FLOATS, EXP_FLOATS);
        samples.seconds[i] = bench_now() - start;
    }
    *out = bench_summarise("exp, 1 thread", "G/s", &samples, (double)EXP_FLOATS, 0.0);
    memory_free(x);
    return STATUS_OK;
}

enum status bench_streams(struct bench_meter *meter, struct bench_result *results,
                          size_t *n_results)
{
    TRY(measure_reads(meter, &results[*n_results]));
    (*n_results)++;
    TRY(measure_exp(meter, &results[*n_results]));
    (*n_results)++;
    return STATUS_OK;
}
