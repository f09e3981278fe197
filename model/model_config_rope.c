/* Owns the rotary part of config.json: rope_theta, rope_scaling (released checkpoints) or
 * rope_parameters (newest style), plain, linear, YaRN or Llama 3's (model.md 1.1, 5.1, 12.1). */
#include "model/model_config_internal.h"

#include <math.h>
#include <string.h>

static const char *const rope_keys[] = {
    "type",
    "rope_type",
    "factor",
    "original_max_position_embeddings",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
    "beta_fast",
    "beta_slow",
    "rope_theta",
    "partial_rotary_factor",
    "low_freq_factor",
    "high_freq_factor",
};

static enum status check_rope_keys(const struct json *rope, const char *label)
{
    struct json_iterator entry = {.object = rope};

    while (json_next(&entry)) {
        bool is_known = false;

        for (size_t i = 0; i < sizeof(rope_keys) / sizeof(rope_keys[0]); i++) {
            is_known = is_known || strcmp(rope_keys[i], entry.key) == 0;
        }
        if (!is_known) {
            return status_set(STATUS_BAD_FORMAT, "%s: rope_scaling has the unknown key %s", label,
                              entry.key);
        }
    }
    return STATUS_OK;
}

/* An optional number of the rope object; null counts as absent. */
static enum status rope_number(const struct json *rope, const char *key, double otherwise,
                               const char *label, double *out)
{
    const struct json *value = json_get(rope, key);

    *out = otherwise;
    if (json_is(value, JSON_NULL)) {
        return STATUS_OK;
    }
    *out = json_number(value, -1);
    if ((!json_is(value, JSON_INT) && !json_is(value, JSON_REAL)) || !(*out >= 0 && *out <= 1e9)) {
        return status_set(STATUS_BAD_FORMAT, "%s: rope %s must be a number from 0 to 1e9", label,
                          key);
    }
    return STATUS_OK;
}

/* The ramp's bounds and the multipliers of scores. */
static enum status parse_yarn_shape(const struct json *rope, const char *label,
                                    struct rope_scaling *yarn)
{
    TRY(rope_number(rope, "beta_fast", 32, label, &yarn->beta_fast));
    TRY(rope_number(rope, "beta_slow", 1, label, &yarn->beta_slow));
    TRY(rope_number(rope, "mscale", 0, label, &yarn->mscale));
    TRY(rope_number(rope, "mscale_all_dim", 0, label, &yarn->mscale_all_dim));
    return rope_number(rope, "attention_factor", 0, label, &yarn->attention_factor);
}

/* The length that the scaling starts from; otherwise when the key is absent. */
static enum status parse_original(const struct json *rope, const char *label, double otherwise,
                                  struct rope_scaling *out)
{
    double original;

    TRY(rope_number(rope, "original_max_position_embeddings", otherwise, label, &original));
    if (original < 1 || floor(original) != original) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: rope original_max_position_embeddings is %g, want a count", label,
                          original);
    }
    out->original_max_positions = (size_t)original;
    return STATUS_OK;
}

static enum status parse_yarn(const struct json *rope, const char *label, struct model_config *out)
{
    struct rope_scaling *yarn = &out->rope;

    yarn->kind = ROPE_YARN;
    TRY(parse_original(rope, label, (double)out->max_positions, yarn));
    /* Without a factor it is the ratio of the lengths. */
    TRY(rope_number(rope, "factor",
                    (double)out->max_positions / (double)yarn->original_max_positions, label,
                    &yarn->factor));
    TRY(parse_yarn_shape(rope, label, yarn));
    yarn->truncate = json_bool(json_get(rope, "truncate"), true);
    if (yarn->factor < 1 || yarn->beta_fast <= 0 || yarn->beta_slow <= 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: yarn needs factor >= 1 and betas > 0, has %g, %g, %g", label,
                          yarn->factor, yarn->beta_fast, yarn->beta_slow);
    }
    return STATUS_OK;
}

static enum status parse_linear(const struct json *rope, const char *label,
                                struct model_config *out)
{
    out->rope.kind = ROPE_LINEAR;
    TRY(rope_number(rope, "factor", 0, label, &out->rope.factor));
    TRY(rope_number(rope, "mscale_all_dim", 0, label, &out->rope.mscale_all_dim));
    if (out->rope.factor < 1) {
        return status_set(STATUS_BAD_FORMAT, "%s: linear rope needs factor >= 1, has %g", label,
                          out->rope.factor);
    }
    return STATUS_OK;
}

static enum status parse_llama3(const struct json *rope, const char *label,
                                struct model_config *out)
{
    struct rope_scaling *scaling = &out->rope;

