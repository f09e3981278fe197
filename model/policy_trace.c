/* Owns reading intermediate values back after a forward pass, for checks against known numbers. */
#include "model/policy_attention_internal.h"

#include <string.h>

/* n rows of `width` floats from a padded device buffer to dense host rows. */
static enum status read_rows(struct policy *policy, const float *device, size_t stride,
                             size_t width, size_t n, float *host)
{
    for (size_t i = 0; i < n; i++) {
        TRY(policy->backend->ops->download(policy->backend, host + i * width, device + i * stride,
                                           width * sizeof(float)));
    }
    return STATUS_OK;
}

/* Logits (n, V) of normed rows x. */
static enum status read_logits(struct policy *policy, const float *x, size_t n, float *host)
{
    const size_t vocab = policy->config.vocab_size;

    for (size_t i = 0; i < n; i += policy->logit_rows) {
        const size_t count = n - i < policy->logit_rows ? n - i : policy->logit_rows;

        TRY(policy_logits(policy, x + i * policy->sizes.d_stride, count));
        TRY(read_rows(policy, policy->logits, policy_stride(vocab), vocab, count,
                      host + i * vocab));
    }
    return STATUS_OK;
}

/* Moves packed rows of a module (first n of values) to their batch rows, from the back; the rest is
 * zero (or, for indices, -1). */
static void spread_rows(const struct policy *policy, size_t module, void *values, size_t row_bytes,
                        int filler)
{
    char *bytes = values;

    for (size_t row = policy->n_rows; row-- > 0;) {
        const int32_t at = module < policy->n_mtp_run ? policy->modules[module].of_row[row] : -1;

        if (at >= 0) {
            memmove(bytes + row * row_bytes, bytes + (size_t)at * row_bytes, row_bytes);
        } else {
            memset(bytes + row * row_bytes, filler, row_bytes);
        }
    }
}

static enum status read_hidden(struct policy *policy, float *host)
{
    const struct policy_sizes *s = &policy->sizes;

    for (size_t i = 0; i < policy->config.n_layers && host != NULL; i++) {
        TRY(read_rows(policy, policy->activations[i].h_out, s->d_stride, s->d, policy->n_rows,
                      host + i * policy->n_rows * s->d));
    }
    return STATUS_OK;
}

/* Routes of one MoE layer, n_rows * K values each; the module's rows are spread. */
static enum status read_routes(struct policy *policy, size_t layer, int32_t *indices,
                               float *weights)
{
    const struct backend_ops *ops = policy->backend->ops;
    const struct policy_activations *a = &policy->activations[layer];
    const size_t row_bytes = policy->sizes.top_k * sizeof(float);
    const bool is_mtp = layer >= policy->config.n_layers;

    if (!is_mtp || layer - policy->config.n_layers < policy->n_mtp_run) {
        TRY(policy_hold(policy, layer));
    }
    if (indices != NULL) {
        TRY(ops->download(policy->backend, indices, a->indices, policy->n_rows * row_bytes));
    }
    if (weights != NULL) {
        TRY(ops->download(policy->backend, weights, a->route_weights, policy->n_rows * row_bytes));
    }
    if (is_mtp && indices != NULL) {
        spread_rows(policy, layer - policy->config.n_layers, indices, row_bytes, 0xff);
    }
    if (is_mtp && weights != NULL) {
        spread_rows(policy, layer - policy->config.n_layers, weights, row_bytes, 0);
    }
    return STATUS_OK;
}

static enum status read_all_routes(struct policy *policy, const struct policy_trace *trace)
{
    const size_t per_layer = policy->n_rows * policy->sizes.top_k;

    for (size_t i = 0; i < policy->n_moe_layers; i++) {
        TRY(read_routes(policy, (size_t)policy->moe_layers[i],
                        trace->indices == NULL ? NULL : trace->indices + i * per_layer,
                        trace->weights == NULL ? NULL : trace->weights + i * per_layer));
    }
    return STATUS_OK;
}

