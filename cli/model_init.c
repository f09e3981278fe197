/* Owns `hone model init`: a folder with config.json, random weights and a tokenizer. config.json is
 * written last, so a folder that has one is complete. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/model_command.h"
#include "model/demo_tokenizer.h"
#include "model/model_config.h"
#include "model/tokenizer.h"
#include "model/tokenizer_config.h"
#include "model/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)64 << 20)
#define JSON_DEPTH_MAX 32u
#define VOCAB_MULTIPLE ((size_t)64)

enum {
    OPTION_PRESET = 'p',
    OPTION_CONFIG = 'c',
    OPTION_SEED = 's',
    OPTION_TOKENIZER = 't',
    OPTION_SET = 256,
    OPTION_FORCE,
    OPTION_JSON
};
static const struct cli_option options[] = {
    {OPTION_PRESET, "preset", "NAME",
     "demo (3.2 M parameters), small (8.5 M), medium (684 M), or a tiny one"},
    {OPTION_CONFIG, "config", "FILE", "a config.json to start from instead"},
    {OPTION_SEED, "seed", "N", "of the random weights (0)"},
    {OPTION_TOKENIZER, "tokenizer", "DIR", "copy its tokenizer files; sets vocabulary, bos, eos"},
    {OPTION_SET, "set", "KEY=VALUE", "change a key of config.json (repeatable)"},
    {OPTION_FORCE, "force", NULL, "write over a model that is there"},
    {OPTION_JSON, "json", NULL, "print one object"},
};
static const struct cli_command command = {
    .name = "model init",
    .arguments = "DIR",
    .summary = "Writes a model folder with random weights.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples =
        "  hone model init model --preset demo --seed 1\n"
        "  hone model init model --preset small --tokenizer DeepSeek-V3/ \\\n"
        "      --set num_hidden_layers=6\n"
        "  hone model init model --preset qwen3\n"
        "Tiny presets: tiny (V3), v2, v32 (sparse attention), tied (V3, one matrix for\n"
        "embedding and head), llama, qwen2, qwen3, qwen3-moe, mixtral. All but small, medium\n"
        "and tiny come with the demo's tokenizer.\n",
};

struct request {
    const char *dir, *preset, *config, *tokenizer;
    struct cli_sets sets;
    uint64_t seed;
    bool is_forced, wants_json;
};

static bool parse_seed(const char *text, uint64_t *out)
{
    char *end = NULL;

    errno = 0;
    *out = strtoull(text, &end, 0);
    return errno == 0 && end != text && *end == '\0' && text[0] != '-';
}

/* 0, or the exit code of a wrong option. */
static int take_option(int code, const char *value, struct request *request)
{
    switch (code) {
    case OPTION_PRESET:
        request->preset = value;
        return 0;
    case OPTION_CONFIG:
        request->config = value;
        return 0;
    case OPTION_TOKENIZER:
        request->tokenizer = value;
        return 0;
    case OPTION_FORCE:
        request->is_forced = true;
        return 0;
    case OPTION_JSON:
        request->wants_json = true;
        return 0;
    case OPTION_SET:
        return cli_sets_add(&request->sets, value) == STATUS_OK
                   ? 0
                   : cli_usage_error(&command, "%s", status_message());
    default:
        return parse_seed(value, &request->seed)
                   ? 0
                   : cli_usage_error(&command, "--seed %.50s is no whole number", value);
    }
}

/* Copies DIR/name, which may be absent unless it is required. */
static enum status copy_file(const char *from_dir, const char *to_dir, const char *name,
                             bool is_required)
{
    char *from = NULL, *to = NULL, *data = NULL;
    size_t n = 0;
    enum status status = path_join(from_dir, name, &from);

    if (status == STATUS_OK && !is_required && !file_exists(from)) {
        memory_free(from);
        return STATUS_OK;
    }
    if (status == STATUS_OK) {
        status = path_join(to_dir, name, &to);
    }
    if (status == STATUS_OK) {
        status = file_read(from, FILE_BYTES_MAX, &data, &n);
    }
    if (status == STATUS_OK) {
        status = file_write_atomic(to, data, n);
    }
    memory_free(from);
    memory_free(to);
    memory_free(data);
    return status;
}

