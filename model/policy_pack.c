/* Owns the packed copies of the weights: one gemm for projections that read the same row (gate with
 * up; those of attention are the attention kind's). Gradients read the weights themselves. The plan
 * runs twice: without a base it counts, with a base it assigns. */
#include "base/memory.h"
#include "model/policy_attention_internal.h"
#include "model/policy_plan_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum precision policy_linear(const struct policy *policy)
{
    return policy->options.precision;
}

enum precision policy_unquantised(const struct policy *policy)
{
    return policy->options.precision == PRECISION_FP8 ? policy->options.unquantised
                                                      : policy->options.precision;
}

enum precision policy_backward_products(const struct policy *policy)
{
    return policy->options.precision == PRECISION_F32 ? PRECISION_F32 : PRECISION_BF16;
}

enum precision policy_attention_products(const struct policy *policy)
{
    return policy->options.precision == PRECISION_BF16 ? PRECISION_BF16 : PRECISION_F32;
}

struct plan_form plan_linear(const struct policy_plan *plan)
{
    return (struct plan_form){policy_linear(plan->policy), policy_linear(plan->policy)};
}

struct plan_form plan_unquantised(const struct policy_plan *plan)
{
    return (struct plan_form){policy_unquantised(plan->policy), policy_unquantised(plan->policy)};
}

struct plan_form plan_exact(void)
{
    return (struct plan_form){PRECISION_F32, PRECISION_F32};
}

float *plan_reserve(struct policy_plan *plan, enum precision precision, size_t n, size_t n_in,
                    size_t n_out)
{
    const size_t at = plan->n_words;

    plan->n_words += n * packed_words(precision, n_in, n_out);
    return plan->base == NULL ? NULL : plan->base + at;
}

void plan_add(struct policy_plan *plan, size_t offset, struct pack_args args)
{
    if (plan->packs != NULL) {
        args.src = plan->policy->weights + offset;
        args.has_float_scales = plan->policy->options.has_float_scales;
        plan->packs[plan->n_packs] = args;
    }
    plan->n_packs++;
}

float *plan_at(float *base, size_t words)
{
    return base == NULL ? NULL : base + words;
}

float *plan_plain(struct policy_plan *plan, struct plan_form form, size_t offset, size_t n_in,
                  size_t n_out)
{
    float *dst = plan_reserve(plan, form.precision, 1, n_in, n_out);

    plan_add(plan, offset,
             (struct pack_args){.src_stride = n_in,
                                .n_in = n_in,
                                .n_out = n_out,
                                .dst = dst,
                                .precision = form.precision,
                                .rounding = form.rounding});
    return dst;
}

float *plan_beside(struct policy_plan *plan, const struct plan_beside *beside)
{
    const struct plan_part *last = &beside->parts[beside->n_parts - 1];
    const struct plan_form form = beside->form;
    float *dst = plan_reserve(plan, form.precision, 1, beside->n_in, last->at + last->n);

    for (size_t i = 0; i < beside->n_parts; i++) {
        const struct plan_part *part = &beside->parts[i];

        plan_add(plan, part->offset,
                 (struct pack_args){
                     .src_stride = beside->n_in,
                     .n_in = beside->n_in,
                     .n_out = part->n,
                     .dst = plan_at(dst, packed_words(form.precision, beside->n_in, part->at)),
                     .precision = form.precision,
                     .rounding = part->is_exact ? PRECISION_F32 : form.rounding});
    }
    return dst;
}

float *plan_bias_row(struct policy_plan *plan, const struct plan_part *parts, size_t n_parts)
{
    const struct plan_part *last = &parts[n_parts - 1];
    float *dst = plan_reserve(plan, PRECISION_F32, 1, 1, last->at + last->n);

    for (size_t i = 0; i < n_parts; i++) {
        if (parts[i].n == 0) {
            continue;
        }
        plan_add(
            plan, parts[i].offset,
            (struct pack_args){
                .src_stride = 1, .n_in = 1, .n_out = parts[i].n, .dst = plan_at(dst, parts[i].at)});
    }
    return dst;
}

static void plan_output(struct policy_plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;

    layer->w_o = plan_plain(plan, plan_linear(plan), layer->o, s->value_dim, s->d);
}

static void plan_ffn(struct policy_plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const size_t width = s->ffn_width[layer->is_moe];
    const struct plan_beside gate_up = {
        .parts = {{layer->gate, width, 0, false},
                  {layer->up, width, s->ffn_up_at[layer->is_moe], false}},
        .n_parts = 2,
        .n_in = s->d,
        .form = plan_linear(plan)};

    if (width == 0) {
        return;
    }
    layer->w_gate_up = plan_beside(plan, &gate_up);
    layer->w_down = plan_plain(plan, plan_linear(plan), layer->down, width, s->d);
}

/* Gate and up of an expert in interleaved panels, so that SwiGLU runs on the cache-hot tile. */
static void plan_expert(struct policy_plan *plan, struct policy_layer *layer, size_t expert)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const enum precision precision = policy_linear(plan->policy);
    const size_t d = s->d, f = s->expert_width;
    const size_t offset = expert * layer->expert_stride, panel = packed_words(precision, d, 1);
    struct pack_args args = {
        .src_stride = d,
        .n_in = d,
        .n_out = f,
        .panel_stride = 2 * panel,
        .dst = plan_at(layer->w_expert_gate_up, 2 * expert * packed_words(precision, d, f)),
        .precision = precision};

    plan_add(plan, layer->expert_gate + offset, args);
    args.dst = plan_at(args.dst, panel);
    plan_add(plan, layer->expert_up + offset, args);
    plan_add(plan, layer->expert_down + offset,
             (struct pack_args){
                 .src_stride = f,
                 .n_in = f,
                 .n_out = d,
                 .dst = plan_at(layer->w_expert_down, expert * packed_words(precision, f, d)),
                 .precision = precision});
}

