/* Owns `hone model inspect`: what a model folder holds. */
#include "base/json.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/model_command.h"
#include "model/model_config.h"
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

enum { OPTION_JSON = 256 };
static const struct cli_option options[] = {
    {OPTION_JSON, "json", NULL, "one object: parameters, config, tensors"},
};
static const struct cli_command command = {
    .name = "model inspect",
    .arguments = "DIR",
    .summary = "Shows shapes, parameters and the size of the latent cache.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone model inspect demo/model\n",
};

struct model_folder {
    struct model_config config;
    struct weight_table *table;
};

/* Bytes that one token keeps in the latent cache (FP32). */
static size_t cache_bytes(const struct model_config *config)
{
    return config->n_layers * (config->kv_lora_rank + config->qk_rope_head_dim) * sizeof(float);
}

/* Experts after the first of a layer are counted, not listed. */
static bool is_later_expert(const char *name)
{
    const char *expert = strstr(name, ".mlp.experts.");

    return expert != NULL && strncmp(expert, ".mlp.experts.0.", 15) != 0;
}

static void print_row(const struct model_folder *folder, const struct weight_row *row)
{
    const bool is_expert = strstr(row->name, ".mlp.experts.0.") != NULL;
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

static void print_table(const struct model_folder *folder)
{
    const struct model_config *c = &folder->config;

    (void)printf("%-60s %16s %12s\n", "tensor", "shape", "parameters");
    for (size_t i = 0; i < folder->table->n_rows; i++) {
        if (!is_later_expert(folder->table->rows[i].name)) {
            print_row(folder, &folder->table->rows[i]);
        }
    }
    (void)printf("\nlayers              %zu (%zu with experts), %zu MTP modules\n", c->n_layers,
                 model_config_moe_layers(c) - (c->n_experts > 0 ? c->n_mtp_modules : 0),
                 c->n_mtp_modules);
    (void)printf("parameters          %zu\n", model_config_parameters(c));
    (void)printf("active a token      %zu\n", model_config_active_parameters(c));
    (void)printf("weights             %.1f MiB in FP32\n",
                 (double)folder->table->n_floats * 4 / 1048576);
    (void)printf("latent cache        %zu bytes a token in FP32\n", cache_bytes(c));
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

static enum status describe_sizes(const struct model_folder *folder, struct json *object)
{
    const struct model_config *c = &folder->config;

    TRY(json_put(object, "parameters", json_from_int((int64_t)model_config_parameters(c))));
    TRY(json_put(object, "active_parameters",
                 json_from_int((int64_t)model_config_active_parameters(c))));
    TRY(json_put(object, "cache_bytes_per_token", json_from_int((int64_t)cache_bytes(c))));
    return json_put(object, "weight_bytes", json_from_int((int64_t)(folder->table->n_floats * 4)));
}

static enum status describe(const struct model_folder *folder, struct json *object)
{
    struct json *part;

    TRY(describe_sizes(folder, object));
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

static enum status inspect(const char *dir, bool wants_json)
{
    struct model_folder folder;
    enum status status = STATUS_OK;

    TRY(cli_check_model(dir, false));
    TRY(model_config_load(dir, &folder.config));
    TRY(weights_probe_mtp(dir, &folder.config));
    TRY(weight_table_create(&folder.config, &folder.table));
    if (wants_json) {
        status = print_json(&folder);
    } else {
        print_table(&folder);
    }
    weight_table_destroy(folder.table);
    return status;
}

int model_inspect_command(int argc, char **argv)
{
    struct cli_parse parse;
    bool wants_json = false;
    int code;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        wants_json = true;
    }
    if (code < 0) {
        return parse.exit_code;
    }

    const enum status status = inspect(parse.arguments[0], wants_json);

    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
