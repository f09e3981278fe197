/* Owns config.json: the numbers of every architecture that is computed here, read from and written
 * to Hugging Face's file (model.md 1, 12). */
#ifndef HONE_MODEL_MODEL_CONFIG_H
#define HONE_MODEL_MODEL_CONFIG_H

#include "base/json.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_EOS_MAX 8u
#define MODEL_MTP_MAX ((size_t)8)

#define MODEL_LAYERS_MAX ((size_t)1024)

/* Whose names, defaults and file style: one row of model_config_family.c each. */
enum model_family {
    MODEL_DEEPSEEK_V2,
    MODEL_DEEPSEEK_V3, /* R1, V3.1, Moonlight, Kimi-K2 too */
    MODEL_DEEPSEEK_V32,
    MODEL_LLAMA,
    MODEL_QWEN2,
    MODEL_QWEN3,
    MODEL_QWEN3_MOE,
    MODEL_MIXTRAL,
};
/* MLA caches one latent and one rotary key a token; GQA the keys and values of n_kv_heads heads
 * (MHA: as many as queries, MQA: one). */
enum model_attention { MODEL_ATTENTION_MLA, MODEL_ATTENTION_GQA };

enum rope_kind { ROPE_PLAIN, ROPE_YARN, ROPE_LLAMA3, ROPE_LINEAR };

struct rope_scaling {
    enum rope_kind kind;
    double factor; /* all but plain */
    /* YaRN */
    double beta_fast, beta_slow, mscale, mscale_all_dim,
        attention_factor; /* attention_factor 0: derived */
    bool truncate;
    double low_freq_factor, high_freq_factor; /* Llama 3 */
    size_t original_max_positions;            /* YaRN, Llama 3 */
};

struct model_config {
    enum model_family family;
    enum model_attention attention;
    size_t vocab_size, hidden_size, n_layers, n_heads;
    size_t intermediate_size, moe_intermediate_size;
    size_t n_experts, n_shared_experts, experts_per_token, n_groups,
        top_groups; /* n_experts 0: dense model */
    size_t first_dense_layers, moe_layer_freq;
    uint64_t dense_layers[MODEL_LAYERS_MAX / 64]; /* bit i: layer i is dense whatever the two above
                                                     say */
    size_t n_kv_heads, head_dim;                  /* GQA */
    bool has_qkv_bias, has_o_bias;                /* GQA */
    bool has_qk_norm;                             /* GQA: RMSNorm of every query and key head */
    size_t q_lora_rank;                           /* MLA; 0: a single q_proj */
    size_t kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim; /* MLA */
    size_t index_n_heads, index_head_dim, index_topk; /* the indexer of DSA; 0: none */
    bool index_rope_interleave;
    size_t max_positions;
    size_t n_mtp_modules;    /* that the tensors hold, at most MODEL_MTP_MAX */
    bool has_softmax_router; /* softmax scores, no correction bias; else V3's noaux_tc */
    bool has_attention_bias; /* MLA: of q_a_proj, kv_a_proj_with_mqa and o_proj */
    bool has_tied_head;      /* the embedding is the head: no lm_head.weight */
    bool has_pre_norm_mtp;   /* MTP reads the trunk before its final norm, not after it */
    bool norm_topk_prob, rope_interleave;
    double routed_scaling_factor, rms_norm_eps, latent_norm_eps, rope_theta, initializer_range;
    struct rope_scaling rope;
    int32_t bos_id, pad_id; /* -1: none */
    int32_t eos_ids[MODEL_EOS_MAX];
    size_t n_eos_ids;
};

/* Reads DIR/config.json, and the end tokens of DIR/generation_config.json if it has some. Errors:
 * IO; BAD_FORMAT (wrong type, missing, out of range, unknown key with the nearest known one);
 * UNSUPPORTED (another architecture or an option that this build does not compute: names it). */
MUST_CHECK enum status model_config_load(const char *dir, struct model_config *out);
/* Writes DIR/config.json in the released style of its architecture; model_config_load gives the
 * same struct back. */
MUST_CHECK enum status model_config_save(const struct model_config *config, const char *dir);
/* The same from and to a parsed config.json; label stands in front of messages. Caller owns *out.
 */
MUST_CHECK enum status model_config_parse(const struct json *root, const char *label,
                                          struct model_config *out);
MUST_CHECK enum status model_config_print(const struct model_config *config, struct json **out);
/* Fills the built-in shapes by name; BAD_ARGUMENT lists them. vocab_size stays for the caller to
 * set when a tokenizer decides it. */
#define MODEL_PRESETS                                                                              \
    "demo, small, medium, tiny, v2, v32, tied, llama, qwen2, qwen3, qwen3-moe, mixtral"
MUST_CHECK enum status model_config_preset(const char *name, struct model_config *out);
/* n_moe_layers in all, the MTP modules' included. */
size_t model_config_moe_layers(const struct model_config *config);
bool model_config_is_moe_layer(
    const struct model_config *config,
    size_t layer); /* MTP layers (>= n_layers) are MoE if there are experts */
bool model_config_is_eos(const struct model_config *config, int32_t token);
/* Whether the K weights of a token are divided by their sum, and the factor behind that: the V2
 * code takes one or the other (model.md 7.2). */
bool model_config_normalises_routes(const struct model_config *config);
double model_config_route_scale(const struct model_config *config);
/* Names as files and messages have them: "deepseek_v3", ...; "mha", "gqa", "mqa", "mla" or
 * "mla+dsa". Static. */
const char *model_config_family_name(const struct model_config *config);
const char *model_config_attention_name(const struct model_config *config);
/* Width of the rotated part of a head. */
size_t model_config_rope_dim(const struct model_config *config);
/* Floats that a token leaves in the cache over all layers, index keys included. */
size_t model_config_kv_floats(const struct model_config *config);
/* Softmax scale of attention (model.md 5.2). */
float model_config_attention_scale(const struct model_config *config);
/* Parameters in all, and those a token uses (head included, input embedding and MTP not); those it
 * uses of an MTP module (no head). */
size_t model_config_parameters(const struct model_config *config);
size_t model_config_active_parameters(const struct model_config *config);
size_t model_config_active_module_parameters(const struct model_config *config);

#endif
