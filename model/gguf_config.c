/* Owns the meaning of the llama architecture's keys: they become a config.json, which then passes
 * through the same checks as one from a folder. */
#include "base/json.h"
#include "base/memory.h"
#include "model/gguf_import.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMBEDDING "token_embd.weight"
#define ROPE_FACTORS "rope_freqs.weight"

/* Keys of the architecture that are read here or say nothing about its numbers. Any other might. */
static const char *const known_keys[] = {
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
};

static enum status check_architecture(const struct gguf *file)
{
    struct gguf_text name = {.bytes = "", .n = 0};

    TRY(gguf_require(file, "general.architecture"));
    TRY(gguf_read_text(file, "general.architecture", &name));
    if (!gguf_text_is(name, "llama")) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: architecture \"%.*s\" is not read by this build (only llama)",
                          gguf_label(file), (int)(name.n > 64 ? 64 : name.n), name.bytes);
    }
    return STATUS_OK;
}

static bool is_known(struct gguf_text key)
{
    for (size_t i = 0; i < sizeof(known_keys) / sizeof(known_keys[0]); i++) {
        if (gguf_text_is(key, known_keys[i])) {
            return true;
        }
    }
    return false;
}

static enum status check_keys(const struct gguf *file)
{
    static const char prefix[] = "llama.";
    const size_t n_prefix = sizeof(prefix) - 1;

    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        const struct gguf_text key = value->key;

        if (key.n <= n_prefix || memcmp(key.bytes, prefix, n_prefix) != 0) {
            continue;
        }
        if (!is_known((struct gguf_text){key.bytes + n_prefix, key.n - n_prefix})) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: byte %zu: key %.*s is not known to this build", gguf_label(file),
                              value->position, (int)key.n, key.bytes);
        }
    }
    return STATUS_OK;
}

/* A float's value with the digits a person would have written: 1e-5, not 9.999999747378752e-06. */
static double shortest(double value)
{
    char text[40];
    double read = value;

    for (int digits = 1; digits <= 9; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, value);
        read = strtod(text, NULL);
        if ((float)read == (float)value) {
            return read;
        }
    }
    return value;
}

static enum status put_number(struct json *root, const char *key, double value)
{
    return json_put(root, key, json_from_number(shortest(value)));
}

static enum status put_size(struct json *root, const char *key, size_t value)
{
    return json_put(root, key, json_from_int((int64_t)value));
}

static enum status put_text(struct json *root, const char *key, const char *text)
{
    return json_put(root, key, json_from_text(text, strlen(text)));
}

static enum status require_size(const struct gguf *file, const char *key, size_t *out)
{
    TRY(gguf_require(file, key));
    return gguf_read_size(file, key, out);
}

/* Sizes that go over under another name. */
static enum status put_sizes(const struct gguf *file, struct json *root)
{
    static const struct {
        const char *from, *to;
    } sizes[] = {
        {"llama.block_count", "num_hidden_layers"},
        {"llama.embedding_length", "hidden_size"},
        {"llama.feed_forward_length", "intermediate_size"},
        {"llama.context_length", "max_position_embeddings"},
    };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t value = 0;

        TRY(require_size(file, sizes[i].from, &value));
        TRY(put_size(root, sizes[i].to, value));
    }
    return STATUS_OK;
}

static enum status put_vocabulary(const struct gguf *file, struct json *root)
{
    const struct gguf_tensor *embedding = gguf_tensor_find(file, EMBEDDING);
    size_t promised;

    if (embedding == NULL || embedding->n_dims != 2) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor " EMBEDDING " is %s", gguf_label(file),
                          embedding == NULL ? "missing" : "no matrix");
    }
    promised = embedding->shape[0];
    TRY(gguf_read_size(file, "llama.vocab_size", &promised));
    if (promised != embedding->shape[0]) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: llama.vocab_size is %zu, but " EMBEDDING " has %zu rows",
                          gguf_label(file), promised, embedding->shape[0]);
    }
    TRY(put_size(root, "vocab_size", promised));
    return json_put(root, "tie_word_embeddings",
                    json_from_bool(gguf_tensor_find(file, "output.weight") == NULL));
}

/* Width of a head: of keys, values and what is rotated alike. */
static enum status read_head_dim(const struct gguf *file, size_t n_heads, size_t *out)
{
    size_t width = 0, value_dim, rotated;

