/* Owns finding the computed counterpart of each stored tensor. */
#include "model/model_check.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/model_check_internal.h"
#include "model/model_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SWITCHES_BYTES_MAX ((size_t)1 << 20)

/* A number below `limit` and nothing else; SIZE_MAX otherwise. */
static size_t parse_index(const char *text, size_t limit)
{
    char *end;
    unsigned long value;

    if (text[0] < '0' || text[0] > '9') {
        return SIZE_MAX;
    }
    value = strtoul(text, &end, 10);
    return *end == '\0' && value < limit ? (size_t)value : SIZE_MAX;
}

static bool find_hidden(const struct model_run *run, const char *rest, struct computed *out)
{
    const struct model_config *config = policy_config(run->policy);
    const size_t last = config->n_layers - 1;
    const size_t layer = strcmp(rest, "pre_norm") == 0 ? last : parse_index(rest, config->n_layers);

    out->n = run->n_rows * config->hidden_size;
    if (strcmp(rest, "post_norm") == 0) {
        out->floats = run->trace.normed;
        return true;
    }
    if (layer == SIZE_MAX) {
        return false;
    }
    out->floats = run->trace.hidden + layer * out->n;
    return true;
}

/* router_indices.LAYER or router_weights.LAYER */
static bool find_routes(const struct model_run *run, bool is_indices, const char *rest,
                        struct computed *out)
{
    const struct model_config *config = policy_config(run->policy);
    const size_t layer = parse_index(rest, config->n_layers + config->n_mtp_modules);
    const size_t k = config->experts_per_token;
    const int32_t *layers;
    const size_t n = policy_moe_layers(run->policy, &layers);

    for (size_t i = 0; i < n; i++) {
        if ((size_t)layers[i] != layer) {
            continue;
        }
        if (is_indices) {
            out->integers = run->trace.indices + i * run->n_rows * k;
        } else {
            out->floats = run->trace.weights + i * run->n_rows * k;
        }
        out->n = k * (layer < config->n_layers ? run->n_rows
                                               : model_run_mtp_rows(run, layer - config->n_layers));
        return true;
    }
    return false;
}

static bool find_gradient(const struct model_run *run, const float *gradients, const char *rest,
                          struct computed *out)
{
    const struct weight_row *row = weight_table_find(policy_table(run->policy), rest);

    if (row == NULL || !row->is_trainable || gradients == NULL) {
        return false;
    }
    out->floats = gradients + row->offset;
    out->n = row->count;
    return true;
}

/* An MTP module's results: "1" is the first's number. */
static bool find_mtp(const struct model_run *run, const char *kind, const char *rest,
                     struct computed *out)
{
    const struct model_config *config = policy_config(run->policy);
    const size_t number = parse_index(rest, config->n_mtp_modules + 1);
    const size_t i = number - 1, d = config->hidden_size, vocab = config->vocab_size;

    if (strcmp(kind, "mtp_loss") == 0) {
        *out = (struct computed){.floats = &run->mtp_loss, .n = 1};
        return rest[0] == '\0' && config->n_mtp_modules > 0;
    }
    if (number == 0 || number == SIZE_MAX) {
        return false;
    }
    if (strcmp(kind, "mtp_logits") == 0) {
        *out = (struct computed){.floats = run->trace.mtp_logits + i * run->n_rows * vocab,
                                 .n = model_run_mtp_rows(run, i) * vocab};
    } else if (strcmp(kind, "mtp_hidden") == 0) {
        *out = (struct computed){.floats = run->trace.mtp_hidden + i * run->n_rows * d,
                                 .n = model_run_mtp_rows(run, i) * d};
    } else {
        *out = (struct computed){.floats = &run->mtp_ce[i], .n = 1};
    }
    return true;
}

/* index_scores.LAYER, index_topk.LAYER */
static bool find_selection(const struct model_run *run, bool is_scores, const char *rest,
                           struct computed *out)
{
    const struct model_config *config = policy_config(run->policy);
    const size_t layer = parse_index(rest, config->n_layers);
    const size_t n_scores = run->n_rows * run->n_tokens, n = run->n_rows * run->n_selected;

