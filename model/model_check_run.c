/* Owns the run behind a check: forward, MTP, trace and gradients of the mean next-token loss. */
#include "base/memory.h"
#include "model/model_check_internal.h"

#include <string.h>

#define MTP_WEIGHT 0.3f

/* Targets `ahead` tokens ahead of their rows, for every sequence; g: upstream gradients of
 * weight * mean(-logp). */
struct targets {
    int32_t *rows, *tokens;
    size_t n;
    float *logp, *g;
};

static enum status make_targets(const struct model_run *run, size_t ahead, float weight,
                                struct targets *out)
{
    const size_t per_sequence = run->n_tokens > ahead ? run->n_tokens - ahead : 0;
    const size_t n = run->n_sequences * per_sequence;

    TRY(arena_alloc(run->arena, n, sizeof(int32_t), &out->rows));
    TRY(arena_alloc(run->arena, n, sizeof(int32_t), &out->tokens));
    TRY(arena_alloc(run->arena, n, sizeof(float), &out->logp));
    TRY(arena_alloc(run->arena, n, sizeof(float), &out->g));
    out->n = n;
    for (size_t i = 0; i < n; i++) {
        const size_t row = i / per_sequence * run->n_tokens + i % per_sequence;

        out->rows[i] = (int32_t)row;
        out->tokens[i] = run->tokens[row + ahead];
        out->g[i] = -weight / (float)n;
    }
    return STATUS_OK;
}

static float mean_loss(const struct targets *targets)
{
    double sum = 0;

    for (size_t i = 0; i < targets->n; i++) {
        sum -= (double)targets->logp[i];
    }
    return targets->n == 0 ? 0 : (float)(sum / (double)targets->n);
}

/* Main targets, and those of each MTP module. */
struct all_targets {
    struct targets main, mtp[MODEL_MTP_MAX];
};

static size_t count_modules(const struct model_run *run)
{
    return policy_config(run->policy)->n_mtp_modules;
}

size_t model_run_mtp_rows(const struct model_run *run, size_t module)
{
    return run->n_tokens > module + 1 ? run->n_sequences * (run->n_tokens - 1 - module) : 0;
}

static enum status mtp_forward(const struct model_run *run, const struct all_targets *all,
                               bool detached)
{
    for (size_t i = 0; i < count_modules(run); i++) {
        TRY(policy_mtp_forward(run->policy,
                               &(struct policy_mtp_args){.module = i,
                                                         .target_rows = all->mtp[i].rows,
                                                         .targets = all->mtp[i].tokens,
                                                         .n_targets = all->mtp[i].n,
                                                         .detached = detached},
                               all->mtp[i].logp));
    }
    return STATUS_OK;
}

static enum status forward(const struct model_run *run, const struct all_targets *all,
                           bool detached)
{
    const struct targets *targets = &all->main;
    size_t *offsets;

    TRY(arena_alloc(run->arena, run->n_sequences + 1, sizeof(size_t), &offsets));
    for (size_t i = 0; i <= run->n_sequences; i++) {
        offsets[i] = i * run->n_tokens;
    }
    TRY(policy_forward(run->policy,
                       &(struct policy_batch){.tokens = run->tokens,
                                              .n_rows = run->n_rows,
                                              .offsets = offsets,
                                              .n_sequences = run->n_sequences,
                                              .target_rows = targets->rows,
                                              .targets = targets->tokens,
                                              .n_targets = targets->n,
                                              .sampling = {.temperature = 1, .top_p = 1}},
                       targets->logp, NULL));
    return mtp_forward(run, all, detached);
}

