/* Owns one transformer layer, forward: attention of the model's kind, then a dense MLP or shared
 * plus routed experts (7.1). Training, prefill and decode come through here alike. */
#include "model/policy_attention_internal.h"

/* Weights by their offset in the flat buffer. */
static const float *weight(const struct policy *policy, size_t offset)
{
    return policy->weights + offset;
}

static enum status norm_rows(struct policy *policy, const struct rms_norm_args *args)
{
    return policy->backend->ops->rms_norm(policy->backend, args);
}

static enum status norm_input(struct policy *policy, const struct policy_layer *layer,
                              const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    return norm_rows(policy, &(struct rms_norm_args){.x = a->h_in,
                                                     .x_stride = s->d_stride,
                                                     .w = weight(policy, layer->input_norm),
                                                     .y = a->normed_in,
                                                     .y_stride = s->d_stride,
                                                     .rstd = a->rstd_in,
                                                     .n_rows = n_rows,
                                                     .d = s->d,
                                                     .eps = (float)policy->config.rms_norm_eps});
}

static enum status attention_forward(struct policy *policy, const struct policy_layer *layer,
                                     const struct policy_activations *a,
                                     const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(norm_input(policy, layer, a, rows->n_rows));
    TRY(policy_attention_of(policy)->forward(policy, layer, a, rows));
    TRY(policy_copy_rows(policy, a->h_in, a->h_mid, rows->n_rows));
    return policy->backend->ops->gemm(
        policy->backend,
        &(struct gemm_args){.x = a->values,
                            .x_stride = s->value_stride,
                            .w = layer->w_o,
                            .precision = policy_linear(policy),
                            .bias = s->has_o_bias ? weight(policy, layer->o_bias) : NULL,
                            .next = s->ffn_width[layer->is_moe] > 0 ? layer->w_gate_up
                                                                    : layer->w_router,
                            .y = a->h_mid,
                            .y_stride = s->d_stride,
                            .n_rows = rows->n_rows,
                            .n_in = s->value_dim,
                            .n_out = s->d,
                            .accumulate = true});
}

/* What is read behind a layer: a hint, so MTP modules may have it wrong. */
static const float *weights_behind(const struct policy *policy, const struct policy_layer *layer)
{
    const size_t next = (size_t)(layer - policy->layers) + 1;

    return next < policy->config.n_layers ? policy->layers[next].w_project : policy->w_head;
}

/* normed_mid -> gate and up of the dense MLP or the shared experts. */
static enum status gate_up_forward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->gemm(
        policy->backend,
        &(struct gemm_args){.x = a->normed_mid,
                            .x_stride = s->d_stride,
                            .w = layer->w_gate_up,
                            .precision = policy_linear(policy),
                            .next = layer->w_down,
                            .y = a->gate_up,
                            .y_stride = s->gate_up_stride[layer->is_moe],
                            .n_rows = n_rows,
                            .n_in = s->d,
                            .n_out = s->ffn_up_at[layer->is_moe] + s->ffn_width[layer->is_moe]});
}

/* The dense MLP, or the shared experts, added to h_out. */
static enum status mlp_forward(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t width = s->ffn_width[layer->is_moe];
    const size_t up_at = s->ffn_up_at[layer->is_moe];
    const float *next = layer->is_moe ? layer->w_router : weights_behind(policy, layer);

    if (width == 0) {
        return STATUS_OK;
    }
    TRY(gate_up_forward(policy, layer, a, n_rows));
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
                                                          .precision = policy_linear(policy),
                                                          .next = next,
                                                          .y = a->h_out,
                                                          .y_stride = s->d_stride,
                                                          .n_rows = n_rows,
                                                          .n_in = width,
                                                          .n_out = s->d,
                                                          .accumulate = true});
}

/* normed_mid -> the experts of each row and their weights. */
static enum status route_rows(struct policy *policy, const struct policy_layer *layer,
                              const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const bool is_softmax = policy->config.has_softmax_router;

    TRY(ops->gemm(policy->backend, &(struct gemm_args){.x = a->normed_mid,
                                                       .x_stride = s->d_stride,
                                                       .w = layer->w_router,
                                                       .next = layer->w_expert_gate_up,
                                                       .y = policy->router_logits,
                                                       .y_stride = s->n_experts,
                                                       .n_rows = n_rows,
                                                       .n_in = s->d,
                                                       .n_out = s->n_experts}));
    return ops->router(
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
                              .scaling = (float)model_config_route_scale(&policy->config)});
}

