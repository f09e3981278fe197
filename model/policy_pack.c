/* Owns the packed copies of the weights: one gemm for projections that read the same row (q_a with
 * kv_a, gate with up), kv_b split per head into the absorbed UK and UV, and for training the
 * transposed copies. The plan runs twice: without a base it counts, with a base it assigns. */
#include "base/memory.h"
#include "model/policy_internal.h"

#include <stdio.h>

struct plan {
    struct policy *policy;
    float *base;             /* NULL while counting */
    struct pack_args *packs; /* NULL while counting */
    size_t n_floats, n_packs;
};

/* Room for n matrices (n_out, n_in), one behind the other. */
static float *reserve(struct plan *plan, size_t n, size_t n_in, size_t n_out)
{
    const size_t at = plan->n_floats;

    plan->n_floats += n * packed_floats(n_in, n_out);
    return plan->base == NULL ? NULL : plan->base + at;
}

/* One copy from the flat buffer; dst may be NULL while counting. */
static void add_pack(struct plan *plan, size_t offset, struct pack_args args)
{
    if (plan->packs != NULL) {
        args.src = plan->policy->weights + offset;
        plan->packs[plan->n_packs] = args;
    }
    plan->n_packs++;
}

static float *at(float *base, size_t floats)
{
    return base == NULL ? NULL : base + floats;
}

/* A whole weight (n_out, n_in) as it is. */
static float *plan_plain(struct plan *plan, size_t offset, size_t n_in, size_t n_out)
{
    float *dst = reserve(plan, 1, n_in, n_out);

    add_pack(plan, offset,
             (struct pack_args){.src_stride = n_in, .n_in = n_in, .n_out = n_out, .dst = dst});
    return dst;
}

/* The transpose of a weight stored as (n_in, n_out). */
static float *plan_transposed(struct plan *plan, size_t offset, size_t n_in, size_t n_out)
{
    float *dst = reserve(plan, 1, n_in, n_out);

    add_pack(
        plan, offset,
        (struct pack_args){
            .src_stride = n_out, .n_in = n_in, .n_out = n_out, .transposed = true, .dst = dst});
    return dst;
}

/* Two weights (n, n_in) side by side: the second's columns begin at column second_at of y. */
struct pair {
    size_t first, second; /* offsets in the flat buffer */
    size_t n_first, n_second, second_at;
    size_t n_in;
};

static float *plan_pair(struct plan *plan, const struct pair *pair)
{
    float *dst = reserve(plan, 1, pair->n_in, pair->second_at + pair->n_second);

    add_pack(plan, pair->first,
             (struct pack_args){
                 .src_stride = pair->n_in, .n_in = pair->n_in, .n_out = pair->n_first, .dst = dst});
    add_pack(plan, pair->second,
             (struct pack_args){.src_stride = pair->n_in,
                                .n_in = pair->n_in,
                                .n_out = pair->n_second,
                                .dst = at(dst, pair->second_at * pair->n_in)});
    return dst;
}

/* The transpose of such a pair: the gradients side by side are its input. */
static float *plan_pair_transposed(struct plan *plan, const struct pair *pair)
{
    const size_t n_rows = pair->second_at + pair->n_second;
    float *dst = reserve(plan, 1, n_rows, pair->n_in);

    add_pack(plan, pair->first,
             (struct pack_args){.src_stride = pair->n_in,
                                .n_in = pair->n_first,
                                .n_out = pair->n_in,
                                .transposed = true,
                                .dst = dst,
                                .panel_stride = n_rows * PANEL_COLUMNS});
    add_pack(plan, pair->second,
             (struct pack_args){.src_stride = pair->n_in,
                                .n_in = pair->n_second,
                                .n_out = pair->n_in,
                                .transposed = true,
                                .dst = at(dst, pair->second_at * PANEL_COLUMNS),
                                .panel_stride = n_rows * PANEL_COLUMNS});
    return dst;
}

