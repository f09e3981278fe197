/* Owns the backward pass of a layer as a whole: residual additions, norms and o_proj around its
 * attention and feed-forward part. */
#include "model/policy_internal.h"

enum status policy_bias_backward(struct policy *policy, const float *dy, size_t dy_stride,
                                 size_t offset, size_t n, size_t n_rows)
{
    return policy->backend->ops->column_sums(
        policy->backend, &(struct column_sums_args){.dy = dy,
                                                    .dy_stride = dy_stride,
                                                    .db = policy->gradients + offset,
                                                    .n_rows = n_rows,
                                                    .n = n});
}

/* d_h -> d_values, with the gradients of o_proj. */
static enum status output_backward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows,
                                   const float *d_h)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    if (s->has_o_bias) {
        TRY(policy_bias_backward(policy, d_h, s->d_stride, layer->o_bias, s->d, n_rows));
    }
    TRY(ops->gemm_dw(policy->backend,
                     &(struct gemm_dw_args){.dy = d_h,
                                            .dy_stride = s->d_stride,
                                            .x = a->values,
                                            .x_stride = s->value_stride,
                                            .dw = policy->gradients + layer->o,
                                            .dw_stride = s->value_dim,
                                            .n_rows = n_rows,
                                            .n_in = s->value_dim,
                                            .n_out = s->d,
                                            .precision = policy_backward_products(policy)}));
    return ops->gemm_dx(
        policy->backend,
        &(struct gemm_dx_args){.dy = d_h,
                               .dy_stride = s->d_stride,
                               .parts = {{.w = policy->weights + layer->o, .n = s->d}},
                               .n_parts = 1,
                               .w_stride = s->value_dim,
                               .precision = policy_backward_products(policy),
                               .rounding = policy_linear(policy),
                               .dx = policy->grad.d_values,
                               .dx_stride = s->value_stride,
                               .n_rows = n_rows,
                               .n_in = s->value_dim,
                               .n_out = s->d});
}

enum status policy_block_backward(struct policy *policy, const struct policy_layer *layer,
                                  const struct policy_activations *a,
                                  const struct policy_block_rows *rows, float *d_h)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t n_rows = rows->n_rows;

    TRY(policy_ffn_backward(policy, layer, a, n_rows, d_h));
    TRY(output_backward(policy, layer, a, n_rows, d_h));
    TRY(policy_attention_of(policy)->backward(policy, layer, a, rows));
    return policy->backend->ops->rms_norm_backward(
        policy->backend,
        &(struct rms_norm_backward_args){.x = a->h_in,
                                         .x_stride = s->d_stride,
                                         .w = policy->weights + layer->input_norm,
                                         .rstd = a->rstd_in,
                                         .dy = policy->grad.d_normed,
                                         .dy_stride = s->d_stride,
                                         .dx = d_h,
                                         .dx_stride = s->d_stride,
                                         .dw = policy->gradients + layer->input_norm,
                                         .n_rows = n_rows,
                                         .d = s->d,
                                         .accumulate = true});
}
