/* Owns the one block that holds every buffer of a policy, and its host arrays. The layout function
 * runs twice: without a base it measures, with a base it assigns. */
#include "model/policy_layout_internal.h"
#include "model/rope_table.h"

/* Everything but the residual stream. */
static void carve_activations(struct carver *c, const struct policy *policy, bool is_moe,
                              size_t gate_up_stride, struct policy_activations *a)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t t = policy->options.max_rows;

    a->normed_in = carve_floats(c, t, s->d_stride);
    a->rstd_in = carve_floats(c, t, 1);
    a->project = carve_floats(c, t, s->project_stride);
    a->q_latent = carve_floats(c, t, s->q_rank_stride);
    a->rstd_q = carve_floats(c, t, s->q_norms);
    a->q = s->has_own_q ? carve_floats(c, t, s->q_stride) : a->project;
    a->latent = carve_floats(c, t, s->kv_rank_stride);
    a->rstd_kv = carve_floats(c, t, s->kv_norms);
    a->q_absorbed = carve_floats(c, t, s->latent_stride);
    a->attended = carve_floats(c, t, s->latent_stride);
    a->lse = carve_floats(c, t, s->heads);
    a->values = carve_floats(c, t, s->value_stride);
    a->normed_mid = carve_floats(c, t, s->d_stride);
    a->rstd_mid = carve_floats(c, t, 1);
    if (s->index_heads > 0) {
        a->index_project = carve_floats(c, t, s->index_stride);
        a->index_mean = carve_floats(c, t, 1);
        a->index_rstd = carve_floats(c, t, 1);
        a->index_key = carve_floats(c, t, s->index_key_stride);
        a->index_q = carve_floats(c, t, s->index_q_stride);
        a->selected = carve(c, t * s->n_selected, sizeof(int32_t));
    }
    a->gate_up = carve_floats(c, t, gate_up_stride);
    if (is_moe) {
        a->scores = carve_floats(c, t, s->n_experts);
        a->route_weights = carve_floats(c, t, s->top_k);
        a->indices = carve(c, t * s->top_k, sizeof(int32_t));
        if (policy->options.is_trainable) {
            a->expert_gate_up = carve_floats(c, t * s->top_k, 2 * s->expert_width);
        }
    }
}

/* A set that serves any layer: the widest of dense and MoE. */
static void carve_shared(struct carver *c, const struct policy *policy,
                         struct policy_activations *a)
{
    const size_t *strides = policy->sizes.gate_up_stride;

    carve_activations(c, policy, policy->config.n_experts > 0,
                      strides[0] > strides[1] ? strides[0] : strides[1], a);
    a->h_mid = carve_floats(c, policy->options.max_rows, policy->sizes.d_stride);
}

/* Every layer's own set, or the same for all, the residual stream running from one to the next. */
static void carve_kept_layers(struct carver *c, struct policy *policy)
{
    const struct model_config *config = &policy->config;
    const size_t n = config->n_layers + config->n_mtp_modules;
    const size_t t = policy->options.max_rows, stride = policy->sizes.d_stride;
    struct policy_activations shared = {.h_mid = NULL};

    if (policy->options.recomputes) {
        carve_shared(c, policy, &shared);
    }
    for (size_t i = 0; i < n; i++) {
        const bool is_moe = model_config_is_moe_layer(config, i);
        struct policy_activations *a = &policy->activations[i];

        if (policy->options.recomputes) {
            *a = shared;
        } else {
            carve_activations(c, policy, is_moe, policy->sizes.gate_up_stride[is_moe], a);
            a->h_mid = carve_floats(c, t, stride);
        }
        a->h_in = i == 0 || i >= config->n_layers ? carve_floats(c, t, stride)
                                                  : policy->activations[i - 1].h_out;
        a->h_out = carve_floats(c, t, stride);
    }
}

/* Without training: one set, and the residual stream in place. */
static void carve_shared_layer(struct carver *c, struct policy *policy)
{
    struct policy_activations *a = &policy->activations[0];

    carve_shared(c, policy, a);
    a->h_in = a->h_mid;
    a->h_out = a->h_mid;
}

struct kv_pages policy_gradient_pages(const struct policy *policy)
{
    const size_t stride = policy->sizes.d_entry_stride;

    return (struct kv_pages){
        .data = policy->grad.d_pages, .entry_stride = stride, .page_stride = stride};
}

static void carve_module(struct carver *c, const struct policy *policy,
                         struct policy_mtp_module *module)
{
    const size_t t = policy->options.max_rows, stride = policy->sizes.d_stride;

