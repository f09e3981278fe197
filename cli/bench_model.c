#include "cli/bench_model.h"

#include "base/clock.h"
#include "base/memory.h"
#include "model/policy.h"
#include "rollout/engine.h"
#include "trainer/learner.h"
#include "trainer/setup.h"

#include <stdio.h>

#define SEED 1u
#define PROMPT_TOKENS ((size_t)12)
#define RESPONSE_TOKENS ((size_t)24)
#define SEQUENCES ((size_t)256)
#define MEASURED_US ((int64_t)600000)

/* A policy of a preset's shape with random weights. */
static enum status open_policy(struct backend *backend, const char *preset,
                               const struct policy_options *options, struct policy **out)
{
    struct model_config config;
    *out = NULL;
    TRY(model_config_preset(preset, &config));
    TRY(policy_create(backend, &config, options, out));
    weights_init(&config, policy_table(*out), SEED, policy_weights(*out));
    const enum status status = policy_refresh(*out);
    if (status != STATUS_OK) {
        policy_destroy(*out);
        *out = NULL;
    }
    return status;
}

static void fill_result(struct bench_result *out, double value, double best, double limit)
{
    out->unit = "tokens/s";
    out->value = value;
    out->best = best;
    out->limit = limit;
    out->share = limit > 0 ? value / limit : 0;
}

/* --- Decoding --- */

