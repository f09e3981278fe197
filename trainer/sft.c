/* Supervised fine-tuning: the mean cross-entropy of response tokens, the MTP module's loss beside
 * it (not detached), balancing bias active. A step's examples are a function of (seed, step), so
 * the same configuration gives the same bits. */
#include "base/arena.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "trainer/balance.h"
#include "trainer/learner.h"
#include "trainer/schedule.h"
#include "trainer/setup.h"
#include "trainer/speed.h"
#include "trainer/trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define STOP_WINDOW 5u /* steps whose mean decides on an early end */

struct sft {
    const struct run_config *config;
    struct setup_data data;
    struct backend *backend;
    struct policy *policy;
    struct learner *learner;
    struct arena *arena;
    struct schedule schedule;
    struct speed *speed;
    double recent_loss[STOP_WINDOW], recent_mtp[STOP_WINDOW];
};

struct cross_entropy {
    double weight; /* 1 / response tokens of the step */
    double loss;
};

static enum status visit_cross_entropy(void *context, size_t sequence_index, const float *logp,
                                       const float *entropy, size_t n, float *g)
{
    struct cross_entropy *sum = context;
    (void)sequence_index;
    (void)entropy;
    for (size_t t = 0; t < n; t++) {
        sum->loss -= sum->weight * (double)logp[t];
        g[t] = (float)-sum->weight;
    }
    return isfinite(sum->loss) ? STATUS_OK : status_set(STATUS_NUMERICS, "the loss is not finite");
}

static struct learner_options learner_options_of(const struct run_config *config,
                                                 const struct model_config *model, size_t longest)
{
    struct learner_options options = {
        .optimizer = {.beta1 = config->optim.adam_beta1,
                      .beta2 = config->optim.adam_beta2,
                      .epsilon = config->optim.adam_epsilon,
                      .weight_decay = config->optim.weight_decay,
                      .max_grad_norm = config->optim.max_grad_norm},
        .micro_batch_tokens = config->optim.micro_batch_tokens,
        .max_sequence_rows = longest,
        .max_update_tokens = config->sft.batch_size * longest,
        .sampling = {.temperature = 1.0F, .top_p = 1.0F},
        .trains_mtp = config->model.mtp_train && model->n_mtp_modules > 0,
        .mtp_coef = config->model.mtp_coef,
        .balance = balance_kind_of(config),
        .balance_coef = config->model.router_aux_loss_coef,
        .indexer = indexer_loss_of(config),
        .indexer_coef = config->model.indexer_loss_coef,
    };
    return options;
}

static enum status read_example(const struct sft *sft, size_t step, size_t i,
                                struct train_sequence *out, size_t *n_response)
{
    const struct run_config *config = sft->config;
    const uint64_t cursor = (uint64_t)(step - 1) * config->sft.batch_size + i;
    const size_t index =
        dataset_row_at(sft->data.dataset, config->run.seed, cursor, config->data.shuffle);
    struct dataset_row row;
    struct dataset_example example;
    int32_t *ids = NULL;
    TRY(dataset_row_read(sft->data.dataset, index, &row));
    enum status status = dataset_encode_example(sft->data.dataset, &row, &example);
    if (status == STATUS_OK) {
        status = arena_alloc(sft->arena, example.tokens.count, sizeof(int32_t), &ids);
        if (status == STATUS_OK) {
            memcpy(ids, example.tokens.ids, example.tokens.count * sizeof(int32_t));
            *out = (struct train_sequence){.prompt = ids,
                                           .n_prompt = example.n_prompt,
                                           .response = ids + example.n_prompt,
                                           .n_response = example.tokens.count - example.n_prompt,
                                           .seed = config->run.seed,
                                           .group = index};
            *n_response += out->n_response;
        }
        dataset_example_dispose(&example);
    }
    dataset_row_dispose(&row);
    return status;
}

static void report_update(const struct update_stats *update, struct sft_report *report)
{
    report->mtp_loss = update->mtp_loss;
    report->balance_loss = update->balance_loss;
    report->indexer_loss = update->indexer_loss;
    report->grad_norm = update->grad_norm;
}

static enum status learn_step(struct sft *sft, size_t step, struct sft_report *report)
{
    const struct run_config *config = sft->config;
    struct train_sequence *sequences = NULL;
    struct update_stats update;
    uint32_t *counts = NULL;
    size_t n_response = 0;
    size_t n_dead = 0;
    speed_look(sft->speed);
    const int64_t begin_us = clock_now_us();

