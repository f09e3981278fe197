/* Owns what stored results of W8A8 arithmetic are compared with: logits of FP8 policies, and the
 * codes and scales of what their linear layers read. */
#include "model/model_check_internal.h"

#include "model/quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct variant {
    const char *suffix;
    bool has_own_scales; /* of the checkpoint's kind; else powers of two */
    bool is_expanded;    /* kv_b is a linear layer */
} variants[] = {
    {"", true, true},
    {"_absorbed", true, false},
    {"_requantised", false, false},
};
#define N_VARIANTS (sizeof(variants) / sizeof(variants[0]))

/* In the order of the forward pass. */
static const struct {
    const char *name;
    enum policy_input input;
} linears[] = {
    {"self_attn.q_a_proj", POLICY_INPUT_PROJECT},
    {"self_attn.q_proj", POLICY_INPUT_PROJECT},
    {"self_attn.q_b_proj", POLICY_INPUT_Q_B},
    {"self_attn.kv_b_proj", POLICY_INPUT_KV_B},
    {"self_attn.o_proj", POLICY_INPUT_O},
    {"mlp.gate_proj", POLICY_INPUT_GATE},
    {"mlp.shared_experts.gate_proj", POLICY_INPUT_GATE},
    {"mlp.down_proj", POLICY_INPUT_DOWN},
    {"mlp.shared_experts.down_proj", POLICY_INPUT_DOWN},
};
#define N_LINEARS (sizeof(linears) / sizeof(linears[0]))

/* Kinds of results, in the order in which they are compared: a code that differs says where, while
 * everything behind it is off. */
enum { CODES, SCALES, LOGITS, N_KINDS };
static const char *const kinds[N_KINDS] = {"codes_w8a8", "scales_w8a8", "logits_w8a8"};

/* A stored result: of which variant, and its place in the comparison. */
struct result {
    const struct tensor *tensor;
    size_t variant; /* N_VARIANTS: unknown */
    size_t kind, layer, linear;
};

/* The index of `text`, of n characters, among the variants; N_VARIANTS: none. */
static size_t find_variant(const char *text, size_t n)
{
    size_t i = 0;

    while (i < N_VARIANTS &&
           (strlen(variants[i].suffix) != n || strncmp(variants[i].suffix, text, n) != 0)) {
        i++;
    }
    return i;
}

static size_t find_kind(const char *name)
{
    size_t i = 0;

    while (i < N_KINDS && strncmp(name, kinds[i], strlen(kinds[i])) != 0) {
        i++;
    }
    return i;
}

bool model_check_is_fp8(const char *name)
{
    return find_kind(name) < N_KINDS;
}

/* "model.layers.LAYER.LINEAR" */
static bool parse_linear(const char *text, struct result *out)
{
    static const char start[] = "model.layers.";
    char *end = NULL;

    if (strncmp(text, start, strlen(start)) != 0) {
        return false;
    }
    out->layer = strtoul(text + strlen(start), &end, 10);
    for (out->linear = 0; out->linear < N_LINEARS; out->linear++) {
        if (*end == '.' && strcmp(end + 1, linears[out->linear].name) == 0) {
            return true;
        }
    }
    return false;
}

/* NAME_w8a8VARIANT or NAME_w8a8VARIANT.LINEAR */
static bool parse_result(const struct tensor *tensor, struct result *out)
{
    const size_t kind = find_kind(tensor->name);

    if (kind == N_KINDS) {
        return false;
    }

    const char *variant = tensor->name + strlen(kinds[kind]);
    const size_t n = strcspn(variant, ".");

    *out = (struct result){.tensor = tensor, .kind = kind};

    out->variant = find_variant(variant, n);
    if (out->variant == N_VARIANTS) {
        return false;
    }
    return kind == LOGITS ? variant[n] == '\0'
                          : variant[n] == '.' && parse_linear(variant + n + 1, out);
}

static int compare_sizes(size_t a, size_t b)
{
    return (a > b) - (a < b);
}

/* Variant by variant, kinds in their order, each in the order of the forward pass (for qsort). */
static int compare_results(const void *first, const void *second)
{
    const struct result *a = first, *b = second;

    if (a->variant != b->variant) {
        return compare_sizes(a->variant, b->variant);
    }
    if (a->kind != b->kind) {
        return compare_sizes(a->kind, b->kind);
    }
    return a->layer != b->layer ? compare_sizes(a->layer, b->layer)
                                : compare_sizes(a->linear, b->linear);
}

