/* A step is num_iterations passes over num_minibatches consecutive parts. Before the first update
 * the log-probabilities of every sample are compared with the sampler's; with a single update that
 * comparison is free, otherwise one forward pass is added. */
#include "trainer/grpo.h"

#include "trainer/balance.h"
#include "trainer/policy_loss.h"

#include <math.h>
#include <string.h>

/* All sequences of the step, flat, in manifest order. */
struct flat_step {
    struct train_sequence *sequences;
    const struct sample **samples;
    uint64_t *group_ids;
    size_t n;
};

struct pass {
    const struct run_config *config;
    const struct flat_step *step;
    size_t first; /* of this update's sequences in the step */
    struct loss_options loss;
    struct loss_totals totals;
    float **ref_logp; /* per sequence of the step, or NULL */
    bool checks_exactness;
    struct arena *arena;
    struct grpo_stats *stats;
};

/* Of one of the parts of a step, whose prompts are those of its groups. */
static size_t max_update_tokens(const struct run_config *config)
{
    const size_t n_parts = config->grpo.num_minibatches, n_groups = config->grpo.prompts_per_step;
    const size_t n = n_groups * config->grpo.num_generations;
    const size_t n_sequences = (n + n_parts - 1) / n_parts;
    const size_t n_prompts = n_groups < n_sequences ? n_groups : n_sequences;
    return n_prompts * config->data.max_prompt_length +
           n_sequences * config->rollout.max_completion_length;
}

struct learner_options grpo_learner_options(const struct run_config *config)
{
    const size_t rows = config->data.max_prompt_length + config->rollout.max_completion_length;
    return (struct learner_options){
        .optimizer = {.beta1 = config->optim.adam_beta1,
                      .beta2 = config->optim.adam_beta2,
                      .epsilon = config->optim.adam_epsilon,
                      .weight_decay = config->optim.weight_decay,
                      .max_grad_norm = config->optim.max_grad_norm},
        .micro_batch_tokens = config->optim.micro_batch_tokens,
        .max_sequence_rows = rows + 1,
        .max_update_tokens = max_update_tokens(config),
        .sampling = {.temperature = (float)config->rollout.temperature,
                     .top_k = (int32_t)config->rollout.top_k,
                     .top_p = (float)config->rollout.top_p,
                     .min_p = (float)config->rollout.min_p},
        .shares_prompts = config->optim.share_prompts,
        .trains_mtp = config->model.mtp_train,
        .detaches_mtp = true,
        .mtp_coef = config->model.mtp_coef,
        .balance = balance_kind_of(config),
        .balance_coef = config->model.router_aux_loss_coef,
        .indexer = indexer_loss_of(config),
        .indexer_coef = config->model.indexer_loss_coef,
    };
}

static enum status flatten(const struct step_batch *batch, struct arena *arena,
                           struct flat_step *out)
{
    const size_t n = step_batch_samples(batch);
    *out = (struct flat_step){0};
    TRY(arena_alloc(arena, n, sizeof(*out->sequences), &out->sequences));
    TRY(arena_alloc(arena, n, sizeof(struct sample *), &out->samples));
    TRY(arena_alloc(arena, n, sizeof(uint64_t), &out->group_ids));
    for (size_t g = 0; g < batch->n_groups; g++) {
        const struct sample_group *group = &batch->groups[g];
        for (size_t i = 0; i < group->n_samples; i++) {
            const struct sample *sample = &group->samples[i];
            out->sequences[out->n] = (struct train_sequence){.prompt = group->prompt,
                                                             .n_prompt = group->n_prompt,
                                                             .response = sample->tokens,
                                                             .n_response = sample->n_tokens,
                                                             .seed = sample->seed,
                                                             .group = group->group_id,
                                                             .sample = (uint32_t)sample->idx};
            out->samples[out->n] = sample;
            out->group_ids[out->n++] = group->group_id;
        }
    }
    return STATUS_OK;
}

static bool is_masked(const struct run_config *config, const struct sample *sample)
{
    return config->grpo.mask_truncated_completions && sample->is_truncated;
}

static struct loss_totals count_totals(const struct run_config *config,
                                       const struct flat_step *step, size_t first, size_t end)
{
    struct loss_totals totals = {.n_sequences = end - first};
    for (size_t i = first; i < end; i++) {
        if (!is_masked(config, step->samples[i])) {
            totals.n_active_sequences++;
            totals.n_tokens += step->samples[i]->n_tokens;
        }
    }
    return totals;
}