static enum status read_module(struct policy *policy, size_t index, float *hidden, float *logits)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct policy_mtp_module *module = &policy->modules[index];
    const size_t vocab = policy->config.vocab_size;

    if (hidden != NULL) {
        TRY(read_rows(policy, policy->activations[policy->config.n_layers + index].h_out,
                      s->d_stride, s->d, module->n_rows, hidden));
        spread_rows(policy, index, hidden, s->d * sizeof(float), 0);
    }
    if (logits != NULL) {
        TRY(read_logits(policy, module->normed, module->n_rows, logits));
        spread_rows(policy, index, logits, vocab * sizeof(float), 0);
    }
    return STATUS_OK;
}

static enum status read_mtp(struct policy *policy, const struct policy_trace *trace)
{
    const size_t n = policy->n_rows;
    float *hidden = trace->mtp_hidden, *logits = trace->mtp_logits;

    if (hidden == NULL && logits == NULL) {
        return STATUS_OK;
    }
    if (policy->n_mtp_run == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "no MTP forward pass to look into");
    }
    for (size_t i = 0; i < policy->n_mtp_run; i++) {
        TRY(read_module(policy, i, hidden, logits));
        hidden = hidden == NULL ? NULL : hidden + n * policy->sizes.d;
        logits = logits == NULL ? NULL : logits + n * policy->config.vocab_size;
    }
    return STATUS_OK;
}

static size_t longest_sequence(const struct policy *policy)
{
    size_t longest = 0;

    for (size_t i = 0; i < policy->n_spans; i++) {
        const size_t n = policy->spans[i].n_cached + policy->spans[i].n_rows;

        longest = n > longest ? n : longest;
    }
    return longest;
}

/* One layer's scores (n_rows, longest) in device memory `scores`, selections made again. */
static enum status score_layer(struct policy *policy, const struct policy_activations *a,
                               size_t longest, float *scores)
{
    const struct policy_block_rows rows = policy_rows_of(policy, 0);
    struct index_args args = policy_index_args(policy, a, &rows);

    args.scores = scores;
    args.scores_stride = longest;
    TRY(policy->backend->ops->fill(policy->backend, scores, policy->n_rows * longest, 0));
    TRY(policy_indexer_copy(policy, &rows, a->index_key, policy->sizes.index_key_stride, rows.pages,
                            true));
    return policy->backend->ops->index_select(policy->backend, &args);
}

/* Scores (device, n_scores) and selection of layer i to where the trace wants them. */
static enum status read_layer(struct policy *policy, const struct policy_trace *trace, size_t i,
                              const float *scores, size_t n_scores)
{
    const struct backend_ops *ops = policy->backend->ops;
    const size_t n = policy->n_rows * policy->sizes.n_selected;

    if (trace->index_scores != NULL) {
        TRY(ops->download(policy->backend, trace->index_scores + i * n_scores, scores,
                          n_scores * sizeof(float)));
    }
    if (trace->index_selected == NULL) {
        return STATUS_OK;
    }
    return ops->download(policy->backend, trace->index_selected + i * n,
                         policy->activations[i].selected, n * sizeof(int32_t));
}

static enum status read_layers(struct policy *policy, const struct policy_trace *trace,
                               float *scores)
{
    const size_t longest = longest_sequence(policy);

    for (size_t i = 0; i < policy->config.n_layers; i++) {
        TRY(policy_hold(policy, i));
        TRY(score_layer(policy, &policy->activations[i], longest, scores));
        TRY(read_layer(policy, trace, i, scores, policy->n_rows * longest));
    }
    return STATUS_OK;
}

static enum status read_indexers(struct policy *policy, const struct policy_trace *trace)
{
    const struct backend_ops *ops = policy->backend->ops;
    float *scores;
    enum status status;

