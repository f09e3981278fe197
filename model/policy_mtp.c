/* Owns the multi-token prediction modules (model.md 9), forward: row i of a sequence in module m
 * reads hidden row i (of the trunk, or of module m - 1) and the embedding of token i + m + 1, and
 * predicts token i + m + 2. Its rows are the batch's rows without the last m + 1 of each sequence,
 * packed; embedding and head are the main model's. */
#include "model/policy_internal.h"

#include <string.h>

/* Whether span i is a prefix: the next one goes on behind it. */
static bool is_prefix(const struct policy *policy, size_t i)
{
    return i + 1 < policy->n_spans && policy->spans[i].n_cached == 0 &&
           policy->spans[i + 1].n_cached > 0;
}

/* A prefix' last rows read the first `ahead` tokens of what continues it, so those are alike. */
static enum status check_prefixes(const struct policy *policy, size_t ahead)
{
    const int32_t *first = NULL; /* the first tokens behind the prefix */

    for (size_t i = 0; i < policy->n_spans; i++) {
        const struct kv_span *span = &policy->spans[i];
        const int32_t *tokens = policy->host_tokens + span->first_row;

        first = i > 0 && is_prefix(policy, i - 1) ? tokens : first;
        if (span->n_cached > 0 && (span->n_rows < ahead || first == NULL ||
                                   memcmp(tokens, first, ahead * sizeof(*tokens)) != 0)) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "sequence %zu continues a prefix without the %zu tokens that all of "
                              "its prefix have in common",
                              i, ahead);
        }
    }
    return STATUS_OK;
}

/* Lists `n` of the rows of a span of the batch as rows of module `index`. The token behind the last
 * row of a prefix is the first of what continues it, which stands there too. */
static void place_span(struct policy *policy, size_t index, const struct kv_span *span, size_t n)
{
    const size_t t = policy->options.max_rows, ahead = index + 1;
    struct policy_mtp_module *module = &policy->modules[index];
    int32_t *tokens = policy->staging + module->n_rows, *positions = tokens + t,
            *rows = positions + t;

    if (n > 0) {
        module->spans[module->n_spans] = *span;
        module->spans[module->n_spans].first_row = module->n_rows;
        module->spans[module->n_spans].n_rows = n;
        module->n_spans++;
    }
    for (size_t j = 0; j < span->n_rows; j++) {
        const size_t row = span->first_row + j;

        module->of_row[row] = j < n ? (int32_t)(module->n_rows + j) : -1;
        if (j >= n) {
            continue;
        }
        rows[j] = index == 0 ? (int32_t)row : policy->modules[index - 1].of_row[row];
        tokens[j] = policy->host_tokens[row + ahead];
        positions[j] = (int32_t)(span->n_cached + j);
        module->uses[module->n_rows + j] = policy->uses[row];
    }
    module->n_rows += n;
}

/* Lists the rows of module `index`: row it reads, token, position, span. */
static enum status place_rows(struct policy *policy, size_t index)
{
    const size_t t = policy->options.max_rows, ahead = index + 1;
    struct policy_mtp_module *module = &policy->modules[index];
    const int32_t *tokens = policy->staging, *positions = tokens + t, *rows = positions + t;

    TRY(check_prefixes(policy, ahead));
    module->n_rows = 0;
    module->n_spans = 0;
    for (size_t i = 0; i < policy->n_spans; i++) {
        const size_t n = policy->spans[i].n_rows;
        const size_t n_left = is_prefix(policy, i) ? n : n - (n < ahead ? n : ahead);

        place_span(policy, index, &policy->spans[i], n_left);
    }
    module->n_copies = policy->n_copies;
    for (size_t i = 0; i < policy->n_copies; i++) {
        struct kv_span *copy = &module->spans[module->n_spans + i];

        *copy = policy->spans[policy->n_spans + i];
        copy->first_row = (size_t)module->of_row[copy->first_row];
    }
    const size_t n = module->n_rows;

