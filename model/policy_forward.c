/* Owns the forward pass over a packed batch, and the head's log-probabilities. */
#include "base/memory.h"
#include "model/policy_part_internal.h"

#include <string.h>

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
        TRY(policy_count_experts(policy, moe_index, a, &rows));
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
    TRY(ops->gather_rows(
        policy->backend,
        &(struct rows_args){.src = policy->normed - policy->first_row * s->d_stride,
                            .src_stride = s->d_stride,
                            .rows = policy->target_rows,
                            .dst = policy->head_x,
                            .dst_stride = s->d_stride,
                            .n_rows = policy->n_targets,
                            .d = s->d}));
    return policy_head_forward(policy, 0, policy->targets, policy->n_targets, logp, entropy);
}

/* The whole pass for the rows of one policy, which may be a part's. */
static enum status forward_rows(struct policy *policy, size_t n_rows, float *logp, float *entropy)
{
    TRY(policy->backend->ops->embedding(
        policy->backend, &(struct embedding_args){.table = policy->weights + policy->embedding,
                                                  .ids = policy->tokens,
                                                  .out = policy_activations_of(policy, 0)->h_in,
                                                  .out_stride = policy->sizes.d_stride,
                                                  .n_rows = n_rows,
                                                  .d = policy->sizes.d}));
    TRY(run_layers(policy, n_rows));
    return finish_forward(policy, n_rows, logp, entropy);
}

struct passing {
    struct policy *policy;
    float *logp, *entropy;
};

static enum status forward_part(void *context, size_t index, struct backend *backend)
{
    const struct passing *p = context;
    const struct policy_part *part = &p->policy->parts[index];

    return forward_rows(policy_part_of_batch(p->policy, backend, part), part->n_rows,
                        p->logp + part->first_draw,
                        p->entropy == NULL ? NULL : p->entropy + part->first_draw);
}

static enum status forward_batch(struct policy *policy, size_t n_rows, float *logp, float *entropy)
{
    struct passing passing = {.policy = policy, .logp = logp, .entropy = entropy};
    const size_t n_parts = policy_cut_batch(policy, n_rows);

    if (n_parts == 1) {
        return forward_rows(policy, n_rows, logp, entropy);
    }
    policy->held_layer = SIZE_MAX; /* nobody's, should it fail half way */
    TRY(policy->backend->ops->run_parts(policy->backend, n_parts, forward_part, &passing));
    policy_parts_join(policy, n_parts);
    return STATUS_OK;
}

enum status policy_forward(struct policy *policy, const struct policy_batch *batch, float *logp,
                           float *entropy)
{
    policy->n_rows = 0; /* nothing to go back over until this succeeds */
    policy->n_extended = 0;
    policy->n_mtp_run = 0;
    policy->n_mtp_left = 0;
    policy->mtp_reaches_trunk = false;
    TRY(policy_batch_place(policy, batch));
    memset(policy->counts, 0,
           policy->n_moe_layers * policy->sizes.n_experts * sizeof(policy->counts[0]));
    TRY(forward_batch(policy, batch->n_rows, logp, entropy));
    policy->n_rows = batch->n_rows;
    return STATUS_OK;
}
