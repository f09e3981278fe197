/* A step in numbers, under the names of TRL and verl (data-and-ui.md 7). What is not a number is
 * left out. */
#include "trainer/session.h"

#include "base/clock.h"
#include "model/model_cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct moments {
    double sum, squares;
    size_t n;
};

static void add(struct moments *moments, double value)
{
    moments->sum += value;
    moments->squares += value * value;
    moments->n++;
}

static double mean(const struct moments *moments)
{
    return moments->n > 0 ? moments->sum / (double)moments->n : (double)NAN;
}

static double deviation(const struct moments *moments)
{
    const double m = mean(moments);
    const double n = (double)moments->n;
    return moments->n > 1 ? sqrt(fmax(0.0, (moments->squares - n * m * m) / (n - 1.0)))
                          : (double)NAN;
}

static enum status put(struct json *metrics, const char *name, double value)
{
    return isfinite(value) ? json_put(metrics, name, json_from_number(value)) : STATUS_OK;
}

struct named_value {
    const char *name;
    double value;
};

static enum status put_all(struct json *metrics, const struct named_value *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const enum status status = put(metrics, values[i].name, values[i].value);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

/* rewards/NAME/mean over the samples for which component NAME said ok. */
static enum status put_components(const struct session *session, const struct step_batch *batch,
                                  struct json *metrics)
{
    for (size_t k = 0; k < session->config->n_rewards; k++) {
        const char *name = session->config->rewards[k].name;
        struct moments values = {0};
        char key[96];
        for (size_t i = 0; i < sample_store_count(session->store); i++) {
            const struct stored_sample *stored = sample_store_at(session->store, i);
            const struct json *value = json_get(json_get(stored->scores, name), "value");
            if (session_group_step(session, stored->group_id) == batch->step && value != NULL &&
                json_kind_of(value) != JSON_NULL) {
                add(&values, json_number(value, 0.0));
            }
        }
        const int n = snprintf(key, sizeof(key), "rewards/%s/mean", name);
        const enum status status = n < 0 ? STATUS_OK : put(metrics, key, mean(&values));
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status put_samples(const struct session *session, const struct step_batch *batch,
                               size_t n_without_signal, struct json *metrics)
{
    struct moments reward = {0};
    struct moments length = {0};
    struct moments truncated = {0};
    double longest = 0.0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        for (size_t i = 0; i < batch->groups[g].n_samples; i++) {
            const struct sample *sample = &batch->groups[g].samples[i];
            if (sample->has_reward) {
                add(&reward, sample->reward);
            }
            add(&length, (double)sample->n_tokens);
            add(&truncated, sample->is_truncated ? 1.0 : 0.0);
            longest = fmax(longest, (double)sample->n_tokens);
        }
    }
    const struct named_value values[] = {
        {"reward", mean(&reward)},
        {"reward_std", deviation(&reward)},
        {"frac_reward_zero_std",
         batch->n_groups > 0 ? (double)n_without_signal / (double)batch->n_groups : (double)NAN},
        {"completions/mean_length", mean(&length)},
        {"completions/max_length", longest},
        {"completions/clipped_ratio", mean(&truncated)},
    };
    TRY(put_all(metrics, values, sizeof(values) / sizeof(values[0])));
    return put_components(session, batch, metrics);
}

static enum status put_learning(const struct grpo_stats *stats, struct json *metrics)
{
    const struct named_value values[] = {
        {"loss", stats->loss},
        {"kl", stats->kl},
        {"entropy", stats->entropy},
        {"grad_norm", stats->grad_norm},
        {"lr", stats->learning_rate},
        {"clip_frac", stats->clip_low + stats->clip_high},
        {"clip_ratio/low_mean", stats->clip_low},
        {"clip_ratio/high_mean", stats->clip_high},
        {"mismatch/absdiff_max", stats->mismatch_max},
        {"mismatch/rho_max", stats->ratio_max},
        {"mtp/loss", stats->mtp_loss},
        {"mtp/acceptance", stats->mtp_acceptance},
        {"moe/max_violation", stats->max_violation},
        {"moe/balance_loss", stats->balance_loss},
        {"indexer/loss", stats->indexer_loss},
        {"moe/dead_experts",
         stats->expert_counts != NULL ? (double)stats->n_dead_experts : (double)NAN},
        {"n_tok", (double)stats->n_tokens},
    };
    return put_all(metrics, values, sizeof(values) / sizeof(values[0]));
}

/* Flop of sampling a group: its prompt once, then every token behind its sample's first, which the
 * prompt's last row draws. */
static double group_flops(const struct model_config *model, const struct sample_group *group)
{
    struct model_work work = {.n_rows = (double)group->n_prompt,
                              .n_keys = model_span_keys(0, group->n_prompt)};
    for (size_t i = 0; i < group->n_samples; i++) {
        const size_t n = group->samples[i].n_tokens;
        const size_t n_new = n > 0 ? n - 1 : 0;
        work.n_rows += (double)n_new;
        work.n_keys += model_span_keys(group->n_prompt, n_new);
        work.n_heads += (double)n;
    }
    return model_work_flops(model, &work, true);
}

/* Flop of the step: what the learner computed, and the sampling. */
static double step_flops(const struct session *session, const struct step_batch *batch)
{
    double flops = session->trained_flops;
    for (size_t g = 0; g < batch->n_groups; g++) {
        flops += group_flops(&session->data.model, &batch->groups[g]);
    }
    return flops;
}

static enum status put_times(const struct session *session, const struct step_batch *batch,
                             const struct grpo_stats *stats, struct json *metrics)
{
    const double generate_us = (double)(session->sampled_us - session->begin_us);
    const double store_us = (double)(session->stored_us - session->sampled_us);
    const double train_us = (double)(session->trained_us - session->stored_us);
    const double sync_us = (double)(clock_now_us() - session->trained_us);
    const double seconds = (generate_us + store_us + train_us + sync_us) * 1e-6;
    const struct named_value values[] = {
        {"t_generate_us", generate_us},
        {"t_train_us", train_us},
        {"t_sync_us", sync_us},
        {"t_wait_us", store_us},
        {"time/generate", generate_us * 1e-6},
        {"time/train", train_us * 1e-6},
        {"time/step", seconds},
        {"memory/trainer_bytes", session->trained_bytes},
        {"perf/tokens_per_s", (double)stats->n_inputs / seconds},
        {"perf/share_of_peak", speed_share(session->speed, step_flops(session, batch), seconds)},
        {"perf/train_share_of_peak",
         speed_share(session->speed, session->trained_flops, train_us * 1e-6)},
    };
    return put_all(metrics, values, sizeof(values) / sizeof(values[0]));
}

enum status report_metrics(struct session *session, const struct step_batch *batch,
                           const struct grpo_stats *stats, size_t n_without_signal,
                           struct json **out)
{
    struct json *metrics = json_object_create();
    enum status status = put_samples(session, batch, n_without_signal, metrics);
    if (status == STATUS_OK) {
        status = put_learning(stats, metrics);
    }
    if (status == STATUS_OK) {
        status = put_times(session, batch, stats, metrics);
    }
    if (status != STATUS_OK) {
        json_destroy(metrics);
        metrics = NULL;
    }
    *out = metrics;
    return status;
}

static double metric(const struct json *metrics, const char *name)
{
    return json_number(json_get(metrics, name), (double)NAN);
}

void report_progress(struct session *session, const struct json *metrics)
{
    const double seconds = metric(metrics, "time/step");
    const double before = session->seconds_per_step;
    session->seconds_per_step = before == 0.0 ? seconds : 0.8 * before + 0.2 * seconds;
    if (session->listener == NULL) {
        return;
    }
    const size_t n_left = session->config->run.max_steps > session->step
                              ? session->config->run.max_steps - session->step
                              : 0;
    const struct step_report report = {
        .step = session->step,
        .max_steps = session->config->run.max_steps,
        .reward = metric(metrics, "reward"),
        .length = metric(metrics, "completions/mean_length"),
        .kl = metric(metrics, "kl"),
        .entropy = metric(metrics, "entropy"),
        .mismatch = metric(metrics, "mismatch/absdiff_max"),
        .loss = metric(metrics, "loss"),
        .grad_norm = metric(metrics, "grad_norm"),
        .lr = metric(metrics, "lr"),
        .tokens_per_s = metric(metrics, "perf/tokens_per_s"),
        .share_of_peak = metric(metrics, "perf/share_of_peak"),
        .generate_s = metric(metrics, "time/generate"),
        .train_s = metric(metrics, "time/train"),
        .mtp_acceptance = metric(metrics, "mtp/acceptance"),
        .max_violation = metric(metrics, "moe/max_violation"),
        .eta_s = (double)n_left * session->seconds_per_step,
    };
    session->listener(session->listener_context, &report);
}
