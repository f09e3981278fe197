/* Owns the multi-token prediction module (model.md 9): row i of a sequence reads the final-normed
 * hidden row i and the embedding of token i + 1, and predicts token i + 2. Its rows are the batch's
 * rows without the last of each sequence, packed; embedding and head are the main model's. */
#include "model/policy_internal.h"

#include <string.h>

/* Lists the module's rows: batch row, token, position, span. */
static enum status place_rows(struct policy *policy)
{
    const size_t t = policy->options.max_rows;
    int32_t *tokens = policy->staging, *positions = policy->staging + t;
    size_t n = 0, n_spans = 0;

    for (size_t i = 0; i < policy->n_spans; i++) {
        const struct kv_span *span = &policy->spans[i];

        if (span->n_rows > 1) {
            policy->mtp_spans[n_spans++] = (struct kv_span){
                .first_row = n, .n_rows = span->n_rows - 1, .blocks = span->blocks};
        }
        for (size_t j = 0; j + 1 < span->n_rows; j++) {
            const size_t row = span->first_row + j;

            policy->mtp_of_row[row] = (int32_t)n;
            policy->host_mtp_rows[n] = (int32_t)row;
            tokens[n] = policy->host_tokens[row + 1];
            positions[n++] = (int32_t)j;
        }
        policy->mtp_of_row[span->first_row + span->n_rows - 1] = -1;
    }
    policy->n_mtp_rows = n;
    policy->n_mtp_spans = n_spans;
    TRY(policy_upload_rows(policy, policy->mtp_tokens, tokens, n));
    TRY(policy_upload_rows(policy, policy->mtp_positions, positions, n));
    return policy_upload_rows(policy, policy->mtp_rows, policy->host_mtp_rows, n);
}

/* Targets by batch row become rows of the module. */
static enum status place_targets(struct policy *policy, const struct policy_mtp_args *args)
{
    const size_t t = policy->options.max_rows;

    for (size_t i = 0; i < args->n_targets; i++) {
        const int32_t row = args->target_rows[i];

        if (row < 0 || (size_t)row >= policy->n_rows || policy->mtp_of_row[row] < 0 ||
            (i > 0 && row <= args->target_rows[i - 1])) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "MTP target row %zu is %d, want ascending rows with a token behind "
                              "them",
                              i, (int)row);
        }
        policy->staging[i] = policy->mtp_of_row[row];
        policy->host_mtp_targets[i] = row;
        policy->host_mtp_targets[t + i] = args->targets[i];
    }
    TRY(policy_check_tokens(policy, "MTP target", args->targets, args->n_targets));
    policy->n_mtp_targets = args->n_targets;
    TRY(policy_upload_rows(policy, policy->mtp_target_rows, policy->staging, args->n_targets));
    return policy_upload_rows(policy, policy->mtp_targets, args->targets, args->n_targets);
}

/* One half of the module's input: rows of `x`, normed, into columns `at` .. of mtp_eh. */
static enum status norm_input(struct policy *policy, const float *x, size_t norm, size_t at,
                              float *rstd)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rms_norm(
        policy->backend, &(struct rms_norm_args){.x = x,
                                                 .x_stride = s->d_stride,
                                                 .w = policy->weights + norm,
                                                 .y = policy->mtp_eh + at,
                                                 .y_stride = policy_stride(2 * s->d),
                                                 .rstd = rstd,
                                                 .n_rows = policy->n_mtp_rows,
                                                 .d = s->d,
                                                 .eps = (float)policy->config.rms_norm_eps});
}

/* u = eh_proj [enorm(embedding); hnorm(hidden)] into h_in of the module's layer. */
static enum status form_input(struct policy *policy, float *h_in)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t n = policy->n_mtp_rows;

    TRY(ops->embedding(policy->backend,
                       &(struct embedding_args){.table = policy->weights + policy->embedding,
                                                .ids = policy->mtp_tokens,
                                                .out = policy->mtp_embedded,
                                                .out_stride = s->d_stride,
                                                .n_rows = n,
                                                .d = s->d}));
    TRY(ops->gather_rows(policy->backend, &(struct rows_args){.src = policy->normed,
                                                              .src_stride = s->d_stride,
                                                              .rows = policy->mtp_rows,
                                                              .dst = policy->mtp_hidden,
                                                              .dst_stride = s->d_stride,
                                                              .n_rows = n,
                                                              .d = s->d}));
    TRY(norm_input(policy, policy->mtp_embedded, policy->enorm, 0, policy->mtp_rstd_e));
    TRY(norm_input(policy, policy->mtp_hidden, policy->hnorm, s->d, policy->mtp_rstd_h));
    return ops->gemm(policy->backend, &(struct gemm_args){.x = policy->mtp_eh,
                                                          .x_stride = policy_stride(2 * s->d),
                                                          .w = policy->w_eh,
                                                          .y = h_in,
                                                          .y_stride = s->d_stride,
                                                          .n_rows = n,
                                                          .n_in = 2 * s->d,
                                                          .n_out = s->d});
}

