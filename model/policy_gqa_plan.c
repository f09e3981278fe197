/* Owns sizes, names and packed copies of grouped attention: q, k and v in one gemm. */
#include "model/policy_attention_internal.h"
#include "model/policy_plan_internal.h"

void policy_gqa_sizes(const struct model_config *config, struct policy_sizes *s)
{
    s->kv_heads = config->n_kv_heads;
    s->head = config->head_dim;
    s->kv_half = s->kv_heads * s->head;
    s->rope = s->head;
    s->q_head = s->head;
    s->q_dim = s->heads * s->head;
    s->kv_at = policy_next_panel(s->q_dim);
    s->v_at = policy_next_panel(s->kv_at + s->kv_half);
    s->project = s->v_at + s->kv_half;
    s->has_own_q = config->has_qk_norm; /* norms need what they read in their backward pass */
    s->q_columns = s->kv_at + s->kv_half;
    s->q_norms = config->has_qk_norm ? s->heads : 0;
    s->kv_norms = config->has_qk_norm ? s->kv_heads : 0;
    s->value_dim = s->q_dim;
    s->has_o_bias = config->has_o_bias;
    s->entry_dim = 2 * s->kv_half;
    s->n_coded = s->entry_dim;
    s->coded_group = s->head;
}

void policy_gqa_find(const struct policy *policy, size_t index, struct policy_layer *layer)
{
    layer->q = policy_offset_of(policy, index, "self_attn.q_proj.weight");
    layer->k = policy_offset_of(policy, index, "self_attn.k_proj.weight");
    layer->v = policy_offset_of(policy, index, "self_attn.v_proj.weight");
    layer->q_bias = policy_offset_of(policy, index, "self_attn.q_proj.bias");
    layer->k_bias = policy_offset_of(policy, index, "self_attn.k_proj.bias");
    layer->v_bias = policy_offset_of(policy, index, "self_attn.v_proj.bias");
    layer->q_norm = policy_offset_of(policy, index, "self_attn.q_norm.weight");
    layer->k_norm = policy_offset_of(policy, index, "self_attn.k_norm.weight");
}

void policy_gqa_plan(struct policy_plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const struct plan_beside project = {.parts = {{layer->q, s->q_dim, 0, false},
                                                  {layer->k, s->kv_half, s->kv_at, false},
                                                  {layer->v, s->kv_half, s->v_at, false}},
                                        .n_parts = 3,
                                        .n_in = s->d,
                                        .form = plan_linear(plan)};
    const struct plan_part biases[] = {{layer->q_bias, s->q_dim, 0, false},
                                       {layer->k_bias, s->kv_half, s->kv_at, false},
                                       {layer->v_bias, s->kv_half, s->v_at, false}};

    layer->w_project = plan_beside(plan, &project);
    if (plan->policy->config.has_qkv_bias) {
        layer->project_bias = plan_bias_row(plan, biases, 3);
    }
}