/* Gradients of a fresh forward pass, copied to *out. */
static enum status differentiate(const struct model_run *run, const struct all_targets *all,
                                 bool detached, float **out)
{
    const size_t n = policy_table(run->policy)->n_floats;
    float *gradients = policy_gradients(run->policy);

    memset(gradients, 0, n * sizeof(float));
    TRY(forward(run, all, detached));
    for (size_t i = count_modules(run); i-- > 0;) {
        TRY(policy_mtp_backward(run->policy, all->mtp[i].g));
    }
    TRY(policy_backward(run->policy, all->main.g, NULL));
    TRY(policy_finish_gradients(run->policy));
    TRY(arena_alloc(run->arena, n, sizeof(float), out));
    memcpy(*out, gradients, n * sizeof(float));
    return STATUS_OK;
}

/* Gradients and losses of the indexers, dense then sparse. */
static enum status differentiate_indexers(const struct all_targets *all, struct model_run *run)
{
    const struct model_config *config = policy_config(run->policy);
    const enum policy_indexer_loss kinds[] = {POLICY_INDEXER_DENSE, POLICY_INDEXER_SPARSE};
    double *losses;

    TRY(arena_alloc(run->arena, config->n_layers + config->n_mtp_modules, sizeof(double), &losses));
    for (size_t i = 0; i < 2; i++) {
        TRY(policy_set_indexer_loss(run->policy, kinds[i], 1.0f));
        TRY(differentiate(run, all, true, &run->gradients_indexer[i]));
        TRY(arena_alloc(run->arena, config->n_layers, sizeof(float), &run->indexer_losses[i]));
        policy_indexer_losses(run->policy, losses);
        for (size_t j = 0; j < config->n_layers; j++) {
            run->indexer_losses[i][j] = (float)losses[j];
        }
    }
    return policy_set_indexer_loss(run->policy, POLICY_INDEXER_OFF, 0);
}

/* Drops the rows of every sequence that a module does not have. */
static void pack_rows(const struct model_run *run, size_t module, void *values, size_t row_bytes)
{
    const size_t n = model_run_mtp_rows(run, module) / run->n_sequences;
    char *bytes = values;

    for (size_t i = 0; i < run->n_sequences; i++) {
        memmove(bytes + i * n * row_bytes, bytes + i * run->n_tokens * row_bytes, n * row_bytes);
    }
}

static enum status read_mtp(struct model_run *run)
{
    const struct model_config *config = policy_config(run->policy);
    const struct policy_trace wanted = {.mtp_hidden = run->trace.mtp_hidden,
                                        .mtp_logits = run->trace.mtp_logits};
    const size_t k = config->experts_per_token, n = run->n_rows;
    const size_t first_moe = model_config_moe_layers(config) - config->n_mtp_modules;

    TRY(policy_read_trace(run->policy, &wanted));
    for (size_t i = 0; i < config->n_mtp_modules; i++) {
        pack_rows(run, i, run->trace.mtp_hidden + i * n * config->hidden_size,
                  config->hidden_size * sizeof(float));
        pack_rows(run, i, run->trace.mtp_logits + i * n * config->vocab_size,
                  config->vocab_size * sizeof(float));
        if (config->n_experts > 0) {
            pack_rows(run, i, run->trace.indices + (first_moe + i) * n * k, k * sizeof(int32_t));
            pack_rows(run, i, run->trace.weights + (first_moe + i) * n * k, k * sizeof(float));
        }
    }
    return STATUS_OK;
}

/* Room for everything a trace holds. */
static enum status allocate_trace(struct model_run *run)
{
    const struct model_config *config = policy_config(run->policy);
    const size_t n = run->n_rows, d = config->hidden_size, vocab = config->vocab_size;
    const size_t n_routes = model_config_moe_layers(config) * n * config->experts_per_token;
    struct policy_trace *trace = &run->trace;

    TRY(arena_alloc(run->arena, config->n_layers * n * d, sizeof(float), &trace->hidden));
    TRY(arena_alloc(run->arena, n * d, sizeof(float), &trace->normed));
    TRY(arena_alloc(run->arena, n * vocab, sizeof(float), &trace->logits));
    TRY(arena_alloc(run->arena, n_routes, sizeof(int32_t), &trace->indices));
    return arena_alloc(run->arena, n_routes, sizeof(float), &trace->weights);
}

