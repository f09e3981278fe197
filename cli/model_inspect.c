/* Owns `hone model inspect`: what a model folder holds, whether its tensors are those of its
 * config.json, and what a run would need. */
#include "base/json.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/model_command.h"
#include "cli/model_memory.h"
#include "model/model_config.h"
#include "model/model_cost.h"
#include "model/safetensors.h"
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

enum { OPTION_CONFIG = 'c', OPTION_JSON = 256, OPTION_SET };
static const struct cli_option options[] = {
    {OPTION_CONFIG, "config", "FILE", "the run whose memory is shown (default: the defaults)"},
    {OPTION_SET, "set", "KEY=VALUE", "change a setting of it (repeatable)"},
    {OPTION_JSON, "json", NULL, "one object: architecture, parameters, memory, config, tensors"},
};
static const struct cli_command command = {
    .name = "model inspect",
    .arguments = "DIR",
    .summary =
        "Shows architecture, parameters, cache and memory; checks every tensor's name, shape "
        "and type against config.json.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone model inspect demo/model\n"
                "  hone model inspect model --config run.yaml --set rollout.max_num_seqs=64\n",
};

struct model_folder {
    struct model_config config;
    struct weight_table *table;
    size_t n_tensors; /* in the files, scales and copies included */
    char dtypes[64];  /* theirs, "BF16, F32" */
    struct model_memory trainer, sampler;
    size_t n_samplers;
};

/* Bytes that one token keeps in the cache (FP32). */
static size_t cache_bytes(const struct model_config *config)
{
    return model_config_kv_floats(config) * sizeof(float);
}

/* Experts after the first of a layer are counted, not listed. */
static bool is_later_expert(const char *name)
{
    const char *expert = strstr(name, ".experts.");

    return expert != NULL && strncmp(expert, ".experts.0.", 11) != 0;
}

static void print_row(const struct model_folder *folder, const struct weight_row *row)
{
    const bool is_expert = strstr(row->name, ".experts.0.") != NULL;
    const size_t copies = is_expert ? folder->config.n_experts : 1;
    char shape[48];

    if (row->n_dims == 1) {
        (void)snprintf(shape, sizeof(shape), "%zu", row->shape[0]);
    } else {
        (void)snprintf(shape, sizeof(shape), "%zu x %zu", row->shape[0], row->shape[1]);
    }
    (void)printf("%-60s %16s %12zu", row->name, shape, row->count * copies);
    if (is_expert) {
        (void)printf("  (%zu experts)", copies);
    }
    (void)printf("\n");
}

static void print_rows(const struct model_folder *folder)
{
    (void)printf("%-60s %16s %12s\n", "tensor", "shape", "parameters");
    for (size_t i = 0; i < folder->table->n_rows; i++) {
        if (!is_later_expert(folder->table->rows[i].name)) {
            print_row(folder, &folder->table->rows[i]);
        }
    }
}

static void print_layers(const struct model_config *c)
{
    const size_t n_moe = model_config_moe_layers(c) - (c->n_experts > 0 ? c->n_mtp_modules : 0);

    (void)printf("layers              %zu", c->n_layers);
    if (n_moe > 0) {
        (void)printf(", %zu with experts: %zu of %zu a token", n_moe, c->experts_per_token,
                     c->n_experts);
    }
    if (n_moe > 0 && c->n_shared_experts > 0) {
        (void)printf(", %zu shared", c->n_shared_experts);
    }
    if (c->n_mtp_modules > 0) {
        (void)printf("; %zu MTP module%s", c->n_mtp_modules, c->n_mtp_modules == 1 ? "" : "s");
    }
    (void)printf("\n");
}

static void print_table(const struct model_folder *folder)
{
    const struct model_config *c = &folder->config;

    print_rows(folder);
    (void)printf("\narchitecture        %s, attention %s, %s\n", model_config_family_name(c),
                 model_config_attention_name(c), model_config_moe_layers(c) > 0 ? "moe" : "dense");
    print_layers(c);
    (void)printf("heads               %zu", c->n_heads);
    if (c->attention == MODEL_ATTENTION_GQA) {
        (void)printf(" on %zu of keys and values", c->n_kv_heads);
    }
    (void)printf("\nparameters          %zu\n", model_config_parameters(c));
    (void)printf("active a token      %zu\n", model_config_active_parameters(c));
    (void)printf("cache               %zu bytes a token in FP32, %zu in BF16, %zu in FP8\n",
                 cache_bytes(c), cache_bytes(c) / 2,
                 (size_t)model_cache_bytes(c, 1, PRECISION_FP8));
    (void)printf(
        "files               %zu tensors (%s): every name, shape and type is config.json's\n",
        folder->n_tensors, folder->dtypes);
    model_memory_print(&folder->trainer, &folder->sampler, folder->n_samplers);
}

static enum status add_tensor(struct json *list, const struct weight_row *row)
{
    struct json *entry = json_object_create();
    struct json *shape = json_array_create();
    enum status status = STATUS_OK;

    for (size_t i = 0; i < row->n_dims && status == STATUS_OK; i++) {
        status = json_append(shape, json_from_int((int64_t)row->shape[i]));
    }
    if (status != STATUS_OK) {
        json_destroy(shape);
        json_destroy(entry);
        return status;
    }
    status = json_put(entry, "shape", shape);
    if (status == STATUS_OK) {
        status = json_put(entry, "name", json_from_text(row->name, strlen(row->name)));
    }
    if (status != STATUS_OK) {
        json_destroy(entry);
        return status;
    }
    return json_append(list, entry);
}

