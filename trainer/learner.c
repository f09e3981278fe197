#include "trainer/learner.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

struct learner {
    struct backend *backend;
    struct policy *policy;
    struct optimizer *optimizer;
    struct learner_options options;
    struct micro_batch_plan plan;
    struct micro_batch batch;
    bool has_mtp;
    bool counts_ahead;       /* the balance loss is measured against the load of a whole update */
    uint32_t *expert_counts; /* (policy_moe_layers, n_experts) of the update, then */
    double *indexer_losses;  /* (layers, the MTP modules' too) */
    double flops;
};

size_t learner_max_rows(const struct learner_options *options)
{
    return options->micro_batch_tokens > options->max_sequence_rows ? options->micro_batch_tokens
                                                                    : options->max_sequence_rows;
}

/* Tokens of cache entries for a row: a row is that of a token of a response, mostly, and its
 * sequence holds the prompt too. With less room a group of short responses to a long prompt is cut
 * into more parts. */
#define ENTRIES_PER_ROW ((size_t)16)

static bool shares_prompts(const struct learner_options *options)
{
    const bool is_of_sequence = options->balance == POLICY_BALANCE_SEQUENCE ||
                                options->balance == POLICY_BALANCE_SEQUENCE_ROUTED;
    return options->shares_prompts && options->indexer == POLICY_INDEXER_OFF &&
           !(options->balance_coef > 0.0 && is_of_sequence);
}

size_t learner_max_entries(const struct learner_options *options)
{
    return (shares_prompts(options) ? ENTRIES_PER_ROW : 1) * learner_max_rows(options);
}

static struct micro_batch_plan plan_of(const struct learner *learner)
{
    return (struct micro_batch_plan){.max_rows = learner->options.micro_batch_tokens,
                                     .max_entries = learner_max_entries(&learner->options),
                                     .sampling = learner->options.sampling,
                                     .has_mtp = learner->has_mtp,
                                     .shares_prompts = shares_prompts(&learner->options)};
}

/* Counters for a balance loss that needs them; a model without experts has none. */
static enum status create_counts(struct learner *learner)
{
    const int32_t *layers = NULL;
    const size_t n_layers = policy_moe_layers(learner->policy, &layers);
    const enum policy_balance_kind kind = learner->options.balance;
    learner->options.balance_coef = n_layers > 0 ? learner->options.balance_coef : 0.0;
    learner->counts_ahead = learner->options.balance_coef > 0.0 &&
                            (kind == POLICY_BALANCE_BATCH || kind == POLICY_BALANCE_LAYER);
    if (!learner->counts_ahead) {
        return STATUS_OK;
    }
    return memory_alloc(n_layers * policy_config(learner->policy)->n_experts, sizeof(uint32_t),
                        &learner->expert_counts);
}

static enum status create_losses(struct learner *learner)
{
    const struct model_config *config = policy_config(learner->policy);
    return memory_alloc(config->n_layers + config->n_mtp_modules, sizeof(double),
                        &learner->indexer_losses);
}

static enum optimizer_indexers optimizer_indexers_of(enum policy_indexer_loss loss)
{
    return loss == POLICY_INDEXER_OFF     ? INDEXERS_FROZEN
           : loss == POLICY_INDEXER_DENSE ? INDEXERS_ALONE
                                          : INDEXERS_BESIDE;
}

enum status learner_create(struct backend *backend, struct policy *policy,
                           const struct learner_options *options, struct learner **out)
{
    struct learner *learner = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*learner), &learner));
    learner->backend = backend;
    learner->policy = policy;
    learner->options = *options;
    learner->has_mtp = options->trains_mtp && policy_config(policy)->n_mtp_modules > 0;
    learner->options.optimizer.freezes_mtp = !learner->has_mtp;
    learner->options.optimizer.indexers = optimizer_indexers_of(options->indexer);
    if (options->indexer == POLICY_INDEXER_DENSE) {
        learner->options.balance_coef = 0.0; /* no router learns */
    }
    learner->plan = plan_of(learner);
    enum status status = micro_batch_init(learner_max_rows(options), &learner->batch);
    if (status == STATUS_OK) {
        status = create_counts(learner);
    }
    if (status == STATUS_OK) {
        status = create_losses(learner);
    }
    if (status == STATUS_OK) {
        status = optimizer_create(backend, policy_table(policy), &learner->options.optimizer,
                                  &learner->optimizer);
    }
    if (status != STATUS_OK) {
        learner_destroy(learner);
        return status;
    }
    *out = learner;
    return STATUS_OK;
}

void learner_destroy(struct learner *learner)
{
    if (learner == NULL) {
        return;
    }
    optimizer_destroy(learner->optimizer);
    micro_batch_dispose(&learner->batch);
    memory_free(learner->expert_counts);
    memory_free(learner->indexer_losses);
    memory_free(learner);
}

struct optimizer *learner_optimizer(struct learner *learner)
{
    return learner->optimizer;
}

