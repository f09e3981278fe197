/* Owns the losses of the indexers (model.md 11.2): when they are wanted, a layer's loss, and the
 * gradients of its indexer. Inputs of an indexer are constants: nothing goes on from here. */
#include "model/policy_attention_internal.h"
#include "model/policy_backward_internal.h"

#include <string.h>

enum status policy_set_indexer_loss(struct policy *policy, enum policy_indexer_loss loss,
                                    float coefficient)
{
    const size_t n_layers = policy->config.n_layers + policy->config.n_mtp_modules;

    if (loss != POLICY_INDEXER_OFF &&
        (policy->sizes.index_heads == 0 || !policy->options.is_trainable)) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "an indexer loss needs a trainable model with indexers");
    }
    policy->n_rows = 0; /* a forward pass was dense or sparse */
    policy->n_mtp_left = 0;
    policy->indexer_loss = loss;
    policy->indexer_coefficient = coefficient;
    if (policy->indexer_losses != NULL) {
        memset(policy->indexer_losses, 0, n_layers * sizeof(policy->indexer_losses[0]));
    }
    return STATUS_OK;
}

void policy_indexer_losses(const struct policy *policy, double *losses)
{
    const size_t n_layers = policy->config.n_layers + policy->config.n_mtp_modules;

    for (size_t i = 0; i < n_layers; i++) {
        losses[i] = policy->indexer_losses == NULL ? 0.0 : policy->indexer_losses[i];
    }
}

/* Fills the pages again with what the layer's tokens left there; d_pages becomes zero. */
static enum status fill_pages(struct policy *policy, const struct policy_activations *a,
                              const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(policy_mla_copy(policy, rows, a->latent, a->project, rows->pages, true));
    TRY(policy_indexer_copy(policy, rows, a->index_key, s->index_key_stride, rows->pages, true));
    return policy->backend->ops->fill(policy->backend, policy->grad.d_pages,
                                      policy->n_entries_used * s->d_entry_stride, 0);
}

/* The loss of every row, and the gradients of queries, weights and (rotated) keys. */
static enum status loss_backward(struct policy *policy, const struct policy_activations *a,
                                 const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    struct policy_gradients_scratch *g = &policy->grad;
    const struct kv_pages d_pages = policy_gradient_pages(policy);

    TRY(fill_pages(policy, a, rows));
    TRY(policy->backend->ops->index_loss(
        policy->backend, &(struct index_loss_args){.attention = policy_mla_args(policy, a, rows),
                                                   .index = policy_index_args(policy, a, rows),
                                                   .coefficient = policy->indexer_coefficient,
                                                   .loss = g->index_loss,
                                                   .dq = g->d_index_q,
                                                   .dw = g->d_index + s->index_w_at,
                                                   .d_pages = d_pages}));
    TRY(policy_indexer_copy(policy, rows, g->d_index, s->index_stride, d_pages, false));
    return policy_indexer_rotate(policy, g->d_index_q, g->d_index, s->index_stride, rows, true);
}

/* The gradients of wq_b, wk and weights_proj, d_index and d_index_q given. */
static enum status projections_backward(struct policy *policy, const struct policy_layer *layer,
                                        const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(policy_weights_backward(policy,
                                &(struct policy_linear_gradient){
                                    .parts = {{layer->index_k, 0, s->index_dim, 0},
                                              {layer->index_w, 0, s->index_heads, s->index_w_at}},
                                    .n_parts = 2,
                                    .n_in = s->d,
                                    .dy = policy->grad.d_index,
                                    .dy_stride = s->index_stride,
                                    .x = a->normed_in,
                                    .x_stride = s->d_stride,
                                    .n_rows = n_rows,
                                    .arithmetic = POLICY_EXACT}));
    return policy_weights_backward(
        policy, &(struct policy_linear_gradient){
                    .parts = {{layer->index_q, 0, s->index_heads * s->index_dim, 0}},
                    .n_parts = 1,
                    .n_in = s->q_rank,
                    .dy = policy->grad.d_index_q,
                    .dy_stride = s->index_q_stride,
                    .x = a->q_latent,
                    .x_stride = s->q_rank_stride,
                    .n_rows = n_rows,
                    .arithmetic = POLICY_EXACT});
}

static enum status count_loss(struct policy *policy, const struct policy_layer *layer,
                              size_t n_rows)
{
    const size_t index = (size_t)(layer - policy->layers);
    double sum = 0;

    TRY(policy->backend->ops->download(policy->backend, policy->host_index_losses,
                                       policy->grad.index_loss, n_rows * sizeof(float)));
    for (size_t i = 0; i < n_rows; i++) {
        sum += (double)policy->host_index_losses[i];
    }
    policy->indexer_losses[index] += sum;
    return STATUS_OK;
}

enum status policy_indexer_backward(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a,
                                    const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(loss_backward(policy, a, rows));
    TRY(policy->backend->ops->layer_norm_backward(
        policy->backend,
        &(struct layer_norm_backward_args){.x = a->index_project,
                                           .x_stride = s->index_stride,
                                           .w = policy->weights + layer->index_norm,
                                           .mean = a->index_mean,
                                           .rstd = a->index_rstd,
                                           .dy = policy->grad.d_index,
                                           .dy_stride = s->index_stride,
                                           .dx = policy->grad.d_index,
                                           .dx_stride = s->index_stride,
                                           .dw = policy->gradients + layer->index_norm,
                                           .db = policy->gradients + layer->index_norm_bias,
                                           .n_rows = rows->n_rows,
                                           .d = s->index_dim}));
    TRY(projections_backward(policy, layer, a, rows->n_rows));
    return count_loss(policy, layer, rows->n_rows);
}