    arena_reset(sft->arena);
    TRY(arena_alloc(sft->arena, config->sft.batch_size, sizeof(*sequences), &sequences));
    TRY(balance_counts_alloc(sft->policy, sft->arena, &counts));
    for (size_t i = 0; i < config->sft.batch_size; i++) {
        const enum status status = read_example(sft, step, i, &sequences[i], &n_response);
        if (status != STATUS_OK) {
            return status;
        }
    }
    struct cross_entropy sum = {.weight = 1.0 / (double)n_response};
    report->lr = schedule_rate(&sft->schedule, step);
    const struct update_args args = {.sequences = sequences,
                                     .n = config->sft.batch_size,
                                     .learning_rate = report->lr,
                                     .gradient = visit_cross_entropy,
                                     .context = &sum,
                                     .expert_counts = counts};
    const double flops_before = learner_flops(sft->learner);
    TRY(learner_update(sft->learner, &args, &update));
    if (counts != NULL && config->model.router_bias_update > 0.0) {
        policy_update_router_bias(sft->policy, counts, (float)config->model.router_bias_update);
    }
    balance_measure(sft->policy, counts, &report->max_violation, &n_dead);
    report->step = step;
    report->loss = sum.loss;
    report_update(&update, report);
    const double seconds = (double)(clock_now_us() - begin_us) * 1e-6;
    report->tokens_per_s = (double)update.n_inputs / seconds;
    report->share_of_peak =
        speed_share(sft->speed, learner_flops(sft->learner) - flops_before, seconds);
    return STATUS_OK;
}

static double window_mean(const double *window, size_t step)
{
    double sum = 0.0;
    for (size_t i = 0; i < STOP_WINDOW; i++) {
        sum += window[i];
    }
    return step < STOP_WINDOW ? (double)INFINITY : sum / STOP_WINDOW;
}

/* Both running losses are below what was asked for. */
static bool has_learned_enough(struct sft *sft, const struct sft_report *report)
{
    const struct run_config *config = sft->config;
    sft->recent_loss[report->step % STOP_WINDOW] = report->loss;
    sft->recent_mtp[report->step % STOP_WINDOW] = report->mtp_loss;
    if (config->sft.stop_loss <= 0.0) {
        return false;
    }
    const bool has_mtp_bound = config->sft.stop_mtp_loss > 0.0 && isfinite(report->mtp_loss);
    return window_mean(sft->recent_loss, report->step) < config->sft.stop_loss &&
           (!has_mtp_bound ||
            window_mean(sft->recent_mtp, report->step) < config->sft.stop_mtp_loss);
}

static enum status open_sft(struct sft *sft)
{
    const struct run_config *config = sft->config;
    TRY(setup_data_open(config, DATASET_SFT, &sft->data));
    TRY(backend_open(config->run.device, config->run.threads, &sft->backend));
    const struct learner_options options =
        learner_options_of(config, &sft->data.model, sft->data.counts.longest_total);
    struct policy_options sizes;
    TRY(setup_policy_options(config, &sft->data.model, &options, &sizes));
    TRY(speed_create(sft->backend, sizes.precision, &sft->speed));
    TRY(setup_rehearse(sft->backend, &sft->data.model, &options, &sizes, false));
    TRY(setup_policy(&sft->data.model, sft->backend, config->model.path, &sizes, &sft->policy));
    TRY(learner_create(sft->backend, sft->policy, &options, &sft->learner));
    sft->schedule = schedule_from_config(config, config->sft.max_steps);
    return arena_create((size_t)1 << 20, &sft->arena);
}

static void close_sft(struct sft *sft)
{
    arena_destroy(sft->arena);
    speed_destroy(sft->speed);
    learner_destroy(sft->learner);
    policy_destroy(sft->policy);
    backend_close(sft->backend);
    setup_data_close(&sft->data);
}

/* The new folder takes the place of an old one by two renames; a crash leaves one of them whole. */
static enum status save(struct sft *sft)
{
    const char *output = sft->config->sft.output;
    char temporary[4096];
    char old[4096];
    const int n = snprintf(temporary, sizeof(temporary), "%s.tmp", output);
    const int m = snprintf(old, sizeof(old), "%s.old", output);
    if (n < 0 || m < 0 || (size_t)n >= sizeof(temporary) || (size_t)m >= sizeof(old)) {
        return status_set(STATUS_BAD_CONFIG, "sft.output: the path is too long: %s", output);
    }
    TRY(folder_remove(temporary));
    TRY(setup_save_model(temporary, sft->policy, sft->config->model.path));
    TRY(folder_remove(old));
    if (folder_exists(output)) {
        TRY(file_rename_new(output, old));
    }
    TRY(file_rename_new(temporary, output));
    return folder_remove(old);
}

static enum status train(struct sft *sft, sft_listener *listener, void *context,
                         struct sft_report *last)
{
    const size_t n_steps = sft->config->sft.max_steps;
    last->max_steps = n_steps;
    for (size_t step = 1; step <= n_steps; step++) {
        const enum status status = learn_step(sft, step, last);
        if (status != STATUS_OK) {
            return status_wrap(status, "step %zu", step);
        }
        const bool is_done = has_learned_enough(sft, last);
        if (listener != NULL) {
            listener(context, last);
        }
        if (process_signal_caught() != 0) {
            return status_set(
                STATUS_CANCELLED,
                "interrupted at step %zu; nothing was saved, the same command starts again", step);
        }
        if (is_done) {
            break;
        }
    }
    return save(sft);
}

enum status sft_main(const struct run_config *config, sft_listener *listener, void *context,
                     struct sft_report *last)
{
    struct sft sft = {.config = config};
    *last = (struct sft_report){0};
    enum status status = open_sft(&sft);
    if (status == STATUS_OK) {
        status = train(&sft, listener, context, last);
    }
    close_sft(&sft);
    return status;
}
