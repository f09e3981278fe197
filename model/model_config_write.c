/* Owns writing of config.json, in the released DeepSeek style, and the built-in shapes. */
#include "model/model_config.h"

#include "base/file.h"
#include "base/memory.h"
#include "model/model_config_internal.h"

#include <string.h>

/* Puts value under key, keeping the first failure. */
static void put(struct json *object, const char *key, struct json *value, enum status *status)
{
    const enum status result = json_put(object, key, value);

    if (*status == STATUS_OK) {
        *status = result;
    }
}

static struct json *text_value(const char *text)
{
    return json_from_text(text, strlen(text));
}

static struct json *field_value(const struct model_field *field, const struct model_config *config)
{
    const char *const member = (const char *)config + field->offset;
    size_t size;
    double real;
    bool is_on;

    switch (field->kind) {
    case MODEL_FIELD_SIZE:
        memcpy(&size, member, sizeof(size));
        return json_from_int((int64_t)size);
    case MODEL_FIELD_REAL:
        memcpy(&real, member, sizeof(real));
        return json_from_number(real);
    case MODEL_FIELD_BOOL:
        memcpy(&is_on, member, sizeof(is_on));
        return json_from_bool(is_on);
    }
    return NULL;
}

static struct json *id_value(int32_t id)
{
    return id < 0 ? json_null_create() : json_from_int(id);
}

static struct json *eos_value(const struct model_config *config, enum status *status)
{
    struct json *list;

    if (config->n_eos_ids <= 1) {
        return id_value(config->n_eos_ids == 0 ? -1 : config->eos_ids[0]);
    }
    list = json_array_create();
    for (size_t i = 0; i < config->n_eos_ids; i++) {
        const enum status result = json_append(list, json_from_int(config->eos_ids[i]));

        *status = *status == STATUS_OK ? result : *status;
    }
    return list;
}

static struct json *rope_value(const struct rope_scaling *rope, enum status *status)
{
    struct json *object;

    if (!rope->is_yarn) {
        return json_null_create();
    }
    object = json_object_create();
    put(object, "type", text_value("yarn"), status);
    put(object, "factor", json_from_number(rope->factor), status);
    put(object, "original_max_position_embeddings",
        json_from_int((int64_t)rope->original_max_positions), status);
    put(object, "beta_fast", json_from_number(rope->beta_fast), status);
    put(object, "beta_slow", json_from_number(rope->beta_slow), status);
    put(object, "mscale", json_from_number(rope->mscale), status);
    put(object, "mscale_all_dim", json_from_number(rope->mscale_all_dim), status);
    if (rope->attention_factor != 0) {
        put(object, "attention_factor", json_from_number(rope->attention_factor), status);
    }
    if (!rope->truncate) {
        put(object, "truncate", json_from_bool(false), status);
    }
    return object;
}

/* Keys with a fixed value, so that other programs take the file for what it is. */
static void put_fixed(struct json *root, enum status *status)
{
    put(root, "attention_dropout", json_from_number(0), status);
    put(root, "hidden_act", text_value("silu"), status);
    put(root, "torch_dtype", text_value("float32"), status);
    put(root, "use_cache", json_from_bool(true), status);
}

