/* Owns the backward pass of latent attention (model.md 6.5): from the gradient of values to that of
 * the block's normed input. */
#include "model/policy_internal.h"

/* Those of q_a_proj and kv_a_proj_with_mqa, once d_project is complete. */
static enum status biases_backward(struct policy *policy, const struct policy_layer *layer,
                                   size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const float *d_project = policy->grad.d_project;

    TRY(policy_bias_backward(policy, d_project + s->kv_at, s->project_stride, layer->kv_a_bias,
                             s->kv_dim, n_rows));
    if (s->q_rank == 0) {
        return STATUS_OK;
    }
    return policy_bias_backward(policy, d_project, s->project_stride, layer->q_a_bias, s->q_rank,
                                n_rows);
}

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

/* The entries as they were (pages are shared by all layers), or the gradients of the entries. */
static enum status copy_entries(struct policy *policy, const struct policy_block_rows *rows,
                                float *latent, float *rope_key, struct kv_pages pages,
                                bool to_pages)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy_copy_entries(policy, rows,
                               &(struct kv_copy_args){.latent = latent,
                                                      .latent_stride = s->kv_rank_stride,
                                                      .rope_key = rope_key,
                                                      .rope_key_stride = s->project_stride,
                                                      .pages = pages,
                                                      .rk = s->kv_rank,
                                                      .dr = s->rope,
                                                      .to_pages = to_pages});
}

/* d_attended -> d_absorbed, the rotary part of d_q, d_latent and the key part of d_project. */
static enum status scores_backward(struct policy *policy, const struct policy_activations *a,
                                   const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const struct kv_pages d_pages = policy_gradient_pages(policy);

    TRY(copy_entries(policy, rows, a->latent, a->project + s->kv_at + s->kv_rank, rows->pages,
                     true));
    TRY(ops->fill(policy->backend, d_pages.data, policy->n_entries_used * d_pages.entry_stride, 0));
    TRY(ops->attention_backward(policy->backend, &(struct attention_backward_args){
                                                     .forward = policy_mla_args(policy, a, rows),
                                                     .d_out = policy->grad.d_attended,
                                                     .dq = policy->grad.d_absorbed,
                                                     .dq_rope = policy->grad.d_q + s->nope,
                                                     .d_pages = d_pages}));
    return copy_entries(policy, rows, policy->grad.d_latent,
                        policy->grad.d_project + s->kv_at + s->kv_rank, d_pages, false);
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

/* Rotates the gradients of queries and key back. */
static enum status unrotate_rows(struct policy *policy, const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    struct rope_args args = {.x = policy->grad.d_q + s->nope,
                             .row_stride = s->q_stride,
                             .head_stride = s->q_head,
                             .positions = rows->positions,
                             .cos_table = policy->cos_table,
                             .sin_table = policy->sin_table,
                             .n_rows = rows->n_rows,
                             .n_heads = s->heads,
                             .dr = s->rope,
                             .interleaved = policy->config.rope_interleave,
                             .inverse = true};

    TRY(policy->backend->ops->rope(policy->backend, &args));
    args.x = policy->grad.d_project + s->kv_at + s->kv_rank;
    args.row_stride = s->project_stride;
    args.head_stride = s->rope;
    args.n_heads = 1;
    return policy->backend->ops->rope(policy->backend, &args);
}

/* With q_lora: d_q -> the q_a part of d_project. */
static enum status q_lora_backward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(ops->gemm_dw(policy->backend,
                     &(struct gemm_dw_args){.dy = policy->grad.d_q,
                                            .dy_stride = s->q_stride,
                                            .x = a->q_latent,
                                            .x_stride = s->q_rank_stride,
                                            .dw = policy->gradients + layer->q_b,
                                            .dw_stride = s->q_rank,
                                            .n_rows = n_rows,
                                            .n_in = s->q_rank,
                                            .n_out = s->q_dim,
                                            .precision = policy_backward_products(policy)}));
    TRY(ops->gemm_dx(
        policy->backend,
        &(struct gemm_dx_args){.dy = policy->grad.d_q,
                               .dy_stride = s->q_stride,
                               .parts = {{.w = policy->weights + layer->q_b, .n = s->q_dim}},
                               .n_parts = 1,
                               .w_stride = s->q_rank,
                               .precision = policy_backward_products(policy),
                               .rounding = policy_linear(policy),
                               .dx = policy->grad.d_q_latent,
                               .dx_stride = s->q_rank_stride,
                               .n_rows = n_rows,
                               .n_in = s->q_rank,
                               .n_out = s->q_dim}));
    return ops->rms_norm_backward(
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
    const struct backend_ops *ops = policy->backend->ops;
    struct gemm_dw_args dw = {.dy = policy->grad.d_project,
                              .dy_stride = s->project_stride,
                              .x = a->normed_in,
                              .x_stride = s->d_stride,
                              .dw = policy->gradients + layer->first,
                              .dw_stride = s->d,
                              .n_rows = n_rows,
                              .n_in = s->d,
                              .n_out = s->first,
                              .precision = policy_backward_products(policy)};

    TRY(ops->rms_norm_backward(policy->backend, &(struct rms_norm_backward_args){
                                                    .x = a->project + s->kv_at,
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
    TRY(ops->gemm_dw(policy->backend, &dw));
    dw.dy = policy->grad.d_project + s->kv_at;
    dw.dw = policy->gradients + layer->kv_a;
    dw.n_out = s->kv_dim;
    TRY(ops->gemm_dw(policy->backend, &dw));
    return ops->gemm_dx(
        policy->backend,
        &(struct gemm_dx_args){
            .dy = policy->grad.d_project,
            .dy_stride = s->project_stride,
            .parts = {{.w = policy->weights + layer->first, .n = s->first},
                      {.w = policy->weights + layer->kv_a, .n = s->kv_dim, .at = s->kv_at}},
            .n_parts = 2,
            .w_stride = s->d,
            .precision = policy_backward_products(policy),
            .rounding = policy_linear(policy),
            .dx = policy->grad.d_normed,
            .dx_stride = s->d_stride,
            .n_rows = n_rows,
            .n_in = s->d,
            .n_out = s->project});
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
    TRY(unrotate_rows(policy, rows));
    if (policy->sizes.q_rank > 0) {
        TRY(q_lora_backward(policy, layer, a, rows->n_rows));
    }
    TRY(project_backward(policy, layer, a, rows->n_rows));
    return policy->config.has_attention_bias ? biases_backward(policy, layer, rows->n_rows)
                                             : STATUS_OK;
}
