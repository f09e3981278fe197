/* Owns the backward pass of a layer as a whole: residual additions, norms and o_proj around its
 * attention and feed-forward part. */
#include "model/policy_attention_internal.h"
#include "model/policy_backward_internal.h"

/* d_h -> d_values, with the gradients of o_proj. */
static enum status output_backward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a, size_t n_rows,
                                   const float *d_h)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy_linear_backward(
        policy, &(struct policy_linear_gradient){.parts = {{layer->o, layer->o_bias, s->d, 0}},
                                                 .n_parts = 1,
                                                 .n_in = s->value_dim,
                                                 .dy = d_h,
                                                 .dy_stride = s->d_stride,
                                                 .x = a->values,
                                                 .x_stride = s->value_stride,
                                                 .dx = policy->grad.d_values,
                                                 .dx_stride = s->value_stride,
                                                 .n_rows = n_rows});
}

enum status policy_block_backward(struct policy *policy, const struct policy_layer *layer,
                                  const struct policy_activations *a,
                                  const struct policy_block_rows *rows, float *d_h)
{
    const size_t n_rows = rows->n_rows;

    TRY(policy_ffn_backward(policy, layer, a, n_rows, d_h));
    TRY(output_backward(policy, layer, a, n_rows, d_h));
    TRY(policy_attention_of(policy)->backward(policy, layer, a, rows));
    return policy_residual_backward(policy, layer->input_norm, a->h_in, a->rstd_in, n_rows, d_h);
}
