/* Owns the backward pass of a layer's second half: MLP, experts, router, norm (model.md 4.3, 7.3).
 * Gradients of parameters are added in row order, so batches may be cut between rows. */
#include "model/policy_internal.h"

/* d_hidden = dy W_down, then through SwiGLU to d_gate_up. policy->ffn_hidden is formed again. */
static enum status mlp_hidden_backward(struct policy *policy, const struct policy_layer *layer,
                                       const struct policy_activations *a, size_t n_rows,
                                       const float *dy)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t width = s->ffn_width[layer->is_moe];
    const size_t up_at = s->ffn_up_at[layer->is_moe];
    const size_t in_stride = s->gate_up_stride[layer->is_moe];
    float *d_gate_up = policy->grad.d_gate_up[layer->is_moe];

    TRY(ops->swiglu(policy->backend, &(struct swiglu_args){.gate = a->gate_up,
                                                           .up = a->gate_up + up_at,
                                                           .in_stride = in_stride,
                                                           .h = policy->ffn_hidden,
                                                           .h_stride = policy_stride(width),
                                                           .n_rows = n_rows,
                                                           .f = width}));
    TRY(ops->gemm_dw(policy->backend,
                     &(struct gemm_dw_args){.dy = dy,
                                            .dy_stride = s->d_stride,
                                            .x = policy->ffn_hidden,
                                            .x_stride = policy_stride(width),
                                            .dw = policy->gradients + layer->down,
                                            .dw_stride = width,
                                            .n_rows = n_rows,
                                            .n_in = width,
                                            .n_out = s->d,
                                            .precision = policy_backward_products(policy)}));
    TRY(ops->gemm_dx(
        policy->backend,
        &(struct gemm_dx_args){.dy = dy,
                               .dy_stride = s->d_stride,
                               .parts = {{.w = policy->weights + layer->down, .n = s->d}},
                               .n_parts = 1,
                               .w_stride = width,
                               .precision = policy_backward_products(policy),
                               .rounding = policy_linear(policy),
                               .dx = policy->grad.d_hidden,
                               .dx_stride = policy_stride(width),
                               .n_rows = n_rows,
                               .n_in = width,
                               .n_out = s->d}));
    return ops->swiglu_backward(policy->backend,
                                &(struct swiglu_backward_args){.gate = a->gate_up,
                                                               .up = a->gate_up + up_at,
                                                               .in_stride = in_stride,
                                                               .dh = policy->grad.d_hidden,
                                                               .dh_stride = policy_stride(width),
                                                               .d_gate = d_gate_up,
                                                               .d_up = d_gate_up + up_at,
                                                               .d_stride = in_stride,
                                                               .n_rows = n_rows,
                                                               .f = width});
}

/* Assigns d_normed the gradient through the MLP (zero when there is none). */
static enum status mlp_backward(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows, const float *dy)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t width = s->ffn_width[layer->is_moe];
    const size_t up_at = s->ffn_up_at[layer->is_moe];
    const size_t stride = s->gate_up_stride[layer->is_moe];
    const float *d_gate_up = policy->grad.d_gate_up[layer->is_moe];

    if (width == 0) {
        return ops->fill(policy->backend, policy->grad.d_normed, n_rows * s->d_stride, 0);
    }
    TRY(mlp_hidden_backward(policy, layer, a, n_rows, dy));
    TRY(ops->gemm_dw(policy->backend,
                     &(struct gemm_dw_args){.dy = d_gate_up,
                                            .dy_stride = stride,
                                            .x = a->normed_mid,
                                            .x_stride = s->d_stride,
                                            .dw = policy->gradients + layer->gate,
                                            .dw_stride = s->d,
                                            .n_rows = n_rows,
                                            .n_in = s->d,
                                            .n_out = width,
                                            .n_batch = 2,
                                            .dy_batch = up_at,
                                            .dw_batch = layer->up - layer->gate,
                                            .precision = policy_backward_products(policy)}));
    return ops->gemm_dx(policy->backend,
                        &(struct gemm_dx_args){
                            .dy = d_gate_up,
                            .dy_stride = stride,
                            .parts = {{.w = policy->weights + layer->gate, .n = width},
                                      {.w = policy->weights + layer->up, .n = width, .at = up_at}},
                            .n_parts = 2,
                            .w_stride = s->d,
                            .precision = policy_backward_products(policy),
                            .rounding = policy_linear(policy),
                            .dx = policy->grad.d_normed,
                            .dx_stride = s->d_stride,
                            .n_rows = n_rows,
                            .n_in = s->d,
                            .n_out = up_at + width});
}

