/* Owns finding the computed counterpart of each stored tensor, and the tolerances. */
#include "model/model_check.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/model_check_internal.h"
#include "model/model_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SWITCHES_BYTES_MAX ((size_t)1 << 20)

/* How far a value may be off: absolute + relative |reference| + of_max * largest |reference|. */
struct tolerance {
    const char *kind;
    double absolute, relative, of_max;
};
static const struct tolerance tolerances[] = {
    {"logits", 2e-5, 1e-4, 0},
    {"loss", 1e-5, 0, 0},
    {"hidden", 2e-5, 1e-4, 0},
    {"router_indices", 0, 0, 0},
    {"router_weights", 2e-5, 1e-4, 0},
    {"mtp_logits", 2e-5, 1e-4, 0},
    {"mtp_hidden", 2e-5, 1e-4, 0},
    {"mtp_ce", 1e-5, 0, 0},
    {"mtp_loss", 1e-5, 0, 0},
    {"grad", 1e-9, 0, 1e-4},
    {"grad_detached", 1e-9, 0, 1e-4},
    {"index_scores", 2e-5, 1e-4, 0},
    {"index_topk", 0, 0, 0},
    {"indexer_loss", 1e-5, 1e-5, 0},
    {"grad_indexer_dense", 1e-9, 0, 1e-4},
    {"grad_indexer_sparse", 1e-9, 0, 1e-4},
    {"logits_w8a8", 2e-4, 2e-4, 0},
    {"codes_w8a8", 0, 0, 0},
    {"scales_w8a8", 0, 0, 0},
};

/* "kind.rest": the tolerance of kind, and rest ("" without a dot). Kinds of W8A8 end before their
 * variant. NULL: no such kind. */
static const struct tolerance *find_kind(const char *name, const char **rest)
{
    const char *dot = strchr(name, '.');
    const size_t n = model_check_is_fp8(name) ? (size_t)(strstr(name, "_w8a8") + 5 - name)
                     : dot == NULL            ? strlen(name)
                                              : (size_t)(dot - name);

    *rest = dot == NULL ? "" : dot + 1;
    for (size_t i = 0; i < sizeof(tolerances) / sizeof(tolerances[0]); i++) {
        if (strlen(tolerances[i].kind) == n && memcmp(tolerances[i].kind, name, n) == 0) {
            return &tolerances[i];
        }
    }
    return NULL;
}

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

static struct model_check_line *line_of(struct model_check *check, const char *kind)
{
    for (size_t i = 0; i < check->n_lines; i++) {
        if (strcmp(check->lines[i].kind, kind) == 0) {
            return &check->lines[i];
        }
    }
    check->lines[check->n_lines] = (struct model_check_line){.kind = kind, .share = -1};
    check->n_lines++;
    return &check->lines[check->n_lines - 1];
}

/* Keeps the element if it is worse than what the line has. */
static void note(struct model_check_line *line, const struct tensor *tensor, size_t index,
                 double got, double want, double allowed)
{
    const double off = fabs(got - want);
    const double share = off == 0                       ? 0
                         : isfinite(off) && allowed > 0 ? off / allowed
                                                        : (double)INFINITY;

    if (share <= line->share) {
        return;
    }
    line->share = share;
    line->got = got;
    line->want = want;
    (void)snprintf(line->where, sizeof(line->where), "%s[%zu]", tensor->name, index);
}

static void compare_floats(const struct tolerance *tolerance, const struct tensor *tensor,
                           const float *want, const float *got, struct model_check_line *line)
{
    double largest = 0;

    for (size_t i = 0; i < tensor->n_elements; i++) {
        largest = fmax(largest, fabs((double)want[i]));
    }
    for (size_t i = 0; i < tensor->n_elements; i++) {
        const double reference = (double)want[i];
        double allowed = tolerance->absolute + tolerance->relative * fabs(reference);

        if (tolerance->of_max > 0 && largest > 0) {
            allowed = tolerance->of_max * largest; /* the absolute part is for zeros only */
        }
        note(line, tensor, i, (double)got[i], reference, allowed);
    }
}

static void count_not_computed(const struct tensor *tensor, struct model_check *check)
{
    if (check->n_not_computed == 0) {
        (void)snprintf(check->not_computed, sizeof(check->not_computed), "%s", tensor->name);
    }
    check->n_not_computed++;
}

/* What the model's and, for results of W8A8 arithmetic, the FP8 model's run have for a tensor. */
static enum status find_result(const struct safetensors *io, const struct tensor *tensor,
                               struct model_run runs[2], struct computed *out)
{
    const char *rest;
    const struct tolerance *tolerance = find_kind(tensor->name, &rest);

    if (model_check_is_fp8(tensor->name)) {
        return model_check_fp8_find(&runs[1], io, tensor->name, out);
    }
    if (tolerance == NULL || !find_computed(&runs[0], tolerance->kind, rest, out)) {
        return status_set(STATUS_BAD_FORMAT, "%s: nothing computed here corresponds to tensor %s",
                          safetensors_path(io), tensor->name);
    }
    return STATUS_OK;
}

/* Integers, or the bytes of codes. */
static enum status read_integers(const struct tensor *tensor, int32_t *out)
{
    if (tensor->dtype != TENSOR_U8) {
        return tensor_read_integers(tensor, out);
    }
    for (size_t i = 0; i < tensor->n_elements; i++) {
        out[i] = ((const uint8_t *)tensor->data)[i];
    }
    return STATUS_OK;
}

