/* Owns the backward pass of latent attention (model.md 6.5): from the gradient of values to that of
 * the block's normed input. */
#include "model/policy_attention_internal.h"
#include "model/policy_backward_internal.h"

/* Of the first head: rows `row` .. of kv_b, n of what gradients meet. */
static struct gemm_dx_part kv_b_part(const struct policy *policy, const struct policy_layer *layer,
                                     size_t row, size_t n)
{
    const struct policy_sizes *s = &policy->sizes;

    return (struct gemm_dx_part){.w = policy->weights + layer->kv_b + row * s->kv_rank,
                                 .n = n,
                                 .row_at = row,
                                 .whole_rows = s->heads * (s->nope + s->v)};
}

/* d_values -> d_attended, with the gradient of UV. */
static enum status values_backward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(ops->gemm_dw(
        policy->backend,
        &(struct gemm_dw_args){.dy = policy->grad.d_values,
                               .dy_stride = s->value_stride,
                               .x = a->attended,
                               .x_stride = s->latent_stride,
                               .dw = policy->gradients + layer->kv_b + s->nope * s->kv_rank,
                               .dw_stride = s->kv_rank,
                               .n_rows = n_rows,
                               .n_in = s->kv_rank,
                               .n_out = s->v,
                               .n_batch = s->heads,
                               .dy_batch = s->v,
                               .x_batch = s->kv_rank,
                               .dw_batch = (s->nope + s->v) * s->kv_rank,
                               .precision = policy_backward_products(policy)}));
    return ops->gemm_dx(policy->backend,
                        &(struct gemm_dx_args){.dy = policy->grad.d_values,
                                               .dy_stride = s->value_stride,
                                               .parts = {kv_b_part(policy, layer, s->nope, s->v)},
                                               .n_parts = 1,
                                               .w_stride = s->kv_rank,
                                               .precision = policy_backward_products(policy),
                                               .rounding = policy_linear(policy),
                                               .dx = policy->grad.d_attended,
                                               .dx_stride = s->latent_stride,
                                               .n_rows = n_rows,
                                               .n_in = s->kv_rank,
                                               .n_out = s->v,
                                               .n_batch = s->heads,
                                               .dy_batch = s->v,
                                               .w_batch = (s->nope + s->v) * s->kv_rank,
                                               .dx_batch = s->kv_rank});
}

/* d_attended -> d_absorbed, the rotary part of d_q, d_latent and the key part of d_project. */
static enum status scores_backward(struct policy *policy, const struct policy_activations *a,
                                   const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const struct kv_pages d_pages = policy_gradient_pages(policy);

    TRY(policy_mla_copy(policy, rows, a->latent, a->project, rows->pages, true));
    TRY(ops->fill(policy->backend, d_pages.data, policy->n_entries_used * d_pages.entry_stride, 0));
    TRY(ops->attention_backward(
        policy->backend,
        &(struct attention_backward_args){.forward = policy_mla_args(policy, a, rows),
                                          .d_out = policy->grad.d_attended,
                                          .dq = policy->grad.d_absorbed,
                                          .dq_rope = policy->grad.d_q + s->nope,
                                          .d_pages = d_pages,
                                          .precision = policy_attention_products(policy)}));
    return policy_mla_copy(policy, rows, policy->grad.d_latent, policy->grad.d_project, d_pages,
                           false);
}

