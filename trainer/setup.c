#include "trainer/setup.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/precision.h"
#include "trainer/learner.h"

#include <string.h>

#define QUICK_FLOATS ((size_t)1 << 29) /* about a second to look at */

/* Scorers that compare with nothing; every other one needs the answer column. */
static bool needs_answer(const struct run_config *config)
{
    static const char *const without_answer[] = {"builtin:format_think", "builtin:length"};
    for (size_t i = 0; i < config->n_rewards; i++) {
        const struct reward_config *reward = &config->rewards[i];
        bool needs = strncmp(reward->source, "builtin:", 8) == 0;
        for (size_t k = 0; k < sizeof(without_answer) / sizeof(without_answer[0]); k++) {
            needs = needs && strcmp(reward->source, without_answer[k]) != 0;
        }
        const bool is_plain_regex = strcmp(reward->source, "builtin:regex") == 0 &&
                                    json_get(reward->config, "group") == NULL;
        if (needs && !is_plain_regex) {
            return true;
        }
    }
    return false;
}

static enum status check_lengths(const struct run_config *config, const struct model_config *model,
                                 enum dataset_use use)
{
    const size_t completion = use == DATASET_SFT ? 0 : config->rollout.max_completion_length;
    const size_t longest = config->data.max_prompt_length + completion;
    if (longest > model->max_positions) {
        return status_set(STATUS_BAD_CONFIG,
                          "data.max_prompt_length %zu and rollout.max_completion_length %zu exceed "
                          "the model's %zu positions (%s/config.json)",
                          config->data.max_prompt_length, completion, model->max_positions,
                          config->model.path);
    }
    return STATUS_OK;
}

/* The balancing bias is part of the sigmoid router alone. */
static enum status check_router(const struct run_config *config, const struct model_config *model)
{
    const bool has_bias = model->n_experts > 0 && !model->has_softmax_router;
    if (config->model.router_bias_update > 0.0 && !has_bias) {
        return status_set(STATUS_BAD_CONFIG, "model.router_bias_update is %g, but %s %s; want 0",
                          config->model.router_bias_update, config->model.path,
                          model->n_experts == 0 ? "has no experts"
                                                : "has a softmax router, which has no bias");
    }
    return STATUS_OK;
}

static bool is_quickly_read(const struct weight_table *table)
{
    return table->n_floats <= QUICK_FLOATS;
}

enum status setup_check_weights(const char *dir, const struct model_config *model, bool with_values)
{
    struct weight_table *table = NULL;
    TRY(weight_table_create(model, &table));
    const enum status status = weights_check(dir, table, with_values && is_quickly_read(table));
    weight_table_destroy(table);
    return status;
}

static enum status open_model_files(const struct run_config *config, struct setup_data *out)
{
    TRY(model_config_load(config->model.path, &out->model));
    TRY(weights_probe_mtp(config->model.path, &out->model));
    TRY(check_router(config, &out->model));
    TRY(setup_check_weights(config->model.path, &out->model, false));
    TRY(tokenizer_load(config->model.path, &out->tokenizer));
    if (tokenizer_vocab_size(out->tokenizer) > out->model.vocab_size) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tokenizer.json has ids up to %zu, config.json a vocabulary of %zu",
                          config->model.path, tokenizer_vocab_size(out->tokenizer) - 1,
                          out->model.vocab_size);
    }
    return chat_template_open(config->model.chat_template, config->model.path, out->tokenizer,
                              &out->chat);
}

static void report_counts(const struct dataset_counts *counts)
{
    char text[256];
    if (counts->n_usable < counts->n_rows) {
        log_warn("data", "%s", dataset_counts_text(counts, text, sizeof(text)));
    } else {
        log_info("data", "%s", dataset_counts_text(counts, text, sizeof(text)));
    }
}

static enum status check_indexer(const struct run_config *config, const struct model_config *model,
                                 enum dataset_use use)
{
    if (config->model.indexer_loss != INDEXER_LOSS_NONE && model->index_n_heads == 0) {
        return status_set(STATUS_BAD_CONFIG,
                          "model.indexer_loss is set, but %s has no indexers; want none",
                          config->model.path);
    }
    if (config->model.indexer_loss == INDEXER_LOSS_DENSE && use != DATASET_SFT) {
        return status_set(STATUS_BAD_CONFIG,
                          "model.indexer_loss is dense, which trains indexers alone: hone sft does "
                          "that; want none or sparse");
    }
    return STATUS_OK;
}

static enum status open_all(const struct run_config *config, enum dataset_use use,
                            struct setup_data *out)
{
    TRY(open_model_files(config, out));
    TRY(check_lengths(config, &out->model, use));
    TRY(check_indexer(config, &out->model, use));
    const struct dataset_options options = {
        .use = use,
        .prompt_key = config->data.prompt_key,
        .answer_key = config->data.answer_key,
        .completion_key = config->data.completion_key,
        .needs_answer = use == DATASET_PROMPTS && needs_answer(config),
    };
    TRY(dataset_open(&config->data.train, &options, &out->dataset));
    const struct dataset_encoding encoding = {
        .tokenizer = out->tokenizer,
        .chat = out->chat,
        .system_prompt = config->data.system_prompt,
        .parse_special = config->model.parse_special,
        .eos_id = out->model.n_eos_ids > 0 ? out->model.eos_ids[0] : -1,
        .max_prompt_length = config->data.max_prompt_length,
        .max_total_length = use == DATASET_SFT ? out->model.max_positions : 0,
    };
    TRY(dataset_prepare(out->dataset, &encoding, &out->counts));
    report_counts(&out->counts);
    return STATUS_OK;
}

