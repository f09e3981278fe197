/* Prefill and decoding through the engine that workers run. */
#include "base/memory.h"
#include "cli/bench_model.h"
#include "model/model_cost.h"
#include "model/precision.h"
#include "rollout/engine.h"

#define SEED 1u
#define DECODE_STEPS ((size_t)32) /* of a wave, whose contexts have the wanted mean */
#define CHUNK_ROWS ((size_t)512)
/* A sample of decoding is a step, or as many as this takes. */
#define SAMPLE_SECONDS 500e-6
/* Between looks at whether the machine is quiet. */
#define QUIET_EVERY_SECONDS 20e-3
#define STEPS_MIN ((size_t)8)

/* One engine and how it is fed. */
struct feed {
    struct engine *engine;
    int32_t *prompt; /* (n_prompt) */
    size_t vocab;
    size_t batch, n_prompt, n_response;
    size_t n_drafts;
    uint64_t group; /* of the next request */
};

/* Prompts differ, so that no page is shared and every expert has work. */
static enum status submit(struct feed *feed)
{
    static const int32_t samples[] = {0};

    for (size_t i = 0; i < feed->batch; i++) {
        const struct engine_request request = {.seed = SEED,
                                               .group = feed->group++,
                                               .prompt = feed->prompt,
                                               .n_prompt = feed->n_prompt,
                                               .samples = samples,
                                               .n_samples = 1,
                                               .max_tokens = feed->n_response,
                                               .sampling = {.temperature = 1, .top_p = 1}};
        for (size_t j = 0; j < feed->n_prompt; j++) {
            feed->prompt[j] = (int32_t)((feed->group * 31 + j * 17) % feed->vocab);
        }
        TRY(engine_submit(feed->engine, &request));
    }
    return STATUS_OK;
}

/* One step; its time is added to *seconds, its draws to *n_drawn. */
static enum status step(struct feed *feed, double *seconds, size_t *n_drawn)
{
    const struct completion *completions = NULL;
    const uint64_t before = engine_tokens_drawn(feed->engine);
    const double begin = bench_now();
    size_t n = 0;

    TRY(engine_tick(feed->engine, &completions, &n));
    *seconds += bench_now() - begin;
    *n_drawn += (size_t)(engine_tokens_drawn(feed->engine) - before);
    return STATUS_OK;
}

static void drop_all(struct feed *feed)
{
    for (size_t i = 0; i < feed->batch; i++) {
        engine_cancel(feed->engine, feed->group - 1 - i);
    }
}

/* A policy and an engine for this feed, then `measure` with them. */
typedef enum status measure_feed(const struct bench_subject *subject, struct feed *feed,
                                 struct bench_times *times);

static enum status with_engine(const struct bench_subject *subject, struct policy *policy,
                               size_t max_rows, struct feed *feed, measure_feed *measure,
                               struct bench_times *times)
{
    const struct engine_options options = {.max_num_seqs = feed->batch,
                                           .max_batch_tokens = max_rows,
                                           .max_sequence = feed->n_prompt + feed->n_response,
                                           .n_drafts = feed->n_drafts,
                                           .spec_max_batch = feed->batch};

    if (options.max_sequence > subject->config.max_positions) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "a context of %zu tokens: %zu sequences need %zu positions, of which the "
                          "model has %zu",
                          subject->context, feed->batch, options.max_sequence,
                          subject->config.max_positions);
    }
    TRY(memory_alloc(feed->n_prompt, sizeof(*feed->prompt), &feed->prompt));
    enum status status = engine_create(policy, &options, &feed->engine);
    if (status == STATUS_OK) {
        status = measure(subject, feed, times);
    }
    engine_destroy(feed->engine);
    memory_free(feed->prompt);
    return status;
}

/* --- Prefill --- */

/* Steps until everything that was submitted is done. */
static enum status run_dry(struct feed *feed, double *seconds)
{
    size_t n_drawn = 0;

    while (!engine_is_idle(feed->engine)) {
        TRY(step(feed, seconds, &n_drawn));
    }
    return STATUS_OK;
}

static enum status measure_prefill(const struct bench_subject *subject, struct feed *feed,
                                   struct bench_times *times)
{
    const double begin = bench_now();
    const double n_tokens = (double)(feed->batch * feed->n_prompt);

    for (size_t i = 0; i < 4 || bench_now() - begin < subject->seconds; i++) {
        double seconds = 0;
        bench_wait_quiet(subject->meter);
        TRY(submit(feed));
        TRY(run_dry(feed, &seconds));
        if (i > 0) { /* the first one warms up */
            bench_times_add(times, seconds / n_tokens);
        }
    }
    return STATUS_OK;
}

static enum status prefill(const struct bench_subject *subject, struct policy *policy,
                           size_t max_rows, size_t batch)
{
    const size_t context = subject->context;
    struct feed feed = {
        .vocab = subject->config.vocab_size, .batch = batch, .n_prompt = context, .n_response = 1};
    struct bench_times times = {.count = 0};
    const double head = 2.0 * (double)(subject->config.vocab_size * subject->config.hidden_size);
    const double n_tokens = (double)(batch * context);
    struct bench_rate rate = {.bench = "prefill", .batch = batch, .context = context};

    TRY(with_engine(subject, policy, max_rows, &feed, measure_prefill, &times));
    rate.flop_per_token =
        model_forward_flops(&subject->config, (double)(context + 1) / 2, false, false) +
        head / (double)context;
    rate.byte_per_token = bench_weight_bytes(subject, batch * context) / n_tokens;
    bench_times_rate(&times, subject, &rate);
    return bench_report_rate(&rate, subject->is_json);
}

