/* config.json of a model: what is accepted can be written, and what is written is accepted and
 * written the same. */
#include "base/json.h"
#include "base/memory.h"
#include "model/model_config.h"
#include "tests/fuzz/harness.h"

#include <math.h>
#include <string.h>

#define DEPTH_MAX 32u

/* The canonical text of a configuration; NULL where it cannot be written. */
static char *print(const struct model_config *config)
{
    struct json *root = NULL;
    char *text = NULL;

    if (fuzz_is_ok(model_config_print(config, &root))) {
        fuzz_check(fuzz_is_ok(json_print(root, &text, NULL)), "a configuration as text");
    }
    json_destroy(root);
    return text;
}

static bool parse(const char *text, size_t n, struct model_config *out)
{
    struct json *root = NULL;
    const bool is_right = fuzz_is_ok(json_parse(text, n, DEPTH_MAX, &root)) &&
                          fuzz_is_ok(model_config_parse(root, "config.json", out));

    json_destroy(root);
    return is_right;
}

static void check_derived(const struct model_config *config)
{
    fuzz_check(model_config_active_parameters(config) <= SIZE_MAX, "parameters");
    fuzz_check(!isnan(model_config_route_scale(config)), "a route scale that is NaN");
    fuzz_check(!isnan(model_config_attention_scale(config)), "an attention scale that is NaN");
    for (size_t i = 0; i < config->n_layers && i < 64; i++) {
        (void)model_config_is_moe_layer(config, i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config config, again;

    fuzz_begin();
    if (parse((const char *)data, size, &config)) {
        char *first = print(&config);

        check_derived(&config);
        if (first != NULL) {
            fuzz_check(parse(first, strlen(first), &again), "what was written is refused");
            char *second = print(&again);
            fuzz_check(second != NULL && strcmp(first, second) == 0, "not written the same");
            memory_free(second);
        }
        memory_free(first);
    }
    fuzz_end();
    return 0;
}
