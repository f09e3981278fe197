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
    {"model_type", {"deepseek_v3", "deepseek_v2", "kimi_k2"}},
    {"scoring_func", {"sigmoid", "softmax"}},
    {"topk_method", {"noaux_tc", "greedy", "group_limited_greedy"}},
    {"mtp_input", {"post_norm", "pre_norm"}},
    {"hidden_act", {"silu"}},
};

/* Keys whose presence with anything but null, false or 0 asks for something else. */
static const char *const must_be_off[] = {
    "attention_dropout", "mlp_bias", "text_config", "index_n_heads", "index_head_dim", "index_topk",
};

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

static const char v2_class[] = "DeepseekV2ForCausalLM";

bool model_config_is_v2(const struct json *root)
{
    const struct json *type = json_get(root, "model_type");
    const struct json *architectures = json_get(root, "architectures");

    if (json_is(type, JSON_STRING)) {
        return strcmp(json_text(type, ""), "deepseek_v2") == 0;
    }
    return json_count(architectures) > 0 &&
           strcmp(json_text(json_at(architectures, 0), ""), v2_class) == 0;
}

enum status model_config_parse_router(const struct json *root, const char *label,
                                      struct model_config *out)
{
    const bool is_v2 = model_config_is_v2(root);
    const char *scoring = json_text(json_get(root, "scoring_func"), is_v2 ? "softmax" : "sigmoid");
    const char *method = json_text(json_get(root, "topk_method"), is_v2 ? "greedy" : "noaux_tc");

    out->has_softmax_router = strcmp(scoring, "softmax") == 0;
    if (out->has_softmax_router == (strcmp(method, "noaux_tc") == 0)) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: scoring_func \"%s\" with topk_method \"%s\" is not computed by this "
                          "build (only sigmoid with noaux_tc, softmax with the greedy ones)",
                          label, scoring, method);
    }
    if (strcmp(method, "greedy") == 0) { /* whatever groups there are */
        out->n_groups = 1;
        out->top_groups = 1;
    }
    return STATUS_OK;
}

static enum status check_architectures(const struct json *list, const char *label)
{
    for (size_t i = 0; i < json_count(list); i++) {
        const char *name = json_text(json_at(list, i), "");

        if (strcmp(name, "DeepseekV3ForCausalLM") != 0 && strcmp(name, v2_class) != 0 &&
            strcmp(name, "KimiK2ForCausalLM") != 0) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: architecture \"%s\" is not computed by this build (only "
                              "DeepseekV3ForCausalLM, DeepseekV2ForCausalLM)",
                              label, name);
        }
    }
    return STATUS_OK;
}

enum status model_config_check_supported(const struct json *root, const char *label)
{
    const struct json *heads = json_get(root, "num_attention_heads");
    const struct json *kv_heads = json_get(root, "num_key_value_heads");

    if (json_is(json_get(root, "model_type"), JSON_NULL) &&
        json_is(json_get(root, "architectures"), JSON_NULL)) {
        return status_set(STATUS_BAD_FORMAT, "%s: model_type is missing", label);
    }
    for (size_t i = 0; i < sizeof(text_choices) / sizeof(text_choices[0]); i++) {
        TRY(check_text(root, &text_choices[i], label));
    }
    TRY(check_architectures(json_get(root, "architectures"), label));
    TRY(model_config_check_quantization(root, label));
    for (size_t i = 0; i < sizeof(must_be_off) / sizeof(must_be_off[0]); i++) {
        const struct json *value = json_get(root, must_be_off[i]);

        if (!is_off(value)) {
            return status_set(STATUS_UNSUPPORTED, "%s: %s (%s) is not computed by this build",
                              label, must_be_off[i], describe(value));
        }
    }
    if (json_is(kv_heads, JSON_INT) && json_is(heads, JSON_INT) &&
        json_int(kv_heads, -1) != json_int(heads, -1)) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: num_key_value_heads %lld differs from num_attention_heads %lld, "
                          "which latent attention does not have",
                          label, (long long)json_int(kv_heads, -1), (long long)json_int(heads, -1));
    }
    return STATUS_OK;
}