static uint32_t bits_of(float value)
{
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* The number that every step prints; NaN until something was compared. */
static void measure_mismatch(const struct sample *sample, const float *logp, size_t n,
                             struct grpo_stats *stats)
{
    for (size_t t = 0; t < n; t++) {
        const double difference = fabs((double)sample->logprobs[t] - (double)logp[t]);
        stats->mismatch_max = fmax(stats->mismatch_max, difference);
    }
}

/* Bits, not values: the contract is equality, and a NaN must not pass. */
static enum status check_exactness(const struct pass *pass, size_t index, const float *logp,
                                   size_t n)
{
    const struct sample *sample = pass->step->samples[index];
    measure_mismatch(sample, logp, n, pass->stats);
    for (size_t t = 0; t < n; t++) {
        if (bits_of(logp[t]) != bits_of(sample->logprobs[t])) {
            return status_set(STATUS_INEXACT,
                              "group %llu sample %d token %zu: the sampler's log-probability %.9g "
                              "is not the trainer's %.9g",
                              (unsigned long long)pass->step->group_ids[index], sample->idx, t,
                              (double)sample->logprobs[t], (double)logp[t]);
        }
    }
    return STATUS_OK;
}

static enum status visit_exactness(void *context, size_t sequence_index, const float *logp,
                                   size_t n)
{
    return check_exactness(context, sequence_index, logp, n);
}

static enum status visit_reference(void *context, size_t sequence_index, const float *logp,
                                   size_t n)
{
    const struct pass *pass = context;
    TRY(arena_alloc(pass->arena, n, sizeof(float), &pass->ref_logp[sequence_index]));
    memcpy(pass->ref_logp[sequence_index], logp, n * sizeof(float));
    return STATUS_OK;
}

static void record_sample(const struct pass *pass, size_t index, const struct loss_stats *loss,
                          const float *logp, const float *entropy, size_t n)
{
    float *row = pass->stats->sample_stats + index * SAMPLE_STATS;
    const struct sample *sample = pass->step->samples[index];
    double entropy_sum = 0.0;
    double mismatch = 0.0;
    for (size_t t = 0; t < n; t++) {
        entropy_sum += (double)entropy[t];
        mismatch += (double)sample->logprobs[t] - (double)logp[t];
    }
    const double active = loss->n_active > 0 ? (double)loss->n_active : 1.0;
    row[0] = (float)(loss->kl / active);
    row[1] = (float)(entropy_sum / (double)n);
    row[2] = (float)((double)(loss->n_clipped_low + loss->n_clipped_high) / active);
    row[3] = (float)(mismatch / (double)n);
    row[4] = (float)loss->ratio_max;
}

static enum status visit_loss(void *context, size_t sequence_index, const float *logp,
                              const float *entropy, size_t n, float *g)
{
    struct pass *pass = context;
    const size_t index = pass->first + sequence_index;
    const struct sample *sample = pass->step->samples[index];
    if (pass->checks_exactness) {
        TRY(check_exactness(pass, index, logp, n));
    }
    if (is_masked(pass->config, sample)) {
        memset(g, 0, n * sizeof(float));
        return STATUS_OK;
    }
    const struct loss_sequence sequence = {
        .logp = logp,
        .old_logp = sample->logprobs,
        .ref_logp = pass->ref_logp != NULL ? pass->ref_logp[index] : NULL,
        .n = n,
        .advantage = sample->advantage,
    };
    struct loss_stats loss;
    TRY(loss_sequence_gradient(&pass->loss, &pass->totals, &sequence, g, &loss));
    pass->stats->loss += loss.loss;
    pass->stats->kl += loss.kl;
    pass->stats->ratio_max = fmax(pass->stats->ratio_max, loss.ratio_max);
    pass->stats->clip_low += (double)loss.n_clipped_low;
    pass->stats->clip_high += (double)loss.n_clipped_high;
    record_sample(pass, index, &loss, logp, entropy, n);
    return STATUS_OK;
}

static enum status learn_part(struct learner *learner, const struct schedule *schedule,
                              struct pass *pass, size_t first, size_t end)
{
    struct update_stats update;
    struct grpo_stats *stats = pass->stats;
    const size_t t = (size_t)optimizer_updates(learner_optimizer(learner)) + 1;
    stats->learning_rate = schedule_rate(schedule, t);
    pass->first = first;
    pass->totals = count_totals(pass->config, pass->step, first, end);
    const struct update_args args = {.sequences = pass->step->sequences + first,
                                     .n = end - first,
                                     .learning_rate = stats->learning_rate,
                                     .gradient = visit_loss,
                                     .context = pass,
                                     .expert_counts = stats->expert_counts};
    TRY(learner_update(learner, &args, &update));
    stats->grad_norm = fmax(stats->grad_norm, update.grad_norm);
    stats->entropy += update.entropy_sum;
    stats->n_inputs += update.n_inputs;
    stats->n_tokens += update.n_targets;
    stats->n_updates++;
    stats->mtp_loss = update.mtp_loss;
    stats->balance_loss = update.balance_loss;
    stats->indexer_loss = update.indexer_loss;
    stats->mtp_acceptance =
        update.n_mtp > 0 ? (double)update.n_mtp_accepted / (double)update.n_mtp : (double)NAN;
    return STATUS_OK;
}

static void finish_stats(struct grpo_stats *stats)
{
    const double n_tokens = stats->n_tokens > 0 ? (double)stats->n_tokens : 1.0;
    const double n_updates = stats->n_updates > 0 ? (double)stats->n_updates : 1.0;
    stats->loss /= n_updates;
    stats->kl /= n_tokens;
    stats->entropy /= n_tokens;
    stats->clip_low /= n_tokens;
    stats->clip_high /= n_tokens;
}

/* Reference log-probabilities and, when several updates follow, the exactness check of every sample
 * before any of them. */
static enum status prepare(struct learner *learner, struct policy *reference, struct pass *pass)
{
    const struct run_config *config = pass->config;
    if (reference != NULL) {
        TRY(arena_alloc(pass->arena, pass->step->n, sizeof(float *), &pass->ref_logp));
        TRY(learner_visit(learner, reference, pass->step->sequences, pass->step->n, visit_reference,
                          pass));
    }
    pass->checks_exactness = config->grpo.num_iterations * config->grpo.num_minibatches == 1;
    if (pass->checks_exactness) {
        return STATUS_OK;
    }
    return learner_visit(learner, learner_policy(learner), pass->step->sequences, pass->step->n,
                         visit_exactness, pass);
}

static struct loss_options loss_options_of(const struct run_config *config)
{
    return (struct loss_options){.type = config->grpo.loss_type,
                                 .epsilon = config->grpo.epsilon,
                                 .epsilon_high = config->grpo.epsilon_high,
                                 .beta = config->grpo.beta,
                                 .kl = config->grpo.kl_estimator,
                                 .max_completion_length = config->rollout.max_completion_length};
}

static enum status learn_all(struct learner *learner, const struct run_config *config,
                             const struct schedule *schedule, struct pass *pass)
{
    const size_t n_parts = config->grpo.num_minibatches;
    const size_t n = pass->step->n;
    for (size_t i = 0; i < config->grpo.num_iterations * n_parts; i++) {
        const size_t part = i % n_parts;
        const size_t first = n * part / n_parts;
        const size_t end = n * (part + 1) / n_parts;
        const enum status status =
            first == end ? STATUS_OK : learn_part(learner, schedule, pass, first, end);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

enum status grpo_learn(struct learner *learner, struct policy *reference,
                       const struct run_config *config, const struct schedule *schedule,
                       const struct step_batch *batch, struct arena *arena,
                       struct grpo_stats *stats)
{
    struct flat_step step;
    struct policy *policy = learner_policy(learner);
    struct pass pass = {.config = config,
                        .step = &step,
                        .loss = loss_options_of(config),
                        .arena = arena,
                        .stats = stats};
    *stats = (struct grpo_stats){.mtp_loss = (double)NAN,
                                 .mtp_acceptance = (double)NAN,
                                 .max_violation = (double)NAN,
                                 .balance_loss = (double)NAN,
                                 .indexer_loss = (double)NAN};
    TRY(flatten(batch, arena, &step));
    TRY(arena_alloc(arena, step.n * SAMPLE_STATS, sizeof(float), &stats->sample_stats));
    TRY(balance_counts_alloc(policy, arena, &stats->expert_counts));
    if (step.n == 0) {
        return STATUS_OK;
    }
    TRY(prepare(learner, reference, &pass));
    TRY(learn_all(learner, config, schedule, &pass));
    finish_stats(stats);
    balance_measure(policy, stats->expert_counts, &stats->max_violation, &stats->n_dead_experts);
    if (stats->expert_counts != NULL && config->model.router_bias_update > 0.0) {
        policy_update_router_bias(policy, stats->expert_counts,
                                  (float)config->model.router_bias_update);
    }
    return STATUS_OK;
}
