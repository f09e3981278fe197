/* Owns one transformer layer, forward: absorbed latent attention (model.md 6.2), then a dense MLP
 * or shared plus routed experts (7.1). Training, prefill and decode come through here alike. */
#include "model/policy_internal.h"

/* Weights by their offset in the flat buffer. */
static const float *weight(const struct policy *policy, size_t offset)
{
    return policy->weights + offset;
}

static enum status norm_rows(struct policy *policy, const struct rms_norm_args *args)
{
    return policy->backend->ops->rms_norm(policy->backend, args);
}

/* x (T, d) -> a->project, and from it q (with or without q_lora) and the normed latent. */
static enum status project_rows(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const float latent_eps = (float)policy->config.latent_norm_eps;

    TRY(ops->gemm(policy->backend, &(struct gemm_args){.x = a->normed_in,
                                                       .x_stride = s->d_stride,
                                                       .w = layer->w_project,
                                                       .bias = layer->project_bias,
                                                       .y = a->project,
                                                       .y_stride = s->project_stride,
                                                       .n_rows = n_rows,
                                                       .n_in = s->d,
                                                       .n_out = s->project}));
    TRY(norm_rows(policy, &(struct rms_norm_args){.x = a->project + s->kv_at,
                                                  .x_stride = s->project_stride,
                                                  .w = weight(policy, layer->kv_a_norm),
                                                  .y = a->latent,
                                                  .y_stride = s->kv_rank_stride,
                                                  .rstd = a->rstd_kv,
                                                  .n_rows = n_rows,
                                                  .d = s->kv_rank,
                                                  .eps = latent_eps}));
    if (s->q_rank == 0) {
        return STATUS_OK; /* q is the first part of the projection */
    }
    TRY(norm_rows(policy, &(struct rms_norm_args){.x = a->project,
                                                  .x_stride = s->project_stride,
                                                  .w = weight(policy, layer->q_a_norm),
                                                  .y = a->q_latent,
                                                  .y_stride = s->q_rank_stride,
                                                  .rstd = a->rstd_q,
                                                  .n_rows = n_rows,
                                                  .d = s->q_rank,
                                                  .eps = latent_eps}));
    return ops->gemm(policy->backend, &(struct gemm_args){.x = a->q_latent,
                                                          .x_stride = s->q_rank_stride,
                                                          .w = layer->w_q_b,
                                                          .y = a->q,
                                                          .y_stride = s->q_stride,
                                                          .n_rows = n_rows,
                                                          .n_in = s->q_rank,
                                                          .n_out = s->q_dim});
}

/* Rotates the queries' rotary parts and the one rotary key. */
static enum status rotate_rows(struct policy *policy, const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    struct rope_args args = {.x = a->q + s->nope,
                             .row_stride = s->q_stride,
                             .head_stride = s->q_head,
                             .positions = rows->positions,
                             .cos_table = policy->cos_table,
                             .sin_table = policy->sin_table,
                             .n_rows = rows->n_rows,
                             .n_heads = s->heads,
                             .dr = s->rope,
                             .interleaved = policy->config.rope_interleave};

    TRY(policy->backend->ops->rope(policy->backend, &args));
    args.x = a->project + s->kv_at + s->kv_rank;
    args.row_stride = s->project_stride;
    args.head_stride = s->rope;
    args.n_heads = 1;
    return policy->backend->ops->rope(policy->backend, &args);
}

/* Queries through UK, attention over the latent pages, results through UV. */
static enum status attend_rows(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(ops->gemm(policy->backend,
                  &(struct gemm_args){.x = a->q,
                                      .x_stride = s->q_stride,
                                      .w = layer->w_uk,
                                      .y = a->q_absorbed,
                                      .y_stride = s->latent_stride,
                                      .n_rows = rows->n_rows,
                                      .n_in = s->nope,
                                      .n_out = s->kv_rank,
                                      .n_batch = s->heads,
                                      .x_batch = s->q_head,
                                      .w_batch = packed_floats(s->nope, s->kv_rank),
                                      .y_batch = s->kv_rank}));
    TRY(ops->kv_copy(policy->backend,
                     &(struct kv_copy_args){.latent = a->latent,
                                            .latent_stride = s->kv_rank_stride,
                                            .rope_key = a->project + s->kv_at + s->kv_rank,
                                            .rope_key_stride = s->project_stride,
                                            .spans = rows->spans,
                                            .n_spans = rows->n_spans,
                                            .pages = rows->pages,
                                            .rk = s->kv_rank,
                                            .dr = s->rope,
                                            .to_pages = true}));
    const struct attention_args attention = policy_attention_args(policy, a, rows);

    TRY(ops->attention(policy->backend, &attention));
    return ops->gemm(policy->backend,
                     &(struct gemm_args){.x = a->attended,
                                         .x_stride = s->latent_stride,
                                         .w = layer->w_uv,
                                         .y = a->values,
                                         .y_stride = s->value_stride,
                                         .n_rows = rows->n_rows,
                                         .n_in = s->kv_rank,
                                         .n_out = s->v,
                                         .n_batch = s->heads,
                                         .x_batch = s->kv_rank,
                                         .w_batch = packed_floats(s->kv_rank, s->v),
                                         .y_batch = s->v});
}

struct attention_args policy_attention_args(const struct policy *policy,
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
                                   .scale = model_config_attention_scale(&policy->config)};
}