/* The class that has this router, and the router's names. */
static void put_class(struct json *root, const struct model_config *config, enum status *status)
{
    const bool is_v2 = config->has_softmax_router;
    struct json *architectures = json_array_create();
    const enum status appended = json_append(
        architectures, text_value(is_v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"));

    *status = *status == STATUS_OK ? appended : *status;
    put(root, "architectures", architectures, status);
    put(root, "model_type", text_value(is_v2 ? "deepseek_v2" : "deepseek_v3"), status);
    put(root, "scoring_func", text_value(is_v2 ? "softmax" : "sigmoid"), status);
    put(root, "topk_method",
        text_value(!is_v2                  ? "noaux_tc"
                   : config->n_groups == 1 ? "greedy"
                                           : "group_limited_greedy"),
        status);
}

/* Fields of which another program would not know the key, written only when they matter. */
static bool is_left_out(const struct model_field *field, const struct model_config *config)
{
    return field->offset == offsetof(struct model_config, latent_norm_eps) &&
           config->latent_norm_eps == field->otherwise;
}

enum status model_config_print(const struct model_config *config, struct json **out)
{
    struct json *root = json_object_create();
    enum status status = STATUS_OK;

    *out = NULL;
    put_class(root, config, &status);
    put_fixed(root, &status);
    if (config->has_pre_norm_mtp) { /* hone's own key: only when it matters */
        put(root, "mtp_input", text_value("pre_norm"), &status);
    }
    for (size_t i = 0; i < n_model_fields; i++) {
        if (!is_left_out(&model_fields[i], config)) {
            put(root, model_fields[i].key, field_value(&model_fields[i], config), &status);
        }
    }
    if (config->q_lora_rank == 0) {
        put(root, "q_lora_rank", json_null_create(), &status);
    }
    put(root, "n_routed_experts",
        config->n_experts == 0 ? json_null_create() : json_from_int((int64_t)config->n_experts),
        &status);
    put(root, "num_key_value_heads", json_from_int((int64_t)config->n_heads), &status);
    put(root, "rope_theta", json_from_number(config->rope_theta), &status);
    put(root, "rope_scaling", rope_value(&config->rope, &status), &status);
    put(root, "bos_token_id", id_value(config->bos_id), &status);
    put(root, "pad_token_id", id_value(config->pad_id), &status);
    put(root, "eos_token_id", eos_value(config, &status), &status);
    if (status != STATUS_OK) {
        json_destroy(root);
        return status;
    }
    *out = root;
    return STATUS_OK;
}

/* Breaks the compact text of a flat object into one line a key (strings here hold no commas). */
static enum status write_lines(const char *path, const char *compact, size_t n)
{
    char *text;
    size_t length = 0, depth = 0;
    enum status status;

    TRY(memory_alloc(4 * n + 2, 1, &text));
    for (size_t i = 0; i < n; i++) {
        const char c = compact[i];

        if (c == '}' && depth == 1) {
            text[length++] = '\n';
        }
        depth += (c == '{' || c == '[');
        depth -= (c == '}' || c == ']');
        text[length++] = c;
        if ((c == '{' && depth == 1) || (c == ',' && depth == 1)) {
            text[length++] = '\n';
            text[length++] = ' ';
            text[length++] = ' ';
        } else if (c == ':' || c == ',') {
            text[length++] = ' ';
        }
    }
    text[length++] = '\n';
    status = file_write_atomic(path, text, length);
    memory_free(text);
    return status;
}

enum status model_config_save(const struct model_config *config, const char *dir)
{
    struct json *root = NULL;
    char *path = NULL;
    char *text = NULL;
    size_t n = 0;
    enum status status = model_config_print(config, &root);

    if (status == STATUS_OK) {
        status = json_print(root, &text, &n);
    }
    if (status == STATUS_OK) {
        status = path_join(dir, "config.json", &path);
    }
    if (status == STATUS_OK) {
        status = write_lines(path, text, n);
    }
    json_destroy(root);
    memory_free(text);
    memory_free(path);
    return status;
}

/* What all built-in shapes share; a preset then sets its sizes. */
static const struct model_config preset_base = {
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

enum status model_config_preset(const char *name, struct model_config *out)
{
    static const struct {
        const char *name;
        void (*fill)(struct model_config *);
    } presets[] = {{"demo", preset_demo}, {"small", preset_small}, {"tiny", preset_tiny}};

    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *out = preset_base;
            presets[i].fill(out);
            return STATUS_OK;
        }
    }
    return status_set(STATUS_BAD_ARGUMENT, "no preset \"%s\"; there are demo, small, tiny", name);
}