    TRY(require_size(file, "llama.embedding_length", &width));
    *out = n_heads > 0 ? width / n_heads : 0;
    TRY(gguf_read_size(file, "llama.attention.key_length", out));
    value_dim = *out;
    rotated = *out;
    TRY(gguf_read_size(file, "llama.attention.value_length", &value_dim));
    TRY(gguf_read_size(file, "llama.rope.dimension_count", &rotated));
    if (value_dim != *out || rotated != *out) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: heads of %zu with values of %zu, of which %zu are rotated: this "
                          "build wants all three equal",
                          gguf_label(file), *out, value_dim, rotated);
    }
    return STATUS_OK;
}

static enum status put_heads(const struct gguf *file, struct json *root, size_t *head_dim)
{
    size_t n_heads = 0, n_kv_heads;

    TRY(require_size(file, "llama.attention.head_count", &n_heads));
    n_kv_heads = n_heads;
    TRY(gguf_read_size(file, "llama.attention.head_count_kv", &n_kv_heads));
    TRY(read_head_dim(file, n_heads, head_dim));
    TRY(put_size(root, "num_attention_heads", n_heads));
    TRY(put_size(root, "num_key_value_heads", n_kv_heads));
    TRY(put_size(root, "head_dim", *head_dim));
    return json_put(root, "attention_bias",
                    json_from_bool(gguf_tensor_find(file, "blk.0.attn_q.bias") != NULL));
}

/* --- Rotation --- */

/* What Llama 3 divides the frequency of pair i by. */
static double llama3_divisor(double theta, size_t head_dim, size_t i, double factor)
{
    const double low = 1, high = 4, positions = 8192;
    const double wavelength = 2 * acos(-1.0) * pow(theta, 2.0 * (double)i / (double)head_dim);
    const double smooth = (positions / wavelength - low) / (high - low);

    if (wavelength < positions / high) {
        return 1;
    }
    return wavelength > positions / low ? factor : 1 / ((1 - smooth) / factor + smooth);
}

/* Files have the divisors themselves; all releases have one rule with another factor, which is the
 * largest divisor. */
static enum status put_divisors(const struct gguf *file, struct json *scaling, double theta,
                                size_t head_dim)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(file, ROPE_FACTORS);
    float divisors[4096];
    double factor = 1;

    if (tensor->n_dims != 1 || tensor->n_elements != head_dim / 2 || head_dim / 2 > 4096) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tensor " ROPE_FACTORS " has %zu numbers, want %zu", gguf_label(file),
                          tensor->n_elements, head_dim / 2);
    }
    gguf_read_floats(tensor, 0, tensor->n_elements, divisors);
    for (size_t i = 0; i < tensor->n_elements; i++) {
        factor = (double)divisors[i] > factor ? (double)divisors[i] : factor;
    }
    for (size_t i = 0; i < tensor->n_elements; i++) {
        const double want = llama3_divisor(theta, head_dim, i, factor);

        if (!(fabs((double)divisors[i] - want) <= 1e-4 * want)) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: tensor " ROPE_FACTORS
                              " is not Llama 3's scaling by %g (number %zu is %g, want %g)",
                              gguf_label(file), factor, i, (double)divisors[i], want);
        }
    }
    TRY(put_text(scaling, "rope_type", "llama3"));
    TRY(put_number(scaling, "low_freq_factor", 1));
    TRY(put_number(scaling, "high_freq_factor", 4));
    TRY(put_size(scaling, "original_max_position_embeddings", 8192));
    return put_number(scaling, "factor", factor);
}

/* Fills scaling; an empty one means none. */
static enum status put_scaling(const struct gguf *file, struct json *scaling, double theta,
                               size_t head_dim)
{
    struct gguf_text kind = {"none", 4};
    double factor = 1;

    TRY(gguf_read_number(file, "llama.rope.scale_linear", &factor));
    kind = factor != 1 ? (struct gguf_text){"linear", 6} : kind;
    TRY(gguf_read_text(file, "llama.rope.scaling.type", &kind));
    TRY(gguf_read_number(file, "llama.rope.scaling.factor", &factor));
    if (gguf_text_is(kind, "none")) {
        return gguf_tensor_find(file, ROPE_FACTORS) != NULL
                   ? put_divisors(file, scaling, theta, head_dim)
                   : STATUS_OK;
    }
    if (!gguf_text_is(kind, "linear") || gguf_tensor_find(file, ROPE_FACTORS) != NULL) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: llama.rope.scaling.type \"%.*s\"%s is not read by this build",
                          gguf_label(file), (int)(kind.n > 64 ? 64 : kind.n), kind.bytes,
                          gguf_text_is(kind, "linear") ? " with " ROPE_FACTORS : "");
    }
    TRY(put_text(scaling, "rope_type", "linear"));
    return put_number(scaling, "factor", factor);
}

