#include "model/model_cost.h"

#include <math.h>

static double smaller_of(double a, double b)
{
    return a < b ? a : b;
}

/* Multiply-adds of attention for one key, a layer. */
static double products_a_key(const struct model_config *c, bool is_cached)
{
    const double heads = (double)c->n_heads;
    const double own = c->attention == MODEL_ATTENTION_MLA
                           ? (double)(c->qk_nope_head_dim + c->qk_rope_head_dim + c->v_head_dim)
                           : 2.0 * (double)c->head_dim;

    if (c->attention != MODEL_ATTENTION_MLA) {
        return heads * own;
    }
    const double absorbed = (double)(2 * c->kv_lora_rank + c->qk_rope_head_dim);
    return heads * (is_cached ? absorbed : smaller_of(own, absorbed));
}

/* Multiply-adds of attention over n_keys keys, a layer. */
static double attention_products(const struct model_config *c, double n_keys, bool is_cached)
{
    if (c->index_n_heads == 0) {
        return n_keys * products_a_key(c, is_cached);
    }
    return n_keys * (double)(c->index_n_heads * c->index_head_dim) +
           smaller_of(n_keys, (double)c->index_topk) * products_a_key(c, true);
}

double model_forward_flops(const struct model_config *config, double n_keys, bool is_cached,
                           bool with_head)
{
    const double head = (double)(config->vocab_size * config->hidden_size);
    const double active = (double)model_config_active_parameters(config);

    return 2.0 * (active - (with_head ? 0.0 : head) +
                  (double)config->n_layers * attention_products(config, n_keys, is_cached));
}

static double mean_of(double sum, double n)
{
    return n > 0 ? sum / n : 0;
}

static double head_flops(const struct model_config *config, double n_heads)
{
    return 2.0 * n_heads * (double)(config->vocab_size * config->hidden_size);
}

double model_work_flops(const struct model_config *config, const struct model_work *work,
                        bool is_cached)
{
    const double n_keys = mean_of(work->n_keys, work->n_rows);

    return work->n_rows * model_forward_flops(config, n_keys, is_cached, false) +
           head_flops(config, work->n_heads);
}

double model_module_flops(const struct model_config *config, const struct model_work *work,
                          bool is_cached)
{
    const double n_keys = mean_of(work->n_keys, work->n_rows);
    const double parameters = (double)model_config_active_module_parameters(config);

    return 2.0 * work->n_rows * (parameters + attention_products(config, n_keys, is_cached)) +
           head_flops(config, work->n_heads);
}

double model_span_keys(size_t n_cached, size_t n_new)
{
    const double n = (double)n_new;

    return n * (double)n_cached + n * (n + 1) / 2;
}

double model_weight_bytes(const struct model_config *config, size_t n_rows, size_t value_bytes,
                          size_t head_bytes)
{
    const double head = (double)(config->vocab_size * config->hidden_size);
    double n = (double)model_config_active_parameters(config) - head;
    const double expert = 3.0 * (double)(config->hidden_size * config->moe_intermediate_size);
    const double n_experts = (double)config->n_experts;
    const double n_taken = (double)config->experts_per_token;

    for (size_t i = 0; i < config->n_layers; i++) {
        if (model_config_is_moe_layer(config, i)) {
            const double missed = pow(1.0 - n_taken / n_experts, (double)n_rows);
            n += expert * (n_experts * (1.0 - missed) - n_taken);
        }
    }
    return n * (double)value_bytes + head * (double)head_bytes;
}

/* Bytes of n_groups times `width` values, which an FP8 cache holds as codes with a scale a tile. */
static double coded_bytes(size_t n_groups, size_t width, enum precision cache)
{
    const size_t n_tiles = (width + FP8_BLOCK - 1) / FP8_BLOCK;

    switch (cache) {
    case PRECISION_FP8:
        return (double)(n_groups * (width + n_tiles));
    case PRECISION_BF16:
        return (double)(n_groups * width * sizeof(uint16_t));
    case PRECISION_F32:
        break;
    }
    return (double)(n_groups * width * sizeof(float));
}

double model_cache_bytes(const struct model_config *config, double n_keys, enum precision cache)
{
    const double plain = (double)(cache == PRECISION_F32 ? sizeof(float) : sizeof(uint16_t));
    const double entry =
        config->attention == MODEL_ATTENTION_MLA
            ? coded_bytes(1, config->kv_lora_rank, cache) + plain * (double)config->qk_rope_head_dim
            : coded_bytes(2 * config->n_kv_heads, config->head_dim, cache);
    const double index = config->index_n_heads > 0 ? plain * (double)config->index_head_dim : 0.0;
    const double n_read =
        config->index_n_heads > 0 ? smaller_of(n_keys, (double)config->index_topk) : n_keys;

    return (double)config->n_layers * (n_read * entry + n_keys * index);
}