/* shared: as in moe_ffn_args. */
static enum status run_experts(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a, size_t n_rows,
                               const struct moe_shared *shared)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->moe_ffn(
        policy->backend, &(struct moe_ffn_args){.x = a->normed_mid,
                                                .x_stride = s->d_stride,
                                                .indices = a->indices,
                                                .weights = a->route_weights,
                                                .w_gate_up = layer->w_expert_gate_up,
                                                .w_down = layer->w_expert_down,
                                                .next = weights_behind(policy, layer),
                                                .precision = policy_linear(policy),
                                                .shared = shared,
                                                .y = a->h_out,
                                                .y_stride = s->d_stride,
                                                .saved_gate_up = a->expert_gate_up,
                                                .n_rows = n_rows,
                                                .d = s->d,
                                                .f = s->expert_width,
                                                .n_experts = s->n_experts,
                                                .top_k = s->top_k});
}

enum status policy_block_experts(struct policy *policy, const struct policy_layer *layer,
                                 const struct policy_activations *a, size_t n_rows)
{
    return run_experts(policy, layer, a, n_rows, NULL);
}

/* normed_mid and h_mid -> h_out without the routed experts, and the way to them. */
static enum status ffn_to_experts(struct policy *policy, const struct policy_layer *layer,
                                  const struct policy_activations *a, size_t n_rows)
{
    TRY(policy_copy_rows(policy, a->h_mid, a->h_out, n_rows));
    /* Fixed order of additions: residual, then shared experts, then the routed sum. */
    TRY(mlp_forward(policy, layer, a, n_rows));
    return layer->is_moe ? route_rows(policy, layer, a, n_rows) : STATUS_OK;
}

/* The layer of few rows with experts: the shared ones beside the routed ones, which saves a wait of
 * threads for each other, and roundings of the rows. */
static enum status ffn_of_few(struct policy *policy, const struct policy_layer *layer,
                              const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct moe_shared shared = {.w_gate_up = layer->w_gate_up,
                                      .w_down = layer->w_down,
                                      .gate_up = a->gate_up,
                                      .gate_up_stride = s->gate_up_stride[layer->is_moe],
                                      .f = s->ffn_width[layer->is_moe],
                                      .up_at = s->ffn_up_at[layer->is_moe]};

    TRY(policy_copy_rows(policy, a->h_mid, a->h_out, n_rows));
    TRY(route_rows(policy, layer, a, n_rows));
    return run_experts(policy, layer, a, n_rows, &shared);
}

/* normed_mid and h_mid -> h_out. */
static enum status ffn_forward(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a, size_t n_rows)
{
    if (layer->is_moe && n_rows <= POLICY_FEW_ROWS) {
        return ffn_of_few(policy, layer, a, n_rows);
    }
    TRY(ffn_to_experts(policy, layer, a, n_rows));
    return layer->is_moe ? policy_block_experts(policy, layer, a, n_rows) : STATUS_OK;
}

/* h_in -> h_mid and normed_mid. */
static enum status attention_half(struct policy *policy, const struct policy_layer *layer,
                                  const struct policy_activations *a,
                                  const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(attention_forward(policy, layer, a, rows));
    return norm_rows(policy, &(struct rms_norm_args){.x = a->h_mid,
                                                     .x_stride = s->d_stride,
                                                     .w = weight(policy, layer->post_norm),
                                                     .y = a->normed_mid,
                                                     .y_stride = s->d_stride,
                                                     .rstd = a->rstd_mid,
                                                     .n_rows = rows->n_rows,
                                                     .d = s->d,
                                                     .eps = (float)policy->config.rms_norm_eps});
}

enum status policy_block_forward(struct policy *policy, const struct policy_layer *layer,
                                 const struct policy_activations *a,
                                 const struct policy_block_rows *rows)
{
    TRY(attention_half(policy, layer, a, rows));
    return ffn_forward(policy, layer, a, rows->n_rows);
}

enum status policy_block_to_experts(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a,
                                    const struct policy_block_rows *rows)
{
    TRY(attention_half(policy, layer, a, rows));
    return ffn_to_experts(policy, layer, a, rows->n_rows);
}

enum status policy_block_again(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    TRY(attention_half(policy, layer, a, rows));
    /* Behind gate and up a dense MLP leaves nothing; what experts leave, their whole op makes. */
    return layer->is_moe ? ffn_forward(policy, layer, a, rows->n_rows)
                         : gate_up_forward(policy, layer, a, rows->n_rows);
}

enum status policy_block_entries(struct policy *policy, const struct policy_layer *layer,
                                 const struct policy_activations *a,
                                 const struct policy_block_rows *rows)
{
    TRY(norm_input(policy, layer, a, rows->n_rows));
    return policy_attention_of(policy)->entries(policy, layer, a, rows);
}