    if (layer == SIZE_MAX || run->trace.index_scores == NULL) {
        return false;
    }
    if (is_scores) {
        *out =
            (struct computed){.floats = run->trace.index_scores + layer * n_scores, .n = n_scores};
    } else {
        *out = (struct computed){.integers = run->trace.index_selected + layer * n, .n = n};
    }
    return true;
}

/* indexer_loss.dense, indexer_loss.sparse */
static bool find_indexer_loss(const struct model_run *run, const char *rest, struct computed *out)
{
    const bool is_sparse = strcmp(rest, "sparse") == 0;

    *out = (struct computed){.floats = run->indexer_losses[is_sparse],
                             .n = policy_config(run->policy)->n_layers};
    return (is_sparse || strcmp(rest, "dense") == 0) && out->floats != NULL;
}

static bool find_indexer(const struct model_run *run, const char *kind, const char *rest,
                         struct computed *out)
{
    if (strncmp(kind, "index_", 6) == 0) {
        return find_selection(run, strcmp(kind, "index_scores") == 0, rest, out);
    }
    if (strcmp(kind, "indexer_loss") == 0) {
        return find_indexer_loss(run, rest, out);
    }
    return find_gradient(run, run->gradients_indexer[strcmp(kind, "grad_indexer_sparse") == 0],
                         rest, out);
}

static bool find_computed(const struct model_run *run, const char *kind, const char *rest,
                          struct computed *out)
{
    if (strncmp(kind, "index", 5) == 0 || strncmp(kind, "grad_indexer", 12) == 0) {
        return find_indexer(run, kind, rest, out);
    }
    if (strncmp(kind, "mtp_", 4) == 0) {
        return find_mtp(run, kind, rest, out);
    }
    if (strcmp(kind, "hidden") == 0) {
        return find_hidden(run, rest, out);
    }
    if (strncmp(kind, "router_", 7) == 0) {
        return find_routes(run, strcmp(kind, "router_indices") == 0, rest, out);
    }
    if (strcmp(kind, "grad") == 0) {
        return find_gradient(run, run->gradients, rest, out);
    }
    if (strcmp(kind, "grad_detached") == 0) {
        return find_gradient(run, run->gradients_detached, rest, out);
    }
    if (strcmp(kind, "logits") == 0) {
        *out = (struct computed){.floats = run->trace.logits,
                                 .n = run->n_rows * policy_config(run->policy)->vocab_size};
    } else {
        *out = (struct computed){.floats = &run->loss, .n = 1};
    }
    return rest[0] == '\0';
}

static enum status compare_tensor(const struct model_run *run, const struct tensor *tensor,
                                  struct model_comparison *comparison)
{
    struct computed computed = {.floats = NULL};
    const char *kind, *rest;

    if (!model_check_kind(tensor->name, &kind, &rest) ||
        !find_computed(run, kind, rest, &computed)) {
        return status_set(STATUS_BAD_FORMAT, "%s: nothing computed here corresponds to tensor %s",
                          safetensors_path(comparison->io), tensor->name);
    }
    return model_check_compare(comparison, tensor, &computed);
}

/* Compares all but results of W8A8 arithmetic. */
static enum status compare_all(const struct model_run *run, struct model_comparison *comparison)
{
    for (size_t i = 0; i < safetensors_count(comparison->io); i++) {
        const struct tensor *tensor = safetensors_at(comparison->io, i);

        if (strcmp(tensor->name, "input_ids") == 0) {
            comparison->results[comparison->n_results++] = *tensor;
            continue;
        }
        TRY(model_check_is_fp8(tensor->name) ? STATUS_OK : compare_tensor(run, tensor, comparison));
    }
    return STATUS_OK;
}

/* mtp_input of dir's fixture.json, if there is one: checkpoints of the family do not say with which
 * their numbers were made. */
static enum status apply_switches(const char *dir, struct policy *policy)
{
    char *path;
    struct json *root = NULL;
    enum status status = STATUS_OK;

    TRY(path_join(dir, "fixture.json", &path));
    if (file_exists(path)) {
        status = json_load(path, SWITCHES_BYTES_MAX, 8, &root);
    }