static enum status put_rotation(const struct gguf *file, struct json *root, size_t head_dim)
{
    struct json *scaling = json_object_create();
    double theta = 10000, eps = 0;
    enum status status = gguf_read_number(file, "llama.rope.freq_base", &theta);

    if (status == STATUS_OK) {
        status = put_scaling(file, scaling, theta, head_dim);
    }
    if (status != STATUS_OK || json_count(scaling) == 0) {
        json_destroy(scaling);
        TRY(status);
    } else {
        TRY(json_put(root, "rope_scaling", scaling));
    }
    TRY(gguf_require(file, "llama.attention.layer_norm_rms_epsilon"));
    TRY(gguf_read_number(file, "llama.attention.layer_norm_rms_epsilon", &eps));
    TRY(put_number(root, "rms_norm_eps", eps));
    return put_number(root, "rope_theta", theta);
}

/* --- Tokens --- */

static enum status put_id(const struct gguf *file, const char *key, size_t n_tokens,
                          struct json *list)
{
    int32_t id = -1;

    TRY(gguf_read_id(file, key, n_tokens, &id));
    for (size_t i = 0; i < json_count(list); i++) {
        if (json_int(json_at(list, i), -1) == id) {
            return STATUS_OK;
        }
    }
    return id < 0 ? STATUS_OK : json_append(list, json_from_int(id));
}

/* bos, pad, and everything that ends a turn: a number, or a list where they are two. */
static enum status put_ids(const struct gguf *file, struct json *root)
{
    const size_t n_tokens = (size_t)json_int(json_get(root, "vocab_size"), 0);
    struct json *ends = json_array_create();
    int32_t bos = -1, pad = -1;
    enum status status = put_id(file, "tokenizer.ggml.eos_token_id", n_tokens, ends);

    if (status == STATUS_OK) {
        status = put_id(file, "tokenizer.ggml.eot_token_id", n_tokens, ends);
    }
    if (status == STATUS_OK && json_count(ends) > 0) {
        status = json_put(root, "eos_token_id",
                          json_retain(json_count(ends) == 1 ? json_at(ends, 0) : ends));
    }
    json_destroy(ends);
    TRY(status);
    TRY(gguf_read_id(file, "tokenizer.ggml.bos_token_id", n_tokens, &bos));
    TRY(gguf_read_id(file, "tokenizer.ggml.padding_token_id", n_tokens, &pad));
    if (bos >= 0) {
        TRY(put_size(root, "bos_token_id", (size_t)bos));
    }
    return pad < 0 ? STATUS_OK : put_size(root, "pad_token_id", (size_t)pad);
}

static enum status put_all(const struct gguf *file, struct json *root)
{
    size_t n_experts = 0, head_dim = 0;

    TRY(gguf_read_size(file, "llama.expert_count", &n_experts));
    if (n_experts > 0) {
        return status_set(STATUS_UNSUPPORTED, "%s: %zu experts are not read by this build",
                          gguf_label(file), n_experts);
    }
    TRY(put_text(root, "model_type", "llama"));
    TRY(put_text(root, "hidden_act", "silu"));
    TRY(put_sizes(file, root));
    TRY(put_vocabulary(file, root));
    TRY(put_heads(file, root, &head_dim));
    TRY(put_rotation(file, root, head_dim));
    return put_ids(file, root);
}

enum status gguf_import_config(const struct gguf *file, struct model_config *out)
{
    struct json *root;
    enum status status;

    TRY(check_architecture(file));
    TRY(check_keys(file));
    root = json_object_create();
    status = put_all(file, root);
    if (status == STATUS_OK) {
        status = model_config_parse(root, gguf_label(file), out);
    }
    json_destroy(root);
    return status;
}
