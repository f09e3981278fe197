/* Owns the policy object: creation, loading, accessors, router bias. */
#include "model/policy.h"

#include "base/memory.h"
#include "model/policy_part_internal.h"

#include <stdio.h>
#include <string.h>

static enum status create_weights(struct policy *policy)
{
    const struct backend_ops *ops = policy->backend->ops;

    TRY(policy_weights_create(policy));
    if (policy->options.is_trainable) {
        TRY(ops->alloc(policy->backend, policy->table->n_floats, sizeof(float),
                       &policy->gradients));
    }
    return policy_tied_create(policy);
}

/* All that says how large things are. */
static enum status create_shape(struct policy *policy)
{
    const size_t n_layers = policy->config.n_layers + policy->config.n_mtp_modules;

    policy_sizes_fill(policy);
    TRY(weight_table_create(&policy->config, &policy->table));
    TRY(memory_alloc(n_layers, sizeof(struct policy_layer), &policy->layers));
    TRY(memory_alloc(policy->config.n_mtp_modules, sizeof(struct policy_mtp_module),
                     &policy->modules));
    TRY(memory_alloc(policy_n_activations(policy), sizeof(struct policy_activations),
                     &policy->activations));
    policy_packs_measure(policy);
    return policy_layout_measure(policy);
}

static enum status create_parts(struct policy *policy)
{
    TRY(create_shape(policy));
    TRY(create_weights(policy));
    TRY(policy_packs_create(policy));
    TRY(policy_parts_create(policy));
    return policy_layout_create(policy);
}

/* Weights, gradients and packed copies have an address, and nothing behind it. */
static enum status create_hollow_parts(struct policy *policy)
{
    TRY(create_shape(policy));
    TRY(policy_parts_create(policy));
    TRY(policy_layout_create(policy));
    policy->weights = policy->buffers;
    policy->gradients = policy->buffers;
    policy->is_hollow = true;
    policy_packs_place(policy, policy->buffers);
    return STATUS_OK;
}

static void compose_numerics(struct policy *policy)
{
    static const char *const cache_ids[] = {
        [PRECISION_F32] = "", [PRECISION_BF16] = "/kv-bf16", [PRECISION_FP8] = "/kv-fp8"};
    const enum precision precision = policy->options.precision;
    const bool is_fp8 = precision == PRECISION_FP8;
    const bool has_bf16_head = is_fp8 && policy_unquantised(policy) == PRECISION_BF16;
    const bool is_latent = policy->config.attention == MODEL_ATTENTION_MLA;

    (void)snprintf(policy->numerics, sizeof(policy->numerics), "%s%s%s%s%s",
                   policy->backend->numerics_ids[precision], has_bf16_head ? "/head-bf16" : "",
                   is_fp8 && policy->options.has_float_scales ? "/scales-f32" : "",
                   is_latent && policy->options.is_expanded ? "/expanded" : "",
                   cache_ids[policy->options.cache]);
}

static enum status check_options(const struct model_config *config,
                                 const struct policy_options *options)
{
    if (options->max_rows == 0 || options->max_rows > (size_t)INT32_MAX / 4) {
        return status_set(STATUS_BAD_ARGUMENT, "max_rows is %zu, want 1 to %d", options->max_rows,
                          INT32_MAX / 4);
    }
    if (options->unquantised == PRECISION_FP8) {
        return status_set(STATUS_BAD_ARGUMENT, "what FP8 leaves unquantised is fp32 or bf16");
    }
    if (options->cache == PRECISION_FP8 && options->is_expanded &&
        config->attention == MODEL_ATTENTION_MLA) {
        return status_set(STATUS_UNSUPPORTED, "expanded latent attention has no FP8 cache");
    }
    if (options->is_trainable && options->drops_weights) {
        return status_set(STATUS_BAD_ARGUMENT, "a policy that learns keeps its weights");
    }
    return STATUS_OK;
}

static enum status create(struct backend *backend, const struct model_config *config,
                          const struct policy_options *options,
                          enum status (*parts)(struct policy *policy), struct policy **out)
{
    struct policy *policy;
    enum status status;