/* One part of kv_b for every head: rows part_row .. of each head, as they are or transposed. */
static float *plan_heads(struct plan *plan, size_t kv_b, size_t part_row, size_t n_part,
                         bool transposed)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const size_t n_in = transposed ? n_part : s->kv_rank;
    const size_t n_out = transposed ? s->kv_rank : n_part;
    float *dst = reserve(plan, s->heads, n_in, n_out);

    for (size_t i = 0; i < s->heads; i++) {
        const size_t row = i * (s->nope + s->v) + part_row;

        add_pack(plan, kv_b + row * s->kv_rank,
                 (struct pack_args){.src_stride = s->kv_rank,
                                    .n_in = n_in,
                                    .n_out = n_out,
                                    .transposed = transposed,
                                    .dst = at(dst, i * packed_floats(n_in, n_out))});
    }
    return dst;
}

/* The biases of the joint projection as one row, laid out like its columns. */
static void plan_project_bias(struct plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    float *dst = reserve(plan, 1, 1, s->project);

    if (s->q_rank > 0) {
        add_pack(plan, layer->q_a_bias,
                 (struct pack_args){.src_stride = 1, .n_in = 1, .n_out = s->q_rank, .dst = dst});
    }
    add_pack(plan, layer->kv_a_bias,
             (struct pack_args){
                 .src_stride = 1, .n_in = 1, .n_out = s->kv_dim, .dst = at(dst, s->kv_at)});
    layer->project_bias = dst;
}

static void plan_attention(struct plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const struct pair project = {.first = layer->first,
                                 .second = layer->kv_a,
                                 .n_first = s->first,
                                 .n_second = s->kv_dim,
                                 .second_at = s->kv_at,
                                 .n_in = s->d};

    layer->w_project = plan_pair(plan, &project);
    if (plan->policy->config.has_attention_bias) {
        plan_project_bias(plan, layer);
    }
    if (s->q_rank > 0) {
        layer->w_q_b = plan_plain(plan, layer->q_b, s->q_rank, s->q_dim);
    }
    layer->w_uk = plan_heads(plan, layer->kv_b, 0, s->nope, true);
    layer->w_uv = plan_heads(plan, layer->kv_b, s->nope, s->v, false);
    layer->w_o = plan_plain(plan, layer->o, s->value_dim, s->d);
    if (!plan->policy->options.is_trainable) {
        return;
    }
    layer->t_project = plan_pair_transposed(plan, &project);
    if (s->q_rank > 0) {
        layer->t_q_b = plan_transposed(plan, layer->q_b, s->q_dim, s->q_rank);
    }
    layer->t_uk = plan_heads(plan, layer->kv_b, 0, s->nope, false);
    layer->t_uv = plan_heads(plan, layer->kv_b, s->nope, s->v, true);
    layer->t_o = plan_transposed(plan, layer->o, s->d, s->value_dim);
}

static void plan_ffn(struct plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const size_t width = s->ffn_width[layer->is_moe];
    const struct pair gate_up = {.first = layer->gate,
                                 .second = layer->up,
                                 .n_first = width,
                                 .n_second = width,
                                 .second_at = s->ffn_up_at[layer->is_moe],
                                 .n_in = s->d};

    if (width == 0) {
        return;
    }
    layer->w_gate_up = plan_pair(plan, &gate_up);
    layer->w_down = plan_plain(plan, layer->down, width, s->d);
    if (plan->policy->options.is_trainable) {
        layer->t_gate_up = plan_pair_transposed(plan, &gate_up);
        layer->t_down = plan_transposed(plan, layer->down, s->d, width);
    }
}

/* Gate and up of an expert in interleaved panels, so that SwiGLU runs on the cache-hot tile. */
static void plan_expert(struct plan *plan, struct policy_layer *layer, size_t expert)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const size_t d = s->d, f = s->expert_width;
    const size_t offset = expert * layer->expert_stride;
    struct pack_args args = {.src_stride = d,
                             .n_in = d,
                             .n_out = f,
                             .panel_stride = 2 * PANEL_COLUMNS * d,
                             .dst = at(layer->w_expert_gate_up, 2 * expert * packed_floats(d, f))};

    add_pack(plan, layer->expert_gate + offset, args);
    args.dst = at(args.dst, PANEL_COLUMNS * d);
    add_pack(plan, layer->expert_up + offset, args);
    add_pack(plan, layer->expert_down + offset,
             (struct pack_args){.src_stride = f,
                                .n_in = f,
                                .n_out = d,
                                .dst = at(layer->w_expert_down, expert * packed_floats(f, d))});
}