    TRY(policy_upload_rows(policy, module->tokens, tokens, n));
    TRY(policy_upload_rows(policy, module->positions, positions, n));
    return policy_upload_rows(policy, module->rows, rows, n);
}

/* Targets by batch row become rows of the module. */
static enum status place_targets(struct policy *policy, const struct policy_mtp_args *args)
{
    const size_t t = policy->options.max_rows;
    struct policy_mtp_module *module = &policy->modules[args->module];

    for (size_t i = 0; i < args->n_targets; i++) {
        const int32_t row = args->target_rows[i];

        if (row < 0 || (size_t)row >= policy->n_rows || module->of_row[row] < 0 ||
            (i > 0 && row <= args->target_rows[i - 1])) {
            return status_set(
                STATUS_BAD_ARGUMENT,
                "MTP target row %zu is %d, want ascending rows with %zu tokens behind "
                "them",
                i, (int)row, args->module + 1);
        }
        policy->staging[i] = module->of_row[row];
        module->host_targets[i] = row;
        module->host_targets[t + i] = args->targets[i];
    }
    TRY(policy_check_tokens(policy, "MTP target", args->targets, args->n_targets));
    module->n_targets = args->n_targets;
    TRY(policy_upload_rows(policy, module->target_rows, policy->staging, args->n_targets));
    return policy_upload_rows(policy, module->targets, args->targets, args->n_targets);
}

const float *policy_mtp_source(struct policy *policy, size_t index)
{
    const size_t n_layers = policy->config.n_layers;

    if (index > 0) {
        return policy_activations_of(policy, n_layers + index - 1)->h_out;
    }
    if (!policy->config.has_pre_norm_mtp) {
        return policy->normed;
    }
    return policy->trunk_out != NULL ? policy->trunk_out
                                     : policy_activations_of(policy, n_layers - 1)->h_out;
}

/* One half of the module's input: rows of `x`, normed, into columns `at` .. of it. */
static enum status norm_input(struct policy *policy, const struct policy_mtp_module *module,
                              const float *x, size_t norm, size_t at, float *rstd)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rms_norm(
        policy->backend, &(struct rms_norm_args){.x = x,
                                                 .x_stride = s->d_stride,
                                                 .w = policy->weights + norm,
                                                 .y = module->input + at,
                                                 .y_stride = policy_stride(2 * s->d),
                                                 .rstd = rstd,
                                                 .n_rows = module->n_rows,
                                                 .d = s->d,
                                                 .eps = (float)policy->config.rms_norm_eps});
}

/* u = eh_proj [enorm(embedding); hnorm(hidden)] into h_in of the module's layer. */
enum status policy_mtp_input(struct policy *policy, size_t index, const float *source, float *h_in)
{
    const struct policy_mtp_module *module = &policy->modules[index];
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;
    const size_t n = module->n_rows;

    TRY(ops->embedding(policy->backend,
                       &(struct embedding_args){.table = policy->weights + policy->embedding,
                                                .ids = module->tokens,
                                                .out = module->embedded,
                                                .out_stride = s->d_stride,
                                                .n_rows = n,
                                                .d = s->d}));
    TRY(ops->gather_rows(policy->backend, &(struct rows_args){.src = source,
                                                              .src_stride = s->d_stride,
                                                              .rows = module->rows,
                                                              .dst = module->hidden,
                                                              .dst_stride = s->d_stride,
                                                              .n_rows = n,
                                                              .d = s->d}));
    TRY(norm_input(policy, module, module->embedded, module->enorm, 0, module->rstd_e));
    TRY(norm_input(policy, module, module->hidden, module->hnorm, s->d, module->rstd_h));
    return ops->gemm(policy->backend, &(struct gemm_args){.x = module->input,
                                                          .x_stride = policy_stride(2 * s->d),
                                                          .w = module->w_eh,
                                                          .precision = policy_unquantised(policy),
                                                          .y = h_in,
                                                          .y_stride = s->d_stride,
                                                          .n_rows = n,
                                                          .n_in = 2 * s->d,
                                                          .n_out = s->d});
}