struct policy *learner_policy(struct learner *learner)
{
    return learner->policy;
}

double learner_flops(const struct learner *learner)
{
    return learner->flops;
}

/* The next sequences of the n become learner->batch; returns one past the last. */
static size_t pack(struct learner *learner, const struct train_sequence *sequences, size_t first,
                   size_t n)
{
    return micro_batch_pack(&learner->batch, &learner->plan, sequences, first, n);
}

/* The packed batch without targets. */
static struct policy_batch rows_of(const struct learner *learner)
{
    const struct micro_batch *batch = &learner->batch;
    return (struct policy_batch){.tokens = batch->tokens,
                                 .n_rows = batch->n_rows,
                                 .offsets = batch->offsets,
                                 .continues = batch->continues,
                                 .n_sequences = batch->n_sequences,
                                 .sampling = learner->options.sampling};
}

static enum status forward(struct learner *learner, struct policy *policy)
{
    const struct micro_batch *batch = &learner->batch;
    struct policy_batch args = rows_of(learner);
    args.target_rows = batch->target_rows;
    args.targets = batch->targets;
    args.n_targets = batch->n_targets;
    return policy_forward(policy, &args, batch->logp, batch->entropy);
}

static void count_drafts(const struct micro_batch *batch, struct update_stats *stats)
{
    for (size_t j = 0; j < batch->n_mtp; j++) {
        stats->mtp_loss -= (double)batch->mtp_logp[j];
        stats->n_mtp_accepted += batch->mtp_drawn[j] == batch->mtp_targets[j] ? 1 : 0;
    }
    stats->n_mtp += batch->n_mtp;
}

/* Loss of the module: mtp_coef times the mean cross-entropy over the update's n_mtp_total targets.
 */
static enum status learn_mtp(struct learner *learner, size_t n_mtp_total,
                             struct update_stats *stats)
{
    struct micro_batch *batch = &learner->batch;
    const struct policy_mtp_args args = {
        .target_rows = batch->mtp_rows,
        .targets = batch->mtp_targets,
        .n_targets = batch->n_mtp,
        .detached = learner->options.detaches_mtp,
        .draws = batch->mtp_draws,
        .drawn = batch->mtp_drawn,
    };
    TRY(policy_mtp_forward(learner->policy, &args, batch->mtp_logp));
    count_drafts(batch, stats);
    const float g = (float)(-learner->options.mtp_coef / (double)n_mtp_total);
    for (size_t j = 0; j < batch->n_mtp; j++) {
        batch->mtp_g[j] = g;
    }
    return policy_mtp_backward(learner->policy, batch->mtp_g);
}

struct update {
    const struct update_args *args;
    size_t n_mtp_total, n_rows_total;
    struct update_stats *stats;
    bool is_uncounted; /* one micro-batch: its own forward pass counts for the balance loss */
};

static enum status set_balance(struct learner *learner, size_t n_sequences)
{
    return policy_set_balance(learner->policy,
                              &(struct policy_balance){.kind = learner->options.balance,
                                                       .coefficient = learner->options.balance_coef,
                                                       .n_sequences = n_sequences,
                                                       .counts = learner->expert_counts});
}

/* How often the update takes each expert: a forward pass without a head over its micro-batches,
 * since the first one's gradient needs the load of all. */
static enum status count_experts(struct learner *learner, struct update *update)
{
    const struct update_args *args = update->args;
    for (size_t first = 0; first < args->n;) {
        const size_t end = pack(learner, args->sequences, first, args->n);
        update->is_uncounted = first == 0 && end == args->n;
        if (update->is_uncounted) {
            return STATUS_OK;
        }
        const struct policy_batch rows = rows_of(learner);
        TRY(policy_forward(learner->policy, &rows, learner->batch.logp, NULL));
        policy_expert_counts(learner->policy, learner->expert_counts);
        learner->flops += policy_forward_flops(learner->policy);
        first = end;
    }
    return STATUS_OK;
}

static enum status begin_balance(struct learner *learner, struct update *update)
{
    const int32_t *layers = NULL;
    const size_t n_layers = policy_moe_layers(learner->policy, &layers);
    if (!learner->counts_ahead) {
        return set_balance(learner, update->args->n);
    }
    memset(learner->expert_counts, 0,
           n_layers * policy_config(learner->policy)->n_experts * sizeof(uint32_t));
    TRY(count_experts(learner, update));
    return update->is_uncounted ? STATUS_OK : set_balance(learner, update->args->n);
}

/* Behind the forward pass of an update of one micro-batch. */
static enum status balance_from_forward(struct learner *learner, const struct update *update)
{
    policy_expert_counts(learner->policy, learner->expert_counts);
    return set_balance(learner, update->args->n);
}