static enum status list_tensors(const struct weight_table *table, struct json **out)
{
    *out = json_array_create();
    for (size_t i = 0; i < table->n_rows; i++) {
        const enum status status = add_tensor(*out, &table->rows[i]);

        if (status != STATUS_OK) {
            json_destroy(*out);
            *out = NULL;
            return status;
        }
    }
    return STATUS_OK;
}

static enum status put_text(struct json *object, const char *key, const char *text)
{
    return json_put(object, key, json_from_text(text, strlen(text)));
}

static enum status put_size(struct json *object, const char *key, size_t value)
{
    return json_put(object, key, json_from_int((int64_t)value));
}

static enum status describe_sizes(const struct model_folder *folder, struct json *object)
{
    const struct model_config *c = &folder->config;

    TRY(put_text(object, "architecture", model_config_family_name(c)));
    TRY(put_text(object, "attention", model_config_attention_name(c)));
    TRY(put_text(object, "ffn", model_config_moe_layers(c) > 0 ? "moe" : "dense"));
    TRY(put_size(object, "parameters", model_config_parameters(c)));
    TRY(put_size(object, "active_parameters", model_config_active_parameters(c)));
    TRY(put_size(object, "cache_bytes_per_token", cache_bytes(c)));
    TRY(put_size(object, "weight_bytes", folder->table->n_floats * sizeof(float)));
    TRY(put_size(object, "file_tensors", folder->n_tensors));
    return put_text(object, "file_dtypes", folder->dtypes);
}

static enum status describe_memory(const struct model_folder *folder, struct json *object)
{
    struct json *part;

    TRY(model_memory_describe(&folder->trainer, &part));
    TRY(json_put(object, "trainer_memory", part));
    TRY(model_memory_describe(&folder->sampler, &part));
    TRY(json_put(object, "sampler_memory", part));
    return put_size(object, "samplers", folder->n_samplers);
}

static enum status describe(const struct model_folder *folder, struct json *object)
{
    struct json *part;

    TRY(describe_sizes(folder, object));
    TRY(describe_memory(folder, object));
    TRY(model_config_print(&folder->config, &part));
    TRY(json_put(object, "config", part));
    TRY(list_tensors(folder->table, &part));
    return json_put(object, "tensors", part);
}

static enum status print_json(const struct model_folder *folder)
{
    struct json *object = json_object_create();
    const enum status status = describe(folder, object);

    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

/* Counts the files' tensors and names their types. */
static enum status read_files(const char *dir, struct model_folder *folder)
{
    struct safetensors *file;
    size_t n = 0;

    TRY(safetensors_open_folder(dir, &file));
    folder->n_tensors = safetensors_count(file);
    folder->dtypes[0] = '\0';
    for (size_t i = 0; i < folder->n_tensors; i++) {
        const char *name = tensor_dtype_name(safetensors_at(file, i)->dtype);

        if (strstr(folder->dtypes, name) == NULL && n + strlen(name) + 3 < sizeof(folder->dtypes)) {
            const int added = snprintf(folder->dtypes + n, sizeof(folder->dtypes) - n, "%s%s",
                                       n > 0 ? ", " : "", name);

            n += added > 0 ? (size_t)added : 0;
        }
    }
    safetensors_close(file);
    return STATUS_OK;
}

struct request {
    const char *dir, *config;
    struct cli_sets sets;
    bool wants_json;
};

static enum status inspect_with(const struct request *request, const struct run_config *run,
                                struct model_folder *folder)
{
    TRY(weights_check(request->dir, folder->table, false));
    TRY(read_files(request->dir, folder));
    TRY(model_memory_measure(run, &folder->config, &folder->trainer, &folder->sampler));
    folder->n_samplers = run->rollout.workers;
    if (request->wants_json) {
        return print_json(folder);
    }
    print_table(folder);
    return STATUS_OK;
}

static enum status inspect(const struct request *request, const struct run_config *run)
{
    struct model_folder folder;
    enum status status;

    TRY(cli_check_model(request->dir, false));
    TRY(model_config_load(request->dir, &folder.config));
    TRY(weights_probe_mtp(request->dir, &folder.config));
    TRY(weight_table_create(&folder.config, &folder.table));
    status = inspect_with(request, run, &folder);
    weight_table_destroy(folder.table);
    return status;
}

/* 0, or the exit code of a wrong option. */
static int take_option(int code, const char *value, struct request *request)
{
    if (code == OPTION_JSON) {
        request->wants_json = true;
    } else if (code == OPTION_CONFIG) {
        request->config = value;
    } else if (cli_sets_add(&request->sets, value) != STATUS_OK) {
        return cli_usage_error(&command, "%s", status_message());
    }
    return 0;
}

int model_inspect_command(int argc, char **argv)
{
    struct request request = {.wants_json = false};
    struct run_config *run = NULL;
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
    request.dir = parse.arguments[0];
    code = cli_load_config(request.config, &request.sets, CONFIG_ANY, &run);
    if (code != 0) {
        return code;
    }

    const enum status status = inspect(&request, run);

    config_destroy(run);
    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