/* Adds to d_normed the gradient through the routed experts; d_route_weights out. */
static enum status experts_backward(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a, size_t n_rows,
                                    const float *dy)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->moe_ffn_backward(
        policy->backend,
        &(struct moe_ffn_backward_args){.dy = dy,
                                        .dy_stride = s->d_stride,
                                        .x = a->normed_mid,
                                        .x_stride = s->d_stride,
                                        .indices = a->indices,
                                        .weights = a->route_weights,
                                        .saved_gate_up = a->expert_gate_up,
                                        .w_gate = policy->weights + layer->expert_gate,
                                        .w_up = policy->weights + layer->expert_up,
                                        .w_down = policy->weights + layer->expert_down,
                                        .w_stride = layer->expert_stride,
                                        .precision = policy_backward_products(policy),
                                        .rounding = policy_linear(policy),
                                        .dx = policy->grad.d_normed,
                                        .dx_stride = s->d_stride,
                                        .d_weights = policy->grad.d_route_weights,
                                        .d_gate = policy->gradients + layer->expert_gate,
                                        .d_up = policy->gradients + layer->expert_up,
                                        .d_down = policy->gradients + layer->expert_down,
                                        .grad_stride = layer->expert_stride,
                                        .n_rows = n_rows,
                                        .d = s->d,
                                        .f = s->expert_width,
                                        .n_experts = s->n_experts,
                                        .top_k = s->top_k});
}

/* From d_route_weights and the balance loss to the router's weight and d_normed; the bias has no
 * gradient. */
static enum status router_backward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const float *d_scores;

    TRY(policy_balance_backward(policy, layer, a, n_rows, &d_scores));
    TRY(ops->router_backward(
        policy->backend,
        &(struct router_backward_args){
            .scores = a->scores,
            .indices = a->indices,
            .d_weights = policy->grad.d_route_weights,
            .d_scores = d_scores,
            .d_logits = policy->grad.d_logits,
            .d_logits_stride = s->n_experts,
            .n_rows = n_rows,
            .n_experts = s->n_experts,
            .top_k = s->top_k,
            .scoring = policy->config.has_softmax_router ? ROUTER_SOFTMAX : ROUTER_SIGMOID,
            .normalise = model_config_normalises_routes(&policy->config),
            .scaling = (float)model_config_route_scale(&policy->config)}));
    TRY(ops->gemm_dw(policy->backend,
                     &(struct gemm_dw_args){.dy = policy->grad.d_logits,
                                            .dy_stride = s->n_experts,
                                            .x = a->normed_mid,
                                            .x_stride = s->d_stride,
                                            .dw = policy->gradients + layer->router,
                                            .dw_stride = s->d,
                                            .n_rows = n_rows,
                                            .n_in = s->d,
                                            .n_out = s->n_experts}));
    return ops->gemm_dx(
        policy->backend,
        &(struct gemm_dx_args){.dy = policy->grad.d_logits,
                               .dy_stride = s->n_experts,
                               .parts = {{.w = policy->weights + layer->router, .n = s->n_experts}},
                               .n_parts = 1,
                               .w_stride = s->d,
                               .dx = policy->grad.d_normed,
                               .dx_stride = s->d_stride,
                               .n_rows = n_rows,
                               .n_in = s->d,
                               .n_out = s->n_experts,
                               .accumulate = true});
}

enum status policy_ffn_backward(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows, float *d_h)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(mlp_backward(policy, layer, a, n_rows, d_h));
    if (layer->is_moe) {
        TRY(experts_backward(policy, layer, a, n_rows, d_h));
        TRY(router_backward(policy, layer, a, n_rows));
    }
    return policy->backend->ops->rms_norm_backward(
        policy->backend,
        &(struct rms_norm_backward_args){.x = a->h_mid,
                                         .x_stride = s->d_stride,
                                         .w = policy->weights + layer->post_norm,
                                         .rstd = a->rstd_mid,
                                         .dy = policy->grad.d_normed,
                                         .dy_stride = s->d_stride,
                                         .dx = d_h,
                                         .dx_stride = s->d_stride,
                                         .dw = policy->gradients + layer->post_norm,
                                         .n_rows = n_rows,
                                         .d = s->d,
                                         .accumulate = true});
}
