/* Owns the measurement of draws: logits that become tokens a second, plain and filtered, at the
 * vocabularies of the models here. */
#include "base/memory.h"
#include "base/random.h"
#include "kernels/bench/bench_internal.h"

#include <stdio.h>

#define ROWS_MAX ((size_t)64)
#define LOGITS ((size_t)16 * 129280) /* of the largest case */

static const struct draw_case {
    const char *filter;
    size_t n_rows, vocab;
    struct sampling_params sampling;
} cases[] = {
    {"", 64, 4096, {.temperature = 1.0F, .top_p = 1.0F}},
    {", top-p 0.95", 64, 4096, {.temperature = 1.0F, .top_p = 0.95F}},
    {", top-k 50", 64, 4096, {.temperature = 1.0F, .top_k = 50, .top_p = 1.0F}},
    {"", 16, 49152, {.temperature = 1.0F, .top_p = 1.0F}},
    {", top-p 0.95", 16, 49152, {.temperature = 1.0F, .top_p = 0.95F}},
    {", top-k 50", 16, 49152, {.temperature = 1.0F, .top_k = 50, .top_p = 1.0F}},
    {"", 16, 129280, {.temperature = 1.0F, .top_p = 1.0F}},
    {", top-p 0.95", 16, 129280, {.temperature = 1.0F, .top_p = 0.95F}},
    {", top-k 50", 16, 129280, {.temperature = 1.0F, .top_k = 50, .top_p = 1.0F}},
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

static enum status run_draws(struct backend *backend, const struct draw_case *c,
                             const float *logits)
{
    struct sample_row rows[ROWS_MAX];
    int32_t tokens[ROWS_MAX];
    float logp[ROWS_MAX];

    for (size_t i = 0; i < c->n_rows; i++) {
        rows[i] = (struct sample_row){
            .seed = 1, .group = 2, .sample = (uint32_t)i, .sampling = c->sampling};
    }
    return backend->ops->sample(backend, &(struct sample_args){.logits = logits,
                                                               .logits_stride = c->vocab,
                                                               .rows = rows,
                                                               .tokens = tokens,
                                                               .logp = logp,
                                                               .n_rows = c->n_rows,
                                                               .vocab = c->vocab});
}

static enum status measure_case(struct bench_meter *meter, const struct draw_case *c,
                                const float *logits, double limit, struct bench_result *out)
{
    struct bench_samples samples = {.count = BENCH_REPEATS};
    const double n_logits = (double)(c->n_rows * c->vocab);
    char name[64];

    TRY(run_draws(meter->backend, c, logits));
    for (size_t i = 0; i < samples.count; i++) {
        bench_wait_quiet(meter);
        const double start = bench_now();
        TRY(run_draws(meter->backend, c, logits));
        samples.seconds[i] = bench_now() - start;
    }
    (void)snprintf(name, sizeof(name), "draw %zu x %zu%s", c->n_rows, c->vocab, c->filter);
    *out = bench_summarise(name, "G/s", &samples, n_logits, limit);
    out->dtype = "fp32";
    out->n_rows = c->n_rows;
    out->tokens_per_s = 1e9 * out->value / (double)c->vocab;
    return STATUS_OK;
}

enum status bench_draws(struct bench_meter *meter, double exp_rate, struct bench_result *results,
                        size_t *n_results)
{
    enum status status = STATUS_OK;
    float *logits = NULL;

    TRY(memory_alloc(LOGITS, sizeof(*logits), &logits));
    for (size_t i = 0; i < LOGITS; i++) {
        logits[i] = 2.0F * random_normal(1, RANDOM_TEST, i, 0);
    }
    for (size_t i = 0; status == STATUS_OK && i < N_CASES; i++) {
        status = measure_case(meter, &cases[i], logits, exp_rate, &results[*n_results]);
        *n_results += status == STATUS_OK ? 1 : 0;
    }
    memory_free(logits);
    return status;
}