    *out = NULL;
    TRY(check_options(config, options));
    TRY(memory_alloc(1, sizeof(*policy), &policy));
    policy->backend = backend;
    policy->config = *config;
    policy->options = *options;
    compose_numerics(policy);
    status = parts(policy);
    if (status != STATUS_OK) {
        policy_destroy(policy);
        return status;
    }
    *out = policy;
    return STATUS_OK;
}

enum status policy_create(struct backend *backend, const struct model_config *config,
                          const struct policy_options *options, struct policy **out)
{
    return create(backend, config, options, create_parts, out);
}

enum status policy_create_hollow(struct backend *backend, const struct model_config *config,
                                 const struct policy_options *options, struct policy **out)
{
    return create(backend, config, options, create_hollow_parts, out);
}

enum status policy_load(struct backend *backend, const char *dir,
                        const struct policy_options *options, struct policy **out)
{
    struct model_config config;
    struct policy *policy = NULL;
    enum status status;

    *out = NULL;
    TRY(model_config_load(dir, &config));
    TRY(weights_probe_mtp(dir, &config));
    status = policy_create(backend, &config, options, &policy);
    if (status == STATUS_OK && policy != NULL) {
        status = weights_load(dir, policy->table, policy->weights);
    }
    if (status == STATUS_OK && policy != NULL) {
        status = policy_refresh(policy);
    }
    if (status != STATUS_OK) {
        policy_destroy(policy);
        return status;
    }
    *out = policy;
    return STATUS_OK;
}

static void release_device(struct policy *policy)
{
    const struct backend_ops *ops = policy->backend->ops;

    ops->release(policy->backend, policy->buffers);
    policy_tied_destroy(policy);
    if (!policy->is_hollow) {
        ops->release(policy->backend, policy->gradients);
    }
    policy_weights_destroy(policy);
}

static void destroy_module_arrays(struct policy *policy)
{
    for (size_t i = 0; policy->modules != NULL && i < policy->config.n_mtp_modules; i++) {
        memory_free(policy->modules[i].spans);
        memory_free(policy->modules[i].uses);
        memory_free(policy->modules[i].of_row);
        memory_free(policy->modules[i].host_targets);
    }
}

static void destroy_shape(struct policy *policy)
{
    memory_free(policy->activations);
    memory_free(policy->modules);
    memory_free(policy->layers);
    weight_table_destroy(policy->table);
}

void policy_destroy(struct policy *policy)
{
    if (policy == NULL) {
        return;
    }
    policy_balance_destroy(policy);
    policy_parts_destroy(policy);
    release_device(policy);
    destroy_module_arrays(policy);
    memory_free(policy->host_draws);
    memory_free(policy->host_index_losses);
    memory_free(policy->indexer_losses);
    memory_free(policy->host_values);
    memory_free(policy->counts);
    memory_free(policy->moe_layers);
    memory_free(policy->host_merge);
    memory_free(policy->host_targets);
    memory_free(policy->host_tokens);
    memory_free(policy->staging);
    memory_free(policy->uses);
    memory_free(policy->blocks);
    memory_free(policy->spans);
    memory_free(policy->packs);
    destroy_shape(policy);
    memory_free(policy);
}

const struct model_config *policy_config(const struct policy *policy)
{
    return &policy->config;
}

const struct weight_table *policy_table(const struct policy *policy)
{
    return policy->table;
}

const char *policy_numerics(const struct policy *policy)
{
    return policy->numerics;
}

float *policy_weights(struct policy *policy)
{
    return policy->weights;
}

float *policy_gradients(struct policy *policy)
{
    policy->is_cleared = false; /* whoever asks may write */
    return policy->gradients;
}

void policy_set_mtp_input(struct policy *policy, bool is_pre_norm)
{
    policy->config.has_pre_norm_mtp = is_pre_norm;
}

bool policy_recomputes(const struct policy *policy)
{
    return policy->options.is_trainable && policy->options.recomputes;
}

