/* Owns the backward pass over the last batch: head, trunk, embedding.
 *
 * Head and embedding are shared with the MTP module. When its gradient reaches them, their rows are
 * merged in the order of the batch's rows (the trunk's before the module's at the same row) into
 * ONE chain of additions, so that cutting a batch between sequences still changes no bit. */
#include "model/policy_attention_internal.h"
#include "model/policy_backward_internal.h"

#include <string.h>

/* The order of merged rows: main targets, and behind each multiple of max_rows a module's. */
struct merge {
    int32_t *order;   /* row of the joined buffers */
    int32_t *targets; /* token each predicts */
    int32_t *scatter; /* row of d_final that takes the gradient: the MTP rows' goes nowhere */
    size_t n;
};

/* Targets of one kind, by batch row ascending; `next` is the first not merged yet. */
struct merge_source {
    const int32_t *rows, *targets;
    size_t n, next;
};

/* Main targets, then those of each module that ran. Returns how many sources there are. */
static size_t list_sources(const struct policy *policy, struct merge_source *sources)
{
    const size_t t = policy->options.max_rows;

    sources[0] = (struct merge_source){
        .rows = policy->host_targets, .targets = policy->host_targets + t, .n = policy->n_targets};
    for (size_t i = 0; i < policy->n_mtp_run; i++) {
        const struct policy_mtp_module *module = &policy->modules[i];

        sources[1 + i] = (struct merge_source){.rows = module->host_targets,
                                               .targets = module->host_targets + t,
                                               .n = module->n_targets};
    }
    return 1 + policy->n_mtp_run;
}

/* The source with the lowest row left, the first of equals; n when all are empty. */
static size_t next_source(const struct merge_source *sources, size_t n)
{
    size_t best = n;

    for (size_t i = 0; i < n; i++) {
        const struct merge_source *s = &sources[i];

        if (s->next < s->n &&
            (best == n || s->rows[s->next] < sources[best].rows[sources[best].next])) {
            best = i;
        }
    }
    return best;
}

static void merge_targets(const struct policy *policy, struct merge *merge)
{
    const size_t t = policy->options.max_rows;
    struct merge_source sources[1 + MODEL_MTP_MAX];
    const size_t n_sources = list_sources(policy, sources);

    merge->n = 0;
    for (size_t i = next_source(sources, n_sources); i < n_sources;
         i = next_source(sources, n_sources)) {
        struct merge_source *s = &sources[i];

        merge->order[merge->n] = (int32_t)(i * t + s->next);
        merge->targets[merge->n] = s->targets[s->next];
        merge->scatter[merge->n] = i == 0 ? s->rows[s->next] : (int32_t)t;
        merge->n++;
        s->next++;
    }
}

/* dst[k] = src[order[k]] for rows of d elements. */
static enum status gather(struct policy *policy, const float *src, float *dst, size_t stride,
                          size_t d, size_t n)
{
    return policy->backend->ops->gather_rows(policy->backend,
                                             &(struct rows_args){.src = src,
                                                                 .src_stride = stride,
                                                                 .rows = policy->grad.merged_rows,
                                                                 .dst = dst,
                                                                 .dst_stride = stride,
                                                                 .n_rows = n,
                                                                 .d = d});
}

/* Lays head inputs and per-row values of both kinds of targets out in one order. */
static enum status gather_merged(struct policy *policy, size_t n, bool has_entropy)
{
    const struct policy_sizes *s = &policy->sizes;
    struct policy_gradients_scratch *g = &policy->grad;

    TRY(gather(policy, policy->head_x, g->merged_x, s->d_stride, s->d, n));
    TRY(gather(policy, g->g, g->merged_g, 1, 1, n));
    TRY(gather(policy, policy->lse, g->merged_lse, 1, 1, n));
    TRY(gather(policy, policy->logp, g->merged_logp, 1, 1, n));
    if (!has_entropy) {
        return STATUS_OK;
    }
    TRY(gather(policy, g->h, g->merged_h, 1, 1, n));
    return gather(policy, policy->entropy, g->merged_entropy, 1, 1, n);
}

/* Where the second of two merged lists begins in staging. */
static size_t half_staging(const struct policy *policy)
{
    return (1 + policy->config.n_mtp_modules) * policy->options.max_rows;
}

