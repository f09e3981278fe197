/* Owns the backward pass of a layer's second half: MLP, experts, router, norm (model.md 4.3, 7.3).
 * Gradients of parameters are added in row order, so batches may be cut between rows. */
#include "model/policy_backward_internal.h"

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
    TRY(policy_linear_backward(
        policy, &(struct policy_linear_gradient){.parts = {{layer->down, 0, s->d, 0}},
                                                 .n_parts = 1,
                                                 .n_in = width,
                                                 .dy = dy,
                                                 .dy_stride = s->d_stride,
                                                 .x = policy->ffn_hidden,
                                                 .x_stride = policy_stride(width),
                                                 .dx = policy->grad.d_hidden,
                                                 .dx_stride = policy_stride(width),
                                                 .n_rows = n_rows}));
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
    return policy_inputs_backward(
        policy, &(struct policy_linear_gradient){
                    .parts = {{layer->gate, 0, width, 0}, {layer->up, 0, width, up_at}},
                    .n_parts = 2,
                    .n_in = s->d,
                    .dy = d_gate_up,
                    .dy_stride = stride,
                    .dx = policy->grad.d_normed,
                    .dx_stride = s->d_stride,
                    .n_rows = n_rows});
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
    const float *d_scores;

    TRY(policy_balance_backward(policy, layer, a, n_rows, &d_scores));
    TRY(policy->backend->ops->router_backward(
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
    return policy_linear_backward(
        policy, &(struct policy_linear_gradient){.parts = {{layer->router, 0, s->n_experts, 0}},
                                                 .n_parts = 1,
                                                 .n_in = s->d,
                                                 .dy = policy->grad.d_logits,
                                                 .dy_stride = s->n_experts,
                                                 .x = a->normed_mid,
                                                 .x_stride = s->d_stride,
                                                 .dx = policy->grad.d_normed,
                                                 .dx_stride = s->d_stride,
                                                 .n_rows = n_rows,
                                                 .arithmetic = POLICY_EXACT,
                                                 .accumulates = true});
}

enum status policy_ffn_backward(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows, float *d_h)
{
    TRY(mlp_backward(policy, layer, a, n_rows, d_h));
    if (layer->is_moe) {
        TRY(experts_backward(policy, layer, a, n_rows, d_h));
        TRY(router_backward(policy, layer, a, n_rows));
    }
    return policy_residual_backward(policy, layer->post_norm, a->h_mid, a->rstd_mid, n_rows, d_h);
}