    module->embedded = carve_floats(c, t, stride);
    module->hidden = carve_floats(c, t, stride);
    module->rstd_e = carve_floats(c, t, 1);
    module->rstd_h = carve_floats(c, t, 1);
    module->input = carve_floats(c, t, policy_stride(2 * policy->sizes.d));
    module->normed = carve_floats(c, t, stride);
    module->rstd = carve_floats(c, t, 1);
    module->tokens = carve_ids(c, t);
    module->positions = carve_ids(c, t);
    module->rows = carve_ids(c, t);
    module->target_rows = carve_ids(c, t);
    module->targets = carve_ids(c, t);
}

static void carve_mtp(struct carver *c, struct policy *policy)
{
    for (size_t i = 0; i < policy->config.n_mtp_modules; i++) {
        carve_module(c, policy, &policy->modules[i]);
    }
    if (!policy->options.is_trainable) {
        policy->trunk_out = carve_floats(c, policy->options.max_rows, policy->sizes.d_stride);
    }
}

/* What is filled once: policy_rest leaves it alone, as it lies in front. */
static void carve_lasting(struct carver *c, struct policy *policy)
{
    const size_t pairs = policy->config.max_positions * (policy->sizes.rope / 2);

    policy->cos_table = carve_floats(c, pairs, 1);
    policy->sin_table = carve_floats(c, pairs, 1);
    policy->identity = carve_ids(c, policy->options.max_rows);
    policy->lasting_bytes = c->used;
}

/* Inputs, head and what is used in passing. */
static void carve_common(struct carver *c, struct policy *policy)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t t = policy->options.max_rows;
    const size_t widest = s->ffn_width[0] > s->ffn_width[1] ? s->ffn_width[0] : s->ffn_width[1];

    /* Sequences lie one behind the other, so a page number counts entries. */
    policy->pages = policy_batch_form(policy);
    policy->pages.data = carve_floats(c, policy->n_entries, s->batch_entry_stride);
    policy->pages.entry_stride = s->batch_entry_stride;
    policy->pages.page_stride = s->batch_entry_stride;
    policy->ffn_hidden = carve_floats(c, t, policy_stride(widest));
    policy->router_logits = carve_floats(c, t, s->n_experts);
    policy->normed = carve_floats(c, t, s->d_stride);
    policy->rstd_final = carve_floats(c, t, 1);
    policy->head_x = carve_floats(c, policy->head_rows, s->d_stride);
    policy->logp = carve_floats(c, policy->head_rows, 1);
    policy->entropy = carve_floats(c, policy->head_rows, 1);
    policy->lse = carve_floats(c, policy->head_rows, 1);
    policy->logits = carve_floats(c, policy->logit_rows, policy_stride(policy->config.vocab_size));
    policy->tokens = carve_ids(c, t);
    policy->positions = carve_ids(c, t);
    policy->target_rows = carve_ids(c, policy->head_rows);
    policy->targets = carve_ids(c, t);
    policy->draws = carve(c, policy->logit_rows, sizeof(struct sample_row));
    policy->drawn = carve_ids(c, policy->logit_rows);
}