/* d_absorbed -> the part of d_q without position, and the gradient of UK. */
static enum status absorb_backward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(ops->gemm_dw(policy->backend,
                     &(struct gemm_dw_args){.dy = a->q,
                                            .dy_stride = s->q_stride,
                                            .x = policy->grad.d_absorbed,
                                            .x_stride = s->latent_stride,
                                            .dw = policy->gradients + layer->kv_b,
                                            .dw_stride = s->kv_rank,
                                            .n_rows = n_rows,
                                            .n_in = s->kv_rank,
                                            .n_out = s->nope,
                                            .n_batch = s->heads,
                                            .dy_batch = s->q_head,
                                            .x_batch = s->kv_rank,
                                            .dw_batch = (s->nope + s->v) * s->kv_rank,
                                            .precision = policy_backward_products(policy)}));
    return ops->gemm_dx(policy->backend,
                        &(struct gemm_dx_args){.dy = policy->grad.d_absorbed,
                                               .dy_stride = s->latent_stride,
                                               .parts = {kv_b_part(policy, layer, 0, s->kv_rank)},
                                               .n_parts = 1,
                                               .w_stride = s->kv_rank,
                                               .is_transposed = true,
                                               .precision = policy_backward_products(policy),
                                               .rounding = policy_linear(policy),
                                               .dx = policy->grad.d_q,
                                               .dx_stride = s->q_stride,
                                               .n_rows = n_rows,
                                               .n_in = s->nope,
                                               .n_out = s->kv_rank,
                                               .n_batch = s->heads,
                                               .dy_batch = s->kv_rank,
                                               .w_batch = (s->nope + s->v) * s->kv_rank,
                                               .dx_batch = s->q_head});
}

/* With q_lora: d_q -> the q_a part of d_project. */
static enum status q_lora_backward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(policy_linear_backward(
        policy, &(struct policy_linear_gradient){.parts = {{layer->q_b, 0, s->q_dim, 0}},
                                                 .n_parts = 1,
                                                 .n_in = s->q_rank,
                                                 .dy = policy->grad.d_q,
                                                 .dy_stride = s->q_stride,
                                                 .x = a->q_latent,
                                                 .x_stride = s->q_rank_stride,
                                                 .dx = policy->grad.d_q_latent,
                                                 .dx_stride = s->q_rank_stride,
                                                 .n_rows = n_rows}));
    return policy->backend->ops->rms_norm_backward(
        policy->backend, &(struct rms_norm_backward_args){.x = a->project,
                                                          .x_stride = s->project_stride,
                                                          .w = policy->weights + layer->q_a_norm,
                                                          .rstd = a->rstd_q,
                                                          .dy = policy->grad.d_q_latent,
                                                          .dy_stride = s->q_rank_stride,
                                                          .dx = policy->grad.d_project,
                                                          .dx_stride = s->project_stride,
                                                          .dw = policy->gradients + layer->q_a_norm,
                                                          .n_rows = n_rows,
                                                          .d = s->q_rank});
}

/* d_latent -> the latent part of d_project; then d_project -> d_normed, with the gradients of the
 * two projections. */
static enum status project_backward(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct policy_linear_part parts[] = {
        {layer->first, layer->q_a_bias, s->first, 0},
        {layer->kv_a, layer->kv_a_bias, s->kv_dim, s->kv_at},
    };

    TRY(policy->backend->ops->rms_norm_backward(
        policy->backend,
        &(struct rms_norm_backward_args){.x = a->project + s->kv_at,
                                         .x_stride = s->project_stride,
                                         .w = policy->weights + layer->kv_a_norm,
                                         .rstd = a->rstd_kv,
                                         .dy = policy->grad.d_latent,
                                         .dy_stride = s->kv_rank_stride,
                                         .dx = policy->grad.d_project + s->kv_at,
                                         .dx_stride = s->project_stride,
                                         .dw = policy->gradients + layer->kv_a_norm,
                                         .n_rows = n_rows,
                                         .d = s->kv_rank}));
    return policy_project_backward(policy, a, parts, 2, n_rows);
}

enum status policy_mla_backward(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a,
                                const struct policy_block_rows *rows)
{
    if (policy->indexer_loss == POLICY_INDEXER_SPARSE) {
        TRY(policy_indexer_backward(policy, layer, a, rows));
    }
    TRY(values_backward(policy, layer, a, rows->n_rows));
    TRY(scores_backward(policy, a, rows));
    TRY(absorb_backward(policy, layer, a, rows->n_rows));
    TRY(policy_mla_rotate(policy, policy->grad.d_q, policy->grad.d_project, rows, true));
    if (policy->sizes.q_rank > 0) {
        TRY(q_lora_backward(policy, layer, a, rows->n_rows));
    }
    return project_backward(policy, layer, a, rows->n_rows);
}
