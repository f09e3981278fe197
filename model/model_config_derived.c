/* Owns what follows from a configuration: which layers have experts, scale, counts. */
#include "model/model_config_internal.h"

#include <math.h>

bool model_config_is_moe_layer(const struct model_config *config, size_t layer)
{
    if (config->n_experts == 0) {
        return false;
    }
    if (layer >= config->n_layers) {
        return true;
    }
    return layer >= config->first_dense_layers && layer % config->moe_layer_freq == 0 &&
           !model_config_is_set_dense(config, layer);
}

size_t model_config_moe_layers(const struct model_config *config)
{
    size_t n = 0;

    for (size_t i = 0; i < config->n_layers + config->n_mtp_modules; i++) {
        n += model_config_is_moe_layer(config, i);
    }
    return n;
}

bool model_config_is_eos(const struct model_config *config, int32_t token)
{
    for (size_t i = 0; i < config->n_eos_ids; i++) {
        if (config->eos_ids[i] == token) {
            return true;
        }
    }
    return false;
}

/* V2's checkpoint code normalises more than one weight instead of scaling them; the standard
 * routers of Mixtral and Qwen3-MoE make of a lone weight a 1. */
bool model_config_normalises_routes(const struct model_config *config)
{
    const bool is_v2_router =
        config->has_softmax_router && config->attention == MODEL_ATTENTION_MLA;

    return config->norm_topk_prob && (!is_v2_router || config->experts_per_token > 1);
}

double model_config_route_scale(const struct model_config *config)
{
    return config->has_softmax_router && model_config_normalises_routes(config)
               ? 1
               : config->routed_scaling_factor;
}

size_t model_config_rope_dim(const struct model_config *config)
{
    return config->attention == MODEL_ATTENTION_MLA ? config->qk_rope_head_dim : config->head_dim;
}

size_t model_config_kv_floats(const struct model_config *config)
{
    const size_t entry = config->attention == MODEL_ATTENTION_MLA
                             ? config->kv_lora_rank + config->qk_rope_head_dim
                             : 2 * config->n_kv_heads * config->head_dim;
    const size_t index_key = config->index_n_heads > 0 ? config->index_head_dim : 0;

    return config->n_layers * (entry + index_key);
}

float model_config_attention_scale(const struct model_config *config)
{
    const struct rope_scaling *rope = &config->rope;
    double factor = 1;

    if (config->attention == MODEL_ATTENTION_GQA) {
        return (float)(1 / sqrt((double)config->head_dim));
    }
    /* Of every kind of scaling (model.md 5.2), not of YaRN alone. */
    if (rope->kind != ROPE_PLAIN && rope->mscale_all_dim != 0 && rope->factor > 1) {
        factor = 0.1 * rope->mscale_all_dim * log(rope->factor) + 1;
    }
    return (float)(factor * factor /
                   sqrt((double)(config->qk_nope_head_dim + config->qk_rope_head_dim)));
}

/* MLA without norms of the block. */
static size_t latent_parameters(const struct model_config *c)
{
    const size_t q_dim = c->n_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    const size_t q =
        c->q_lora_rank > 0 ? c->q_lora_rank * (c->hidden_size + q_dim + 1) : c->hidden_size * q_dim;
    const size_t biases = c->has_attention_bias ? c->q_lora_rank + c->kv_lora_rank +
                                                      c->qk_rope_head_dim + c->hidden_size
                                                : 0;
    const size_t indexer =
        c->index_n_heads > 0
            ? c->index_n_heads * (c->index_head_dim * c->q_lora_rank + c->hidden_size) +
                  c->index_head_dim * (c->hidden_size + 2)
            : 0;

    return q + biases + indexer + c->hidden_size * (c->kv_lora_rank + c->qk_rope_head_dim) +
           c->kv_lora_rank + c->kv_lora_rank * c->n_heads * (c->qk_nope_head_dim + c->v_head_dim) +
           c->n_heads * c->v_head_dim * c->hidden_size;
}

/* The same of GQA. */
static size_t grouped_parameters(const struct model_config *c)
{
    const size_t q_dim = c->n_heads * c->head_dim, kv_dim = 2 * c->n_kv_heads * c->head_dim;

    return (2 * q_dim + kv_dim) * c->hidden_size + (c->has_qkv_bias ? q_dim + kv_dim : 0) +
           (c->has_o_bias ? c->hidden_size : 0) + (c->has_qk_norm ? 2 * c->head_dim : 0);
}

/* Attention and norms of one layer. */
static size_t attention_parameters(const struct model_config *c)
{
    return 2 * c->hidden_size +
           (c->attention == MODEL_ATTENTION_MLA ? latent_parameters(c) : grouped_parameters(c));
}

/* Feed-forward part with n_routed of the experts counted; router included. */
static size_t ffn_parameters(const struct model_config *c, size_t layer, size_t n_routed)
{
    if (!model_config_is_moe_layer(c, layer)) {
        return 3 * c->hidden_size * c->intermediate_size;
    }
    return (n_routed + c->n_shared_experts) * 3 * c->hidden_size * c->moe_intermediate_size +
           c->n_experts * (c->hidden_size + (c->has_softmax_router ? 0 : 1));
}

size_t model_config_parameters(const struct model_config *config)
{
    const size_t n_tables = config->has_tied_head ? 1 : 2;
    size_t n = n_tables * config->vocab_size * config->hidden_size + config->hidden_size;

    for (size_t i = 0; i < config->n_layers + config->n_mtp_modules; i++) {
        n += attention_parameters(config) + ffn_parameters(config, i, config->n_experts);
    }
    /* enorm, hnorm, shared_head.norm, eh_proj */
    return n + config->n_mtp_modules * (3 + 2 * config->hidden_size) * config->hidden_size;
}

size_t model_config_active_module_parameters(const struct model_config *config)
{
    return attention_parameters(config) +
           ffn_parameters(config, config->n_layers, config->experts_per_token) +
           (3 + 2 * config->hidden_size) * config->hidden_size;
}

size_t model_config_active_parameters(const struct model_config *config)
{
    size_t n = config->vocab_size * config->hidden_size + config->hidden_size;

    for (size_t i = 0; i < config->n_layers; i++) {
        n += attention_parameters(config) + ffn_parameters(config, i, config->experts_per_token);
    }
    return n;
}
