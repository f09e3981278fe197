/* Owns the indexer of sparse attention, forward (model.md 11.1): its queries, keys and weights, and
 * the selection of keys. Only the newest tokens are projected; older keys stand in the cache's
 * entries, behind latent and rotary key. */
#include "model/policy_attention_internal.h"
#include "model/policy_plan_internal.h"

#include <math.h>

#define KEY_NORM_EPS 1e-6F

void policy_indexer_sizes(const struct model_config *config, struct policy_sizes *s)
{
    if (config->index_n_heads == 0) {
        return;
    }
    s->index_heads = config->index_n_heads;
    s->index_dim = config->index_head_dim;
    s->n_selected =
        config->index_topk < config->max_positions ? config->index_topk : config->max_positions;
    s->index_w_at = policy_next_panel(s->index_dim);
    s->index_columns = s->index_w_at + s->index_heads;
    s->index_stride = policy_stride(s->index_columns);
    s->index_key_stride = policy_stride(s->index_dim);
    s->index_q_stride = policy_stride(s->index_heads * s->index_dim);
    s->index_entry_at = s->entry_dim;
    s->entry_dim += s->index_dim;
}

void policy_indexer_find(const struct policy *policy, size_t index, struct policy_layer *layer)
{
    layer->index_q = policy_offset_of(policy, index, "self_attn.indexer.wq_b.weight");
    layer->index_k = policy_offset_of(policy, index, "self_attn.indexer.wk.weight");
    layer->index_norm = policy_offset_of(policy, index, "self_attn.indexer.k_norm.weight");
    layer->index_norm_bias = policy_offset_of(policy, index, "self_attn.indexer.k_norm.bias");
    layer->index_w = policy_offset_of(policy, index, "self_attn.indexer.weights_proj.weight");
}

void policy_indexer_plan(struct policy_plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    /* FP8 quantises the weights of keys alone of the two; their product is one of floats. */
    const struct plan_beside project = {
        .parts = {{layer->index_k, s->index_dim, 0, false},
                  {layer->index_w, s->index_heads, s->index_w_at, true}},
        .n_parts = 2,
        .n_in = s->d,
        .form = {policy_unquantised(plan->policy), policy_linear(plan->policy)}};

    if (s->index_heads == 0) {
        return;
    }
    layer->w_index = plan_beside(plan, &project);
    layer->w_index_q = plan_plain(plan, plan_linear(plan), layer->index_q, s->q_rank,
                                  s->index_heads * s->index_dim);
}

struct index_args policy_index_args(const struct policy *policy, const struct policy_activations *a,
                                    const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const double n = (double)s->index_heads * (double)s->index_dim;

    return (struct index_args){.q = a->index_q,
                               .q_stride = s->index_q_stride,
                               .w = a->index_project + s->index_w_at,
                               .w_stride = s->index_stride,
                               .pages = rows->pages,
                               .key_at = s->index_entry_at,
                               .spans = rows->spans,
                               .n_spans = rows->n_spans,
                               .n_heads = s->index_heads,
                               .dim = s->index_dim,
                               .scale = (float)(1.0 / sqrt(n)),
                               .selected = a->selected,
                               .n_selected = s->n_selected};
}

enum status policy_indexer_copy(struct policy *policy, const struct policy_block_rows *rows,
                                float *keys, size_t stride, struct kv_pages pages, bool to_pages)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy_copy_entries(policy, rows,
                               &(struct kv_copy_args){.latent = keys,
                                                      .latent_stride = stride,
                                                      .pages = pages,
                                                      .rk = s->index_dim,
                                                      .entry_at = s->index_entry_at,
                                                      .to_pages = to_pages});
}

static enum status rotate(struct policy *policy, float *x, size_t row_stride, size_t n_heads,
                          const struct policy_block_rows *rows, bool is_inverse)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rope(
        policy->backend, &(struct rope_args){.x = x, /* the rotated part comes first */
                                             .row_stride = row_stride,
                                             .head_stride = s->index_dim,
                                             .positions = rows->positions,
                                             .cos_table = policy->cos_table,
                                             .sin_table = policy->sin_table,
                                             .n_rows = rows->n_rows,
                                             .n_heads = n_heads,
                                             .dr = s->rope,
                                             .interleaved = policy->config.index_rope_interleave,
                                             .inverse = is_inverse});
}

enum status policy_indexer_rotate(struct policy *policy, float *q, float *keys, size_t key_stride,
                                  const struct policy_block_rows *rows, bool is_inverse)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(rotate(policy, q, s->index_q_stride, s->index_heads, rows, is_inverse));
    return rotate(policy, keys, key_stride, 1, rows, is_inverse);
}

/* The first n_columns of the projection: normed_in -> keys (and weights); keys are normed. */
static enum status project_keys(struct policy *policy, const struct policy_layer *layer,
                                const struct policy_activations *a, size_t n_rows, size_t n_columns)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct backend_ops *ops = policy->backend->ops;

    TRY(ops->gemm(policy->backend, &(struct gemm_args){.x = a->normed_in,
                                                       .x_stride = s->d_stride,
                                                       .w = layer->w_index,
                                                       .precision = policy_unquantised(policy),
                                                       .y = a->index_project,
                                                       .y_stride = s->index_stride,
                                                       .n_rows = n_rows,
                                                       .n_in = s->d,
                                                       .n_out = n_columns}));
    return ops->layer_norm(policy->backend,
                           &(struct layer_norm_args){.x = a->index_project,
                                                     .x_stride = s->index_stride,
                                                     .w = policy->weights + layer->index_norm,
                                                     .b = policy->weights + layer->index_norm_bias,
                                                     .y = a->index_key,
                                                     .y_stride = s->index_key_stride,
                                                     .mean = a->index_mean,
                                                     .rstd = a->index_rstd,
                                                     .n_rows = n_rows,
                                                     .d = s->index_dim,
                                                     .eps = KEY_NORM_EPS});
}

enum status policy_indexer_forward(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a,
                                   const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const struct index_args select = policy_index_args(policy, a, rows);

    TRY(project_keys(policy, layer, a, rows->n_rows, s->index_columns));
    TRY(policy->backend->ops->gemm(policy->backend,
                                   &(struct gemm_args){.x = a->q_latent,
                                                       .x_stride = s->q_rank_stride,
                                                       .w = layer->w_index_q,
                                                       .precision = policy_linear(policy),
                                                       .y = a->index_q,
                                                       .y_stride = s->index_q_stride,
                                                       .n_rows = rows->n_rows,
                                                       .n_in = s->q_rank,
                                                       .n_out = s->index_heads * s->index_dim}));
    TRY(policy_indexer_rotate(policy, a->index_q, a->index_key, policy->sizes.index_key_stride,
                              rows, false));
    TRY(policy_indexer_copy(policy, rows, a->index_key, policy->sizes.index_key_stride, rows->pages,
                            true));
    if (rows->is_dense) {
        return STATUS_OK;
    }
    return policy->backend->ops->index_select(policy->backend, &select);
}

enum status policy_indexer_entries(struct policy *policy, const struct policy_layer *layer,
                                   const struct policy_activations *a,
                                   const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;

    TRY(project_keys(policy, layer, a, rows->n_rows, s->index_dim));
    TRY(rotate(policy, a->index_key, s->index_key_stride, 1, rows, false));
    return policy_indexer_copy(policy, rows, a->index_key, s->index_key_stride, rows->pages, true);
}