/* Presets for measuring, which have a vocabulary of their own. */
static bool is_bare(const char *preset)
{
    static const char *const names[] = {"small", "medium", "tiny"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(preset, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Puts a tokenizer into the folder: a copy, the demo's own, or none. */
static enum status place_tokenizer(const struct request *request, bool *has_tokenizer)
{
    *has_tokenizer = true;
    if (request->tokenizer != NULL && !folder_exists(request->tokenizer)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there is no such folder of a tokenizer",
                          request->tokenizer);
    }
    if (request->tokenizer != NULL) {
        TRY(copy_file(request->tokenizer, request->dir, "tokenizer.json", true));
        return copy_file(request->tokenizer, request->dir, "tokenizer_config.json", false);
    }
    if (request->preset != NULL && !is_bare(request->preset)) {
        return demo_tokenizer_write(request->dir);
    }
    *has_tokenizer = false;
    return STATUS_OK;
}

/* The id of a special token of tokenizer_config.json: a text, or an object with "content". */
static struct json *special_id(const struct tokenizer *tokenizer, const struct json *config,
                               const char *key)
{
    const struct json *value = json_get(config, key);
    const char *text = json_text(json_get(value, "content"), json_text(value, NULL));
    const int32_t id = text == NULL ? -1 : tokenizer_id(tokenizer, text);

    return id < 0 ? json_null_create() : json_from_int(id);
}

static enum status apply_special_tokens(const struct tokenizer *tokenizer, const char *dir,
                                        struct json *root)
{
    struct json *config;
    enum status status;

    TRY(tokenizer_config_load(dir, &config));
    if (config == NULL) {
        return STATUS_OK;
    }
    status = json_put(root, "bos_token_id", special_id(tokenizer, config, "bos_token"));
    if (status == STATUS_OK) {
        status = json_put(root, "eos_token_id", special_id(tokenizer, config, "eos_token"));
    }
    if (status == STATUS_OK) {
        status = json_put(root, "pad_token_id", special_id(tokenizer, config, "pad_token"));
    }
    json_destroy(config);
    return status;
}

/* Vocabulary (rounded up) and special ids as the folder's tokenizer has them. */
static enum status apply_tokenizer(const char *dir, struct json *root, size_t *vocab_size)
{
    struct tokenizer *tokenizer;
    enum status status;

    TRY(tokenizer_load(dir, &tokenizer));
    *vocab_size = tokenizer_vocab_size(tokenizer);

    const size_t rounded = (*vocab_size + VOCAB_MULTIPLE - 1) / VOCAB_MULTIPLE * VOCAB_MULTIPLE;

    status = json_put(root, "vocab_size", json_from_int((int64_t)rounded));
    if (status == STATUS_OK) {
        status = apply_special_tokens(tokenizer, dir, root);
    }
    tokenizer_destroy(tokenizer);
    return status;
}

/* KEY=VALUE; the value is JSON where it parses, else a text. */
static enum status apply_set(const char *set, struct json *root)
{
    const char *equals = strchr(set, '=');
    struct json *value = NULL;
    char *key;
    enum status status;

    if (equals == NULL || equals == set) {
        return status_set(STATUS_BAD_ARGUMENT, "--set %.100s: want KEY=VALUE", set);
    }
    if (json_parse(equals + 1, strlen(equals + 1), JSON_DEPTH_MAX, &value) != STATUS_OK) {
        value = json_from_text(equals + 1, strlen(equals + 1));
    }
    status = memory_copy_text(set, (size_t)(equals - set), &key);
    if (status != STATUS_OK) {
        json_destroy(value);
        return status;
    }
    status = json_put(root, key, value);
    memory_free(key);
    return status;
}

/* The starting point: a preset, or the user's file. */
static enum status load_base(const struct request *request, struct json **out)
{
    struct model_config config;

    if (request->config != NULL && !file_exists(request->config)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there is no such file", request->config);
    }
    if (request->config != NULL) {
        return json_load(request->config, FILE_BYTES_MAX, JSON_DEPTH_MAX, out);
    }
    TRY(model_config_preset(request->preset, &config));
    return model_config_print(&config, out);
}

static enum status form_config(const struct request *request, bool has_tokenizer, struct json *root,
                               struct model_config *out)
{
    const char *label = request->config != NULL ? request->config : request->preset;
    size_t vocab_size = 0;

    if (!json_is(root, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "%s: not a JSON object", label);
    }
    if (has_tokenizer) {
        TRY(apply_tokenizer(request->dir, root, &vocab_size));
    }
    for (size_t i = 0; i < request->sets.count; i++) {
        TRY(apply_set(request->sets.items[i], root));
    }
    TRY(model_config_parse(root, label, out));
    if (out->vocab_size < vocab_size) {
        return status_set(STATUS_BAD_ARGUMENT, "vocab_size %zu is less than the tokenizer's %zu",
                          out->vocab_size, vocab_size);
    }
    return STATUS_OK;
}

static enum status write_weights(const struct request *request, const struct model_config *config)
{
    struct weight_table *table;
    float *data = NULL;
    enum status status;

    TRY(weight_table_create(config, &table));
    status = memory_alloc(table->n_floats, sizeof(float), &data);
    if (status == STATUS_OK) {
        weights_init(config, table, request->seed, data);
        status = weights_save(request->dir, config, table, data);
    }
    memory_free(data);
    weight_table_destroy(table);
    return status;
}

static enum status report(const struct request *request, const struct model_config *config,
                          bool has_tokenizer)
{
    struct json *object;
    enum status status;

    if (!request->wants_json) {
        (void)printf("%s: %zu parameters, %zu active, vocabulary %zu%s\n", request->dir,
                     model_config_parameters(config), model_config_active_parameters(config),
                     config->vocab_size,
                     has_tokenizer ? "" : "; no tokenizer (--tokenizer DIR gives it one)");
        return STATUS_OK;
    }
    object = json_object_create();
    status = json_put(object, "dir", json_from_text(request->dir, strlen(request->dir)));
    if (status == STATUS_OK) {
        status =
            json_put(object, "parameters", json_from_int((int64_t)model_config_parameters(config)));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "active_parameters",
                          json_from_int((int64_t)model_config_active_parameters(config)));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "vocab_size", json_from_int((int64_t)config->vocab_size));
    }
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

/* Refuses to write over a model. */
static enum status check_target(const struct request *request)
{
    char *path;
    bool is_there;

    TRY(path_join(request->dir, "config.json", &path));
    is_there = file_exists(path);
    memory_free(path);
    if (is_there && !request->is_forced) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there is a model already (--force replaces it)",
                          request->dir);
    }
    return folder_create(request->dir);
}

static enum status init(const struct request *request)
{
    struct model_config config = {.vocab_size = 0};
    struct json *root = NULL;
    bool has_tokenizer = false;
    enum status status = load_base(request, &root);

    if (status == STATUS_OK) {
        status = check_target(request);
    }
    if (status == STATUS_OK) {
        status = place_tokenizer(request, &has_tokenizer);
    }
    if (status == STATUS_OK) {
        status = form_config(request, has_tokenizer, root, &config);
    }
    json_destroy(root);
    TRY(status);
    TRY(write_weights(request, &config));
    TRY(model_config_save(&config, request->dir));
    return report(request, &config, has_tokenizer);
}

int model_init_command(int argc, char **argv)
{
    struct request request = {.seed = 0};
    struct cli_parse parse;
    int code;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        const int wrong = take_option(code, parse.value, &request);

        if (wrong != 0) {
            return wrong;
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    if ((request.preset == NULL) == (request.config == NULL)) {
        return cli_usage_error(&command, "want either --preset or --config");
    }
    request.dir = parse.arguments[0];

    const enum status status = init(&request);

    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
