/* Owns which layers have experts, and how many: the keys of config.json for it and the struct's
 * bits (model.md 1.1, 12.2). */
#include "model/model_config_internal.h"

#include <string.h>

#define EXPERTS_MAX 4096

void model_config_set_dense(struct model_config *config, size_t layer)
{
    config->dense_layers[layer / 64] |= (uint64_t)1 << (layer % 64);
}

bool model_config_is_set_dense(const struct model_config *config, size_t layer)
{
    return layer < MODEL_LAYERS_MAX && (config->dense_layers[layer / 64] >> (layer % 64) & 1) != 0;
}

/* A JSON integer, or INT64_MIN for anything else. */
static int64_t whole_number(const struct json *value)
{
    return json_is(value, JSON_INT) ? json_int(value, INT64_MIN) : INT64_MIN;
}

/* The number of experts under any of its names; null or 0 is a dense model. */
static enum status parse_experts(const struct json *root, const char *label,
                                 struct model_config *out)
{
    static const char *const names[] = {"n_routed_experts", "num_local_experts", "num_experts"};
    const struct model_family_row *family = model_family_row(out->family);
    const struct json *value = NULL;
    double otherwise = family->n_experts;

    if (family->experts_key == NULL) {
        return STATUS_OK;
    }
    for (size_t i = 0; i < 3 && value == NULL; i++) {
        value = json_get(root, names[i]);
    }
    if (value == NULL && otherwise < 0) {
        return status_set(STATUS_BAD_FORMAT, "%s: %s is missing (null: dense)", label,
                          family->experts_key);
    }
    if (value != NULL) {
        otherwise = json_is(value, JSON_NULL) ? 0 : (double)whole_number(value);
    }
    if (otherwise < 0 || otherwise > EXPERTS_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%s: %s must be 0 to %d", label, family->experts_key,
                          EXPERTS_MAX);
    }
    out->n_experts = (size_t)otherwise;
    return STATUS_OK;
}

/* Whether layer i of the list is dense. */
static enum status read_layer_type(const struct json *types, size_t i, const char *label,
                                   bool *is_dense)
{
    const char *type = json_text(json_at(types, i), "");

    *is_dense = strcmp(type, "dense") == 0;
    if (!*is_dense && strcmp(type, "sparse") != 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: mlp_layer_types holds neither dense nor sparse at layer %zu", label,
                          i);
    }
    return STATUS_OK;
}

/* mlp_layer_types, where present, replaces first_k_dense_replace and moe_layer_freq. */
static enum status parse_layer_types(const struct json *root, const char *label,
                                     struct model_config *out)
{
    const struct json *types = json_get(root, "mlp_layer_types");

    if (json_is(types, JSON_NULL)) {
        return STATUS_OK;
    }
    if (!json_is(types, JSON_ARRAY) || json_count(types) != out->n_layers) {
        return status_set(STATUS_BAD_FORMAT, "%s: mlp_layer_types must list %zu layers", label,
                          out->n_layers);
    }
    out->first_dense_layers = 0;
    out->moe_layer_freq = 1;
    for (size_t i = 0; i < out->n_layers; i++) {
        bool is_dense;

        TRY(read_layer_type(types, i, label, &is_dense));
        if (is_dense && out->first_dense_layers == i) {
            out->first_dense_layers++;
        } else if (is_dense) {
            model_config_set_dense(out, i);
        }
    }
    return STATUS_OK;
}

/* Qwen's: MoE in every decoder_sparse_step-th layer that mlp_only_layers does not name. */
static enum status parse_sparse_step(const struct json *root, const char *label,
                                     struct model_config *out)
{
    const struct json *named = json_get(root, "mlp_only_layers");
    const struct json *value = json_get(root, "decoder_sparse_step");
    const int64_t step = json_is(value, JSON_NULL) ? 1 : whole_number(value);

    if (step < 1 || step > (int64_t)MODEL_LAYERS_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%s: decoder_sparse_step must be 1 to %zu", label,
                          MODEL_LAYERS_MAX);
    }
    if (!json_is(named, JSON_NULL) && !json_is(named, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "%s: mlp_only_layers must be a list", label);
    }
    for (size_t i = 0; i < out->n_layers; i++) {
        if ((i + 1) % (size_t)step != 0) {
            model_config_set_dense(out, i);
        }
    }
    for (size_t i = 0; i < json_count(named); i++) {
        const int64_t layer = whole_number(json_at(named, i));

        if (layer < 0 || layer >= (int64_t)out->n_layers) {
            return status_set(STATUS_BAD_FORMAT, "%s: mlp_only_layers must hold layers below %zu",
                              label, out->n_layers);
        }
        model_config_set_dense(out, (size_t)layer);
    }
    return STATUS_OK;
}

enum status model_config_parse_layers(const struct json *root, const char *label,
                                      struct model_config *out)
{
    TRY(parse_experts(root, label, out));
    if (out->n_experts == 0) {
        return STATUS_OK;
    }
    if (out->family == MODEL_QWEN3_MOE) {
        return parse_sparse_step(root, label, out);
    }
    return out->attention == MODEL_ATTENTION_MLA ? parse_layer_types(root, label, out) : STATUS_OK;
}

static bool has_dense_bits(const struct model_config *config)
{
    bool has = false;

    for (size_t i = 0; i < MODEL_LAYERS_MAX / 64; i++) {
        has = has || config->dense_layers[i] != 0;
    }
    return has;
}

static void append(struct json *list, struct json *value, enum status *status)
{
    const enum status result = json_append(list, value);

    *status = *status == STATUS_OK ? result : *status;
}

static void put_only_layers(const struct model_config *config, struct json *root,
                            enum status *status)
{
    struct json *list = json_array_create();

    for (size_t i = 0; i < config->n_layers; i++) {
        if (model_config_is_set_dense(config, i)) {
            append(list, json_from_int((int64_t)i), status);
        }
    }
    model_config_put(root, "decoder_sparse_step", json_from_int(1), status);
    model_config_put(root, "mlp_only_layers", list, status);
}

static void put_layer_types(const struct model_config *config, struct json *root,
                            enum status *status)
{
    struct json *list = json_array_create();

    for (size_t i = 0; i < config->n_layers; i++) {
        const char *type = model_config_is_moe_layer(config, i) ? "sparse" : "dense";

        append(list, json_from_text(type, strlen(type)), status);
    }
    model_config_put(root, "mlp_layer_types", list, status);
}

void model_config_put_layers(const struct model_config *config, struct json *root,
                             enum status *status)
{
    const char *key = model_family_row(config->family)->experts_key;

    if (key == NULL) {
        return;
    }
    model_config_put(root, key,
                     config->n_experts == 0 && config->attention == MODEL_ATTENTION_MLA
                         ? json_null_create()
                         : json_from_int((int64_t)config->n_experts),
                     status);
    if (config->family == MODEL_QWEN3_MOE) {
        put_only_layers(config, root, status);
    } else if (has_dense_bits(config)) {
        put_layer_types(config, root, status);
    }
}
