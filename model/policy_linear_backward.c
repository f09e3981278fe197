/* Owns the backward pass of linear layers and residual norms, which all parts of the policy share.
 */
#include "model/policy_backward_internal.h"

static enum precision products_of(const struct policy *policy,
                                  const struct policy_linear_gradient *linear)
{
    return linear->arithmetic == POLICY_EXACT ? PRECISION_F32 : policy_backward_products(policy);
}

/* What the weights were rounded to in the forward pass. */
static enum precision rounding_of(const struct policy *policy,
                                  const struct policy_linear_gradient *linear)
{
    switch (linear->arithmetic) {
    case POLICY_AS_LINEAR:
        return policy_linear(policy);
    case POLICY_AS_UNQUANTISED:
        return policy_unquantised(policy);
    case POLICY_EXACT:
        break;
    }
    return PRECISION_F32;
}

/* Nothing where there is no bias. */
static enum status bias_backward(struct policy *policy, const struct policy_linear_gradient *linear,
                                 const struct policy_linear_part *part)
{
    if (part->bias == 0) {
        return STATUS_OK;
    }
    return policy->backend->ops->column_sums(
        policy->backend, &(struct column_sums_args){.dy = linear->dy + part->at,
                                                    .dy_stride = linear->dy_stride,
                                                    .db = policy->gradients + part->bias,
                                                    .n_rows = linear->n_rows,
                                                    .n = part->n});
}

enum status policy_weights_backward(struct policy *policy,
                                    const struct policy_linear_gradient *linear)
{
    for (size_t i = 0; i < linear->n_parts; i++) {
        const struct policy_linear_part *part = &linear->parts[i];

        TRY(bias_backward(policy, linear, part));
        TRY(policy->backend->ops->gemm_dw(
            policy->backend, &(struct gemm_dw_args){.dy = linear->dy + part->at,
                                                    .dy_stride = linear->dy_stride,
                                                    .x = linear->x,
                                                    .x_stride = linear->x_stride,
                                                    .dw = policy->gradients + part->weight,
                                                    .dw_stride = linear->n_in,
                                                    .n_rows = linear->n_rows,
                                                    .n_in = linear->n_in,
                                                    .n_out = part->n,
                                                    .precision = products_of(policy, linear)}));
    }
    return STATUS_OK;
}

enum status policy_inputs_backward(struct policy *policy,
                                   const struct policy_linear_gradient *linear)
{
    struct gemm_dx_args args = {.dy = linear->dy,
                                .dy_stride = linear->dy_stride,
                                .n_parts = linear->n_parts,
                                .w_stride = linear->n_in,
                                .accumulate = linear->accumulates,
                                .precision = products_of(policy, linear),
                                .rounding = rounding_of(policy, linear),
                                .dx = linear->dx,
                                .dx_stride = linear->dx_stride,
                                .n_rows = linear->n_rows,
                                .n_in = linear->n_in};

    for (size_t i = 0; i < linear->n_parts; i++) {
        const struct policy_linear_part *part = &linear->parts[i];

        args.parts[i] = (struct gemm_dx_part){
            .w = policy->weights + part->weight, .n = part->n, .at = part->at};
        args.n_out = part->at + part->n;
    }
    return policy->backend->ops->gemm_dx(policy->backend, &args);
}

enum status policy_linear_backward(struct policy *policy,
                                   const struct policy_linear_gradient *linear)
{
    TRY(policy_weights_backward(policy, linear));
    return policy_inputs_backward(policy, linear);
}

enum status policy_residual_backward(struct policy *policy, size_t norm, const float *x,
                                     const float *rstd, size_t n_rows, float *d_h)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rms_norm_backward(
        policy->backend, &(struct rms_norm_backward_args){.x = x,
                                                          .x_stride = s->d_stride,
                                                          .w = policy->weights + norm,
                                                          .rstd = rstd,
                                                          .dy = policy->grad.d_normed,
                                                          .dy_stride = s->d_stride,
                                                          .dx = d_h,
                                                          .dx_stride = s->d_stride,
                                                          .dw = policy->gradients + norm,
                                                          .n_rows = n_rows,
                                                          .d = s->d,
                                                          .accumulate = true});
}
