/* Owns the table of config.json's keys (model.md 1.1). */
#include "model/model_config_internal.h"

#include <string.h>

#define SIZE_FIELD(key_, member, min_, max_)                                                       \
    {                                                                                              \
        .key = (key_), .kind = MODEL_FIELD_SIZE, .offset = offsetof(struct model_config, member),  \
        .min = (min_), .max = (max_), .is_required = true, .null_is = -1                           \
    }
#define SIZE_FIELD_OR(key_, member, min_, max_, otherwise_, null_is_)                              \
    {                                                                                              \
        .key = (key_), .kind = MODEL_FIELD_SIZE, .offset = offsetof(struct model_config, member),  \
        .min = (min_), .max = (max_), .otherwise = (otherwise_), .null_is = (null_is_)             \
    }
#define REAL_FIELD(key_, member, min_, max_, otherwise_)                                           \
    {                                                                                              \
        .key = (key_), .kind = MODEL_FIELD_REAL, .offset = offsetof(struct model_config, member),  \
        .min = (min_), .max = (max_), .otherwise = (otherwise_), .null_is = -1                     \
    }
#define BOOL_FIELD(key_, member, otherwise_)                                                       \
    {                                                                                              \
        .key = (key_), .kind = MODEL_FIELD_BOOL, .offset = offsetof(struct model_config, member),  \
        .min = 0, .max = 1, .otherwise = (otherwise_), .null_is = (otherwise_)                     \
    }

/* The limits keep every product of shapes far below 2^63. */
const struct model_field model_fields[] = {
    SIZE_FIELD("vocab_size", vocab_size, 2, 1048576),
    SIZE_FIELD("hidden_size", hidden_size, 1, 65536),
    SIZE_FIELD("num_hidden_layers", n_layers, 1, 1024),
    SIZE_FIELD("num_attention_heads", n_heads, 1, 1024),
    SIZE_FIELD("intermediate_size", intermediate_size, 1, 1048576),
    SIZE_FIELD("kv_lora_rank", kv_lora_rank, 1, 16384),
    SIZE_FIELD("qk_nope_head_dim", qk_nope_head_dim, 1, 4096),
    SIZE_FIELD("qk_rope_head_dim", qk_rope_head_dim, 2, 4096),
    SIZE_FIELD("v_head_dim", v_head_dim, 1, 4096),
    SIZE_FIELD_OR("q_lora_rank", q_lora_rank, 0, 65536, 1536, 0),
    SIZE_FIELD_OR("moe_intermediate_size", moe_intermediate_size, 1, 1048576, 2048, -1),
    SIZE_FIELD_OR("n_shared_experts", n_shared_experts, 0, 64, 1, 0),
    SIZE_FIELD_OR("num_experts_per_tok", experts_per_token, 1, 4096, 8, -1),
    SIZE_FIELD_OR("n_group", n_groups, 1, 4096, 8, 1),
    SIZE_FIELD_OR("topk_group", top_groups, 1, 4096, 4, 1),
    SIZE_FIELD_OR("first_k_dense_replace", first_dense_layers, 0, 1024, 3, 0),
    SIZE_FIELD_OR("moe_layer_freq", moe_layer_freq, 1, 1024, 1, -1),
    SIZE_FIELD_OR("max_position_embeddings", max_positions, 2, 16777216, 4096, -1),
    SIZE_FIELD_OR("num_nextn_predict_layers", n_mtp_modules, 0, MODEL_MTP_MAX, 0, 0),
    REAL_FIELD("routed_scaling_factor", routed_scaling_factor, 1e-6, 1e6, 2.5),
    REAL_FIELD("rms_norm_eps", rms_norm_eps, 1e-12, 1, 1e-6),
    REAL_FIELD("latent_norm_eps", latent_norm_eps, 1e-12, 1, 1e-6),
    REAL_FIELD("initializer_range", initializer_range, 0, 100, 0.02),
    BOOL_FIELD("norm_topk_prob", norm_topk_prob, 1),
    BOOL_FIELD("rope_interleave", rope_interleave, 1),
    BOOL_FIELD("attention_bias", has_attention_bias, 0),
    BOOL_FIELD("tie_word_embeddings", has_tied_head, 0),
};
const size_t n_model_fields = sizeof(model_fields) / sizeof(model_fields[0]);

/* What absent means for deepseek_v2 where it is something else. */
static const struct {
    const char *key;
    double otherwise;
} v2_defaults[] = {
    {"moe_intermediate_size", 1407}, {"n_group", 1},        {"topk_group", 1},
    {"first_k_dense_replace", 0},    {"norm_topk_prob", 0}, {"routed_scaling_factor", 1},
};

double model_field_default(const struct model_field *field, bool is_v2)
{
    for (size_t i = 0; is_v2 && i < sizeof(v2_defaults) / sizeof(v2_defaults[0]); i++) {
        if (strcmp(v2_defaults[i].key, field->key) == 0) {
            return v2_defaults[i].otherwise;
        }
    }
    return field->otherwise;
}

const char *const model_other_keys[] = {
    /* read by name */
    "n_routed_experts", "num_local_experts", "num_experts", "rope_theta", "rope_scaling",
    "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id", "mlp_layer_types",
    "model_type", "architectures", "scoring_func", "topk_method", "mtp_input",
    /* checked: only one value is computed */
    "num_key_value_heads", "attention_dropout", "hidden_act", "quantization_config", "text_config",
    "mlp_bias", "index_n_heads", "index_head_dim", "index_topk",
    /* known and without effect on what is computed here */
    "_name_or_path", "auto_map", "aux_loss_alpha", "seq_aux", "ep_size", "pretraining_tp",
    "head_dim", "qk_head_dim", "torch_dtype", "dtype", "transformers_version", "use_cache",
    "output_router_logits", "router_aux_loss_coef", "return_dict", "output_attentions",
    "output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id",
    "problem_type"};
const size_t n_model_other_keys = sizeof(model_other_keys) / sizeof(model_other_keys[0]);
