/* Owns what goes beside the weights of a converted model: config.json with the new storage type,
 * and the source's other files as they are. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text_buffer.h"
#include "cli/model_convert.h"

#include <string.h>

#define CONFIG_BYTES_MAX ((size_t)64 << 20)
#define CONFIG_DEPTH_MAX 32u
#define FILE_BYTES_MAX ((size_t)512 << 20)

/* Files of a model folder that say nothing about how weights are stored. */
static const char *const carried[] = {
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
};

static struct json *text_value(const char *text)
{
    return json_from_text(text, strlen(text));
}

/* The description that the family's FP8 checkpoints have. */
static enum status put_quantization(struct json *root)
{
    struct json *object = json_object_create(), *block = json_array_create();
    enum status status = json_append(block, json_from_int(128));

    if (status == STATUS_OK) {
        status = json_append(block, json_from_int(128));
    }
    if (status != STATUS_OK) {
        json_destroy(block);
        json_destroy(object);
        return status;
    }
    status = json_put(object, "weight_block_size", block);
    if (status == STATUS_OK) {
        status = json_put(object, "quant_method", text_value("fp8"));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "fmt", text_value("e4m3"));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "scale_fmt", text_value("ue8m0"));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "activation_scheme", text_value("dynamic"));
    }
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return json_put(root, "quantization_config", object);
}

/* Copies all keys but those that are to change. */
static enum status copy_keys(const struct json *from, struct json *to)
{
    struct json_iterator entry = {.object = from};

    while (json_next(&entry)) {
        if (strcmp(entry.key, "quantization_config") == 0 ||
            strcmp(entry.key, "torch_dtype") == 0 || strcmp(entry.key, "dtype") == 0) {
            continue;
        }
        TRY(json_put(to, entry.key, json_retain(entry.value)));
    }
    return STATUS_OK;
}

/* Kimi-K2 is the V3 architecture under a name that transformers does not know (model.md 1.1). */
static enum status put_known_family(const struct json *from, struct json *to)
{
    struct json *architectures;

    if (strcmp(json_text(json_get(from, "model_type"), ""), "kimi_k2") != 0) {
        return STATUS_OK;
    }
    architectures = json_array_create();
    TRY(json_put(to, "model_type", text_value("deepseek_v3")));
    TRY(json_put(to, "architectures", architectures));
    return json_append(architectures, text_value("DeepseekV3ForCausalLM"));
}

static enum status form_config(const struct json *from, enum weights_format format,
                               size_t n_mtp_modules, struct json *to)
{
    const char *key = json_get(from, "dtype") != NULL ? "dtype" : "torch_dtype";

    TRY(copy_keys(from, to));
    TRY(put_known_family(from, to));
    TRY(json_put(to, key, text_value(format == WEIGHTS_F32 ? "float32" : "bfloat16")));
    if (n_mtp_modules > 0 || json_get(from, "num_nextn_predict_layers") != NULL) {
        TRY(json_put(to, "num_nextn_predict_layers", json_from_int((int64_t)n_mtp_modules)));
    }
    return format == WEIGHTS_FP8 ? put_quantization(to) : STATUS_OK;
}

static enum status put_text(struct text_buffer *buffer, const char *text)
{
    return text_buffer_put(buffer, text, strlen(text));
}

/* A value's compact text. */
static enum status put_value(struct text_buffer *buffer, const struct json *value)
{
    char *text;
    size_t n;
    enum status status;

    TRY(json_print(value, &text, &n));
    status = text_buffer_put(buffer, text, n);
    memory_free(text);
    return status;
}

/* One line a key, for people. */
static enum status print_lines(const struct json *root, struct text_buffer *buffer)
{
    struct json_iterator entry = {.object = root};
    const char *before = "{\n  ";

    while (json_next(&entry)) {
        struct json *key = json_from_text(entry.key, entry.key_bytes);
        enum status status = put_text(buffer, before);

        if (status == STATUS_OK) {
            status = put_value(buffer, key);
        }
        json_destroy(key);
        TRY(status);
        TRY(put_text(buffer, ": "));
        TRY(put_value(buffer, entry.value));
        before = ",\n  ";
    }
    return put_text(buffer, "\n}\n");
}

static enum status write_config(const struct json *root, const char *dir)
{
    struct text_buffer buffer = {.count = 0};
    char *path = NULL;
    enum status status = print_lines(root, &buffer);

    if (status == STATUS_OK) {
        status = path_join(dir, "config.json", &path);
    }
    if (status == STATUS_OK) {
        status = file_write_atomic(path, buffer.bytes, buffer.count);
    }
    text_buffer_dispose(&buffer);
    memory_free(path);
    return status;
}

enum status model_convert_config(const char *from_dir, const char *to_dir,
                                 enum weights_format format, size_t n_mtp_modules)
{
    struct json *from = NULL, *to = NULL;
    char *path;
    enum status status;

    TRY(path_join(from_dir, "config.json", &path));
    status = json_load(path, CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, &from);
    memory_free(path);
    TRY(status);
    to = json_object_create();
    status = form_config(from, format, n_mtp_modules, to);
    if (status == STATUS_OK) {
        status = write_config(to, to_dir);
    }
    json_destroy(from);
    json_destroy(to);
    return status;
}

static enum status copy_file(const char *from, const char *to)
{
    char *data;
    size_t n;
    enum status status;

    TRY(file_read(from, FILE_BYTES_MAX, &data, &n));
    status = file_write_atomic(to, data, n);
    memory_free(data);
    return status;
}

static enum status carry(const char *from_dir, const char *to_dir, const char *name)
{
    char *from, *to = NULL;
    enum status status;

    TRY(path_join(from_dir, name, &from));
    status = path_join(to_dir, name, &to);
    if (status == STATUS_OK && file_exists(from)) {
        status = copy_file(from, to);
    }
    memory_free(from);
    memory_free(to);
    return status;
}

enum status model_convert_carry(const char *from_dir, const char *to_dir)
{
    for (size_t i = 0; i < sizeof(carried) / sizeof(carried[0]); i++) {
        TRY(carry(from_dir, to_dir, carried[i]));
    }
    return STATUS_OK;
}