struct policy_memory policy_memory(const struct policy *policy)
{
    size_t arriving = 0;
    const size_t weights = policy_float_bytes(policy, &arriving);
    const size_t tied = policy_tied_slots(policy) * policy->sizes.d * sizeof(float);

    return (struct policy_memory){
        .weights = weights,
        .packed = policy->packed_words * sizeof(float),
        .gradients = policy->options.is_trainable ? weights + tied : 0,
        .activations = policy->buffer_bytes,
        .arriving = arriving,
        .cache_page = policy_cache_page_bytes(policy),
        .resting = policy_resting_bytes(policy),
    };
}

enum status policy_measure(const struct model_config *config, const struct policy_options *options,
                           struct policy_memory *out)
{
    struct policy policy = {.config = *config, .options = *options};
    const enum status status = create_shape(&policy);

    if (status == STATUS_OK) {
        *out = policy_memory(&policy);
    }
    destroy_shape(&policy);
    return status;
}

struct policy_activations *policy_activations_of(struct policy *policy, size_t layer)
{
    return &policy->activations[policy->options.is_trainable ? layer : 0];
}

enum status policy_copy_rows(struct policy *policy, const float *src, float *dst, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    if (src == dst) {
        return STATUS_OK;
    }
    return policy->backend->ops->gather_rows(policy->backend,
                                             &(struct rows_args){.src = src,
                                                                 .src_stride = s->d_stride,
                                                                 .rows = policy->identity,
                                                                 .dst = dst,
                                                                 .dst_stride = s->d_stride,
                                                                 .n_rows = n_rows,
                                                                 .d = s->d});
}

enum status policy_upload_rows(struct policy *policy, int32_t *device, const int32_t *host,
                               size_t n)
{
    if (n == 0) {
        return STATUS_OK;
    }
    return policy->backend->ops->upload(policy->backend, device, host, n * sizeof(int32_t));
}

enum status policy_check_tokens(const struct policy *policy, const char *what,
                                const int32_t *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || (size_t)tokens[i] >= policy->config.vocab_size) {
            return status_set(STATUS_BAD_ARGUMENT, "%s %zu is %d, the vocabulary has %zu", what, i,
                              (int)tokens[i], policy->config.vocab_size);
        }
    }
    return STATUS_OK;
}

size_t policy_moe_layers(const struct policy *policy, const int32_t **layers)
{
    *layers = policy->moe_layers;
    return policy->n_moe_layers;
}

enum status policy_count_experts(struct policy *policy, size_t moe_index,
                                 const struct policy_activations *a,
                                 const struct policy_block_rows *rows)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t n = rows->n_rows * s->top_k;
    uint32_t *counts = policy->counts + moe_index * s->n_experts;

    TRY(policy->backend->ops->download(policy->backend, policy->staging, a->indices,
                                       n * sizeof(int32_t)));
    for (size_t i = 0; i < n; i++) {
        counts[policy->staging[i]] += rows->uses[i / s->top_k];
    }
    return STATUS_OK;
}

void policy_expert_counts(const struct policy *policy, uint32_t *counts)
{
    for (size_t i = 0; i < policy->n_moe_layers * policy->sizes.n_experts; i++) {
        counts[i] += policy->counts[i];
    }
}

void policy_update_router_bias(struct policy *policy, const uint32_t *counts, float gamma)
{
    const size_t n = policy->sizes.n_experts;

    for (size_t i = 0; i < policy->n_moe_layers && !policy->config.has_softmax_router; i++) {
        const uint32_t *load = counts + i * n;
        float *bias = policy->weights + policy->layers[policy->moe_layers[i]].router_bias;
        uint64_t total = 0;

        for (size_t j = 0; j < n; j++) {
            total += load[j];
        }
        for (size_t j = 0; j < n; j++) { /* against the mean, in whole numbers */
            const uint64_t scaled = (uint64_t)load[j] * n;

            bias[j] += scaled < total ? gamma : scaled > total ? -gamma : 0.0f;
        }
    }
}
