/* Owns the families of architectures: what files call them and what each always has (model.md 1, 2,
 * 12). Fields are model_config_fields.c, names of tensors weights_names.c. */
#include "model/model_config_internal.h"

#include <string.h>

static const struct model_family_row families[] = {
    [MODEL_DEEPSEEK_V2] = {.model_type = "deepseek_v2",
                           .architecture = "DeepseekV2ForCausalLM",
                           .experts_key = "n_routed_experts",
                           .attention = MODEL_ATTENTION_MLA,
                           .n_experts = -1,
                           .rope_theta = 10000},
    [MODEL_DEEPSEEK_V3] = {.model_type = "deepseek_v3",
                           .architecture = "DeepseekV3ForCausalLM",
                           .experts_key = "n_routed_experts",
                           .attention = MODEL_ATTENTION_MLA,
                           .n_experts = -1,
                           .rope_theta = 10000},
    [MODEL_DEEPSEEK_V32] = {.model_type = "deepseek_v32",
                            .architecture = "DeepseekV32ForCausalLM",
                            .experts_key = "n_routed_experts",
                            .attention = MODEL_ATTENTION_MLA,
                            .n_experts = -1,
                            .rope_theta = 10000},
    [MODEL_LLAMA] = {.model_type = "llama",
                     .architecture = "LlamaForCausalLM",
                     .attention = MODEL_ATTENTION_GQA,
                     .rope_theta = 10000},
    [MODEL_QWEN2] = {.model_type = "qwen2",
                     .architecture = "Qwen2ForCausalLM",
                     .attention = MODEL_ATTENTION_GQA,
                     .has_qkv_bias = true,
                     .rope_theta = 10000},
    [MODEL_QWEN3] = {.model_type = "qwen3",
                     .architecture = "Qwen3ForCausalLM",
                     .attention = MODEL_ATTENTION_GQA,
                     .has_qk_norm = true,
                     .rope_theta = 10000},
    [MODEL_QWEN3_MOE] = {.model_type = "qwen3_moe",
                         .architecture = "Qwen3MoeForCausalLM",
                         .experts_key = "num_experts",
                         .attention = MODEL_ATTENTION_GQA,
                         .has_qk_norm = true,
                         .n_experts = 128,
                         .rope_theta = 10000},
    [MODEL_MIXTRAL] = {.model_type = "mixtral",
                       .architecture = "MixtralForCausalLM",
                       .experts_key = "num_local_experts",
                       .attention = MODEL_ATTENTION_GQA,
                       .n_experts = 8,
                       .rope_theta = 1e6},
};
#define N_FAMILIES (sizeof(families) / sizeof(families[0]))

/* Other names of the same thing. */
static const struct {
    const char *model_type, *architecture;
    enum model_family family;
} aliases[] = {
    {"kimi_k2", "KimiK2ForCausalLM", MODEL_DEEPSEEK_V3},
};
#define N_ALIASES (sizeof(aliases) / sizeof(aliases[0]))

const struct model_family_row *model_family_row(enum model_family family)
{
    return &families[family];
}

const char *model_config_family_name(const struct model_config *config)
{
    return families[config->family].model_type;
}

const char *model_config_attention_name(const struct model_config *config)
{
    if (config->attention == MODEL_ATTENTION_MLA) {
        return config->index_n_heads > 0 ? "mla+dsa" : "mla";
    }
    if (config->n_kv_heads == config->n_heads) {
        return "mha";
    }
    return config->n_kv_heads == 1 ? "mqa" : "gqa";
}

/* Whether name is the type (or, else, the architecture) of a family. */
static bool find_family(const char *name, bool is_type, enum model_family *out)
{
    for (size_t i = 0; i < N_FAMILIES; i++) {
        if (strcmp(name, is_type ? families[i].model_type : families[i].architecture) == 0) {
            *out = (enum model_family)i;
            return true;
        }
    }
    for (size_t i = 0; i < N_ALIASES; i++) {
        if (strcmp(name, is_type ? aliases[i].model_type : aliases[i].architecture) == 0) {
            *out = aliases[i].family;
            return true;
        }
    }
    return false;
}

