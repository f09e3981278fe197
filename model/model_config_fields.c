/* Owns the table of config.json's keys (model.md 1.1). */
#include "model/model_config_internal.h"

#include <string.h>

#define FAMILY(name) (1u << MODEL_##name)
#define MLA (FAMILY(DEEPSEEK_V2) | FAMILY(DEEPSEEK_V3) | FAMILY(DEEPSEEK_V32))
#define QWEN_MOE FAMILY(QWEN3_MOE)
#define GQA (FAMILY(LLAMA) | FAMILY(QWEN2) | FAMILY(QWEN3) | FAMILY(QWEN3_MOE) | FAMILY(MIXTRAL))
#define GQA_BIAS (FAMILY(LLAMA) | FAMILY(QWEN3) | FAMILY(QWEN3_MOE))
#define ALL (MLA | GQA)

#define SIZE_FIELD(families_, key_, member, min_, max_)                                            \
    {                                                                                              \
        .families = (families_), .key = (key_), .kind = MODEL_FIELD_SIZE,                          \
        .offset = offsetof(struct model_config, member), .min = (min_), .max = (max_),             \
        .is_required = true, .null_is = -1                                                         \
    }
#define SIZE_FIELD_OR(families_, key_, member, min_, max_, otherwise_, null_is_)                   \
    {                                                                                              \
        .families = (families_), .key = (key_), .kind = MODEL_FIELD_SIZE,                          \
        .offset = offsetof(struct model_config, member), .min = (min_), .max = (max_),             \
        .otherwise = (otherwise_), .null_is = (null_is_)                                           \
    }
#define REAL_FIELD(families_, key_, member, min_, max_, otherwise_)                                \
    {                                                                                              \
        .families = (families_), .key = (key_), .kind = MODEL_FIELD_REAL,                          \
        .offset = offsetof(struct model_config, member), .min = (min_), .max = (max_),             \
        .otherwise = (otherwise_), .null_is = -1                                                   \
    }
#define BOOL_FIELD(families_, key_, member, otherwise_)                                            \
    {                                                                                              \
        .families = (families_), .key = (key_), .kind = MODEL_FIELD_BOOL,                          \
        .offset = offsetof(struct model_config, member), .min = 0, .max = 1,                       \
        .otherwise = (otherwise_), .null_is = (otherwise_)                                         \
    }

/* The limits keep every product of shapes far below 2^63. */
const struct model_field model_fields[] = {
    SIZE_FIELD(ALL, "vocab_size", vocab_size, 2, 1048576),
    SIZE_FIELD(ALL, "hidden_size", hidden_size, 1, 65536),
    SIZE_FIELD(ALL, "num_hidden_layers", n_layers, 1, 1024),
    SIZE_FIELD(ALL, "num_attention_heads", n_heads, 1, 1024),
    SIZE_FIELD(ALL, "intermediate_size", intermediate_size, 1, 1048576),
    SIZE_FIELD_OR(GQA, "num_key_value_heads", n_kv_heads, 1, 1024, 0,
                  0),                                        /* 0: as many as queries */
    SIZE_FIELD_OR(GQA, "head_dim", head_dim, 2, 4096, 0, 0), /* 0: hidden_size / heads */
    SIZE_FIELD(MLA, "kv_lora_rank", kv_lora_rank, 1, 16384),
    SIZE_FIELD(MLA, "qk_nope_head_dim", qk_nope_head_dim, 1, 4096),
    SIZE_FIELD(MLA, "qk_rope_head_dim", qk_rope_head_dim, 2, 4096),
    SIZE_FIELD(MLA, "v_head_dim", v_head_dim, 1, 4096),
    SIZE_FIELD_OR(MLA, "q_lora_rank", q_lora_rank, 0, 65536, 1536, 0),
    SIZE_FIELD_OR(MLA | QWEN_MOE, "moe_intermediate_size", moe_intermediate_size, 1, 1048576, 2048,
                  -1),
    SIZE_FIELD_OR(MLA, "n_shared_experts", n_shared_experts, 0, 64, 1, 0),
    SIZE_FIELD_OR(MLA | QWEN_MOE | FAMILY(MIXTRAL), "num_experts_per_tok", experts_per_token, 1,
                  4096, 8, -1),
    SIZE_FIELD_OR(MLA, "n_group", n_groups, 1, 4096, 8, 1),
    SIZE_FIELD_OR(MLA, "topk_group", top_groups, 1, 4096, 4, 1),
    SIZE_FIELD_OR(MLA, "first_k_dense_replace", first_dense_layers, 0, 1024, 3, 0),
    SIZE_FIELD_OR(MLA, "moe_layer_freq", moe_layer_freq, 1, 1024, 1, -1),
    SIZE_FIELD_OR(FAMILY(DEEPSEEK_V32), "index_n_heads", index_n_heads, 1, 1024, 64, -1),
    SIZE_FIELD_OR(FAMILY(DEEPSEEK_V32), "index_head_dim", index_head_dim, 2, 4096, 128, -1),
    SIZE_FIELD_OR(FAMILY(DEEPSEEK_V32), "index_topk", index_topk, 1, 16777216, 2048, -1),
    SIZE_FIELD_OR(ALL, "max_position_embeddings", max_positions, 2, 16777216, 4096, -1),
    SIZE_FIELD_OR(MLA, "num_nextn_predict_layers", n_mtp_modules, 0, MODEL_MTP_MAX, 0, 0),
    REAL_FIELD(MLA, "routed_scaling_factor", routed_scaling_factor, 1e-6, 1e6, 2.5),
    REAL_FIELD(ALL, "rms_norm_eps", rms_norm_eps, 1e-12, 1, 1e-6),
    REAL_FIELD(MLA, "latent_norm_eps", latent_norm_eps, 1e-12, 1, 1e-6),
    REAL_FIELD(ALL, "initializer_range", initializer_range, 0, 100, 0.02),
    BOOL_FIELD(MLA | QWEN_MOE, "norm_topk_prob", norm_topk_prob, 1),
    BOOL_FIELD(MLA, "rope_interleave", rope_interleave, 1),
    BOOL_FIELD(FAMILY(DEEPSEEK_V32), "indexer_rope_interleave", index_rope_interleave, 0),
    BOOL_FIELD(MLA, "attention_bias", has_attention_bias, 0),
    BOOL_FIELD(GQA_BIAS, "attention_bias", has_qkv_bias, 0),
    BOOL_FIELD(ALL, "tie_word_embeddings", has_tied_head, 0),
};
const size_t n_model_fields = sizeof(model_fields) / sizeof(model_fields[0]);