static void plan_expert_transposed(struct plan *plan, struct policy_layer *layer, size_t expert)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const size_t d = s->d, f = s->expert_width;
    const size_t offset = expert * layer->expert_stride;
    struct pack_args args = {.src_stride = d,
                             .n_in = f,
                             .n_out = d,
                             .transposed = true,
                             .dst = at(layer->t_expert_gate, expert * packed_floats(f, d))};

    add_pack(plan, layer->expert_gate + offset, args);
    args.dst = at(layer->t_expert_up, expert * packed_floats(f, d));
    add_pack(plan, layer->expert_up + offset, args);
    add_pack(plan, layer->expert_down + offset,
             (struct pack_args){.src_stride = f,
                                .n_in = d,
                                .n_out = f,
                                .transposed = true,
                                .dst = at(layer->t_expert_down, expert * packed_floats(d, f))});
}

static void plan_moe(struct plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const size_t n = s->n_experts;

    layer->w_router = plan_plain(plan, layer->router, s->d, n);
    layer->w_expert_gate_up = reserve(plan, 2 * n, s->d, s->expert_width);
    layer->w_expert_down = reserve(plan, n, s->expert_width, s->d);
    for (size_t i = 0; i < n; i++) {
        plan_expert(plan, layer, i);
    }
    if (!plan->policy->options.is_trainable) {
        return;
    }
    layer->t_router = plan_transposed(plan, layer->router, n, s->d);
    layer->t_expert_gate = reserve(plan, n, s->expert_width, s->d);
    layer->t_expert_up = reserve(plan, n, s->expert_width, s->d);
    layer->t_expert_down = reserve(plan, n, s->d, s->expert_width);
    for (size_t i = 0; i < n; i++) {
        plan_expert_transposed(plan, layer, i);
    }
}

static void plan_all(struct plan *plan)
{
    struct policy *policy = plan->policy;
    const size_t d = policy->sizes.d, vocab = policy->config.vocab_size;
    const size_t n_layers = policy->config.n_layers + policy->config.n_mtp_modules;
    const bool is_trainable = policy->options.is_trainable;

    for (size_t i = 0; i < n_layers; i++) {
        plan_attention(plan, &policy->layers[i]);
        plan_ffn(plan, &policy->layers[i]);
        if (policy->layers[i].is_moe) {
            plan_moe(plan, &policy->layers[i]);
        }
    }
    policy->w_head = plan_plain(plan, policy->head, d, vocab);
    policy->t_head = is_trainable ? plan_transposed(plan, policy->head, vocab, d) : NULL;
    for (size_t i = 0; i < policy->config.n_mtp_modules; i++) {
        struct policy_mtp_module *module = &policy->modules[i];

        module->w_eh = plan_plain(plan, module->eh, 2 * d, d);
        module->t_eh = is_trainable ? plan_transposed(plan, module->eh, d, 2 * d) : NULL;
    }
}

/* Offset of "model.layers.LAYER.REST"; the table was made from the same configuration. */
static size_t offset_of(const struct policy *policy, size_t layer, const char *rest)
{
    char name[96];
    const struct weight_row *row;

    (void)snprintf(name, sizeof(name), "model.layers.%zu.%s", layer, rest);
    row = weight_table_find(policy->table, name);
    return row == NULL ? 0 : row->offset;
}