/* Head arguments of the merged rows. */
static enum status merge_head(struct policy *policy, bool has_entropy,
                              struct lm_head_backward_args *args)
{
    const size_t t = policy->options.max_rows;
    struct policy_gradients_scratch *g = &policy->grad;
    struct merge merge = {.order = policy->staging,
                          .targets = policy->staging + half_staging(policy),
                          .scatter = policy->host_merge};

    merge_targets(policy, &merge);
    TRY(policy_upload_rows(policy, g->merged_rows, merge.order, merge.n));
    TRY(policy_upload_rows(policy, g->merged_targets, merge.targets, merge.n));
    TRY(policy_upload_rows(policy, g->merged_scatter, merge.scatter, merge.n));
    if (has_entropy) { /* MTP has no entropy term */
        TRY(policy->backend->ops->fill(policy->backend, g->h + t, policy->n_mtp_run * t, 0));
    }
    TRY(gather_merged(policy, merge.n, has_entropy));
    args->forward = policy_head_args(policy, 0, g->merged_targets, merge.n);
    args->forward.x = g->merged_x;
    args->forward.lse = g->merged_lse;
    args->forward.logp = g->merged_logp;
    args->forward.entropy = g->merged_entropy;
    args->g = g->merged_g;
    args->h = has_entropy ? g->merged_h : NULL;
    return STATUS_OK;
}

/* g, h (host) -> d_final: the gradient after the final norm, MTP's share included. */
static enum status head_backward(struct policy *policy, const float *g, const float *h)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t n = policy->n_targets;
    struct lm_head_backward_args args = {.weights = policy->weights + policy->head,
                                         .precision = policy_backward_products(policy),
                                         .rounding = policy_unquantised(policy),
                                         .g = policy->grad.g,
                                         .h = h != NULL ? policy->grad.h : NULL,
                                         .dx = policy->grad.d_head,
                                         .dx_stride = s->d_stride,
                                         .dw = policy->gradients + policy->head};
    const int32_t *scatter = policy->target_rows;

    if (n > 0) {
        TRY(ops->upload(policy->backend, policy->grad.g, g, n * sizeof(float)));
    }
    if (n > 0 && h != NULL) {
        TRY(ops->upload(policy->backend, policy->grad.h, h, n * sizeof(float)));
    }
    args.forward = policy_head_args(policy, 0, policy->targets, n);
    if (policy->mtp_reaches_trunk) {
        TRY(merge_head(policy, h != NULL, &args));
        scatter = policy->grad.merged_scatter;
    }
    if (args.forward.n_rows == 0) {
        return STATUS_OK;
    }
    TRY(ops->lm_head_backward(policy->backend, &args));
    return ops->scatter_add_rows(policy->backend, &(struct rows_args){.src = policy->grad.d_head,
                                                                      .src_stride = s->d_stride,
                                                                      .rows = scatter,
                                                                      .dst = policy->grad.d_final,
                                                                      .dst_stride = s->d_stride,
                                                                      .n_rows = args.forward.n_rows,
                                                                      .d = s->d});
}

/* What MTP module 0 sends back to its hidden rows, added to the gradient of what it read. */
static enum status add_mtp_hidden(struct policy *policy, float *gradient)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->scatter_add_rows(
        policy->backend, &(struct rows_args){.src = policy->grad.d_mtp_hidden,
                                             .src_stride = s->d_stride,
                                             .rows = policy->modules[0].rows,
                                             .dst = gradient,
                                             .dst_stride = s->d_stride,
                                             .n_rows = policy->modules[0].n_rows,
                                             .d = s->d});
}

/* d_final starts as what the MTP module sends back, if it read normed rows, else as zero. */
static enum status begin_final(struct policy *policy)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(ops->fill(policy->backend, policy->grad.d_final, (policy->n_rows + 1) * s->d_stride, 0));
    return policy->mtp_reaches_trunk && !policy->config.has_pre_norm_mtp
               ? add_mtp_hidden(policy, policy->grad.d_final)
               : STATUS_OK;
}

