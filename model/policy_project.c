/* Owns the joint projection of a layer's normed input, which every kind of attention begins with:
 * what reads the same rows is one product. */
#include "model/policy_attention_internal.h"
#include "model/policy_backward_internal.h"

enum status policy_project(struct policy *policy, const struct policy_layer *layer,
                           const struct policy_activations *a, size_t n_rows, size_t at,
                           const float *next)
{
    const struct policy_sizes *s = &policy->sizes;
    const enum precision precision = policy_linear(policy);

    return policy->backend->ops->gemm(
        policy->backend,
        &(struct gemm_args){.x = a->normed_in,
                            .x_stride = s->d_stride,
                            .w = layer->w_project + packed_words(precision, s->d, at),
                            .precision = precision,
                            .bias = layer->project_bias == NULL ? NULL : layer->project_bias + at,
                            .next = next,
                            .y = a->project + at,
                            .y_stride = s->project_stride,
                            .n_rows = n_rows,
                            .n_in = s->d,
                            .n_out = s->project - at});
}

enum status policy_project_backward(struct policy *policy, const struct policy_activations *a,
                                    const struct policy_linear_part *parts, size_t n_parts,
                                    size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;
    struct policy_linear_gradient linear = {.n_parts = n_parts,
                                            .n_in = s->d,
                                            .dy = policy->grad.d_project,
                                            .dy_stride = s->project_stride,
                                            .x = a->normed_in,
                                            .x_stride = s->d_stride,
                                            .dx = policy->grad.d_normed,
                                            .dx_stride = s->d_stride,
                                            .n_rows = n_rows};

    for (size_t i = 0; i < n_parts; i++) {
        linear.parts[i] = parts[i];
    }
    return policy_linear_backward(policy, &linear);
}