enum status setup_data_open(const struct run_config *config, enum dataset_use use,
                            struct setup_data *out)
{
    *out = (struct setup_data){0};
    const enum status status = open_all(config, use, out);
    return status == STATUS_IO /* the configuration names what cannot be read */
               ? status_set(STATUS_BAD_CONFIG, "%s", status_message())
               : status;
}

void setup_data_close(struct setup_data *data)
{
    dataset_close(data->dataset);
    tokenizer_destroy(data->tokenizer);
    *data = (struct setup_data){0};
}

/* With less, making activations again saves little. */
#define KEPT_BYTES_MAX ((size_t)1 << 30)

/* Whether all layers' activations take too much of the memory to be kept. */
static bool are_large(const struct policy_memory *memory)
{
    const size_t moments = 2 * memory->weights;

    return memory->activations > KEPT_BYTES_MAX &&
           memory->activations > memory->weights + memory->gradients + moments;
}

enum status setup_policy_options(const struct run_config *config, const struct model_config *model,
                                 const struct learner_options *learner, struct policy_options *out)
{
    const enum precision precision = precision_of(config->model.dtype);
    struct policy_memory memory;

    *out = (struct policy_options){
        .max_rows = learner_max_rows(learner),
        .max_entries = learner_max_entries(learner),
        .max_draws = 1,
        .max_update_tokens = learner->max_update_tokens,
        .is_trainable = true,
        .precision = precision,
        .unquantised = precision_unquantised(precision),
        .cache = precision_cache(config->model.kv_cache_dtype, precision),
        .recomputes = config->optim.activation_checkpointing == ACTIVATIONS_LAYER};
    if (config->optim.activation_checkpointing != ACTIVATIONS_AUTO) {
        return STATUS_OK;
    }
    TRY(policy_measure(model, out, &memory));
    out->recomputes = are_large(&memory);
    return STATUS_OK;
}

#define REST_BYTES_MIN ((size_t)1 << 29)

bool setup_rests(const struct policy_memory *memory)
{
    return memory->resting >= REST_BYTES_MIN;
}

struct policy_options setup_reference_options(const struct policy_options *trained)
{
    struct policy_options options = *trained;

    options.is_trainable = false;
    options.recomputes = false;
    options.shares_weights = false;
    options.drops_weights = true;
    return options;
}

enum status setup_rehearse(struct backend *backend, const struct model_config *model,
                           const struct learner_options *options,
                           const struct policy_options *trained, bool has_reference)
{
    const struct policy_rehearsal rehearsal = {.longest = options->max_sequence_rows,
                                               .indexer_loss = options->indexer,
                                               .sampling = options->sampling};
    TRY(policy_rehearse(backend, model, trained, &rehearsal));
    if (!has_reference) {
        return STATUS_OK;
    }
    const struct policy_options reference = setup_reference_options(trained);
    return policy_rehearse(backend, model, &reference, &rehearsal);
}

static enum status fill_weights(const char *weights_dir, struct policy *policy)
{
    const struct weight_row *bad = NULL;
    TRY(weights_load(weights_dir, policy_table(policy), policy_weights(policy)));
    if (!weights_are_finite(policy_table(policy), policy_weights(policy), &bad)) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s holds a value that is not finite",
                          weights_dir, bad->name);
    }
    return policy_refresh(policy);
}

enum status setup_policy(const struct model_config *model, struct backend *backend,
                         const char *weights_dir, const struct policy_options *options,
                         struct policy **out)
{
    *out = NULL;
    TRY(policy_create(backend, model, options, out));
    const enum status status = weights_dir == NULL ? STATUS_OK : fill_weights(weights_dir, *out);
    if (status != STATUS_OK) {
        policy_destroy(*out);
        *out = NULL;
    }
    return status;
}

static enum status copy_file(const char *from_dir, const char *to_dir, const char *name)
{
    char *from = NULL;
    char *to = NULL;
    char *text = NULL;
    size_t n = 0;
    struct file_writer *writer = NULL;
    enum status status = path_join(from_dir, name, &from);
    if (status != STATUS_OK || !file_exists(from)) {
        goto out;
    }
    status = path_join(to_dir, name, &to);
    if (status == STATUS_OK) {
        status = file_read(from, (size_t)256 << 20, &text, &n);
    }
    if (status == STATUS_OK) {
        status = file_writer_open(to, &writer);
    }
    if (status == STATUS_OK) {
        status = file_writer_put(writer, text, n);
    }
    if (status == STATUS_OK) {
        status = file_writer_commit(writer);
        writer = NULL;
    }
out:
    file_writer_abandon(writer);
    memory_free(from);
    memory_free(to);
    memory_free(text);
    return status;
}

enum status setup_save_model(const char *dir, struct policy *policy, const char *tokenizer_dir)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja", "generation_config.json"};
    TRY(folder_create(dir));
    TRY(model_config_save(policy_config(policy), dir));
    TRY(weights_save(dir, policy_config(policy), policy_table(policy), policy_weights(policy)));
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        const enum status status = copy_file(tokenizer_dir, dir, files[i]);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return folder_sync(dir);
}
