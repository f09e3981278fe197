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
    enum model_field_kind kind;
    bool is_required;
};
extern const struct model_field model_fields[];
extern const size_t n_model_fields;
/* What an absent key means: `otherwise`, or what deepseek_v2 has instead. */
double model_field_default(const struct model_field *field, bool is_v2);

/* Keys that are read elsewhere or say nothing that this build needs. */
extern const char *const model_other_keys[];
extern const size_t n_model_other_keys;

/* Refuses, with one line naming key and value, what is well-formed but not computed here. */
MUST_CHECK enum status model_config_check_supported(const struct json *root, const char *label);
/* The same for quantization_config. */
MUST_CHECK enum status model_config_check_quantization(const struct json *root, const char *label);
/* Whether it is of the deepseek_v2 class, whose defaults differ. */
bool model_config_is_v2(const struct json *root);
/* The router: scoring_func and topk_method, by default those of the class. After the fields. */
MUST_CHECK enum status model_config_parse_router(const struct json *root, const char *label,
                                                 struct model_config *out);
/* Rotary settings: rope_theta, rope_scaling or rope_parameters. */
MUST_CHECK enum status model_config_parse_rope(const struct json *root, const char *label,
                                               struct model_config *out);

#endif