static enum status allocate_index_trace(struct model_run *run)
{
    const struct model_config *config = policy_config(run->policy);
    const size_t n = config->n_layers * run->n_rows;

    run->n_selected =
        config->index_topk < config->max_positions ? config->index_topk : config->max_positions;
    TRY(arena_alloc(run->arena, n * run->n_tokens, sizeof(float), &run->trace.index_scores));
    return arena_alloc(run->arena, n * run->n_selected, sizeof(int32_t),
                       &run->trace.index_selected);
}

static enum status read_trace(struct model_run *run)
{
    const struct model_config *config = policy_config(run->policy);
    const size_t n = run->n_rows;
    struct policy_trace *trace = &run->trace;

    TRY(allocate_trace(run));
    if (config->index_n_heads > 0) {
        TRY(allocate_index_trace(run));
    }
    TRY(policy_read_trace(run->policy, trace));
    if (config->n_mtp_modules == 0) {
        return STATUS_OK;
    }
    TRY(arena_alloc(run->arena, config->n_mtp_modules * n * config->hidden_size, sizeof(float),
                    &trace->mtp_hidden));
    TRY(arena_alloc(run->arena, config->n_mtp_modules * n * config->vocab_size, sizeof(float),
                    &trace->mtp_logits));
    return read_mtp(run);
}

/* input_ids (B, T) of the file. */
static enum status read_tokens(const struct safetensors *io, struct model_run *run)
{
    const struct tensor *ids = safetensors_find(io, "input_ids");
    int32_t *tokens;

    if (ids == NULL || ids->n_dims != 2 || ids->shape[0] == 0 || ids->shape[1] < 2 ||
        ids->shape[1] > policy_config(run->policy)->max_positions) {
        return status_set(STATUS_BAD_FORMAT, "%s: input_ids must be (B, T) with T from 2 to %zu",
                          safetensors_path(io), policy_config(run->policy)->max_positions);
    }
    TRY(arena_alloc(run->arena, ids->n_elements, sizeof(int32_t), &tokens));
    TRY(tensor_read_integers(ids, tokens));
    run->tokens = tokens;
    run->n_sequences = ids->shape[0];
    run->n_tokens = ids->shape[1];
    run->n_rows = ids->n_elements;
    return STATUS_OK;
}

static enum status run_backward(const struct all_targets *all, const struct model_run_wants *wants,
                                struct model_run *run)
{
    if (wants->gradients) {
        TRY(differentiate(run, all, false, &run->gradients));
    }
    if (wants->gradients_detached) {
        TRY(differentiate(run, all, true, &run->gradients_detached));
    }
    if (wants->indexer_losses && policy_config(run->policy)->index_n_heads > 0) {
        TRY(differentiate_indexers(all, run));
    }
    return STATUS_OK;
}

/* The module's cross-entropy is averaged over its targets, the loss over the modules. */
static void take_losses(const struct all_targets *all, struct model_run *run)
{
    const size_t n_modules = count_modules(run);
    double sum = 0;

    run->loss = mean_loss(&all->main);
    for (size_t i = 0; i < n_modules; i++) {
        run->mtp_ce[i] = mean_loss(&all->mtp[i]);
        sum += (double)run->mtp_ce[i];
    }
    run->mtp_loss = n_modules == 0 ? 0 : (float)(sum / (double)n_modules);
}

enum status model_run_compute(const struct safetensors *io, const struct model_run_wants *wants,
                              struct model_run *run)
{
    struct all_targets all;

    TRY(read_tokens(io, run));
    TRY(make_targets(run, 1, 1, &all.main));
    for (size_t i = 0; i < count_modules(run); i++) {
        TRY(make_targets(run, i + 2, MTP_WEIGHT / (float)count_modules(run), &all.mtp[i]));
    }
    TRY(run_backward(&all, wants, run));
    TRY(forward(run, &all, true));
    take_losses(&all, run);
    return read_trace(run);
}