/* Keeps n_seqs sequences running. */
static enum status refill(struct engine *engine, size_t n_seqs, uint64_t *group)
{
    static const int32_t prompt[PROMPT_TOKENS] = {1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const int32_t samples[] = {0};
    while (engine_queued(engine) < n_seqs) {
        const struct engine_request request = {.seed = SEED,
                                               .group = (*group)++,
                                               .prompt = prompt,
                                               .n_prompt = PROMPT_TOKENS,
                                               .samples = samples,
                                               .n_samples = 1,
                                               .max_tokens = RESPONSE_TOKENS,
                                               .sampling = {.temperature = 1, .top_p = 1}};
        TRY(engine_submit(engine, &request));
    }
    return STATUS_OK;
}

/* Draws for about `us` and gives the rate. */
static enum status decode_for(struct engine *engine, size_t n_seqs, int64_t us, uint64_t *group,
                              double *tokens_per_s)
{
    const int64_t begin_us = clock_now_us();
    const uint64_t n_before = engine_tokens_drawn(engine);
    int64_t spent_us = 0;
    while (spent_us < us) {
        const struct completion *completions = NULL;
        size_t n = 0;
        TRY(refill(engine, n_seqs, group));
        TRY(engine_tick(engine, &completions, &n));
        spent_us = clock_now_us() - begin_us;
    }
    *tokens_per_s = (double)(engine_tokens_drawn(engine) - n_before) * 1e6 / (double)spent_us;
    return STATUS_OK;
}

static enum status decode_with(struct policy *policy, size_t n_seqs, double *median, double *best)
{
    const struct engine_options options = {.max_num_seqs = n_seqs,
                                           .max_batch_tokens = n_seqs * (PROMPT_TOKENS + 1),
                                           .max_sequence = PROMPT_TOKENS + RESPONSE_TOKENS};
    struct engine *engine = NULL;
    double rates[3] = {0};
    uint64_t group = 0;
    TRY(engine_create(policy, &options, &engine));
    enum status status = decode_for(engine, n_seqs, MEASURED_US / 6, &group, &rates[0]);
    for (size_t i = 0; i < 3 && status == STATUS_OK; i++) {
        status = decode_for(engine, n_seqs, MEASURED_US / 3, &group, &rates[i]);
    }
    engine_destroy(engine);
    const double low = rates[0] < rates[1] ? rates[0] : rates[1];
    const double high = rates[0] < rates[1] ? rates[1] : rates[0];
    *best = high > rates[2] ? high : rates[2];
    *median = rates[2] < low ? low : rates[2] > high ? high : rates[2];
    return status;
}

enum status bench_decode(struct backend *backend, const char *preset, size_t n_seqs, double peak,
                         struct bench_result *out)
{
    const struct policy_options options = {.max_rows = n_seqs * (PROMPT_TOKENS + 1),
                                           .max_draws = n_seqs};
    struct policy *policy = NULL;
    double median = 0;
    double best = 0;
    (void)snprintf(out->name, sizeof out->name, "decode %s, batch %zu", preset, n_seqs);
    TRY(open_policy(backend, preset, &options, &policy));
    const double flops = 2.0 * (double)model_config_active_parameters(policy_config(policy));
    const enum status status = decode_with(policy, n_seqs, &median, &best);
    policy_destroy(policy);
    fill_result(out, median, best, peak / flops);
    return status;
}

/* --- Training --- */

static enum status unit_gradient(void *context, size_t sequence_index, const float *logp,
                                 const float *entropy, size_t n, float *g)
{
    const float *const scale = context;
    (void)sequence_index, (void)logp, (void)entropy; /* the same gradient for every token */
    for (size_t i = 0; i < n; i++) {
        g[i] = *scale;
    }
    return STATUS_OK;
}

/* Median and best of a few updates, in seconds. */
static enum status time_updates(struct learner *learner, double *median_s, double *best_s)
{
    static const int32_t tokens[PROMPT_TOKENS + RESPONSE_TOKENS] = {
        1,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39};
    struct train_sequence sequences[SEQUENCES];
    struct update_stats stats;
    float scale = 1e-4f;
    double seconds[4] = {0};
    for (size_t i = 0; i < SEQUENCES; i++) {
        sequences[i] = (struct train_sequence){.prompt = tokens,
                                               .n_prompt = PROMPT_TOKENS,
                                               .response = tokens + PROMPT_TOKENS,
                                               .n_response = RESPONSE_TOKENS,
                                               .group = i};
    }
    const struct update_args update = {.sequences = sequences,
                                       .n = SEQUENCES,
                                       .learning_rate = 1e-5,
                                       .gradient = unit_gradient,
                                       .context = &scale};
    for (size_t i = 0; i < 4; i++) { /* the first one warms up */
        const int64_t begin_us = clock_now_us();
        TRY(learner_update(learner, &update, &stats));
        seconds[i] = (double)(clock_now_us() - begin_us) * 1e-6;
    }
    const double low = seconds[1] < seconds[2] ? seconds[1] : seconds[2];
    const double high = seconds[1] < seconds[2] ? seconds[2] : seconds[1];
    *best_s = low < seconds[3] ? low : seconds[3];
    *median_s = seconds[3] < low ? low : seconds[3] > high ? high : seconds[3];
    return STATUS_OK;
}

enum status bench_training(struct backend *backend, const char *preset, double peak,
                           struct bench_result *out)
{
    const size_t n_rows = SEQUENCES * (PROMPT_TOKENS + RESPONSE_TOKENS - 1);
    const struct learner_options options = {
        .optimizer = {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .max_grad_norm = 1},
        .micro_batch_tokens = n_rows,
        .max_sequence_rows = PROMPT_TOKENS + RESPONSE_TOKENS,
        .sampling = {.temperature = 1, .top_p = 1}};
    const struct policy_options policy_options = {
        .max_rows = learner_max_rows(&options), .max_draws = 1, .is_trainable = true};
    struct policy *policy = NULL;
    struct learner *learner = NULL;
    double median_s = 0;
    double best_s = 0;
    (void)snprintf(out->name, sizeof out->name, "train %s, %zu tokens", preset, n_rows);
    TRY(open_policy(backend, preset, &policy_options, &policy));
    enum status status = learner_create(backend, policy, &options, &learner);
    if (status == STATUS_OK) {
        status = time_updates(learner, &median_s, &best_s);
    }
    if (status == STATUS_OK) {
        const double n = (double)n_rows;
        const double flops = setup_training_flops(policy_config(policy), n_rows, false);
        fill_result(out, n / median_s, n / best_s, peak / (flops / n));
    }
    learner_destroy(learner);
    policy_destroy(policy);
    return status;
}