static void carve_all(struct carver *c, struct policy *policy)
{
    carve_lasting(c, policy);
    carve_common(c, policy);
    if (policy->options.is_trainable) {
        carve_kept_layers(c, policy);
        policy_carve_gradients(c, policy);
    } else {
        carve_shared_layer(c, policy);
    }
    if (policy->config.n_mtp_modules > 0) {
        carve_mtp(c, policy);
    }
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static enum status create_module_arrays(size_t t, struct policy_mtp_module *module)
{
    TRY(memory_alloc(2 * t, sizeof(struct kv_span), &module->spans));
    TRY(memory_alloc(t, sizeof(uint32_t), &module->uses));
    TRY(memory_alloc(t, sizeof(int32_t), &module->of_row));
    return memory_alloc(2 * t, sizeof(int32_t), &module->host_targets);
}

static enum status create_counters(struct policy *policy)
{
    policy->n_moe_layers = model_config_moe_layers(&policy->config);
    TRY(memory_alloc(policy->n_moe_layers, sizeof(int32_t), &policy->moe_layers));
    return memory_alloc(policy->n_moe_layers * policy->sizes.n_experts, sizeof(uint32_t),
                        &policy->counts);
}

static enum status create_index_losses(struct policy *policy)
{
    if (policy->sizes.index_heads == 0 || !policy->options.is_trainable) {
        return STATUS_OK;
    }
    TRY(memory_alloc(policy->config.n_layers + policy->config.n_mtp_modules, sizeof(double),
                     &policy->indexer_losses));
    return memory_alloc(policy->options.max_rows, sizeof(float), &policy->host_index_losses);
}

static enum status create_host_arrays(struct policy *policy)
{
    const size_t t = policy->options.max_rows;
    const size_t nt = (1 + policy->config.n_mtp_modules) * t;

    TRY(memory_alloc(t + policy->n_entries / KV_BLOCK_TOKENS, sizeof(int32_t), &policy->blocks));
    TRY(memory_alloc(t, sizeof(uint32_t), &policy->uses));
    TRY(memory_alloc(t, sizeof(int32_t), &policy->host_tokens));
    TRY(memory_alloc(2 * t, sizeof(int32_t), &policy->host_targets));
    TRY(memory_alloc(nt, sizeof(int32_t), &policy->host_merge));
    TRY(memory_alloc(2 * t, sizeof(struct kv_span), &policy->spans));
    TRY(memory_alloc(largest(largest(4 * t, 2 * nt), t * policy->sizes.top_k), sizeof(int32_t),
                     &policy->staging));
    return memory_alloc(policy->logit_rows, sizeof(float), &policy->host_values);
}

/* Those of parts that not every model has. */
static enum status create_part_arrays(struct policy *policy)
{
    if (policy_draft_modules(policy) > 0) {
        TRY(memory_alloc(policy->options.max_rows, sizeof(struct sample_row), &policy->host_draws));
    }
    for (size_t i = 0; i < policy->config.n_mtp_modules; i++) {
        TRY(create_module_arrays(policy->options.max_rows, &policy->modules[i]));
    }
    TRY(create_index_losses(policy));
    return create_counters(policy);
}

static void fill_host_arrays(struct policy *policy)
{
    const size_t n_layers = policy->config.n_layers + policy->config.n_mtp_modules;
    size_t n = 0;

    for (size_t i = 0; i < policy->options.max_rows; i++) {
        policy->blocks[i] = (int32_t)i;
    }
    for (size_t i = 0; i < n_layers; i++) {
        if (model_config_is_moe_layer(&policy->config, i)) {
            policy->moe_layers[n] = (int32_t)i;
            n++;
        }
    }
}

/* Rotary angles, through host memory. */
static enum status fill_rope(struct policy *policy)
{
    const struct backend_ops *ops = policy->backend->ops;
    const size_t n = policy->config.max_positions * (policy->sizes.rope / 2);
    float *tables;
    enum status status;

    TRY(memory_alloc(2 * n, sizeof(float), &tables));
    rope_table_fill(&policy->config, policy->config.max_positions, tables, tables + n);
    status = ops->upload(policy->backend, policy->cos_table, tables, n * sizeof(float));
    if (status == STATUS_OK) {
        status = ops->upload(policy->backend, policy->sin_table, tables + n, n * sizeof(float));
    }
    memory_free(tables);
    return status;
}

enum status policy_layout_measure(struct policy *policy)
{
    const struct policy_options *options = &policy->options;
    const size_t n_modules = policy->config.n_mtp_modules, n_heads = 1 + n_modules;
    /* Training draws the tokens of modules, else its logits are but looked at. */
    const size_t n_logits = options->is_trainable && n_modules == 0 ? 8 : 64;
    struct carver carver = {.base = NULL};

    policy->n_entries = options->max_entries == 0 ? options->max_rows : options->max_entries;
    policy->head_rows = largest(n_heads * options->max_rows, options->max_draws);
    policy->logit_rows =
        largest(options->max_draws, options->max_rows < n_logits ? options->max_rows : n_logits);
    carve_all(&carver, policy);
    if (carver.has_overflow) {
        return status_set(STATUS_NO_MEMORY, "buffers for %zu rows overflow a size",
                          options->max_rows);
    }
    policy->buffer_bytes = carver.used;
    return STATUS_OK;
}

enum status policy_layout_create(struct policy *policy)
{
    struct carver carver = {.base = NULL};

    TRY(create_host_arrays(policy));
    TRY(create_part_arrays(policy));
    fill_host_arrays(policy);
    TRY(policy->backend->ops->alloc(policy->backend, policy->buffer_bytes, 1, &policy->buffers));
    carver.base = policy->buffers;
    carve_all(&carver, policy);
    TRY(policy_upload_rows(policy, policy->identity, policy->blocks, policy->options.max_rows));
    return fill_rope(policy);
}
