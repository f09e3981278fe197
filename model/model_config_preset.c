/* Owns the built-in shapes: a tiny model of each kind, and those of the demo and of benchmarks. */
#include "model/model_config.h"

#include <string.h>

/* What all built-in shapes share; a preset then sets its sizes. */
static const struct model_config preset_base = {
    .family = MODEL_DEEPSEEK_V3,
    .attention = MODEL_ATTENTION_MLA,
    .n_groups = 1,
    .top_groups = 1,
    .n_shared_experts = 1,
    .first_dense_layers = 1,
    .moe_layer_freq = 1,
    .max_positions = 4096,
    .norm_topk_prob = true,
    .rope_interleave = true,
    .routed_scaling_factor = 2.5,
    .rms_norm_eps = 1e-6,
    .latent_norm_eps = 1e-6,
    .rope_theta = 10000,
    .initializer_range = 0.08,
    .bos_id = 0,
    .pad_id = -1,
    .eos_ids = {1},
    .n_eos_ids = 1,
};

static void preset_demo(struct model_config *out)
{
    out->vocab_size = 64;
    out->hidden_size = 128;
    out->n_layers = 4;
    out->n_heads = 4;
    out->intermediate_size = 384;
    out->moe_intermediate_size = 192;
    out->n_experts = 8;
    out->experts_per_token = 2;
    out->q_lora_rank = 64;
    out->kv_lora_rank = 64;
    out->qk_nope_head_dim = 32;
    out->qk_rope_head_dim = 16;
    out->v_head_dim = 32;
    out->n_mtp_modules = 1;
}

static void preset_small(struct model_config *out)
{
    out->vocab_size = 4096;
    out->hidden_size = 256;
    out->n_layers = 4;
    out->n_heads = 8;
    out->intermediate_size = 640;
    out->moe_intermediate_size = 128;
    out->n_experts = 16;
    out->experts_per_token = 4;
    out->q_lora_rank = 128;
    out->kv_lora_rank = 64;
    out->qk_nope_head_dim = 32;
    out->qk_rope_head_dim = 32;
    out->v_head_dim = 32;
    out->n_mtp_modules = 0;
    out->initializer_range = 0.02;
}

static void preset_medium(struct model_config *out)
{
    out->vocab_size = 32768;
    out->hidden_size = 1024;
    out->n_layers = 12;
    out->n_heads = 16;
    out->intermediate_size = 2560;
    out->moe_intermediate_size = 512;
    out->n_experts = 32;
    out->experts_per_token = 4;
    out->q_lora_rank = 512;
    out->kv_lora_rank = 256;
    out->qk_nope_head_dim = 64;
    out->qk_rope_head_dim = 32;
    out->v_head_dim = 64;
    out->n_mtp_modules = 0;
    out->initializer_range = 0.02;
}

static void preset_tiny(struct model_config *out)
{
    out->vocab_size = 64;
    out->hidden_size = 32;
    out->n_layers = 2;
    out->n_heads = 2;
    out->intermediate_size = 48;
    out->moe_intermediate_size = 16;
    out->n_experts = 4;
    out->experts_per_token = 2;
    out->n_groups = 2;
    out->top_groups = 1;
    out->q_lora_rank = 16;
    out->kv_lora_rank = 16;
    out->qk_nope_head_dim = 8;
    out->qk_rope_head_dim = 8;
    out->v_head_dim = 12;
    out->n_mtp_modules = 1;
    out->initializer_range = 0.2;
}

/* The V2 class: softmax scores, groups ranked by their best, a single q_proj. */
static void preset_v2(struct model_config *out)
{
    preset_tiny(out);
    out->family = MODEL_DEEPSEEK_V2;
    out->has_softmax_router = true;
    out->norm_topk_prob = false;
    out->routed_scaling_factor = 1;
    out->q_lora_rank = 0;
    out->n_mtp_modules = 0;
}

/* V3 with an indexer, which looks at few keys. */
static void preset_v32(struct model_config *out)
{
    preset_tiny(out);
    out->family = MODEL_DEEPSEEK_V32;
    out->index_n_heads = 2;
    out->index_head_dim = 16;
    out->index_topk = 8;
    out->n_mtp_modules = 0;
}

static void preset_tied(struct model_config *out)
{
    preset_tiny(out);
    out->has_tied_head = true;
    out->n_mtp_modules = 0;
}

/* What the classics share: no latents, one kind of router. */
static void preset_classic(struct model_config *out, enum model_family family)
{
    *out = (struct model_config){
        .family = family,
        .attention = MODEL_ATTENTION_GQA,
        .vocab_size = 64,
        .hidden_size = 32,
        .n_layers = 2,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 8,
        .intermediate_size = 48,
        .n_groups = 1,
        .top_groups = 1,
        .moe_layer_freq = 1,
        .max_positions = 4096,
        .has_softmax_router = true,
        .norm_topk_prob = true,
        .routed_scaling_factor = 1,
        .rms_norm_eps = 1e-6,
        .rope_theta = 10000,
        .initializer_range = 0.2,
        .pad_id = -1,
        .eos_ids = {1},
        .n_eos_ids = 1,
    };
}

static void preset_llama(struct model_config *out)
{
    preset_classic(out, MODEL_LLAMA);
}

static void preset_qwen2(struct model_config *out)
{
    preset_classic(out, MODEL_QWEN2);
    out->has_qkv_bias = true;
}

static void preset_qwen3(struct model_config *out)
{
    preset_classic(out, MODEL_QWEN3);
    out->has_qk_norm = true;
    out->head_dim = 16;
    out->has_tied_head = true;
}

static void preset_qwen3_moe(struct model_config *out)
{
    preset_classic(out, MODEL_QWEN3_MOE);
    out->has_qk_norm = true;
    out->n_experts = 4;
    out->experts_per_token = 2;
    out->moe_intermediate_size = 16;
}

static void preset_mixtral(struct model_config *out)
{
    preset_classic(out, MODEL_MIXTRAL);
    out->n_experts = 4;
    out->experts_per_token = 2;
    out->intermediate_size = 24;
    out->moe_intermediate_size = 24;
    out->rope_theta = 1e6;
}

static const struct {
    const char *name;
    void (*fill)(struct model_config *);
} presets[] = {
    {"demo", preset_demo},
    {"small", preset_small},
    {"medium", preset_medium},
    {"tiny", preset_tiny},
    {"v2", preset_v2},
    {"v32", preset_v32},
    {"tied", preset_tied},
    {"llama", preset_llama},
    {"qwen2", preset_qwen2},
    {"qwen3", preset_qwen3},
    {"qwen3-moe", preset_qwen3_moe},
    {"mixtral", preset_mixtral},
};

enum status model_config_preset(const char *name, struct model_config *out)
{
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *out = preset_base;
            presets[i].fill(out);
            return STATUS_OK;
        }
    }
    return status_set(STATUS_BAD_ARGUMENT, "no preset \"%s\"; there are %s", name, MODEL_PRESETS);
}