/* The module's layer and its norm, for all rows. */
static enum status run_module(struct policy *policy, size_t index)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct policy_mtp_module *module = &policy->modules[index];
    const size_t layer = policy->config.n_layers + index;
    const struct policy_activations *a = policy_activations_of(policy, layer);
    const struct policy_block_rows rows = policy_rows_of(policy, layer);

    TRY(policy_mtp_input(policy, index, policy_mtp_source(policy, index), a->h_in));
    TRY(policy_layer_forward(policy, layer, &rows));
    if (policy->layers[layer].is_moe) {
        const size_t moe_index = policy->n_moe_layers - policy->config.n_mtp_modules + index;
        uint32_t *counts = policy->counts + moe_index * s->n_experts;

        memset(counts, 0, s->n_experts * sizeof(counts[0]));
        TRY(policy_count_experts(policy, moe_index, a, &rows));
    }
    return policy->backend->ops->rms_norm(
        policy->backend, &(struct rms_norm_args){.x = a->h_out,
                                                 .x_stride = s->d_stride,
                                                 .w = policy->weights + module->norm,
                                                 .y = module->normed,
                                                 .y_stride = s->d_stride,
                                                 .rstd = module->rstd,
                                                 .n_rows = rows.n_rows,
                                                 .d = s->d,
                                                 .eps = (float)policy->config.rms_norm_eps});
}

/* Draws a token for each target row with the noise that the main model's draw uses. */
static enum status draw_tokens(struct policy *policy, const struct policy_mtp_args *args)
{
    const size_t first = (1 + args->module) * policy->options.max_rows;

    for (size_t i = 0; i < args->n_targets; i += policy->logit_rows) {
        const size_t left = args->n_targets - i;
        const size_t n = left < policy->logit_rows ? left : policy->logit_rows;

        TRY(policy_draw(policy, policy->head_x + (first + i) * policy->sizes.d_stride,
                        args->draws + i, n, args->drawn + i, policy->host_values));
    }
    return STATUS_OK;
}

/* Log-probabilities of the targets, and draws if they are wanted. */
static enum status finish_targets(struct policy *policy, const struct policy_mtp_args *args,
                                  float *logp)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct policy_mtp_module *module = &policy->modules[args->module];
    const size_t first = (1 + args->module) * policy->options.max_rows;

    TRY(policy->backend->ops->gather_rows(
        policy->backend, &(struct rows_args){.src = module->normed,
                                             .src_stride = s->d_stride,
                                             .rows = module->target_rows,
                                             .dst = policy->head_x + first * s->d_stride,
                                             .dst_stride = s->d_stride,
                                             .n_rows = args->n_targets,
                                             .d = s->d}));
    TRY(policy_head_forward(policy, first, module->targets, args->n_targets, logp, NULL));
    return args->draws == NULL ? STATUS_OK : draw_tokens(policy, args);
}

enum status policy_mtp_forward(struct policy *policy, const struct policy_mtp_args *args,
                               float *logp)
{
    if (args->module >= policy->config.n_mtp_modules || policy->n_rows == 0) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "MTP needs a model with a module and a forward pass before it");
    }
    if (args->module != 0 && args->module != policy->n_mtp_run) {
        return status_set(STATUS_BAD_ARGUMENT, "MTP module %zu cannot run after %zu others",
                          args->module, policy->n_mtp_run);
    }
    policy->n_mtp_run = args->module;
    policy->n_mtp_left = args->module;
    TRY(place_rows(policy, args->module));
    TRY(place_targets(policy, args));
    policy->mtp_detached = args->detached;
    if (policy->modules[args->module].n_rows > 0) {
        TRY(run_module(policy, args->module));
    }
    if (args->n_targets > 0) {
        TRY(finish_targets(policy, args, logp));
    }
    policy->n_mtp_run = args->module + 1;
    policy->n_mtp_left = policy->n_mtp_run;
    return STATUS_OK;
}