static void find_layer(const struct policy *policy, size_t index, struct policy_layer *layer)
{
    const bool has_q_lora = policy->sizes.q_rank > 0;

    layer->is_moe = model_config_is_moe_layer(&policy->config, index);
    layer->input_norm = offset_of(policy, index, "input_layernorm.weight");
    layer->first = offset_of(policy, index,
                             has_q_lora ? "self_attn.q_a_proj.weight" : "self_attn.q_proj.weight");
    layer->q_a_bias = offset_of(policy, index, "self_attn.q_a_proj.bias");
    layer->kv_a_bias = offset_of(policy, index, "self_attn.kv_a_proj_with_mqa.bias");
    layer->o_bias = offset_of(policy, index, "self_attn.o_proj.bias");
    layer->q_a_norm = offset_of(policy, index, "self_attn.q_a_layernorm.weight");
    layer->q_b = offset_of(policy, index, "self_attn.q_b_proj.weight");
    layer->kv_a = offset_of(policy, index, "self_attn.kv_a_proj_with_mqa.weight");
    layer->kv_a_norm = offset_of(policy, index, "self_attn.kv_a_layernorm.weight");
    layer->kv_b = offset_of(policy, index, "self_attn.kv_b_proj.weight");
    layer->o = offset_of(policy, index, "self_attn.o_proj.weight");
    layer->post_norm = offset_of(policy, index, "post_attention_layernorm.weight");
    if (!layer->is_moe) {
        layer->gate = offset_of(policy, index, "mlp.gate_proj.weight");
        layer->up = offset_of(policy, index, "mlp.up_proj.weight");
        layer->down = offset_of(policy, index, "mlp.down_proj.weight");
        return;
    }
    layer->gate = offset_of(policy, index, "mlp.shared_experts.gate_proj.weight");
    layer->up = offset_of(policy, index, "mlp.shared_experts.up_proj.weight");
    layer->down = offset_of(policy, index, "mlp.shared_experts.down_proj.weight");
    layer->router = offset_of(policy, index, "mlp.gate.weight");
    layer->router_bias = offset_of(policy, index, "mlp.gate.e_score_correction_bias");
    layer->expert_gate = offset_of(policy, index, "mlp.experts.0.gate_proj.weight");
    layer->expert_up = offset_of(policy, index, "mlp.experts.0.up_proj.weight");
    layer->expert_down = offset_of(policy, index, "mlp.experts.0.down_proj.weight");
    /* gate, up, down of equal padded size follow each other, expert after expert */
    layer->expert_stride = 3 * (layer->expert_up - layer->expert_gate);
}

static void find_all(struct policy *policy)
{
    const size_t n_layers = policy->config.n_layers;

    for (size_t i = 0; i < n_layers + policy->config.n_mtp_modules; i++) {
        find_layer(policy, i, &policy->layers[i]);
    }
    policy->embedding = weight_table_find(policy->table, "model.embed_tokens.weight")->offset;
    policy->final_norm = weight_table_find(policy->table, "model.norm.weight")->offset;
    policy->head = policy->config.has_tied_head
                       ? policy->embedding
                       : weight_table_find(policy->table, "lm_head.weight")->offset;
    for (size_t i = 0; i < policy->config.n_mtp_modules; i++) {
        struct policy_mtp_module *module = &policy->modules[i];

        module->enorm = offset_of(policy, n_layers + i, "enorm.weight");
        module->hnorm = offset_of(policy, n_layers + i, "hnorm.weight");
        module->eh = offset_of(policy, n_layers + i, "eh_proj.weight");
        module->norm = offset_of(policy, n_layers + i, "shared_head.norm.weight");
    }
}

enum status policy_packs_create(struct policy *policy)
{
    struct plan plan = {.policy = policy};

    find_all(policy);
    plan_all(&plan);
    policy->packed_floats = plan.n_floats;
    TRY(memory_alloc(plan.n_packs, sizeof(struct pack_args), &policy->packs));
    TRY(policy->backend->ops->alloc(policy->backend, plan.n_floats, sizeof(float),
                                    &policy->packed));
    plan = (struct plan){.policy = policy, .base = policy->packed, .packs = policy->packs};
    plan_all(&plan);
    policy->n_packs = plan.n_packs;
    return STATUS_OK;
}

enum status policy_refresh(struct policy *policy)
{
    for (size_t i = 0; i < policy->n_packs; i++) {
        TRY(policy->backend->ops->pack(policy->backend, &policy->packs[i]));
    }
    return STATUS_OK;
}
