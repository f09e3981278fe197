/* Owns writing of config.json in the released style of its family. */
#include "model/model_config.h"

#include "base/file.h"
#include "base/memory.h"
#include "model/model_config_internal.h"

#include <string.h>

void model_config_put(struct json *object, const char *key, struct json *value, enum status *status)
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

/* Keys with a fixed value, so that other programs take the file for what it is. */
static void put_fixed(struct json *root, enum status *status)
{
    model_config_put(root, "attention_dropout", json_from_number(0), status);
    model_config_put(root, "hidden_act", text_value("silu"), status);
    model_config_put(root, "torch_dtype", text_value("float32"), status);
    model_config_put(root, "use_cache", json_from_bool(true), status);
}

/* The class, and what tells it from its neighbours. */
static void put_class(struct json *root, const struct model_config *config, enum status *status)
{
    const struct model_family_row *family = model_family_row(config->family);
    struct json *architectures = json_array_create();
    const enum status appended = json_append(architectures, text_value(family->architecture));

    *status = *status == STATUS_OK ? appended : *status;
    model_config_put(root, "architectures", architectures, status);
    model_config_put(root, "model_type", text_value(family->model_type), status);
}

/* The router's names, and heads as other programs want them. */
static void put_latent(struct json *root, const struct model_config *config, enum status *status)
{
    const bool is_softmax = config->has_softmax_router;

    model_config_put(root, "scoring_func", text_value(is_softmax ? "softmax" : "sigmoid"), status);
    model_config_put(root, "topk_method",
                     text_value(!is_softmax             ? "noaux_tc"
                                : config->n_groups == 1 ? "greedy"
                                                        : "group_limited_greedy"),
                     status);
    model_config_put(root, "num_key_value_heads", json_from_int((int64_t)config->n_heads), status);
    if (config->q_lora_rank == 0) {
        model_config_put(root, "q_lora_rank", json_null_create(), status);
    }
    if (config->has_pre_norm_mtp) { /* hone's own key: only when it matters */
        model_config_put(root, "mtp_input", text_value("pre_norm"), status);
    }
}

/* Fields of which another program would not know the key, written only when they matter. */
static bool is_left_out(const struct model_field *field, const struct model_config *config)
{
    return (field->offset == offsetof(struct model_config, latent_norm_eps) &&
            config->latent_norm_eps == field->otherwise) ||
           (field->offset == offsetof(struct model_config, index_rope_interleave) &&
            !config->index_rope_interleave);
}

static void put_fields(struct json *root, const struct model_config *config, enum status *status)
{
    for (size_t i = 0; i < n_model_fields; i++) {
        if (model_field_is_of(&model_fields[i], config->family) &&
            !is_left_out(&model_fields[i], config)) {
            model_config_put(root, model_fields[i].key, field_value(&model_fields[i], config),
                             status);
        }
    }
}

enum status model_config_print(const struct model_config *config, struct json **out)
{
    struct json *root = json_object_create();
    enum status status = STATUS_OK;

    *out = NULL;
    put_class(root, config, &status);
    put_fixed(root, &status);
    put_fields(root, config, &status);
    if (config->attention == MODEL_ATTENTION_MLA) {
        put_latent(root, config, &status);
    } else {
        model_config_put(root, "sliding_window", json_null_create(), &status);
    }
    model_config_put_layers(config, root, &status);
    model_config_put(root, "rope_theta", json_from_number(config->rope_theta), &status);
    model_config_put(root, "rope_scaling", model_config_rope_value(&config->rope, &status),
                     &status);
    model_config_put(root, "bos_token_id", id_value(config->bos_id), &status);
    model_config_put(root, "pad_token_id", id_value(config->pad_id), &status);
    model_config_put(root, "eos_token_id", eos_value(config, &status), &status);
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
