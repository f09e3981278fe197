/* Owns the sizes of a policy: widths and strides of its rows, and the form of cache entries. */
#include "model/policy_attention_internal.h"

size_t policy_stride(size_t n)
{
    const size_t padded = (n + 15) / 16 * 16;

    return padded > 0 && padded % 1024 == 0 ? padded + 16 : padded;
}

size_t policy_next_panel(size_t n)
{
    return (n + PANEL_COLUMNS - 1) / PANEL_COLUMNS * PANEL_COLUMNS;
}

/* Whether a layer, an MTP module's included, has a dense MLP. */
static bool has_dense_layer(const struct model_config *config)
{
    return model_config_moe_layers(config) < config->n_layers + config->n_mtp_modules;
}

static size_t whole_lines(size_t n_words)
{
    return (n_words + 15) / 16 * 16;
}

static struct kv_pages pages_form(const struct policy *policy, enum precision precision)
{
    const bool is_coded = policy->options.cache == PRECISION_FP8;

    return (struct kv_pages){.precision = precision,
                             .n_coded = is_coded ? policy->sizes.n_coded : 0,
                             .coded_group = is_coded ? policy->sizes.coded_group : 0};
}

struct kv_pages policy_cache_form(const struct policy *policy)
{
    return pages_form(policy, policy->options.cache);
}

struct kv_pages policy_batch_form(const struct policy *policy)
{
    return pages_form(policy,
                      policy->options.cache == PRECISION_F32 ? PRECISION_F32 : PRECISION_BF16);
}

/* Entries of an FP8 cache lie without gaps: they are often not much longer than a line. */
static void fill_entry_strides(struct policy *policy)
{
    struct policy_sizes *s = &policy->sizes;
    const struct kv_pages cache = policy_cache_form(policy);
    const struct kv_pages batch = policy_batch_form(policy);
    const size_t n_words = kv_entry_words(&cache, s->entry_dim);

    s->d_entry_stride = whole_lines(s->entry_dim);
    s->batch_entry_stride = whole_lines(kv_entry_words(&batch, s->entry_dim));
    s->entry_stride = cache.precision == PRECISION_FP8 ? n_words : whole_lines(n_words);
    s->page_stride = s->entry_stride * KV_BLOCK_TOKENS;
}

void policy_sizes_fill(struct policy *policy)
{
    const struct model_config *config = &policy->config;
    struct policy_sizes s = {.d = config->hidden_size,
                             .heads = config->n_heads,
                             .n_experts = config->n_experts,
                             .top_k = config->n_experts > 0 ? config->experts_per_token : 0,
                             .expert_width = config->moe_intermediate_size};

    policy_attention_of(policy)->sizes(config, &s);
    s.d_stride = policy_stride(s.d);
    s.project_stride = policy_stride(s.project);
    s.q_rank_stride = policy_stride(s.q_rank);
    s.q_stride = s.has_own_q ? policy_stride(s.q_columns) : s.project_stride;
    s.kv_rank_stride = policy_stride(s.kv_rank);
    s.latent_stride = policy_stride(s.latent_dim);
    s.value_stride = policy_stride(s.value_dim);
    s.ffn_width[0] = has_dense_layer(config) ? config->intermediate_size : 0;
    s.ffn_width[1] = config->n_shared_experts * config->moe_intermediate_size;
    for (size_t i = 0; i < 2; i++) {
        s.ffn_up_at[i] = policy_next_panel(s.ffn_width[i]);
        s.gate_up_stride[i] = policy_stride(s.ffn_up_at[i] + s.ffn_width[i]);
    }
    policy->sizes = s;
    fill_entry_strides(policy);
}
