/* Owns config.json's quantization_config (model.md 10.2): FP8 in blocks of 128 x 128 is read,
 * everything else is refused by name. Which tensors are quantised is seen from their types; the
 * list of modules not converted says nothing more. */
#include "model/model_config_internal.h"
#include "model/quant.h"

#include <string.h>

/* A key that must have this text when it is there. */
static enum status check_key(const struct json *object, const char *key, const char *wanted,
                             const char *label)
{
    const struct json *value = json_get(object, key);

    if (json_is(value, JSON_NULL) || strcmp(json_text(value, ""), wanted) == 0) {
        return STATUS_OK;
    }
    return status_set(STATUS_UNSUPPORTED,
                      "%s: quantization_config: %s is \"%.60s\"; this build reads \"%s\"", label,
                      key, json_text(value, "not a text"), wanted);
}

enum status model_config_check_quantization(const struct json *root, const char *label)
{
    const struct json *object = json_get(root, "quantization_config");
    const struct json *block = json_get(object, "weight_block_size");

    if (json_is(object, JSON_NULL)) {
        return STATUS_OK;
    }
    if (!json_is(object, JSON_OBJECT) ||
        json_text(json_get(object, "quant_method"), NULL) == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: quantization_config names no quant_method",
                          label);
    }
    TRY(check_key(object, "quant_method", "fp8", label));
    TRY(check_key(object, "fmt", "e4m3", label));
    TRY(check_key(object, "scale_fmt", "ue8m0", label));
    TRY(check_key(object, "activation_scheme", "dynamic", label));
    if (json_count(block) != 2 || json_int(json_at(block, 0), 0) != (int64_t)QUANT_BLOCK ||
        json_int(json_at(block, 1), 0) != (int64_t)QUANT_BLOCK) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: quantization_config: weight_block_size is not [%zu, %zu]", label,
                          QUANT_BLOCK, QUANT_BLOCK);
    }
    return STATUS_OK;
}