static struct policy_block_rows module_rows(const struct policy *policy)
{
    return (struct policy_block_rows){.n_rows = policy->n_mtp_rows,
                                      .positions = policy->mtp_positions,
                                      .spans = policy->mtp_spans,
                                      .n_spans = policy->n_mtp_spans,
                                      .pages = policy->pages};
}

/* The module's layer and its norm, for all rows. */
static enum status run_module(struct policy *policy)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t index = policy->config.n_layers;
    const struct policy_activations *a = policy_activations_of(policy, index);
    const struct policy_block_rows rows = module_rows(policy);

    TRY(form_input(policy, a->h_in));
    TRY(policy_block_forward(policy, &policy->layers[index], a, &rows));
    if (policy->layers[index].is_moe) {
        uint32_t *counts = policy->counts + (policy->n_moe_layers - 1) * s->n_experts;

        memset(counts, 0, s->n_experts * sizeof(counts[0]));
        TRY(policy_count_experts(policy, policy->n_moe_layers - 1, a, rows.n_rows));
    }
    return policy->backend->ops->rms_norm(
        policy->backend, &(struct rms_norm_args){.x = a->h_out,
                                                 .x_stride = s->d_stride,
                                                 .w = policy->weights + policy->mtp_norm,
                                                 .y = policy->mtp_normed,
                                                 .y_stride = s->d_stride,
                                                 .rstd = policy->mtp_rstd,
                                                 .n_rows = rows.n_rows,
                                                 .d = s->d,
                                                 .eps = (float)policy->config.rms_norm_eps});
}

/* Draws a token for each target row with the noise that the main model's draw uses. */
static enum status draw_tokens(struct policy *policy, const struct policy_mtp_args *args)
{
    const size_t t = policy->options.max_rows;

    for (size_t i = 0; i < args->n_targets; i += policy->logit_rows) {
        const size_t left = args->n_targets - i;
        const size_t n = left < policy->logit_rows ? left : policy->logit_rows;

        TRY(policy_draw(policy, policy->head_x + (t + i) * policy->sizes.d_stride, args->draws + i,
                        n, args->drawn + i, policy->host_values));
    }
    return STATUS_OK;
}

/* Log-probabilities of the targets, and draws if they are wanted. */
static enum status finish_targets(struct policy *policy, const struct policy_mtp_args *args,
                                  float *logp)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t t = policy->options.max_rows;

    TRY(policy->backend->ops->gather_rows(
        policy->backend, &(struct rows_args){.src = policy->mtp_normed,
                                             .src_stride = s->d_stride,
                                             .rows = policy->mtp_target_rows,
                                             .dst = policy->head_x + t * s->d_stride,
                                             .dst_stride = s->d_stride,
                                             .n_rows = args->n_targets,
                                             .d = s->d}));
    TRY(policy_head_forward(policy, t, policy->mtp_targets, args->n_targets, logp, NULL));
    return args->draws == NULL ? STATUS_OK : draw_tokens(policy, args);
}

enum status policy_mtp_forward(struct policy *policy, const struct policy_mtp_args *args,
                               float *logp)
{
    if (policy->config.n_mtp_modules == 0 || policy->n_rows == 0) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "MTP needs a model with a module and a forward pass before it");
    }
    policy->mtp = MTP_IDLE;
    TRY(place_rows(policy));
    TRY(place_targets(policy, args));
    policy->mtp_detached = args->detached;
    if (policy->n_mtp_rows > 0) {
        TRY(run_module(policy));
    }
    if (args->n_targets > 0) {
        TRY(finish_targets(policy, args, logp));
    }
    policy->mtp = MTP_FORWARD;
    return STATUS_OK;
}

/* g (host) -> gradient of the module's normed rows in d_normed. The head's own gradient, if it has
 * one, is added by policy_backward together with the main targets'. */
