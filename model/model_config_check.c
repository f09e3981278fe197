/* Owns the refusal of architectures and options that this build does not compute, and the choice of
 * router. */
#include "model/model_config_internal.h"

#include <string.h>

/* A key that must have one of these texts when it is there (NULL ends the list). */
struct text_choice {
    const char *key;
    const char *texts[4];
};
static const struct text_choice text_choices[] = {
    {"scoring_func", {"sigmoid", "softmax"}},
    {"topk_method", {"noaux_tc", "greedy", "group_limited_greedy"}},
    {"mtp_input", {"post_norm", "pre_norm"}},
    {"hidden_act", {"silu"}},
};

/* Keys whose presence with anything but null, false or 0 asks for something else. */
static const char *const must_be_off[] = {
    "attention_dropout", "mlp_bias",         "text_config",
    "use_mrope",         "rope_interleaved", "router_jitter_noise",
};
/* The same, but for the family that computes them. */
static const char *const dsa_keys[] = {"index_n_heads", "index_head_dim", "index_topk"};

static bool is_off(const struct json *value)
{
    switch (json_kind_of(value)) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return !json_bool(value, true);
    case JSON_INT:
    case JSON_REAL:
        return json_number(value, 1) == 0;
    case JSON_STRING:
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    return false;
}

/* What a message shows of a value: numbers and texts as they are, the rest by kind. */
static const char *describe(const struct json *value)
{
    switch (json_kind_of(value)) {
    case JSON_BOOL:
        return json_bool(value, false) ? "true" : "false";
    case JSON_STRING:
        return json_text(value, "");
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_NULL:
        return "null";
    case JSON_INT:
    case JSON_REAL:
        break;
    }
    return "a number that is not 0";
}

static enum status check_text(const struct json *root, const struct text_choice *choice,
                              const char *label)
{
    const struct json *value = json_get(root, choice->key);

    if (json_is(value, JSON_NULL)) {
        return STATUS_OK;
    }
    if (!json_is(value, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT, "%s: %s must be a text", label, choice->key);
    }
    for (size_t i = 0; choice->texts[i] != NULL; i++) {
        if (strcmp(choice->texts[i], json_text(value, "")) == 0) {
            return STATUS_OK;
        }
    }
    return status_set(
        STATUS_UNSUPPORTED, "%s: %s \"%s\" is not computed by this build (only %s%s%s%s%s)", label,
        choice->key, json_text(value, ""), choice->texts[0], choice->texts[1] != NULL ? ", " : "",
        choice->texts[1] != NULL ? choice->texts[1] : "",
        choice->texts[1] != NULL && choice->texts[2] != NULL ? ", " : "",
        choice->texts[1] != NULL && choice->texts[2] != NULL ? choice->texts[2] : "");
}

enum status model_config_parse_router(const struct json *root, const char *label,
                                      struct model_config *out)
{
    const bool is_v2 = out->family == MODEL_DEEPSEEK_V2;
    const char *scoring = json_text(json_get(root, "scoring_func"), is_v2 ? "softmax" : "sigmoid");
    const char *method = json_text(json_get(root, "topk_method"), is_v2 ? "greedy" : "noaux_tc");

    if (out->attention != MODEL_ATTENTION_MLA) { /* there is one router, without these keys */
        return STATUS_OK;
    }
    out->has_softmax_router = strcmp(scoring, "softmax") == 0;
    if (out->has_softmax_router == (strcmp(method, "noaux_tc") == 0) ||
        (out->has_softmax_router && out->family == MODEL_DEEPSEEK_V32)) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: scoring_func \"%s\" with topk_method \"%s\" is not computed by this "
                          "build (only sigmoid with noaux_tc, softmax with the greedy ones)",
                          label, scoring, method);
    }
    if (out->family != MODEL_DEEPSEEK_V32) { /* the class whose router it is */
        out->family = out->has_softmax_router ? MODEL_DEEPSEEK_V2 : MODEL_DEEPSEEK_V3;
    }
    if (strcmp(method, "greedy") == 0) { /* whatever groups there are */
        out->n_groups = 1;
        out->top_groups = 1;
    }
    return STATUS_OK;
}

static enum status refuse_key(const struct json *root, const char *key, const char *label)
{
    const struct json *value = json_get(root, key);

    if (is_off(value)) {
        return STATUS_OK;
    }
    return status_set(STATUS_UNSUPPORTED, "%s: %s (%s) is not computed by this build", label, key,
                      describe(value));
}

/* Latent attention has as many key heads as queries. */
static enum status check_latent_heads(const struct json *root, const char *label)
{
    const struct json *heads = json_get(root, "num_attention_heads");
    const struct json *kv_heads = json_get(root, "num_key_value_heads");

    if (json_is(kv_heads, JSON_INT) && json_is(heads, JSON_INT) &&
        json_int(kv_heads, -1) != json_int(heads, -1)) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: num_key_value_heads %lld differs from num_attention_heads %lld, "
                          "which latent attention does not have",
                          label, (long long)json_int(kv_heads, -1), (long long)json_int(heads, -1));
    }
    return STATUS_OK;
}

enum status model_config_check_supported(const struct json *root, const char *label,
                                         enum model_family family)
{
    for (size_t i = 0; i < sizeof(text_choices) / sizeof(text_choices[0]); i++) {
        TRY(check_text(root, &text_choices[i], label));
    }
    TRY(model_config_check_quantization(root, label));
    for (size_t i = 0; i < sizeof(must_be_off) / sizeof(must_be_off[0]); i++) {
        TRY(refuse_key(root, must_be_off[i], label));
    }
    for (size_t i = 0; i < 3 && family != MODEL_DEEPSEEK_V32; i++) {
        TRY(refuse_key(root, dsa_keys[i], label));
    }
    return model_family_row(family)->attention == MODEL_ATTENTION_MLA
               ? check_latent_heads(root, label)
               : STATUS_OK;
}

/* Attention of this kind sees everything before. */
static bool is_full_attention(const char *type)
{
    return strcmp(type, "full_attention") == 0 || strcmp(type, "deepseek_sparse_attention") == 0;
}

enum status model_config_check_windows(const struct json *root, const char *label,
                                       const struct model_config *config)
{
    const struct json *types = json_get(root, "layer_types");
    const struct json *window = json_get(root, "sliding_window");
    const struct json *from = json_get(root, "max_window_layers");
    const bool may_be_used = config->family == MODEL_MIXTRAL || config->family == MODEL_LLAMA ||
                             json_bool(json_get(root, "use_sliding_window"), false);

    for (size_t i = 0; i < json_count(types); i++) {
        const char *type = json_text(json_at(types, i), "");

        if (!is_full_attention(type)) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: layer_types: \"%s\" of layer %zu is not computed by this build",
                              label, type, i);
        }
    }
    /* A window as long as the context hides nothing; Qwen has windows from one layer on. */
    if (!may_be_used || json_is(window, JSON_NULL) || json_count(types) > 0 ||
        json_number(window, 0) >= (double)config->max_positions ||
        (config->family != MODEL_MIXTRAL && json_number(from, 0) >= (double)config->n_layers)) {
        return STATUS_OK;
    }
    return status_set(STATUS_UNSUPPORTED,
                      "%s: sliding_window %g within max_position_embeddings %zu is not computed by "
                      "this build",
                      label, json_number(window, 0), config->max_positions);
}