static enum status refuse(const char *label, const char *key, const char *name)
{
    return status_set(STATUS_UNSUPPORTED,
                      "%s: %s \"%s\" is not computed by this build (only deepseek_v2, deepseek_v3, "
                      "deepseek_v32, kimi_k2, llama, qwen2, qwen3, qwen3_moe, mixtral)",
                      label, key, name);
}

/* DeepSeek's releases mix the names of their classes; nobody else's do. */
static enum status check_agreement(const char *label, const struct json *architectures,
                                   enum model_family named, enum model_family type)
{
    if (json_count(architectures) == 0 || named == type ||
        (families[named].attention == MODEL_ATTENTION_MLA &&
         families[type].attention == MODEL_ATTENTION_MLA)) {
        return STATUS_OK;
    }
    return status_set(STATUS_BAD_FORMAT, "%s: model_type %s does not belong to architecture %s",
                      label, families[type].model_type, families[named].architecture);
}

enum status model_config_parse_family(const struct json *root, const char *label,
                                      enum model_family *out)
{
    const struct json *type = json_get(root, "model_type");
    const struct json *list = json_get(root, "architectures");
    enum model_family named = MODEL_DEEPSEEK_V3;

    for (size_t i = 0; i < json_count(list); i++) {
        const char *name = json_text(json_at(list, i), "");

        if (!find_family(name, false, &named)) {
            return refuse(label, "architecture", name);
        }
    }
    if (json_is(type, JSON_STRING)) {
        if (!find_family(json_text(type, ""), true, out)) {
            return refuse(label, "model_type", json_text(type, ""));
        }
        return check_agreement(label, list, named, *out);
    }
    if (!json_is(type, JSON_NULL) || json_count(list) == 0) {
        return status_set(STATUS_BAD_FORMAT, "%s: model_type is %s", label,
                          json_is(type, JSON_NULL) ? "missing" : "not a text");
    }
    *out = named;
    return STATUS_OK;
}

/* Heads: their number and width where the file leaves them open. */
static enum status finish_heads(const char *label, struct model_config *out)
{
    if (out->n_kv_heads == 0) {
        out->n_kv_heads = out->n_heads;
    }
    if (out->n_heads % out->n_kv_heads != 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: num_attention_heads %zu is no multiple of num_key_value_heads %zu",
                          label, out->n_heads, out->n_kv_heads);
    }
    if (out->head_dim == 0 && out->hidden_size % out->n_heads != 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: hidden_size %zu is no multiple of num_attention_heads %zu, and "
                          "head_dim is missing",
                          label, out->hidden_size, out->n_heads);
    }
    if (out->head_dim == 0) {
        out->head_dim = out->hidden_size / out->n_heads;
    }
    if (out->head_dim % 2 != 0) {
        return status_set(STATUS_BAD_FORMAT, "%s: head_dim %zu is odd", label, out->head_dim);
    }
    return STATUS_OK;
}

enum status model_config_finish_family(const char *label, struct model_config *out)
{
    const struct model_family_row *row = model_family_row(out->family);

    out->attention = row->attention;
    if (row->attention == MODEL_ATTENTION_MLA) {
        if (out->qk_rope_head_dim % 2 != 0) {
            return status_set(STATUS_BAD_FORMAT, "%s: qk_rope_head_dim %zu is odd", label,
                              out->qk_rope_head_dim);
        }
        if (out->index_n_heads > 0 &&
            (out->q_lora_rank == 0 || out->index_head_dim < out->qk_rope_head_dim)) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: an indexer needs q_lora_rank, and index_head_dim (%zu) of at "
                              "least qk_rope_head_dim (%zu)",
                              label, out->index_head_dim, out->qk_rope_head_dim);
        }
        return STATUS_OK;
    }
    out->has_qk_norm = row->has_qk_norm;
    out->has_o_bias = out->has_qkv_bias; /* attention_bias; a family's own are not of o_proj */
    out->has_qkv_bias |= row->has_qkv_bias;
    out->has_softmax_router = true;
    out->n_groups = 1;
    out->top_groups = 1;
    out->moe_layer_freq = 1;
    out->routed_scaling_factor = 1;
    out->norm_topk_prob |= out->family != MODEL_QWEN3_MOE;
    if (out->family == MODEL_MIXTRAL) {
        out->moe_intermediate_size = out->intermediate_size;
    }
    return finish_heads(label, out);
}