/* All results of W8A8 arithmetic, sorted. */
static enum status list_results(const struct model_comparison *comparison, struct result **out,
                                size_t *n)
{
    const struct safetensors *io = comparison->io;

    *n = 0;
    TRY(arena_alloc(comparison->arena, safetensors_count(io), sizeof(**out), out));
    for (size_t i = 0; i < safetensors_count(io); i++) {
        const struct tensor *tensor = safetensors_at(io, i);

        if (!model_check_is_fp8(tensor->name)) {
            continue;
        }
        if (!parse_result(tensor, &(*out)[*n])) {
            return status_set(STATUS_BAD_FORMAT,
                              "%s: nothing computed here corresponds to tensor %s",
                              safetensors_path(io), tensor->name);
        }
        (*n)++;
    }
    if (*n > 0) {
        qsort(*out, *n, sizeof(**out), compare_results);
    }
    return STATUS_OK;
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

/* Logits, or codes or scales of what a linear layer read. */
static enum status find_result(struct model_run *run, const struct model_comparison *comparison,
                               const struct result *result, struct computed *out)
{
    const struct model_config *config = policy_config(run->policy);

    if (result->kind == LOGITS) {
        *out =
            (struct computed){.floats = run->trace.logits, .n = run->n_rows * config->vocab_size};
        return STATUS_OK;
    }
    if (result->layer >= config->n_layers) {
        return status_set(STATUS_BAD_FORMAT, "%s: nothing computed here corresponds to tensor %s",
                          safetensors_path(comparison->io), result->tensor->name);
    }
    return quantise_input(run, result->layer, linears[result->linear].input, result->kind == CODES,
                          out);
}

static enum status compare_result(struct model_run *run, struct model_comparison *comparison,
                                  const struct result *result)
{
    struct computed computed = {.floats = NULL};

    TRY(find_result(run, comparison, result, &computed));
    return model_check_compare(comparison, result->tensor, &computed);
}

/* One run of a variant, and the n results stored of it. */
static enum status check_variant(struct model_comparison *comparison, const struct result *results,
                                 size_t n, bool has_float_scales)
{
    const struct variant *variant = &variants[results->variant];
    const struct policy_options options = {.precision = PRECISION_FP8,
                                           .has_float_scales =
                                               has_float_scales && variant->has_own_scales,
                                           .is_expanded = variant->is_expanded};
    const struct model_run_wants no_wants = {.gradients = false};
    struct model_run run;
    enum status status = model_check_run(comparison, &options, &no_wants, &run);

    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        status = compare_result(&run, comparison, &results[i]);
    }
    policy_destroy(run.policy);
    return status;
}

static enum status has_float_value(const struct tensor *scales, struct arena *arena, bool *out)
{
    float *values;

    if (scales->dtype != TENSOR_F32) {
        return STATUS_OK; /* bytes of exponents */
    }
    TRY(arena_alloc(arena, scales->n_elements, sizeof(*values), &values));
    TRY(tensor_read_floats(scales, values));
    for (size_t i = 0; i < scales->n_elements; i++) {
        int exponent;

        *out = *out || frexpf(values[i], &exponent) != 0.5F;
    }
    return STATUS_OK;
}

/* Whether some scale of the checkpoint is no power of two. */
static enum status find_float_scales(const struct model_comparison *comparison, bool *out)
{
    static const char suffix[] = "_scale_inv";
    struct safetensors *file;
    enum status status = STATUS_OK;

    *out = false;
    TRY(safetensors_open_folder(comparison->dir, &file));
    for (size_t i = 0; i < safetensors_count(file) && status == STATUS_OK && !*out; i++) {
        const struct tensor *tensor = safetensors_at(file, i);
        const size_t n = strlen(tensor->name);

        if (n > strlen(suffix) && strcmp(tensor->name + n - strlen(suffix), suffix) == 0) {
            status = has_float_value(tensor, comparison->arena, out);
        }
    }
    safetensors_close(file);
    return status;
}

enum status model_check_fp8(struct model_comparison *comparison)
{
    struct result *results;
    bool has_float_scales;
    size_t n;

    TRY(list_results(comparison, &results, &n));
    TRY(find_float_scales(comparison, &has_float_scales));
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && results[end].variant == results[i].variant; end++) {
        }
        TRY(check_variant(comparison, results + i, end - i, has_float_scales));
    }
    return STATUS_OK;
}