static enum status head_backward(struct policy *policy, const float *g)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t t = policy->options.max_rows, n = policy->n_mtp_targets;
    float *dx = policy->grad.d_head + t * s->d_stride;

    TRY(ops->fill(policy->backend, policy->grad.d_normed, policy->n_mtp_rows * s->d_stride, 0));
    if (n == 0) {
        return STATUS_OK;
    }
    TRY(ops->upload(policy->backend, policy->grad.g + t, g, n * sizeof(float)));
    TRY(ops->lm_head_backward(policy->backend,
                              &(struct lm_head_backward_args){
                                  .forward = policy_head_args(policy, t, policy->mtp_targets, n),
                                  .w_t = policy->t_head,
                                  .g = policy->grad.g + t,
                                  .dx = dx,
                                  .dx_stride = s->d_stride}));
    return ops->scatter_add_rows(policy->backend,
                                 &(struct rows_args){.src = dx,
                                                     .src_stride = s->d_stride,
                                                     .rows = policy->mtp_target_rows,
                                                     .dst = policy->grad.d_normed,
                                                     .dst_stride = s->d_stride,
                                                     .n_rows = n,
                                                     .d = s->d});
}

/* Through one of the two input norms: half `at` of d_eh to dx. */
static enum status input_norm_backward(struct policy *policy, const float *x, size_t norm,
                                       size_t at, const float *rstd, float *dx)
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
                                                          .n_rows = policy->n_mtp_rows,
                                                          .d = s->d});
}

/* d_h_mtp -> eh_proj, both norms, and the gradients of embedding and hidden rows. */
static enum status input_backward(struct policy *policy)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t n = policy->n_mtp_rows, stride = policy_stride(2 * s->d);
    float *d_embedded = policy->grad.d_h + policy->options.max_rows * s->d_stride;

    TRY(ops->gemm_dw(policy->backend, &(struct gemm_dw_args){.dy = policy->grad.d_h_mtp,
                                                             .dy_stride = s->d_stride,
                                                             .x = policy->mtp_eh,
                                                             .x_stride = stride,
                                                             .dw = policy->gradients + policy->eh,
                                                             .dw_stride = 2 * s->d,
                                                             .n_rows = n,
                                                             .n_in = 2 * s->d,
                                                             .n_out = s->d}));
    TRY(ops->gemm(policy->backend, &(struct gemm_args){.x = policy->grad.d_h_mtp,
                                                       .x_stride = s->d_stride,
                                                       .w = policy->t_eh,
                                                       .y = policy->grad.d_eh,
                                                       .y_stride = stride,
                                                       .n_rows = n,
                                                       .n_in = s->d,
                                                       .n_out = 2 * s->d}));
    TRY(input_norm_backward(policy, policy->mtp_embedded, policy->enorm, 0, policy->mtp_rstd_e,
                            d_embedded));
    return input_norm_backward(policy, policy->mtp_hidden, policy->hnorm, s->d, policy->mtp_rstd_h,
                               policy->grad.d_mtp_hidden);
}

enum status policy_mtp_backward(struct policy *policy, const float *g)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t index = policy->config.n_layers;
    const struct policy_block_rows rows = module_rows(policy);

    if (!policy->options.is_trainable || policy->mtp != MTP_FORWARD) {
        return status_set(STATUS_BAD_ARGUMENT, "an MTP backward pass needs a trainable policy and "
                                               "an MTP forward pass before it");
    }
    policy->mtp = MTP_DONE;
    if (policy->n_mtp_rows == 0) {
        return STATUS_OK;
    }
    TRY(head_backward(policy, g));
    TRY(policy->backend->ops->rms_norm_backward(
        policy->backend,
        &(struct rms_norm_backward_args){.x = policy->activations[index].h_out,
                                         .x_stride = s->d_stride,
                                         .w = policy->weights + policy->mtp_norm,
                                         .rstd = policy->mtp_rstd,
                                         .dy = policy->grad.d_normed,
                                         .dy_stride = s->d_stride,
                                         .dx = policy->grad.d_h_mtp,
                                         .dx_stride = s->d_stride,
                                         .dw = policy->gradients + policy->mtp_norm,
                                         .n_rows = rows.n_rows,
                                         .d = s->d}));
    TRY(policy_block_backward(policy, &policy->layers[index], &policy->activations[index], &rows,
                              policy->grad.d_h_mtp));
    TRY(input_backward(policy));
    policy->mtp_reaches_trunk = !policy->mtp_detached;
    return STATUS_OK;
}
