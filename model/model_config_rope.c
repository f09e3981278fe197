/* Owns the rotary part of config.json: rope_theta, rope_scaling (released checkpoints) or
 * rope_parameters (newest style), YaRN or none (model.md 1.1, 5.1). */
#include "model/model_config_internal.h"

#include <math.h>
#include <string.h>

static const char *const rope_keys[] = {
    "type",      "rope_type",      "factor",           "original_max_position_embeddings",
    "mscale",    "mscale_all_dim", "attention_factor", "truncate",
    "beta_fast", "beta_slow",      "rope_theta",       "partial_rotary_factor",
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

static enum status parse_yarn(const struct json *rope, const char *label, struct model_config *out)
{
    struct rope_scaling *yarn = &out->rope;
    double original;

    yarn->is_yarn = true;
    TRY(rope_number(rope, "original_max_position_embeddings", (double)out->max_positions, label,
                    &original));
    yarn->original_max_positions = (size_t)original;
    if (original < 1 || floor(original) != original) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: rope original_max_position_embeddings is %g, want a count", label,
                          original);
    }
    /* Without a factor it is the ratio of the lengths. */
    TRY(rope_number(rope, "factor", (double)out->max_positions / original, label, &yarn->factor));
    TRY(parse_yarn_shape(rope, label, yarn));
    yarn->truncate = json_bool(json_get(rope, "truncate"), true);
    if (yarn->factor < 1 || yarn->beta_fast <= 0 || yarn->beta_slow <= 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: yarn needs factor >= 1 and betas > 0, has %g, %g, %g", label,
                          yarn->factor, yarn->beta_fast, yarn->beta_slow);
    }
    return STATUS_OK;
}

enum status model_config_parse_rope(const struct json *root, const char *label,
                                    struct model_config *out)
{
    const struct json *scaling = json_get(root, "rope_scaling");
    const struct json *rope =
        json_is(scaling, JSON_NULL) ? json_get(root, "rope_parameters") : scaling;
    double theta;

    TRY(rope_number(root, "rope_theta", 10000, label, &theta));
    if (!json_is(rope, JSON_NULL) && !json_is(rope, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "%s: rope_scaling must be an object or null", label);
    }
    if (json_is(rope, JSON_OBJECT)) {
        TRY(check_rope_keys(rope, label));
        TRY(rope_number(rope, "rope_theta", theta, label, &theta));
    }
    if (!(theta > 1)) {
        return status_set(STATUS_BAD_FORMAT, "%s: rope_theta is %g, want more than 1", label,
                          theta);
    }
    out->rope_theta = theta;

    const char *type =
        json_text(json_get(rope, "rope_type"), json_text(json_get(rope, "type"), "default"));

    if (strcmp(type, "default") == 0) {
        return STATUS_OK;
    }
    if (strcmp(type, "yarn") != 0) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: rope type \"%s\" is not computed by this build (only yarn or none)",
                          label, type);
    }
    return parse_yarn(rope, label, out);
}
