/* Owns latent attention as it is written down (model.md 6.1), forward: kv_b is a linear layer whose
 * rows are keys and values, head by head. It serves comparison: with checkpoints' W8A8 results,
 * where kv_b is quantised like the others, and with the absorbed form. An entry of the cache is
 * [key without rotation | rotary key | value] of each head. */
#include "model/policy_attention_internal.h"

static size_t head_floats(const struct policy_sizes *s)
{
    return s->q_head + s->v;
}

void policy_expanded_sizes(const struct model_config *config, struct policy_sizes *s)
{
    policy_mla_sizes(config, s);
    s->latent_dim = s->heads * (s->nope + s->v);
    s->entry_dim = s->heads * head_floats(s);
    if (s->index_heads > 0) {
        s->index_entry_at = s->entry_dim;
        s->entry_dim += s->index_dim;
    }
}

/* Keys and values of a head: rows of kv_b's and the one rotary key -> entries. */
static enum status store_head(struct policy *policy, const struct policy_activations *a,
                              const struct policy_block_rows *rows, size_t head)
{
    const struct policy_sizes *s = &policy->sizes;
    float *const row = a->q_absorbed + head * (s->nope + s->v);
    struct kv_copy_args args = {.latent = row,
                                .latent_stride = s->latent_stride,
                                .rope_key = a->project + s->kv_at + s->kv_rank,
                                .rope_key_stride = s->project_stride,
                                .pages = rows->pages,
                                .rk = s->nope,
                                .dr = s->rope,
                                .entry_at = head * head_floats(s),
                                .to_pages = true};

    TRY(policy_copy_entries(policy, rows, &args));
    args.latent = row + s->nope;
    args.rk = s->v;
    args.dr = 0;
    args.entry_at += s->q_head;
    return policy_copy_entries(policy, rows, &args);
}

/* latent, the rotated key -> entries. */
static enum status store_rows(struct policy *policy, const struct policy_layer *layer,
                              const struct policy_activations *a,
                              const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(policy->backend->ops->gemm(policy->backend,
                                   &(struct gemm_args){.x = a->latent,
                                                       .x_stride = s->kv_rank_stride,
                                                       .w = layer->w_kv_b,
                                                       .precision = policy_linear(policy),
                                                       .y = a->q_absorbed,
                                                       .y_stride = s->latent_stride,
                                                       .n_rows = rows->n_rows,
                                                       .n_in = s->kv_rank,
                                                       .n_out = s->latent_dim}));
    for (size_t i = 0; i < s->heads; i++) {
        TRY(store_head(policy, a, rows, i));
    }
    return STATUS_OK;
}

enum status policy_expanded_forward(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a,
                                    const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct attention_args args = {.q = a->q,
                                        .q_stride = s->q_stride,
                                        .q_head_stride = s->q_head,
                                        .pages = rows->pages,
                                        .spans = rows->spans,
                                        .n_spans = rows->n_spans,
                                        .out = a->values,
                                        .out_stride = s->value_stride,
                                        .lse = policy->options.is_trainable ? a->lse : NULL,
                                        .n_heads = s->heads,
                                        .n_kv_heads = s->heads,
                                        .key_dim = s->q_head,
                                        .kv_head_stride = head_floats(s),
                                        .value_at = s->q_head,
                                        .value_dim = s->v,
                                        .scale = model_config_attention_scale(&policy->config),
                                        .selected = rows->is_dense ? NULL : a->selected,
                                        .n_selected = s->n_selected};

    TRY(policy_mla_project(policy, layer, a, rows));
    TRY(store_rows(policy, layer, a, rows));
    if (s->index_heads > 0) {
        TRY(policy_indexer_forward(policy, layer, a, rows));
    }
    return policy->backend->ops->attention(policy->backend, &args);
}

enum status policy_expanded_entries(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a,
                                    const struct policy_block_rows *rows)
{
    TRY(policy_mla_project_keys(policy, layer, a, rows));
    TRY(store_rows(policy, layer, a, rows));
    return policy->sizes.index_heads == 0 ? STATUS_OK
                                          : policy_indexer_entries(policy, layer, a, rows);
}

enum status policy_expanded_backward(struct policy *policy, const struct policy_layer *layer,
                                     const struct policy_activations *a,
                                     const struct policy_block_rows *rows)
{
    (void)policy;
    (void)layer;
    (void)a;
    (void)rows;
    return status_set(STATUS_UNSUPPORTED, "expanded latent attention has no backward pass");
}