/* Asks for the gradient of each sequence of the packed batch. */
static enum status fill_gradients(struct learner *learner, const struct update *update,
                                  size_t first, size_t end)
{
    const struct micro_batch *batch = &learner->batch;
    size_t target = 0;
    for (size_t i = first; i < end; i++) {
        const size_t n = update->args->sequences[i].n_response;
        const enum status status =
            update->args->gradient(update->args->context, i, batch->logp + target,
                                   batch->entropy + target, n, batch->g + target);
        if (status != STATUS_OK) {
            return status;
        }
        target += n;
    }
    return STATUS_OK;
}

static enum status learn_micro_batch(struct learner *learner, const struct update *update,
                                     size_t first, size_t end)
{
    struct micro_batch *batch = &learner->batch;
    TRY(forward(learner, learner->policy));
    TRY(fill_gradients(learner, update, first, end));
    if (update->is_uncounted) {
        TRY(balance_from_forward(learner, update));
    }
    if (learner->has_mtp && batch->n_mtp > 0) {
        TRY(learn_mtp(learner, update->n_mtp_total, update->stats));
    }
    if (update->args->expert_counts != NULL) {
        policy_expert_counts(learner->policy, update->args->expert_counts);
    }
    for (size_t i = 0; i < batch->n_targets; i++) {
        update->stats->entropy_sum += (double)batch->entropy[i];
    }
    update->stats->n_rows += batch->n_rows;
    update->stats->n_inputs += batch->n_inputs;
    update->stats->n_targets += batch->n_targets;
    learner->flops += 3.0 * policy_forward_flops(learner->policy);
    return policy_backward(learner->policy, batch->g, NULL);
}

/* The gradient of the whole update: micro-batches add to it in order. */
static enum status accumulate(struct learner *learner, const struct update *update)
{
    for (size_t first = 0; first < update->args->n;) {
        const size_t end = pack(learner, update->args->sequences, first, update->args->n);
        const enum status status = learn_micro_batch(learner, update, first, end);
        if (status != STATUS_OK) {
            return status;
        }
        first = end;
    }
    return STATUS_OK;
}

static enum status begin_indexers(struct learner *learner, const struct update *update)
{
    if (learner->options.indexer == POLICY_INDEXER_OFF) {
        return STATUS_OK;
    }
    return policy_set_indexer_loss(
        learner->policy, learner->options.indexer,
        (float)(learner->options.indexer_coef / (double)update->n_rows_total));
}

static void finish_indexers(const struct learner *learner, const struct update *update)
{
    const struct model_config *config = policy_config(learner->policy);
    const size_t n_layers = config->n_layers + config->n_mtp_modules;
    update->stats->indexer_loss = (double)NAN;
    if (learner->options.indexer == POLICY_INDEXER_OFF) {
        return;
    }
    policy_indexer_losses(learner->policy, learner->indexer_losses);
    update->stats->indexer_loss = 0.0;
    for (size_t i = 0; i < n_layers; i++) {
        update->stats->indexer_loss += learner->indexer_losses[i] / (double)update->n_rows_total;
    }
}

enum status learner_update(struct learner *learner, const struct update_args *args,
                           struct update_stats *stats)
{
    struct update update = {.args = args, .stats = stats};
    *stats = (struct update_stats){0};
    for (size_t i = 0; i < args->n; i++) {
        update.n_mtp_total += train_sequence_mtp_targets(&args->sequences[i]);
        update.n_rows_total += train_sequence_rows(&args->sequences[i]);
    }
    TRY(policy_clear_gradients(learner->policy));
    TRY(begin_indexers(learner, &update));
    TRY(begin_balance(learner, &update));
    TRY(accumulate(learner, &update));
    stats->balance_loss =
        learner->options.balance_coef > 0.0 ? policy_balance_loss(learner->policy) : (double)NAN;
    finish_indexers(learner, &update);
    TRY(policy_finish_gradients(learner->policy));
    stats->mtp_loss = stats->n_mtp > 0 ? stats->mtp_loss / (double)stats->n_mtp : (double)NAN;
    TRY(optimizer_step(learner->optimizer, policy_weights(learner->policy),
                       policy_gradients(learner->policy), args->learning_rate, &stats->grad_norm));
    return policy_refresh(learner->policy);
}

static enum status visit_packed(const struct micro_batch *batch,
                                const struct train_sequence *sequences, size_t first, size_t end,
                                sequence_visit *visit, void *context)
{
    size_t target = 0;
    for (size_t i = first; i < end; i++) {
        const enum status status = visit(context, i, batch->logp + target, sequences[i].n_response);
        if (status != STATUS_OK) {
            return status;
        }
        target += sequences[i].n_response;
    }
    return STATUS_OK;
}

enum status learner_visit(struct learner *learner, struct policy *policy,
                          const struct train_sequence *sequences, size_t n, sequence_visit *visit,
                          void *context)
{
    for (size_t first = 0; first < n;) {
        const size_t end = pack(learner, sequences, first, n);
        TRY(forward(learner, policy));
        learner->flops += policy_forward_flops(policy);
        TRY(visit_packed(&learner->batch, sequences, first, end, visit, context));
        first = end;
    }
    return STATUS_OK;
}