/* What absent means in a family where it is something else: its class's default. */
static const struct {
    unsigned families;
    const char *key;
    double otherwise;
} family_defaults[] = {
    {FAMILY(DEEPSEEK_V2), "moe_intermediate_size", 1407},
    {FAMILY(DEEPSEEK_V2), "n_group", 1},
    {FAMILY(DEEPSEEK_V2), "topk_group", 1},
    {FAMILY(DEEPSEEK_V2), "first_k_dense_replace", 0},
    {FAMILY(DEEPSEEK_V2), "norm_topk_prob", 0},
    {FAMILY(DEEPSEEK_V2), "routed_scaling_factor", 1},
    {FAMILY(DEEPSEEK_V32), "max_position_embeddings", 163840},
    {FAMILY(LLAMA), "max_position_embeddings", 2048},
    {FAMILY(QWEN2) | FAMILY(QWEN3) | QWEN_MOE, "max_position_embeddings", 32768},
    {FAMILY(MIXTRAL), "max_position_embeddings", 131072},
    {FAMILY(QWEN2) | FAMILY(QWEN3), "num_key_value_heads", 32},
    {QWEN_MOE, "num_key_value_heads", 4},
    {FAMILY(MIXTRAL), "num_key_value_heads", 8},
    {FAMILY(QWEN3), "head_dim", 128},
    {QWEN_MOE, "moe_intermediate_size", 768},
    {QWEN_MOE, "norm_topk_prob", 0},
    {FAMILY(MIXTRAL), "num_experts_per_tok", 2},
    {FAMILY(MIXTRAL), "rms_norm_eps", 1e-5},
};

double model_field_default(const struct model_field *field, enum model_family family)
{
    for (size_t i = 0; i < sizeof(family_defaults) / sizeof(family_defaults[0]); i++) {
        if ((family_defaults[i].families & 1u << family) != 0 &&
            strcmp(family_defaults[i].key, field->key) == 0) {
            return family_defaults[i].otherwise;
        }
    }
    return field->otherwise;
}

const char *const model_other_keys[] = {
    /* read by name */
    "n_routed_experts", "num_local_experts", "num_experts", "rope_theta", "rope_scaling",
    "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id", "mlp_layer_types",
    "mlp_only_layers", "decoder_sparse_step", "model_type", "architectures", "scoring_func",
    "topk_method", "mtp_input",
    /* checked: only one value is computed */
    "attention_dropout", "hidden_act", "quantization_config", "text_config", "mlp_bias",
    "use_sliding_window", "sliding_window", "max_window_layers", "layer_types", "use_mrope",
    "rope_interleaved", "router_jitter_noise",
    /* known and without effect on what is computed here */
    "_name_or_path", "auto_map", "aux_loss_alpha", "seq_aux", "ep_size", "pretraining_tp",
    "qk_head_dim", "torch_dtype", "dtype", "transformers_version", "use_cache",
    "output_router_logits", "router_aux_loss_coef", "return_dict", "output_attentions",
    "output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id",
    "problem_type", "is_llama_config", "transformers.js_config", "is_decoder",
    "add_cross_attention", "tokenizer_class"};
const size_t n_model_other_keys = sizeof(model_other_keys) / sizeof(model_other_keys[0]);
