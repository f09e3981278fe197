/* Owns the forward pass over a packed batch of whole sequences, and the head's log-probabilities.
 */
#include "base/memory.h"
#include "model/policy_internal.h"

#include <string.h>

static enum status check_targets(const struct policy *policy, const struct policy_batch *batch)
{
    for (size_t i = 0; i < batch->n_targets; i++) {
        const int32_t row = batch->target_rows[i];

        if (row < 0 || (size_t)row >= batch->n_rows ||
            (i > 0 && row <= batch->target_rows[i - 1])) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "target row %zu is %d, want ascending rows below %zu", i, (int)row,
                              batch->n_rows);
        }
    }
    return policy_check_tokens(policy, "target", batch->targets, batch->n_targets);
}

static enum status check_batch(const struct policy *policy, const struct policy_batch *batch)
{
    if (batch->n_rows == 0 || batch->n_rows > policy->options.max_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "a batch of %zu rows, sized for 1 to %zu",
                          batch->n_rows, policy->options.max_rows);
    }
    if (batch->n_sequences == 0 || batch->offsets[0] != 0 ||
        batch->offsets[batch->n_sequences] != batch->n_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "the sequences do not cover the batch's %zu rows",
                          batch->n_rows);
    }
    for (size_t i = 0; i < batch->n_sequences; i++) {
        const size_t begin = batch->offsets[i], end = batch->offsets[i + 1];

        if (end <= begin || end > batch->n_rows || end - begin > policy->config.max_positions) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "sequence %zu has rows %zu to %zu, want 1 to %zu rows", i, begin, end,
                              policy->config.max_positions);
        }
    }
    TRY(policy_check_tokens(policy, "token", batch->tokens, batch->n_rows));
    return check_targets(policy, batch);
}

/* Spans, positions and pages: the entries of every sequence lie behind those before it. */
static enum status place_batch(struct policy *policy, const struct policy_batch *batch)
{
    size_t n_pages = 0;

    for (size_t i = 0; i < batch->n_sequences; i++) {
        const size_t begin = batch->offsets[i];
        const size_t n = batch->offsets[i + 1] - begin;

        policy->spans[i] =
            (struct kv_span){.first_row = begin, .n_rows = n, .blocks = policy->blocks + n_pages};
        for (size_t j = 0; j * KV_BLOCK_TOKENS < n; j++) {
            policy->blocks[n_pages++] = (int32_t)(begin + j * KV_BLOCK_TOKENS);
        }
        for (size_t j = 0; j < n; j++) {
            policy->staging[begin + j] = (int32_t)j;
        }
    }
    policy->n_spans = batch->n_sequences;
    policy->n_entries_used = batch->n_rows;
    memcpy(policy->host_tokens, batch->tokens, batch->n_rows * sizeof(int32_t));
    TRY(policy_upload_rows(policy, policy->positions, policy->staging, batch->n_rows));
    return policy_upload_rows(policy, policy->tokens, batch->tokens, batch->n_rows);
}

/* Keeps the targets for the backward pass and uploads them. */
static enum status place_targets(struct policy *policy, const struct policy_batch *batch)
{
    const size_t n = batch->n_targets, t = policy->options.max_rows;

    policy->n_targets = n;
    policy->sampling = batch->sampling;
    if (n == 0) {
        return STATUS_OK;
    }
    memcpy(policy->host_targets, batch->target_rows, n * sizeof(int32_t));
    memcpy(policy->host_targets + t, batch->targets, n * sizeof(int32_t));
    TRY(policy_upload_rows(policy, policy->target_rows, batch->target_rows, n));
    return policy_upload_rows(policy, policy->targets, batch->targets, n);
}

static enum status run_layers(struct policy *policy, size_t n_rows)
{
    struct policy_block_rows rows = policy_rows_of(policy, 0);
    size_t moe_index = 0;

    rows.n_rows = n_rows;

    for (size_t i = 0; i < policy->config.n_layers; i++) {
        const struct policy_activations *a = policy_activations_of(policy, i);

        TRY(policy_layer_forward(policy, i, &rows));
        if (!policy->layers[i].is_moe) {
            continue;
        }
        TRY(policy_count_experts(policy, moe_index, a, n_rows));
        moe_index++;
    }
    return STATUS_OK;
}

