/* Owns latent attention, forward, in its absorbed form (model.md 6.2): rows of the block's normed
 * input in, values before o_proj out. */
#include "model/policy_attention_internal.h"

/* Columns `at` .. (a panel border) of the joint projection: x (T, d) -> a->project, and from it the
 * normed latent. */
static enum status project_from(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows, size_t at)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(policy_project(policy, layer, a, n_rows, at, s->q_rank > 0 ? layer->w_q_b : layer->w_uk));
    return ops->rms_norm(policy->backend,
                         &(struct rms_norm_args){.x = a->project + s->kv_at,
                                                 .x_stride = s->project_stride,
                                                 .w = policy->weights + layer->kv_a_norm,
                                                 .y = a->latent,
                                                 .y_stride = s->kv_rank_stride,
                                                 .rstd = a->rstd_kv,
                                                 .n_rows = n_rows,
                                                 .d = s->kv_rank,
                                                 .eps = (float)policy->config.latent_norm_eps});
}

/* x (T, d) -> a->project, and from it q (with or without q_lora) and the normed latent. */
static enum status project_rows(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(project_from(policy, layer, a, n_rows, 0));
    if (s->q_rank == 0) {
        return STATUS_OK; /* q is the first part of the projection */
    }
    TRY(ops->rms_norm(policy->backend,
                      &(struct rms_norm_args){.x = a->project,
                                              .x_stride = s->project_stride,
                                              .w = policy->weights + layer->q_a_norm,
                                              .y = a->q_latent,
                                              .y_stride = s->q_rank_stride,
                                              .rstd = a->rstd_q,
                                              .n_rows = n_rows,
                                              .d = s->q_rank,
                                              .eps = (float)policy->config.latent_norm_eps}));
    return ops->gemm(policy->backend, &(struct gemm_args){.x = a->q_latent,
                                                          .x_stride = s->q_rank_stride,
                                                          .w = layer->w_q_b,
                                                          .precision = policy_linear(policy),
                                                          .next = layer->w_uk,
                                                          .y = a->q,
                                                          .y_stride = s->q_stride,
                                                          .n_rows = n_rows,
                                                          .n_in = s->q_rank,
                                                          .n_out = s->q_dim});
}

enum status policy_mla_rotate(struct policy *policy, float *q, float *project,
                              const struct policy_block_rows *rows, bool is_inverse)
{
    const struct policy_sizes *s = &policy->sizes;
    struct rope_args args = {.row_stride = s->q_stride,
                             .head_stride = s->q_head,
                             .positions = rows->positions,
                             .cos_table = policy->cos_table,
                             .sin_table = policy->sin_table,
                             .n_rows = rows->n_rows,
                             .n_heads = s->heads,
                             .dr = s->rope,
                             .interleaved = policy->config.rope_interleave,
                             .inverse = is_inverse};

    if (q != NULL) {
        args.x = q + s->nope;
        TRY(policy->backend->ops->rope(policy->backend, &args));
    }
    args.x = project + s->kv_at + s->kv_rank;
    args.row_stride = s->project_stride;
    args.n_heads = 1;
    return policy->backend->ops->rope(policy->backend, &args);
}

enum status policy_mla_project(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    TRY(project_rows(policy, layer, a, rows->n_rows));
    return policy_mla_rotate(policy, a->q, a->project, rows, false);
}

enum status policy_mla_project_keys(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a,
                                    const struct policy_block_rows *rows)
{
    TRY(project_from(policy, layer, a, rows->n_rows, policy->sizes.kv_at));
    return policy_mla_rotate(policy, NULL, a->project, rows, false);
}

enum status policy_mla_copy(struct policy *policy, const struct policy_block_rows *rows,
                            float *latent, float *project, struct kv_pages pages, bool to_pages)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy_copy_entries(policy, rows,
                               &(struct kv_copy_args){.latent = latent,
                                                      .latent_stride = s->kv_rank_stride,
                                                      .rope_key = project + s->kv_at + s->kv_rank,
                                                      .rope_key_stride = s->project_stride,
                                                      .pages = pages,
                                                      .rk = s->kv_rank,
                                                      .dr = s->rope,
                                                      .to_pages = to_pages});
}

struct attention_args policy_mla_args(const struct policy *policy,
                                      const struct policy_activations *a,
                                      const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    return (struct attention_args){.q = a->q_absorbed,
                                   .q_stride = s->latent_stride,
                                   .q_head_stride = s->kv_rank,
                                   .q_rope = a->q + s->nope,
                                   .q_rope_stride = s->q_stride,
                                   .q_rope_head_stride = s->q_head,
                                   .pages = rows->pages,
                                   .spans = rows->spans,
                                   .n_spans = rows->n_spans,
                                   .out = a->attended,
                                   .out_stride = s->latent_stride,
                                   .lse = policy->options.is_trainable ? a->lse : NULL,
                                   .n_heads = s->heads,
                                   .n_kv_heads = 1,
                                   .key_dim = s->kv_rank,
                                   .rope_dim = s->rope,
                                   .value_dim = s->kv_rank,
                                   .scale = model_config_attention_scale(&policy->config),
                                   .selected = rows->is_dense ? NULL : a->selected,
                                   .n_selected = s->n_selected};
}

/* Queries through UK, attention over the latent pages, results through UV. */
static enum status attend_rows(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(ops->gemm(policy->backend,
                  &(struct gemm_args){
                      .x = a->q,
                      .x_stride = s->q_stride,
                      .w = layer->w_uk,
                      .precision = policy_unquantised(policy),
                      .y = a->q_absorbed,
                      .y_stride = s->latent_stride,
                      .n_rows = rows->n_rows,
                      .n_in = s->nope,
                      .n_out = s->kv_rank,
                      .n_batch = s->heads,
                      .x_batch = s->q_head,
                      .w_batch = packed_words(policy_unquantised(policy), s->nope, s->kv_rank),
                      .y_batch = s->kv_rank}));
    const struct attention_args attention = policy_mla_args(policy, a, rows);

    TRY(ops->attention(policy->backend, &attention));
    return ops->gemm(
        policy->backend,
        &(struct gemm_args){.x = a->attended,
                            .x_stride = s->latent_stride,
                            .w = layer->w_uv,
                            .precision = policy_unquantised(policy),
                            .next = layer->w_o,
                            .y = a->values,
                            .y_stride = s->value_stride,
                            .n_rows = rows->n_rows,
                            .n_in = s->kv_rank,
                            .n_out = s->v,
                            .n_batch = s->heads,
                            .x_batch = s->kv_rank,
                            .w_batch = packed_words(policy_unquantised(policy), s->kv_rank, s->v),
                            .y_batch = s->v});
}

enum status policy_mla_forward(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    TRY(policy_mla_project(policy, layer, a, rows));
    TRY(policy_mla_copy(policy, rows, a->latent, a->project, rows->pages, true));
    if (policy->sizes.index_heads > 0) {
        TRY(policy_indexer_forward(policy, layer, a, rows));
    }
    return attend_rows(policy, layer, a, rows);
}

enum status policy_mla_entries(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    TRY(policy_mla_project_keys(policy, layer, a, rows));
    TRY(policy_mla_copy(policy, rows, a->latent, a->project, rows->pages, true));
    return policy->sizes.index_heads == 0 ? STATUS_OK
                                          : policy_indexer_entries(policy, layer, a, rows);
}