    const char *input = json_text(json_get(root, "mtp_input"), "");

    if (strcmp(input, "pre_norm") == 0 || strcmp(input, "post_norm") == 0) {
        policy_set_mtp_input(policy, strcmp(input, "pre_norm") == 0);
    } else if (input[0] != '\0') {
        status = status_set(STATUS_UNSUPPORTED, "%s: mtp_input \"%s\"", path, input);
    }
    json_destroy(root);
    memory_free(path);
    return status;
}

static struct model_run_wants wants_of(const struct safetensors *io)
{
    struct model_run_wants wants = {.gradients = false};

    for (size_t i = 0; i < safetensors_count(io); i++) {
        const char *name = safetensors_at(io, i)->name;

        wants.gradients = wants.gradients || strncmp(name, "grad.", 5) == 0;
        wants.gradients_detached =
            wants.gradients_detached || strncmp(name, "grad_detached.", 14) == 0;
        wants.indexer_losses = wants.indexer_losses || strncmp(name, "indexer_loss.", 13) == 0 ||
                               strncmp(name, "grad_indexer_", 13) == 0;
    }
    return wants;
}

static enum status judge(const struct model_comparison *comparison)
{
    struct model_check *check = comparison->check;

    if (check->n_lines == 0) {
        return status_set(STATUS_BAD_FORMAT, "%s: holds nothing that is computed here",
                          safetensors_path(comparison->io));
    }
    check->has_passed = true;
    for (size_t i = 0; i < check->n_lines; i++) {
        check->has_passed = check->has_passed && check->lines[i].share <= 1;
    }
    return STATUS_OK;
}

/* Rows that the policy must hold: the elements of input_ids. */
static size_t count_rows(const struct safetensors *io)
{
    const struct tensor *ids = safetensors_find(io, "input_ids");

    return ids == NULL || ids->n_elements == 0 ? 1 : ids->n_elements;
}

enum status model_check_run(const struct model_comparison *comparison,
                            const struct policy_options *options,
                            const struct model_run_wants *wants, struct model_run *run)
{
    struct policy_options sized = *options;

    *run = (struct model_run){.arena = comparison->arena};
    sized.max_rows = count_rows(comparison->io);
    sized.max_update_tokens = sized.max_rows;
    sized.is_trainable = true;
    TRY(policy_load(comparison->backend, comparison->dir, &sized, &run->policy));
    TRY(apply_switches(comparison->dir, run->policy));
    return model_run_compute(comparison->io, wants, run);
}

/* The model as it is, then its W8A8 results. */
static enum status run_and_compare(struct model_comparison *comparison)
{
    const struct model_run_wants wants = wants_of(comparison->io);
    const struct policy_options options = {.precision = PRECISION_F32};
    struct model_run run;
    enum status status;

    TRY(arena_alloc(comparison->arena, safetensors_count(comparison->io), sizeof(struct tensor),
                    &comparison->results));
    status = model_check_run(comparison, &options, &wants, &run);
    if (status == STATUS_OK) {
        status = compare_all(&run, comparison);
    }
    policy_destroy(run.policy);
    return status == STATUS_OK ? model_check_fp8(comparison) : status;
}

enum status model_check_against(struct backend *backend, const char *dir, const char *io_path,
                                const char *out_path, struct model_check *out)
{
    struct model_comparison comparison = {.backend = backend, .dir = dir, .check = out};
    struct safetensors *io = NULL;
    enum status status;

    *out = (struct model_check){.n_lines = 0};
    TRY(safetensors_open(io_path, &io));
    comparison.io = io;
    status = arena_create((size_t)1 << 20, &comparison.arena);
    if (status == STATUS_OK) {
        status = run_and_compare(&comparison);
    }
    if (status == STATUS_OK) {
        status = judge(&comparison);
    }
    if (status == STATUS_OK && out_path != NULL) {
        status = safetensors_write(out_path, comparison.results, comparison.n_results, false);
    }
    arena_destroy(comparison.arena);
    safetensors_close(io);
    return status;
}