static enum status compare_tensor(const struct safetensors *io, const struct tensor *tensor,
                                  struct model_run runs[2], struct model_check *check,
                                  struct computed *computed)
{
    const char *rest;
    const struct tolerance *tolerance = find_kind(tensor->name, &rest);
    struct model_check_line *line;
    void *want;

    TRY(find_result(io, tensor, runs, computed));
    if (computed->n != tensor->n_elements) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s has %zu values, the model gives %zu",
                          safetensors_path(io), tensor->name, tensor->n_elements, computed->n);
    }
    line = line_of(check, tolerance->kind);
    line->n_tensors++;
    TRY(arena_alloc(runs[0].arena, tensor->n_elements, sizeof(int32_t), &want));
    if (computed->integers == NULL) {
        TRY(tensor_read_floats(tensor, want));
        compare_floats(tolerance, tensor, want, computed->floats, line);
        return STATUS_OK;
    }
    TRY(read_integers(tensor, want));
    for (size_t i = 0; i < tensor->n_elements; i++) {
        note(line, tensor, i, (double)computed->integers[i], (double)((int32_t *)want)[i], 0);
    }
    return STATUS_OK;
}

/* Compares all; results gets every computed tensor under its stored name and shape. */
static enum status compare_all(const struct safetensors *io, struct model_run runs[2],
                               struct tensor *results, size_t *n_results, struct model_check *check)
{
    size_t n = 0;

    for (size_t i = 0; i < safetensors_count(io); i++) {
        const struct tensor *tensor = safetensors_at(io, i);
        struct computed computed = {.floats = NULL};

        if (model_check_is_fp8(tensor->name) && !model_check_fp8_computes(io, tensor->name)) {
            count_not_computed(tensor, check);
            continue;
        }
        results[n++] = *tensor;
        if (strcmp(tensor->name, "input_ids") == 0) {
            continue;
        }
        TRY(compare_tensor(io, tensor, runs, check, &computed));
        results[n - 1].dtype = computed.integers != NULL ? TENSOR_I32 : TENSOR_F32;
        results[n - 1].data =
            computed.integers != NULL ? (const void *)computed.integers : computed.floats;
    }
    *n_results = n;
    if (check->n_lines == 0) {
        return status_set(STATUS_BAD_FORMAT, "%s: holds nothing that is computed here",
                          safetensors_path(io));
    }
    check->has_passed = true;
    for (size_t i = 0; i < check->n_lines; i++) {
        check->has_passed = check->has_passed && check->lines[i].share <= 1;
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

static enum status run_and_compare(const struct safetensors *io, const char *out_path,
                                   struct model_run runs[2], struct model_check *check)
{
    const struct model_run_wants wants = wants_of(io), no_wants = {.gradients = false};
    struct tensor *results;
    size_t n_results = 0;

    TRY(model_run_compute(io, &wants, &runs[0]));
    if (runs[1].policy != NULL) {
        TRY(model_run_compute(io, &no_wants, &runs[1]));
    }
    TRY(arena_alloc(runs[0].arena, safetensors_count(io), sizeof(struct tensor), &results));
    TRY(compare_all(io, runs, results, &n_results, check));
    return out_path == NULL ? STATUS_OK : safetensors_write(out_path, results, n_results, false);
}

/* Rows that the policy must hold: the elements of input_ids. */
static size_t count_rows(const struct safetensors *io)
{
    const struct tensor *ids = safetensors_find(io, "input_ids");

    return ids == NULL || ids->n_elements == 0 ? 1 : ids->n_elements;
}

/* A policy for one run of the check. */
static enum status open_run(struct backend *backend, const char *dir, const struct safetensors *io,
                            enum precision precision, struct model_run *run)
{
    const struct policy_options options = {
        .max_rows = count_rows(io), .is_trainable = true, .precision = precision};

    TRY(policy_load(backend, dir, &options, &run->policy));
    return apply_switches(dir, run->policy);
}

/* The model as it is, and in FP8 when there is something to compare that with. */
static enum status open_runs(struct backend *backend, const char *dir, const struct safetensors *io,
                             struct model_run runs[2])
{
    bool wants_fp8 = false;

    for (size_t i = 0; i < safetensors_count(io); i++) {
        const char *name = safetensors_at(io, i)->name;

        wants_fp8 = wants_fp8 || (model_check_is_fp8(name) && model_check_fp8_computes(io, name));
    }
    TRY(arena_create((size_t)1 << 20, &runs[0].arena));
    runs[1].arena = runs[0].arena;
    TRY(open_run(backend, dir, io, PRECISION_F32, &runs[0]));
    return wants_fp8 ? open_run(backend, dir, io, PRECISION_FP8, &runs[1]) : STATUS_OK;
}

enum status model_check_against(struct backend *backend, const char *dir, const char *io_path,
                                const char *out_path, struct model_check *out)
{
    struct model_run runs[2] = {{.policy = NULL}, {.policy = NULL}};
    struct safetensors *io = NULL;
    enum status status;

    *out = (struct model_check){.n_lines = 0};
    status = safetensors_open(io_path, &io);
    if (status == STATUS_OK) {
        status = open_runs(backend, dir, io, runs);
    }
    if (status == STATUS_OK) {
        status = run_and_compare(io, out_path, runs, out);
    }
    policy_destroy(runs[0].policy);
    policy_destroy(runs[1].policy);
    arena_destroy(runs[0].arena);
    safetensors_close(io);
    return status;
}
