/* Owns grouped attention, forward (model.md 12.1): MHA, GQA and MQA alike. The projection's row is
 * [q | k | v]; with head norms queries and keys then have rows of their own, else they are rotated
 * in place. An entry of the cache is [keys of all KV heads | values of all KV heads]. */
#include "model/policy_attention_internal.h"

/* One norm for every head of queries (part 0) or keys. */
static enum status norm_heads(struct policy *policy, const struct policy_activations *a,
                              size_t part, const float *w, size_t n_heads, float *rstd,
                              size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rms_norm(
        policy->backend, &(struct rms_norm_args){.x = a->project + part,
                                                 .x_stride = s->project_stride,
                                                 .w = w,
                                                 .y = a->q + part,
                                                 .y_stride = s->q_stride,
                                                 .rstd = rstd,
                                                 .n_rows = n_rows,
                                                 .d = s->head,
                                                 .n_heads = n_heads,
                                                 .eps = (float)policy->config.rms_norm_eps});
}

/* Columns `at` .. (a panel border) of the projection: normed_in -> a->project; queries, if they are
 * among them, and keys to a->q. */
static enum status project_from(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows, size_t at)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(policy_project(policy, layer, a, n_rows, at, NULL));
    if (!s->has_own_q) {
        return STATUS_OK;
    }
    if (at == 0) {
        TRY(norm_heads(policy, a, 0, policy->weights + layer->q_norm, s->heads, a->rstd_q, n_rows));
    }
    return norm_heads(policy, a, s->kv_at, policy->weights + layer->k_norm, s->kv_heads, a->rstd_kv,
                      n_rows);
}

static enum status rotate(struct policy *policy, float *x, size_t n_heads,
                          const struct policy_block_rows *rows, bool is_inverse)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rope(policy->backend,
                                      &(struct rope_args){.x = x,
                                                          .row_stride = s->q_stride,
                                                          .head_stride = s->head,
                                                          .positions = rows->positions,
                                                          .cos_table = policy->cos_table,
                                                          .sin_table = policy->sin_table,
                                                          .n_rows = rows->n_rows,
                                                          .n_heads = n_heads,
                                                          .dr = s->head,
                                                          .inverse = is_inverse});
}

enum status policy_gqa_rotate(struct policy *policy, float *q, const struct policy_block_rows *rows,
                              bool is_inverse)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(rotate(policy, q, s->heads, rows, is_inverse));
    return rotate(policy, q + s->kv_at, s->kv_heads, rows, is_inverse);
}

enum status policy_gqa_copy(struct policy *policy, const struct policy_block_rows *rows, float *q,
                            float *project, struct kv_pages pages, bool to_pages)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy_copy_entries(policy, rows,
                               &(struct kv_copy_args){.latent = q + s->kv_at,
                                                      .latent_stride = s->q_stride,
                                                      .rope_key = project + s->v_at,
                                                      .rope_key_stride = s->project_stride,
                                                      .pages = pages,
                                                      .rk = s->kv_half,
                                                      .dr = s->kv_half,
                                                      .to_pages = to_pages});
}

struct attention_args policy_gqa_args(const struct policy *policy,
                                      const struct policy_activations *a,
                                      const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    return (struct attention_args){.q = a->q,
                                   .q_stride = s->q_stride,
                                   .q_head_stride = s->head,
                                   .pages = rows->pages,
                                   .spans = rows->spans,
                                   .n_spans = rows->n_spans,
                                   .out = a->values,
                                   .out_stride = s->value_stride,
                                   .lse = policy->options.is_trainable ? a->lse : NULL,
                                   .n_heads = s->heads,
                                   .n_kv_heads = s->kv_heads,
                                   .key_dim = s->head,
                                   .kv_head_stride = s->head,
                                   .value_at = s->kv_half,
                                   .value_dim = s->head,
                                   .scale = model_config_attention_scale(&policy->config)};
}

enum status policy_gqa_forward(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    const struct attention_args attention = policy_gqa_args(policy, a, rows);

    TRY(project_from(policy, layer, a, rows->n_rows, 0));
    TRY(policy_gqa_rotate(policy, a->q, rows, false));
    TRY(policy_gqa_copy(policy, rows, a->q, a->project, rows->pages, true));
    return policy->backend->ops->attention(policy->backend, &attention);
}

enum status policy_gqa_entries(struct policy *policy, const struct policy_layer *layer,
                               const struct policy_activations *a,
                               const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(project_from(policy, layer, a, rows->n_rows, s->kv_at));
    TRY(rotate(policy, a->q + s->kv_at, s->kv_heads, rows, false));
    return policy_gqa_copy(policy, rows, a->q, a->project, rows->pages, true);
}
