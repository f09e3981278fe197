/* Owns what stored results of W8A8 arithmetic are compared with: logits of an FP8 policy, and the
 * codes and scales of what its linear layers read. */
#include "model/model_check_internal.h"

#include "model/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool model_check_is_fp8(const char *name)
{
    return strncmp(name, "logits_w8a8", 11) == 0 || strncmp(name, "codes_w8a8", 10) == 0 ||
           strncmp(name, "scales_w8a8", 11) == 0;
}

/* The variant of a result, "" or "_absorbed" ..., and its length. */
static const char *variant_of(const char *name, size_t *n)
{
    const char *text = strstr(name, "_w8a8") + strlen("_w8a8");

    *n = strcspn(text, ".");
    return text;
}

bool model_check_fp8_computes(const struct safetensors *io, const char *name)
{
    const bool is_requantised = safetensors_find(io, "logits_w8a8_requantised") != NULL;
    const char *ours = is_requantised ? "_requantised" : "_absorbed";
    size_t n = 0;
    const char *text = variant_of(name, &n);

    return n == strlen(ours) && strncmp(text, ours, n) == 0;
}

static const struct {
    const char *name;
    enum policy_input input;
} linears[] = {
    {"self_attn.q_a_proj", POLICY_INPUT_PROJECT},
    {"self_attn.q_proj", POLICY_INPUT_PROJECT},
    {"self_attn.q_b_proj", POLICY_INPUT_Q_B},
    {"self_attn.o_proj", POLICY_INPUT_O},
    {"mlp.gate_proj", POLICY_INPUT_GATE},
    {"mlp.shared_experts.gate_proj", POLICY_INPUT_GATE},
    {"mlp.down_proj", POLICY_INPUT_DOWN},
    {"mlp.shared_experts.down_proj", POLICY_INPUT_DOWN},
};

/* "model.layers.LAYER.LINEAR" */
static bool parse_linear(const struct model_run *run, const char *text, size_t *layer,
                         enum policy_input *input)
{
    static const char start[] = "model.layers.";
    char *end = NULL;

    if (strncmp(text, start, strlen(start)) != 0) {
        return false;
    }
    *layer = strtoul(text + strlen(start), &end, 10);
    for (size_t i = 0; i < sizeof(linears) / sizeof(linears[0]); i++) {
        if (*end == '.' && strcmp(end + 1, linears[i].name) == 0) {
            *input = linears[i].input;
            return *layer < policy_config(run->policy)->n_layers;
        }
    }
    return false;
}

/* Codes or scales of what a linear layer read. */
static enum status quantise_input(struct model_run *run, size_t layer, enum policy_input input,
                                  bool wants_codes, struct computed *out)
{
    const size_t width = policy_input_width(run->policy, layer, input);
    const size_t n = run->n_rows * width;
    float *values = NULL, *scales = NULL;
    uint8_t *codes = NULL;
    int32_t *integers = NULL;

    TRY(arena_alloc(run->arena, n, sizeof(*values), &values));
    TRY(arena_alloc(run->arena, n, sizeof(*codes), &codes));
    TRY(arena_alloc(run->arena, n, sizeof(*integers), &integers));
    TRY(arena_alloc(run->arena, run->n_rows * quant_blocks(width), sizeof(*scales), &scales));
    TRY(policy_read_input(run->policy, layer, input, values));
    quant_matrix(values, run->n_rows, width, 1, codes, scales);
    for (size_t i = 0; i < n; i++) {
        integers[i] = codes[i];
    }
    *out = wants_codes
               ? (struct computed){.integers = integers, .n = n}
               : (struct computed){.floats = scales, .n = run->n_rows * quant_blocks(width)};
    return STATUS_OK;
}

enum status model_check_fp8_find(struct model_run *run, const struct safetensors *io,
                                 const char *name, struct computed *out)
{
    size_t n = 0, layer = 0;
    const char *variant = variant_of(name, &n);
    enum policy_input input = POLICY_INPUT_PROJECT;

    if (strncmp(name, "logits", 6) == 0) {
        *out = (struct computed){.floats = run->trace.logits,
                                 .n = run->n_rows * policy_config(run->policy)->vocab_size};
        return STATUS_OK;
    }
    if (variant[n] != '.' || !parse_linear(run, variant + n + 1, &layer, &input)) {
        return status_set(STATUS_BAD_FORMAT, "%s: nothing computed here corresponds to tensor %s",
                          safetensors_path(io), name);
    }
    return quantise_input(run, layer, input, strncmp(name, "codes", 5) == 0, out);
}