/* --- Decoding --- */

/* Steps of a wave in samples of SAMPLE_SECONDS. Ends early when the time of the case is over. */
static enum status decode_wave(const struct bench_subject *subject, struct feed *feed,
                               double deadline, struct bench_times *times)
{
    double checked = 0;
    double seconds = 0;
    size_t n_drawn = 0;

    for (size_t i = 0; i < DECODE_STEPS && (i < STEPS_MIN || bench_now() < deadline); i++) {
        if (bench_now() - checked > QUIET_EVERY_SECONDS) {
            bench_wait_quiet(subject->meter);
            checked = bench_now();
        }
        TRY(step(feed, &seconds, &n_drawn));
        if (n_drawn > 0 && (seconds >= SAMPLE_SECONDS || i + 1 == DECODE_STEPS)) {
            bench_times_add(times, seconds / (double)n_drawn);
            seconds = 0;
            n_drawn = 0;
        }
    }
    return STATUS_OK;
}

/* Steps until all prompts are in, and all of them draw. */
static enum status begin_wave(struct feed *feed)
{
    size_t n_drawn = 0;

    TRY(submit(feed));
    while (n_drawn < feed->batch) {
        double seconds = 0;
        n_drawn = 0;
        TRY(step(feed, &seconds, &n_drawn));
    }
    return STATUS_OK;
}

static enum status measure_decode(const struct bench_subject *subject, struct feed *feed,
                                  struct bench_times *times)
{
    const double begin = bench_now();

    for (size_t wave = 0; wave == 0 || bench_now() - begin < subject->seconds; wave++) {
        TRY(begin_wave(feed));
        const double spent = wave == 0 ? 0 : bench_now() - begin;
        TRY(decode_wave(subject, feed, bench_now() + subject->seconds - spent, times));
        drop_all(feed);
    }
    return STATUS_OK;
}

static enum status decode(const struct bench_subject *subject, struct policy *policy,
                          size_t max_rows, size_t batch, size_t n_drafts)
{
    const size_t context = subject->context, n_prompt = context - DECODE_STEPS / 2;
    /* A prompt that is prefilled in chunks may finish while others have begun to decode: room for
     * these tokens behind the wave. */
    const size_t n_early = 2 * batch * n_prompt / max_rows + DECODE_STEPS;
    struct feed feed = {.vocab = subject->config.vocab_size,
                        .batch = batch,
                        .n_prompt = n_prompt,
                        .n_response = DECODE_STEPS * (1 + n_drafts) + n_early,
                        .n_drafts = n_drafts};
    struct bench_times times = {.count = 0};
    struct bench_rate rate = {
        .bench = n_drafts > 0 ? "decode_drafts" : "decode", .batch = batch, .context = context};

    TRY(with_engine(subject, policy, max_rows, &feed, measure_decode, &times));
    rate.flop_per_token = model_forward_flops(&subject->config, (double)context, true, true);
    rate.byte_per_token = bench_weight_bytes(subject, batch) / (double)batch +
                          model_cache_bytes(&subject->config, (double)context, subject->cache);
    bench_times_rate(&times, subject, &rate);
    return bench_report_rate(&rate, subject->is_json);
}

static enum status engine_cases(const struct bench_subject *subject, struct policy *policy,
                                size_t max_rows)
{
    static const size_t prefills[] = {1, 8};

    for (size_t i = 0; i < sizeof(prefills) / sizeof(prefills[0]); i++) {
        TRY(prefill(subject, policy, max_rows, prefills[i]));
    }
    for (size_t i = 0; i < subject->n_batches; i++) {
        TRY(decode(subject, policy, max_rows, subject->batches[i], 0));
    }
    for (size_t i = 0; i < subject->n_batches && policy_max_drafts(policy) > 0; i++) {
        TRY(decode(subject, policy, max_rows, subject->batches[i], subject->n_drafts));
    }
    return STATUS_OK;
}

enum status bench_engine(const struct bench_subject *subject)
{
    struct policy_options options = {.n_drafts = subject->n_drafts,
                                     .max_rows = CHUNK_ROWS,
                                     .precision = subject->precision,
                                     .unquantised = precision_unquantised(subject->precision),
                                     .cache = subject->cache};
    struct policy *policy = NULL;

    for (size_t i = 0; i < subject->n_batches; i++) {
        const size_t batch = subject->batches[i];
        options.max_draws = batch > options.max_draws ? batch : options.max_draws;
    }
    options.max_rows = options.max_draws > CHUNK_ROWS ? options.max_draws : CHUNK_ROWS;
    TRY(bench_open_policy(subject, &options, &policy));
    const enum status status = engine_cases(subject, policy, options.max_rows);
    policy_destroy(policy);
    return status;
}
