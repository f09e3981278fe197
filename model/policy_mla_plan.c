/* Owns sizes, names and packed copies of latent attention: q_a with kv_a in one gemm, kv_b split
 * per head into the absorbed UK and UV. */
#include "model/policy_attention_internal.h"
#include "model/policy_plan_internal.h"

void policy_mla_sizes(const struct model_config *config, struct policy_sizes *s)
{
    s->nope = config->qk_nope_head_dim;
    s->rope = config->qk_rope_head_dim;
    s->v = config->v_head_dim;
    s->q_rank = config->q_lora_rank;
    s->kv_rank = config->kv_lora_rank;
    s->q_head = s->nope + s->rope;
    s->q_dim = s->heads * s->q_head;
    s->first = s->q_rank > 0 ? s->q_rank : s->q_dim;
    s->kv_at = policy_next_panel(s->first);
    s->kv_dim = s->kv_rank + s->rope;
    s->project = s->kv_at + s->kv_dim;
    s->has_own_q = s->q_rank > 0;
    s->q_columns = s->q_dim;
    s->q_norms = s->has_own_q ? 1 : 0;
    s->kv_norms = 1;
    s->latent_dim = s->heads * s->kv_rank;
    s->value_dim = s->heads * s->v;
    s->has_o_bias = config->has_attention_bias;
    s->entry_dim = s->kv_dim;
    s->n_coded = s->kv_rank;
    s->coded_group = s->kv_rank;
    policy_indexer_sizes(config, s);
}

void policy_mla_find(const struct policy *policy, size_t index, struct policy_layer *layer)
{
    const bool has_q_lora = policy->sizes.q_rank > 0;

    layer->first = policy_offset_of(
        policy, index, has_q_lora ? "self_attn.q_a_proj.weight" : "self_attn.q_proj.weight");
    layer->q_a_bias = policy_offset_of(policy, index, "self_attn.q_a_proj.bias");
    layer->kv_a_bias = policy_offset_of(policy, index, "self_attn.kv_a_proj_with_mqa.bias");
    layer->q_a_norm = policy_offset_of(policy, index, "self_attn.q_a_layernorm.weight");
    layer->q_b = policy_offset_of(policy, index, "self_attn.q_b_proj.weight");
    layer->kv_a = policy_offset_of(policy, index, "self_attn.kv_a_proj_with_mqa.weight");
    layer->kv_a_norm = policy_offset_of(policy, index, "self_attn.kv_a_layernorm.weight");
    layer->kv_b = policy_offset_of(policy, index, "self_attn.kv_b_proj.weight");
    policy_indexer_find(policy, index, layer);
}

/* One part of kv_b for every head: rows part_row .. of each head, as they are or transposed. FP8
 * quantises kv_b whole, but its absorbed products are of floats (model.md 6.2). */
static float *plan_heads(struct policy_plan *plan, enum precision precision, size_t part_row,
                         size_t n_part, bool transposed, const struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const size_t n_in = transposed ? n_part : s->kv_rank;
    const size_t n_out = transposed ? s->kv_rank : n_part;
    float *dst = plan_reserve(plan, precision, s->heads, n_in, n_out);

    for (size_t i = 0; i < s->heads; i++) {
        const size_t row = i * (s->nope + s->v) + part_row;

        plan_add(plan, layer->kv_b + row * s->kv_rank,
                 (struct pack_args){.src_stride = s->kv_rank,
                                    .n_in = n_in,
                                    .n_out = n_out,
                                    .transposed = transposed,
                                    .dst = plan_at(dst, i * packed_words(precision, n_in, n_out)),
                                    .precision = precision,
                                    .rounding = policy_linear(plan->policy),
                                    .row_at = row,
                                    .whole_rows = s->heads * (s->nope + s->v)});
    }
    return dst;
}

void policy_mla_plan(struct policy_plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const struct plan_beside project = {
        .parts = {{layer->first, s->first, 0, false}, {layer->kv_a, s->kv_dim, s->kv_at, false}},
        .n_parts = 2,
        .n_in = s->d,
        .form = plan_linear(plan)};
    const enum precision precision = policy_unquantised(plan->policy);
    /* q_proj has no bias: without q_lora the key's begins behind zeros */
    const struct plan_part biases[] = {{layer->q_a_bias, s->q_rank, 0, false},
                                       {layer->kv_a_bias, s->kv_dim, s->kv_at, false}};

    layer->w_project = plan_beside(plan, &project);
    if (plan->policy->config.has_attention_bias) {
        layer->project_bias = plan_bias_row(plan, biases, 2);
    }
    if (s->q_rank > 0) {
        layer->w_q_b = plan_plain(plan, plan_linear(plan), layer->q_b, s->q_rank, s->q_dim);
    }
    if (plan->policy->options.is_expanded) {
        layer->w_kv_b = plan_plain(plan, plan_linear(plan), layer->kv_b, s->kv_rank,
                                   s->heads * (s->nope + s->v));
    } else {
        layer->w_uk = plan_heads(plan, precision, 0, s->nope, true, layer);
        layer->w_uv = plan_heads(plan, precision, s->nope, s->v, false, layer);
    }
    policy_indexer_plan(plan, layer);
}