static void plan_moe(struct policy_plan *plan, struct policy_layer *layer)
{
    const struct policy_sizes *s = &plan->policy->sizes;
    const enum precision precision = policy_linear(plan->policy);
    const size_t n = s->n_experts;

    layer->w_router = plan_plain(plan, plan_exact(), layer->router, s->d, n);
    layer->w_expert_gate_up = plan_reserve(plan, precision, 2 * n, s->d, s->expert_width);
    layer->w_expert_down = plan_reserve(plan, precision, n, s->expert_width, s->d);
    for (size_t i = 0; i < n; i++) {
        plan_expert(plan, layer, i);
    }
}

static void plan_all(struct policy_plan *plan)
{
    struct policy *policy = plan->policy;
    const size_t d = policy->sizes.d, vocab = policy->config.vocab_size;
    const size_t n_layers = policy->config.n_layers + policy->config.n_mtp_modules;
    const struct plan_form form = plan_unquantised(plan);

    for (size_t i = 0; i < n_layers; i++) {
        policy_attention_of(policy)->plan(plan, &policy->layers[i]);
        plan_output(plan, &policy->layers[i]);
        plan_ffn(plan, &policy->layers[i]);
        if (policy->layers[i].is_moe) {
            plan_moe(plan, &policy->layers[i]);
        }
    }
    policy->w_head = plan_plain(plan, form, policy->head, d, vocab);
    for (size_t i = 0; i < policy->config.n_mtp_modules; i++) {
        struct policy_mtp_module *module = &policy->modules[i];

        module->w_eh = plan_plain(plan, form, module->eh, 2 * d, d);
    }
}

size_t policy_offset_of(const struct policy *policy, size_t layer, const char *rest)
{
    char name[160];
    const struct weight_row *row;

    (void)snprintf(name, sizeof(name), "model.layers.%zu.%s", layer, rest);
    row = weight_table_find(policy->table, name);
    return row == NULL ? 0 : row->offset;
}

/* A router or an expert's part, which not all families call the same. */
static size_t moe_offset_of(const struct policy *policy, size_t layer, const char *rest)
{
    char name[96];

    (void)snprintf(name, sizeof(name), "%s.%s", weight_names(policy->config.family)->moe, rest);
    return policy_offset_of(policy, layer, name);
}

static size_t expert_offset_of(const struct policy *policy, size_t layer, size_t part)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "experts.0.%s.weight",
                   weight_names(policy->config.family)->expert_parts[part]);
    return moe_offset_of(policy, layer, name);
}

static void find_layer(const struct policy *policy, size_t index, struct policy_layer *layer)
{
    layer->is_moe = model_config_is_moe_layer(&policy->config, index);
    layer->input_norm = policy_offset_of(policy, index, "input_layernorm.weight");
    policy_attention_of(policy)->find(policy, index, layer);
    layer->o = policy_offset_of(policy, index, "self_attn.o_proj.weight");
    layer->o_bias = policy_offset_of(policy, index, "self_attn.o_proj.bias");
    layer->post_norm = policy_offset_of(policy, index, "post_attention_layernorm.weight");
    if (!layer->is_moe) {
        layer->gate = policy_offset_of(policy, index, "mlp.gate_proj.weight");
        layer->up = policy_offset_of(policy, index, "mlp.up_proj.weight");
        layer->down = policy_offset_of(policy, index, "mlp.down_proj.weight");
        return;
    }
    layer->gate = policy_offset_of(policy, index, "mlp.shared_experts.gate_proj.weight");
    layer->up = policy_offset_of(policy, index, "mlp.shared_experts.up_proj.weight");
    layer->down = policy_offset_of(policy, index, "mlp.shared_experts.down_proj.weight");
    layer->router = moe_offset_of(policy, index, "gate.weight");
    layer->router_bias = moe_offset_of(policy, index, "gate.e_score_correction_bias");
    layer->expert_gate = expert_offset_of(policy, index, 0);
    layer->expert_up = expert_offset_of(policy, index, 1);
    layer->expert_down = expert_offset_of(policy, index, 2);
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

        module->enorm = policy_offset_of(policy, n_layers + i, "enorm.weight");
        module->hnorm = policy_offset_of(policy, n_layers + i, "hnorm.weight");
        module->eh = policy_offset_of(policy, n_layers + i, "eh_proj.weight");
        module->norm = policy_offset_of(policy, n_layers + i, "shared_head.norm.weight");
    }
}

void policy_packs_measure(struct policy *policy)
{
    struct policy_plan plan = {.policy = policy};

    find_all(policy);
    plan_all(&plan);
    policy->packed_words = plan.n_words;
    policy->n_packs = plan.n_packs;
}

/* In the order of what they read, which is the order that weights come in. */
static int compare_packs(const void *a, const void *b)
{
    const struct pack_args *left = a, *right = b;

    if (left->src != right->src) {
        return left->src < right->src ? -1 : 1;
    }
    return (left->dst > right->dst) - (left->dst < right->dst);
}

void policy_packs_place(struct policy *policy, float *base)
{
    struct policy_plan plan = {.policy = policy};

    plan.base = base;
    plan_all(&plan);
}

enum status policy_packs_create(struct policy *policy)
{
    struct policy_plan plan = {.policy = policy};

    TRY(memory_alloc(policy->n_packs, sizeof(struct pack_args), &policy->packs));
    plan.base = policy->packed;
    plan.packs = policy->packs;
    plan_all(&plan);
    qsort(policy->packs, policy->n_packs, sizeof(policy->packs[0]), compare_packs);
    return STATUS_OK;
}
