/* Owns the backward pass of the multi-token prediction modules: from the gradients of a module's
 * targets to those of its parameters, of the embeddings that it read and of its hidden rows. */
#include "model/policy_attention_internal.h"
#include "model/policy_backward_internal.h"

/* g (host) -> gradient of the module's normed rows in d_normed. The head's own gradient, if it has
 * one, is added by policy_backward together with the main targets'. */
static enum status head_backward(struct policy *policy, size_t index, const float *g)
{
    const struct policy_mtp_module *module = &policy->modules[index];
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t first = (1 + index) * policy->options.max_rows, n = module->n_targets;
    float *dx = policy->grad.d_head + first * s->d_stride;

    TRY(ops->fill(policy->backend, policy->grad.d_normed, module->n_rows * s->d_stride, 0));
    if (n == 0) {
        return STATUS_OK;
    }
    TRY(ops->upload(policy->backend, policy->grad.g + first, g, n * sizeof(float)));
    TRY(ops->lm_head_backward(policy->backend,
                              &(struct lm_head_backward_args){
                                  .forward = policy_head_args(policy, first, module->targets, n),
                                  .weights = policy->weights + policy->head,
                                  .precision = policy_backward_products(policy),
                                  .rounding = policy_unquantised(policy),
                                  .g = policy->grad.g + first,
                                  .dx = dx,
                                  .dx_stride = s->d_stride}));
    return ops->scatter_add_rows(policy->backend, &(struct rows_args){.src = dx,
                                                                      .src_stride = s->d_stride,
                                                                      .rows = module->target_rows,
                                                                      .dst = policy->grad.d_normed,
                                                                      .dst_stride = s->d_stride,
                                                                      .n_rows = n,
                                                                      .d = s->d});
}

/* Through one of the two input norms: half `at` of d_eh to dx. */
static enum status input_norm_backward(struct policy *policy,
                                       const struct policy_mtp_module *module, const float *x,
                                       size_t norm, size_t at, const float *rstd, float *dx)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rms_norm_backward(
        policy->backend, &(struct rms_norm_backward_args){.x = x,
                                                          .x_stride = s->d_stride,
                                                          .w = policy->weights + norm,
                                                          .rstd = rstd,
                                                          .dy = policy->grad.d_eh + at,
                                                          .dy_stride = policy_stride(2 * s->d),
                                                          .dx = dx,
                                                          .dx_stride = s->d_stride,
                                                          .dw = policy->gradients + norm,
                                                          .n_rows = module->n_rows,
                                                          .d = s->d});
}

/* d_h_mtp -> eh_proj, both norms, and the gradients of embedding and hidden rows. */
static enum status input_backward(struct policy *policy, size_t index)
{
    const struct policy_mtp_module *module = &policy->modules[index];
    const struct policy_sizes *s = &policy->sizes;
    const size_t stride = policy_stride(2 * s->d);
    float *d_embedded = policy->grad.d_h + (1 + index) * policy->options.max_rows * s->d_stride;

    TRY(policy_linear_backward(
        policy, &(struct policy_linear_gradient){.parts = {{module->eh, 0, s->d, 0}},
                                                 .n_parts = 1,
                                                 .n_in = 2 * s->d,
                                                 .dy = policy->grad.d_h_mtp,
                                                 .dy_stride = s->d_stride,
                                                 .x = module->input,
                                                 .x_stride = stride,
                                                 .dx = policy->grad.d_eh,
                                                 .dx_stride = stride,
                                                 .n_rows = module->n_rows,
                                                 .arithmetic = POLICY_AS_UNQUANTISED}));
    TRY(input_norm_backward(policy, module, module->embedded, module->enorm, 0, module->rstd_e,
                            d_embedded));
    return input_norm_backward(policy, module, module->hidden, module->hnorm, s->d, module->rstd_h,
                               policy->grad.d_mtp_hidden);
}

/* d_normed and, from the module that read this one's rows, d_mtp_hidden -> d_h_mtp. */
static enum status output_backward(struct policy *policy, size_t index)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const struct policy_mtp_module *module = &policy->modules[index];
    const struct policy_mtp_module *reader =
        index + 1 < policy->n_mtp_run ? &policy->modules[index + 1] : NULL;

    TRY(ops->rms_norm_backward(policy->backend,
                               &(struct rms_norm_backward_args){
                                   .x = policy->activations[policy->config.n_layers + index].h_out,
                                   .x_stride = s->d_stride,
                                   .w = policy->weights + module->norm,
                                   .rstd = module->rstd,
                                   .dy = policy->grad.d_normed,
                                   .dy_stride = s->d_stride,
                                   .dx = policy->grad.d_h_mtp,
                                   .dx_stride = s->d_stride,
                                   .dw = policy->gradients + module->norm,
                                   .n_rows = module->n_rows,
                                   .d = s->d}));
    if (reader == NULL || reader->n_rows == 0) {
        return STATUS_OK;
    }
    return ops->scatter_add_rows(policy->backend,
                                 &(struct rows_args){.src = policy->grad.d_mtp_hidden,
                                                     .src_stride = s->d_stride,
                                                     .rows = reader->rows,
                                                     .dst = policy->grad.d_h_mtp,
                                                     .dst_stride = s->d_stride,
                                                     .n_rows = reader->n_rows,
                                                     .d = s->d});
}

enum status policy_mtp_backward(struct policy *policy, const float *g)
{
    if (!policy->options.is_trainable || policy->n_mtp_left == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "an MTP backward pass needs a trainable policy and "
                                               "an MTP forward pass before it");
    }

    const size_t index = policy->n_mtp_left - 1;
    const size_t layer = policy->config.n_layers + index;
    const struct policy_block_rows rows = policy_rows_of(policy, layer);

    policy->n_mtp_left = index;
    policy->is_cleared = false;
    if (rows.n_rows == 0) {
        return STATUS_OK;
    }
    TRY(policy_hold(policy, layer));
    if (rows.is_dense) {
        return policy_indexer_backward(policy, &policy->layers[layer], &policy->activations[layer],
                                       &rows);
    }
    TRY(head_backward(policy, index, g));
    TRY(output_backward(policy, index));
    TRY(policy_block_backward(policy, &policy->layers[layer], &policy->activations[layer], &rows,
                              policy->grad.d_h_mtp));
    TRY(input_backward(policy, index));
    policy->mtp_reaches_trunk = index == 0 && !policy->mtp_detached;
    return STATUS_OK;
}