    if (trace->index_scores == NULL && trace->index_selected == NULL) {
        return STATUS_OK;
    }
    if (policy->sizes.index_heads == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "the model has no indexers to look into");
    }
    TRY(ops->alloc(policy->backend, policy->n_rows * longest_sequence(policy), sizeof(float),
                   &scores));
    status = read_layers(policy, trace, scores);
    ops->release(policy->backend, scores);
    return status;
}

enum status policy_read_trace(struct policy *policy, const struct policy_trace *trace)
{
    const struct policy_sizes *s = &policy->sizes;

    if (!policy->options.is_trainable || policy->n_rows == 0) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "a trace needs a trainable policy and a forward pass before it");
    }
    if (trace->normed != NULL) {
        TRY(read_rows(policy, policy->normed, s->d_stride, s->d, policy->n_rows, trace->normed));
    }
    if (trace->logits != NULL) {
        TRY(read_logits(policy, policy->normed, policy->n_rows, trace->logits));
    }
    TRY(read_all_routes(policy, trace));
    TRY(read_hidden(policy, trace->hidden));
    TRY(read_indexers(policy, trace));
    return read_mtp(policy, trace);
}

size_t policy_input_width(const struct policy *policy, size_t layer, enum policy_input input)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t ffn = s->ffn_width[policy->layers[layer].is_moe];

    switch (input) {
    case POLICY_INPUT_PROJECT:
        return s->d;
    case POLICY_INPUT_Q_B:
        return s->q_rank;
    case POLICY_INPUT_KV_B:
        return s->kv_rank;
    case POLICY_INPUT_O:
        return s->value_dim;
    case POLICY_INPUT_GATE:
        return ffn > 0 ? s->d : 0;
    case POLICY_INPUT_DOWN:
        return ffn;
    }
    return 0;
}

/* What down_proj read is not kept: made again. */
static enum status read_hidden_rows(struct policy *policy, size_t layer, size_t width, float *out)
{
    const struct policy_sizes *s = &policy->sizes;
    const bool is_moe = policy->layers[layer].is_moe;
    const float *gate_up = policy->activations[layer].gate_up;

    TRY(policy->backend->ops->swiglu(policy->backend,
                                     &(struct swiglu_args){.gate = gate_up,
                                                           .up = gate_up + s->ffn_up_at[is_moe],
                                                           .in_stride = s->gate_up_stride[is_moe],
                                                           .h = policy->ffn_hidden,
                                                           .h_stride = policy_stride(width),
                                                           .n_rows = policy->n_rows,
                                                           .f = width}));
    return read_rows(policy, policy->ffn_hidden, policy_stride(width), width, policy->n_rows, out);
}

enum status policy_read_input(struct policy *policy, size_t layer, enum policy_input input,
                              float *out)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct policy_activations *a = &policy->activations[layer];
    const size_t width = policy_input_width(policy, layer, input);
    const float *const rows[] = {[POLICY_INPUT_PROJECT] = a->normed_in,
                                 [POLICY_INPUT_Q_B] = a->q_latent,
                                 [POLICY_INPUT_KV_B] = a->latent,
                                 [POLICY_INPUT_O] = a->values,
                                 [POLICY_INPUT_GATE] = a->normed_mid};
    const size_t strides[] = {[POLICY_INPUT_PROJECT] = s->d_stride,
                              [POLICY_INPUT_Q_B] = s->q_rank_stride,
                              [POLICY_INPUT_KV_B] = s->kv_rank_stride,
                              [POLICY_INPUT_O] = s->value_stride,
                              [POLICY_INPUT_GATE] = s->d_stride};

    if (!policy->options.is_trainable || policy->n_rows == 0) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "inputs need a trainable policy and a forward pass before");
    }
    TRY(policy_hold(policy, layer));
    if (input == POLICY_INPUT_DOWN) {
        return read_hidden_rows(policy, layer, width, out);
    }
    return read_rows(policy, rows[input], strides[input], width, policy->n_rows, out);
}