struct lm_head_args policy_head_args(const struct policy *policy, size_t at, const int32_t *targets,
                                     size_t n)
{
    return (struct lm_head_args){.x = policy->head_x + at * policy->sizes.d_stride,
                                 .x_stride = policy->sizes.d_stride,
                                 .w = policy->w_head,
                                 .precision = policy_unquantised(policy),
                                 .targets = targets,
                                 .logp = policy->logp + at,
                                 .entropy = policy->entropy + at,
                                 .lse = policy->lse + at,
                                 .n_rows = n,
                                 .d = policy->sizes.d,
                                 .vocab = policy->config.vocab_size,
                                 .sampling = policy->sampling};
}

enum status policy_head_forward(struct policy *policy, size_t at, const int32_t *targets, size_t n,
                                float *logp, float *entropy)
{
    const struct backend_ops *ops = policy->backend->ops;
    const struct lm_head_args args = policy_head_args(policy, at, targets, n);

    TRY(ops->lm_head_logprob(policy->backend, &args));
    TRY(ops->download(policy->backend, logp, args.logp, n * sizeof(float)));
    if (entropy == NULL) {
        return STATUS_OK;
    }
    return ops->download(policy->backend, entropy, args.entropy, n * sizeof(float));
}

/* From the last layer's rows to the targets' log-probabilities. */
static enum status finish_forward(struct policy *policy, size_t n_rows, float *logp, float *entropy)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t last = policy->config.n_layers - 1;

    TRY(ops->rms_norm(policy->backend,
                      &(struct rms_norm_args){.x = policy_activations_of(policy, last)->h_out,
                                              .x_stride = s->d_stride,
                                              .w = policy->weights + policy->final_norm,
                                              .y = policy->normed,
                                              .y_stride = s->d_stride,
                                              .rstd = policy->rstd_final,
                                              .n_rows = n_rows,
                                              .d = s->d,
                                              .eps = (float)policy->config.rms_norm_eps}));
    if (policy->trunk_out != NULL) {
        TRY(policy_copy_rows(policy, policy_activations_of(policy, last)->h_out, policy->trunk_out,
                             n_rows));
    }
    if (policy->n_targets == 0) {
        return STATUS_OK;
    }
    TRY(ops->gather_rows(policy->backend, &(struct rows_args){.src = policy->normed,
                                                              .src_stride = s->d_stride,
                                                              .rows = policy->target_rows,
                                                              .dst = policy->head_x,
                                                              .dst_stride = s->d_stride,
                                                              .n_rows = policy->n_targets,
                                                              .d = s->d}));
    return policy_head_forward(policy, 0, policy->targets, policy->n_targets, logp, entropy);
}

enum status policy_forward(struct policy *policy, const struct policy_batch *batch, float *logp,
                           float *entropy)
{
    const struct backend_ops *ops = policy->backend->ops;

    policy->n_rows = 0; /* nothing to go back over until this succeeds */
    policy->n_extended = 0;
    policy->n_mtp_run = 0;
    policy->n_mtp_left = 0;
    policy->mtp_reaches_trunk = false;
    TRY(check_batch(policy, batch));
    TRY(place_batch(policy, batch));
    TRY(place_targets(policy, batch));
    memset(policy->counts, 0,
           policy->n_moe_layers * policy->sizes.n_experts * sizeof(policy->counts[0]));
    TRY(ops->embedding(policy->backend,
                       &(struct embedding_args){.table = policy->weights + policy->embedding,
                                                .ids = policy->tokens,
                                                .out = policy_activations_of(policy, 0)->h_in,
                                                .out_stride = policy->sizes.d_stride,
                                                .n_rows = batch->n_rows,
                                                .d = policy->sizes.d}));
    TRY(run_layers(policy, batch->n_rows));
    TRY(finish_forward(policy, batch->n_rows, logp, entropy));
    policy->n_rows = batch->n_rows;
    return STATUS_OK;
}