    scaling->kind = ROPE_LLAMA3;
    TRY(parse_original(rope, label, 0, scaling));
    TRY(rope_number(rope, "factor", 0, label, &scaling->factor));
    TRY(rope_number(rope, "mscale_all_dim", 0, label, &scaling->mscale_all_dim));
    TRY(rope_number(rope, "low_freq_factor", 0, label, &scaling->low_freq_factor));
    TRY(rope_number(rope, "high_freq_factor", 0, label, &scaling->high_freq_factor));
    if (scaling->factor < 1 || !(scaling->low_freq_factor > 0) ||
        !(scaling->high_freq_factor > scaling->low_freq_factor)) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: llama3 rope needs factor >= 1 and 0 < low_freq_factor < "
                          "high_freq_factor, has %g, %g, %g",
                          label, scaling->factor, scaling->low_freq_factor,
                          scaling->high_freq_factor);
    }
    return STATUS_OK;
}

static enum status parse_scaling(const struct json *rope, const char *label,
                                 struct model_config *out)
{
    static const struct {
        const char *type;
        enum status (*parse)(const struct json *, const char *, struct model_config *);
    } kinds[] = {{"yarn", parse_yarn}, {"llama3", parse_llama3}, {"linear", parse_linear}};
    const char *type =
        json_text(json_get(rope, "rope_type"), json_text(json_get(rope, "type"), "default"));

    if (strcmp(type, "default") == 0) {
        return STATUS_OK;
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(type, kinds[i].type) == 0) {
            return kinds[i].parse(rope, label, out);
        }
    }
    return status_set(STATUS_UNSUPPORTED,
                      "%s: rope type \"%s\" is not computed by this build (only default, linear, "
                      "yarn, llama3)",
                      label, type);
}

enum status model_config_parse_rope(const struct json *root, const char *label,
                                    struct model_config *out)
{
    const struct json *scaling = json_get(root, "rope_scaling");
    const struct json *rope =
        json_is(scaling, JSON_NULL) ? json_get(root, "rope_parameters") : scaling;
    double theta, share;

    TRY(rope_number(root, "rope_theta", model_family_row(out->family)->rope_theta, label, &theta));
    if (!json_is(rope, JSON_NULL) && !json_is(rope, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "%s: rope_scaling must be an object or null", label);
    }
    if (json_is(rope, JSON_OBJECT)) {
        TRY(check_rope_keys(rope, label));
        TRY(rope_number(rope, "rope_theta", theta, label, &theta));
        TRY(rope_number(rope, "partial_rotary_factor", 1, label, &share));
        if (share != 1 && out->attention == MODEL_ATTENTION_GQA) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: partial_rotary_factor %g is not computed by this build", label,
                              share);
        }
    }
    if (!(theta > 1)) {
        return status_set(STATUS_BAD_FORMAT, "%s: rope_theta is %g, want more than 1", label,
                          theta);
    }
    out->rope_theta = theta;
    return parse_scaling(rope, label, out);
}

static struct json *text_value(const char *text)
{
    return json_from_text(text, strlen(text));
}

static void put_yarn(struct json *object, const struct rope_scaling *rope, enum status *status)
{
    model_config_put(object, "original_max_position_embeddings",
                     json_from_int((int64_t)rope->original_max_positions), status);
    model_config_put(object, "beta_fast", json_from_number(rope->beta_fast), status);
    model_config_put(object, "beta_slow", json_from_number(rope->beta_slow), status);
    if (rope->mscale != 0 || rope->mscale_all_dim != 0) {
        model_config_put(object, "mscale", json_from_number(rope->mscale), status);
        model_config_put(object, "mscale_all_dim", json_from_number(rope->mscale_all_dim), status);
    }
    if (rope->attention_factor != 0) {
        model_config_put(object, "attention_factor", json_from_number(rope->attention_factor),
                         status);
    }
    if (!rope->truncate) {
        model_config_put(object, "truncate", json_from_bool(false), status);
    }
}

static void put_llama3(struct json *object, const struct rope_scaling *rope, enum status *status)
{
    model_config_put(object, "original_max_position_embeddings",
                     json_from_int((int64_t)rope->original_max_positions), status);
    model_config_put(object, "low_freq_factor", json_from_number(rope->low_freq_factor), status);
    model_config_put(object, "high_freq_factor", json_from_number(rope->high_freq_factor), status);
}

struct json *model_config_rope_value(const struct rope_scaling *rope, enum status *status)
{
    static const char *const names[] = {
        [ROPE_PLAIN] = "default",
        [ROPE_YARN] = "yarn",
        [ROPE_LLAMA3] = "llama3",
        [ROPE_LINEAR] = "linear",
    };
    struct json *object;

    if (rope->kind == ROPE_PLAIN) {
        return json_null_create();
    }
    object = json_object_create();
    model_config_put(object, rope->kind == ROPE_LLAMA3 ? "rope_type" : "type",
                     text_value(names[rope->kind]), status);
    model_config_put(object, "factor", json_from_number(rope->factor), status);
    if (rope->kind == ROPE_YARN) {
        put_yarn(object, rope, status);
    } else if (rope->mscale_all_dim != 0) {
        model_config_put(object, "mscale_all_dim", json_from_number(rope->mscale_all_dim), status);
    }
    if (rope->kind == ROPE_LLAMA3) {
        put_llama3(object, rope, status);
    }
    return object;
}