static enum status trunk_backward(struct policy *policy)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t last = policy->config.n_layers - 1;
    const struct policy_block_rows rows = policy_rows_of(policy, 0);

    TRY(policy->backend->ops->rms_norm_backward(
        policy->backend,
        &(struct rms_norm_backward_args){.x = policy->activations[last].h_out,
                                         .x_stride = s->d_stride,
                                         .w = policy->weights + policy->final_norm,
                                         .rstd = policy->rstd_final,
                                         .dy = policy->grad.d_final,
                                         .dy_stride = s->d_stride,
                                         .dx = policy->grad.d_h,
                                         .dx_stride = s->d_stride,
                                         .dw = policy->gradients + policy->final_norm,
                                         .n_rows = policy->n_rows,
                                         .d = s->d}));
    if (policy->mtp_reaches_trunk && policy->config.has_pre_norm_mtp) {
        TRY(add_mtp_hidden(policy, policy->grad.d_h));
    }
    for (size_t i = policy->config.n_layers; i-- > 0;) {
        TRY(policy_hold(policy, i));
        TRY(policy_block_backward(policy, &policy->layers[i], &policy->activations[i], &rows,
                                  policy->grad.d_h));
    }
    return STATUS_OK;
}

/* The indexers alone, each from what its layer saw. */
static enum status indexers_backward(struct policy *policy)
{
    const struct policy_block_rows rows = policy_rows_of(policy, 0);

    for (size_t i = policy->config.n_layers; i-- > 0;) {
        TRY(policy_hold(policy, i));
        TRY(policy_indexer_backward(policy, &policy->layers[i], &policy->activations[i], &rows));
    }
    return STATUS_OK;
}

/* Merges trunk rows and MTP rows of embedding gradients; both lie in d_h, MTP's behind max_rows. */
static enum status merge_embedding(struct policy *policy, struct embedding_backward_args *args)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t t = policy->options.max_rows;
    int32_t *order = policy->staging;
    int32_t *tokens = policy->staging + half_staging(policy);
    size_t n = 0;

    for (size_t i = 0; i < policy->n_rows; i++) {
        order[n] = (int32_t)i;
        tokens[n++] = policy->host_tokens[i];
        for (size_t j = 0; j < policy->n_mtp_run && policy->modules[j].of_row[i] >= 0; j++) {
            order[n] = (int32_t)((1 + j) * t) + policy->modules[j].of_row[i];
            tokens[n++] = policy->host_tokens[i + j + 1];
        }
    }
    TRY(policy_upload_rows(policy, policy->grad.merged_rows, order, n));
    TRY(policy_upload_rows(policy, policy->grad.merged_targets, tokens, n));
    TRY(gather(policy, policy->grad.d_h, policy->grad.merged_x, s->d_stride, s->d, n));
    args->ids = policy->grad.merged_targets;
    args->d_out = policy->grad.merged_x;
    args->n_rows = n;
    return STATUS_OK;
}

static enum status embedding_backward(struct policy *policy)
{
    struct embedding_backward_args args = {.ids = policy->tokens,
                                           .d_out = policy->grad.d_h,
                                           .d_out_stride = policy->sizes.d_stride,
                                           .d_table = policy->gradients + policy->embedding,
                                           .n_rows = policy->n_rows,
                                           .d = policy->sizes.d};
    const int32_t *tokens = policy->host_tokens;

    if (policy->mtp_reaches_trunk) {
        TRY(merge_embedding(policy, &args));
        tokens = policy->staging + half_staging(policy);
    }
    return policy->tied.rows != NULL
               ? policy_tied_backward(policy, tokens, &args)
               : policy->backend->ops->embedding_backward(policy->backend, &args);
}

enum status policy_backward(struct policy *policy, const float *g, const float *h)
{
    if (!policy->options.is_trainable || policy->n_rows == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "a backward pass needs a trainable policy and a "
                                               "forward pass before it");
    }
    if (policy->n_mtp_left > 0 && !policy->mtp_detached) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "the MTP modules' gradient must be given before the policy's");
    }
    policy->is_cleared = false;
    if (policy->indexer_loss == POLICY_INDEXER_DENSE) {
        return indexers_backward(policy);
    }
    TRY(begin_final(policy));
    TRY(head_backward(policy, g, h));
    TRY(trunk_backward(policy));
    TRY(embedding_backward(policy));
    policy->mtp_reaches_trunk = false;
    return STATUS_OK;
}
