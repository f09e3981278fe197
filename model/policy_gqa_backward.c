/* Owns the backward pass of grouped attention: from the gradient of values to that of the block's
 * normed input. Keys and values gather what all query heads of their group ask of them. */
#include "model/policy_attention_internal.h"
#include "model/policy_backward_internal.h"

/* d_values -> gradients of rotated queries and keys in d_q, of values in d_project. */
static enum status scores_backward(struct policy *policy, const struct policy_activations *a,
                                   const struct policy_block_rows *rows)
{
    const struct backend_ops *ops = policy->backend->ops;
    struct policy_gradients_scratch *g = &policy->grad;
    const struct kv_pages d_pages = policy_gradient_pages(policy);

    TRY(policy_gqa_copy(policy, rows, a->q, a->project, rows->pages, true));
    TRY(ops->fill(policy->backend, g->d_pages, policy->n_entries_used * d_pages.entry_stride, 0));
    TRY(ops->attention_backward(
        policy->backend,
        &(struct attention_backward_args){.forward = policy_gqa_args(policy, a, rows),
                                          .d_out = g->d_values,
                                          .dq = g->d_q,
                                          .d_pages = d_pages,
                                          .precision = policy_attention_products(policy)}));
    return policy_gqa_copy(policy, rows, g->d_q, g->d_project, d_pages, false);
}

/* Through the norm of every head of queries (part 0) or keys: d_q -> d_project. */
static enum status norm_backward(struct policy *policy, const struct policy_activations *a,
                                 size_t part, size_t norm, size_t n_heads, const float *rstd,
                                 size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rms_norm_backward(
        policy->backend, &(struct rms_norm_backward_args){.x = a->project + part,
                                                          .x_stride = s->project_stride,
                                                          .w = policy->weights + norm,
                                                          .rstd = rstd,
                                                          .dy = policy->grad.d_q + part,
                                                          .dy_stride = s->q_stride,
                                                          .dx = policy->grad.d_project + part,
                                                          .dx_stride = s->project_stride,
                                                          .dw = policy->gradients + norm,
                                                          .n_rows = n_rows,
                                                          .d = s->head,
                                                          .n_heads = n_heads});
}

enum status policy_gqa_backward(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a,
                                const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct policy_linear_part parts[] = {
        {layer->q, layer->q_bias, s->q_dim, 0},
        {layer->k, layer->k_bias, s->kv_half, s->kv_at},
        {layer->v, layer->v_bias, s->kv_half, s->v_at},
    };

    TRY(scores_backward(policy, a, rows));
    TRY(policy_gqa_rotate(policy, policy->grad.d_q, rows, true));
    if (s->has_own_q) {
        TRY(norm_backward(policy, a, 0, layer->q_norm, s->heads, a->rstd_q, rows->n_rows));
        TRY(norm_backward(policy, a, s->kv_at, layer->k_norm, s->kv_heads, a->rstd_kv,
                          rows->n_rows));
    }
    return policy_project_backward(policy, a, parts, 3, rows->n_rows);
}
