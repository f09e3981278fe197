/* Owns the table that binds config.json's keys to struct model_config; reader and writer obey it.
 */
#ifndef HONE_MODEL_MODEL_CONFIG_INTERNAL_H
#define HONE_MODEL_MODEL_CONFIG_INTERNAL_H

#include "model/model_config.h"

enum model_field_kind { MODEL_FIELD_SIZE, MODEL_FIELD_REAL, MODEL_FIELD_BOOL };

/* One number or switch. required: absent is an error; else absent gives `otherwise`. null_is: what
 * null means (negative: null is an error). */
struct model_field {
    const char *key;
    size_t offset; /* in struct model_config */
    double min, max, otherwise, null_is;
    unsigned families; /* bit f: family f has it */
    enum model_field_kind kind;
    bool is_required;
};
extern const struct model_field model_fields[];
extern const size_t n_model_fields;
/* What an absent key means: `otherwise`, or what the family has instead. */
double model_field_default(const struct model_field *field, enum model_family family);
static inline bool model_field_is_of(const struct model_field *field, enum model_family family)
{
    return (field->families & 1u << family) != 0;
}

/* One family: how files call it and what it always has. */
struct model_family_row {
    const char *model_type, *architecture; /* as hone writes them */
    const char *experts_key;               /* number of experts; NULL: always dense */
    enum model_attention attention;
    bool has_qk_norm, has_qkv_bias;
    double n_experts; /* when the key is absent; negative: the key is required */
    double rope_theta;
};
const struct model_family_row *model_family_row(enum model_family family);
/* From model_type, else from architectures. Errors: BAD_FORMAT (neither is there), UNSUPPORTED. */
MUST_CHECK enum status model_config_parse_family(const struct json *root, const char *label,
                                                 enum model_family *out);
/* What the family fixes, and sizes that follow from others. After the fields. */
MUST_CHECK enum status model_config_finish_family(const char *label, struct model_config *out);
/* Number of experts and which layers have them. After the fields. */
MUST_CHECK enum status model_config_parse_layers(const struct json *root, const char *label,
                                                 struct model_config *out);
void model_config_set_dense(struct model_config *config, size_t layer);
bool model_config_is_set_dense(const struct model_config *config, size_t layer);
/* Puts value under key, keeping the first failure. */
void model_config_put(struct json *object, const char *key, struct json *value,
                      enum status *status);
/* The keys of the layers that have experts, and of how many. */
void model_config_put_layers(const struct model_config *config, struct json *root,
                             enum status *status);

/* Keys that are read elsewhere or say nothing that this build needs. */
extern const char *const model_other_keys[];
extern const size_t n_model_other_keys;

/* Refuses, with one line naming key and value, what is well-formed but not computed here. */
MUST_CHECK enum status model_config_check_supported(const struct json *root, const char *label,
                                                    enum model_family family);
/* The same for what depends on fields: sliding windows. */
MUST_CHECK enum status model_config_check_windows(const struct json *root, const char *label,
                                                  const struct model_config *config);
/* The same for quantization_config. */
MUST_CHECK enum status model_config_check_quantization(const struct json *root, const char *label);
/* The router: scoring_func and topk_method, by default those of the class. After the fields. */
MUST_CHECK enum status model_config_parse_router(const struct json *root, const char *label,
                                                 struct model_config *out);
/* The released style's rope_scaling; null without one. */
struct json *model_config_rope_value(const struct rope_scaling *rope, enum status *status);
/* Rotary settings: rope_theta, rope_scaling or rope_parameters. */
MUST_CHECK enum status model_config_parse_rope(const struct json *root, const char *label,
                                               struct model_config *out);

#endif