static enum status attention_forward(struct policy *policy, const struct policy_layer *layer,
                                     const struct policy_activations *a,
                                     const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const bool has_bias = policy->config.has_attention_bias;

    TRY(norm_rows(policy, &(struct rms_norm_args){.x = a->h_in,
                                                  .x_stride = s->d_stride,
                                                  .w = weight(policy, layer->input_norm),
                                                  .y = a->normed_in,
                                                  .y_stride = s->d_stride,
                                                  .rstd = a->rstd_in,
                                                  .n_rows = rows->n_rows,
                                                  .d = s->d,
                                                  .eps = (float)policy->config.rms_norm_eps}));
    TRY(project_rows(policy, layer, a, rows->n_rows));
    TRY(rotate_rows(policy, a, rows));
    TRY(attend_rows(policy, layer, a, rows));
    TRY(policy_copy_rows(policy, a->h_in, a->h_mid, rows->n_rows));
    return policy->backend->ops->gemm(
        policy->backend,
        &(struct gemm_args){.x = a->values,
                            .x_stride = s->value_stride,
                            .w = layer->w_o,
                            .bias = has_bias ? weight(policy, layer->o_bias) : NULL,
                            .y = a->h_mid,
                            .y_stride = s->d_stride,
                            .n_rows = rows->n_rows,
                            .n_in = s->value_dim,
                            .n_out = s->d,
                            .accumulate = true});
}

/* The dense MLP, or the shared experts, added to h_out. */
static enum status mlp_forward(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t width = s->ffn_width[layer->is_moe];
    const size_t up_at = s->ffn_up_at[layer->is_moe];

    if (width == 0) {
        return STATUS_OK;
    }
    TRY(ops->gemm(policy->backend, &(struct gemm_args){.x = a->normed_mid,
                                                       .x_stride = s->d_stride,
                                                       .w = layer->w_gate_up,
                                                       .y = a->gate_up,
                                                       .y_stride = s->gate_up_stride[layer->is_moe],
                                                       .n_rows = n_rows,
                                                       .n_in = s->d,
                                                       .n_out = up_at + width}));
    TRY(ops->swiglu(policy->backend,
                    &(struct swiglu_args){.gate = a->gate_up,
                                          .up = a->gate_up + up_at,
                                          .in_stride = s->gate_up_stride[layer->is_moe],
                                          .h = policy->ffn_hidden,
                                          .h_stride = policy_stride(width),
                                          .n_rows = n_rows,
                                          .f = width}));
    return ops->gemm(policy->backend, &(struct gemm_args){.x = policy->ffn_hidden,
                                                          .x_stride = policy_stride(width),
                                                          .w = layer->w_down,
                                                          .y = a->h_out,
                                                          .y_stride = s->d_stride,
                                                          .n_rows = n_rows,
                                                          .n_in = width,
                                                          .n_out = s->d,
                                                          .accumulate = true});
}

/* Routes, and adds the routed experts to h_out. */
static enum status experts_forward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const bool is_softmax = policy->config.has_softmax_router;

    TRY(ops->gemm(policy->backend, &(struct gemm_args){.x = a->normed_mid,
                                                       .x_stride = s->d_stride,
                                                       .w = layer->w_router,
                                                       .y = policy->router_logits,
                                                       .y_stride = s->n_experts,
                                                       .n_rows = n_rows,
                                                       .n_in = s->d,
                                                       .n_out = s->n_experts}));
    TRY(ops->router(
        policy->backend,
        &(struct router_args){.logits = policy->router_logits,
                              .logits_stride = s->n_experts,
                              .bias = is_softmax ? NULL : weight(policy, layer->router_bias),
                              .scores = a->scores,
                              .indices = a->indices,
                              .weights = a->route_weights,
                              .n_rows = n_rows,
                              .n_experts = s->n_experts,
                              .top_k = s->top_k,
                              .n_groups = policy->config.n_groups,
                              .top_groups = policy->config.top_groups,
                              .scoring = is_softmax ? ROUTER_SOFTMAX : ROUTER_SIGMOID,
                              .normalise = model_config_normalises_routes(&policy->config),
                              .scaling = (float)model_config_route_scale(&policy->config)}));
    return ops->moe_ffn(policy->backend,
                        &(struct moe_ffn_args){.x = a->normed_mid,
                                               .x_stride = s->d_stride,
                                               .indices = a->indices,
                                               .weights = a->route_weights,
                                               .w_gate_up = layer->w_expert_gate_up,
                                               .w_down = layer->w_expert_down,
                                               .y = a->h_out,
                                               .y_stride = s->d_stride,
                                               .saved_gate_up = a->expert_gate_up,
                                               .n_rows = n_rows,
                                               .d = s->d,
                                               .f = s->expert_width,
                                               .n_experts = s->n_experts,
                                               .top_k = s->top_k});
}

enum status policy_block_forward(struct policy *policy, const struct policy_layer *layer,
                                 const struct policy_activations *a,
                                 const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(attention_forward(policy, layer, a, rows));
    TRY(norm_rows(policy, &(struct rms_norm_args){.x = a->h_mid,
                                                  .x_stride = s->d_stride,
                                                  .w = weight(policy, layer->post_norm),
                                                  .y = a->normed_mid,
                                                  .y_stride = s->d_stride,
                                                  .rstd = a->rstd_mid,
                                                  .n_rows = rows->n_rows,
                                                  .d = s->d,
                                                  .eps = (float)policy->config.rms_norm_eps}));
    TRY(policy_copy_rows(policy, a->h_mid, a->h_out, rows->n_rows));
    /* Fixed order of additions: residual, then shared experts, then the routed sum. */
    TRY(mlp_forward(policy, layer, a, rows->n_rows));
    if (!layer->is_moe) {
        return STATUS_OK;
    }
    return experts_forward(policy, layer, a, rows->n_rows);
}
