/* Owns weights in files: Hugging Face names, shapes and dtypes against the table. */
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/safetensors.h"
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

/* Shape of a tensor or row as text, for messages. */
static const char *shape_text(const size_t *shape, size_t n_dims, char *out, size_t room)
{
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < n_dims && n + 1 < room; i++) {
        const int added = snprintf(out + n, room - n, "%s%zu", i == 0 ? "" : "x", shape[i]);

        n += added < 0 ? 0 : (size_t)added;
    }
    return n_dims == 0 ? "scalar" : out;
}

static enum status check_shape(const char *path, const struct tensor *tensor, const size_t *shape,
                               size_t n_dims)
{
    char got[128];
    char want[64];

    if (tensor->n_dims == n_dims && memcmp(tensor->shape, shape, n_dims * sizeof(size_t)) == 0) {
        return STATUS_OK;
    }
    return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is %s, the configuration wants %s", path,
                      tensor->name, shape_text(tensor->shape, tensor->n_dims, got, sizeof(got)),
                      shape_text(shape, n_dims, want, sizeof(want)));
}

/* An expert's matrix inside the fused tensors of newer files: mlp.experts.gate_up_proj (E, 2 F, d)
 * and mlp.experts.down_proj (E, d, F). */
struct fused_part {
    char name[96];
    size_t expert, first_row; /* rows of the fused matrix before this part */
    size_t n_dims, shape[3];
};

static bool find_fused_part(const struct weight_row *row, size_t n_experts, struct fused_part *out)
{
    size_t layer, expert;
    char kind[16];
    int end = 0;

    /* NOLINTNEXTLINE(cert-err34-c): the names are ours, with small numbers */
    if (sscanf(row->name, "model.layers.%zu.mlp.experts.%zu.%15[a-z]_proj.weight%n", &layer,
               &expert, kind, &end) != 3 ||
        end == 0) {
        return false;
    }

    const bool is_down = strcmp(kind, "down") == 0;

    *out = (struct fused_part){.expert = expert, .n_dims = 3};
    (void)snprintf(out->name, sizeof(out->name), "model.layers.%zu.mlp.experts.%s", layer,
                   is_down ? "down_proj" : "gate_up_proj");
    out->first_row = strcmp(kind, "up") == 0 ? row->shape[0] : 0;
    out->shape[0] = n_experts;
    out->shape[1] = is_down ? row->shape[0] : 2 * row->shape[0];
    out->shape[2] = row->shape[1];
    return true;
}

struct loader {
    const struct safetensors *file;
    bool *is_used; /* by tensor index */
    size_t n_experts;
};

static const struct tensor *take(struct loader *loader, const char *name)
{
    const struct tensor *tensor = safetensors_find(loader->file, name);

    if (tensor != NULL) {
        loader->is_used[tensor - safetensors_at(loader->file, 0)] = true;
    }
    return tensor;
}

static enum status load_fused(struct loader *loader, const struct weight_row *row, float *out)
{
    const char *path = safetensors_path(loader->file);
    struct fused_part part;
    const struct tensor *fused;

    if (!find_fused_part(row, loader->n_experts, &part)) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is missing", path, row->name);
    }
    fused = take(loader, part.name);
    if (fused == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is missing", path, row->name);
    }
    TRY(check_shape(path, fused, part.shape, part.n_dims));

    struct tensor slice = *fused;
    const size_t skipped = (part.expert * part.shape[1] + part.first_row) * part.shape[2];

    slice.n_elements = row->count;
    slice.data = (const unsigned char *)fused->data + skipped * tensor_dtype_bytes(fused->dtype);
    return tensor_read_floats(&slice, out);
}

static enum status load_row(struct loader *loader, const struct weight_row *row, float *out)
{
    const struct tensor *tensor = take(loader, row->name);

    if (tensor == NULL) {
        return load_fused(loader, row, out);
    }
    TRY(check_shape(safetensors_path(loader->file), tensor, row->shape, row->n_dims));
    return tensor_read_floats(tensor, out);
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);

    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* The layer number of "model.layers.N.REST", and REST; false for other names. */
static bool split_layer_name(const char *name, size_t *layer, const char **rest)
{
    int end = 0;

    /* NOLINTNEXTLINE(cert-err34-c): an absurd number only makes the name unknown */
    if (sscanf(name, "model.layers.%9zu.%n", layer, &end) != 1 || end == 0) {
        return false;
    }
    *rest = name + end;
    return true;
}

/* The row that serves as the head: the embedding's when they are tied. */
static const struct weight_row *head_row(const struct weight_table *table)
{
    const struct weight_row *row = weight_table_find(table, "lm_head.weight");

    return row != NULL ? row : weight_table_find(table, "model.embed_tokens.weight");
}

/* The row that a tensor without one of its own must be a copy of, or NULL. */
static const struct weight_row *original_of(const struct weight_table *table, const char *name)
{
    const char *rest = "";
    size_t layer;

    if (strcmp(name, "lm_head.weight") == 0) {
        return head_row(table); /* some writers store a tied head */
    }
    if (!split_layer_name(name, &layer, &rest)) {
        return NULL;
    }
    if (strcmp(rest, "embed_tokens.weight") == 0) {
        return weight_table_find(table, "model.embed_tokens.weight");
    }
    return strcmp(rest, "shared_head.head.weight") == 0 ? head_row(table) : NULL;
}

/* A tensor without a row: a tied head, and an MTP module's copy of embedding or head, must have the
 * original's shape; rotary tables of old files say nothing; anything else is an error. */
static enum status check_extra(const struct safetensors *file, const struct weight_table *table,
                               const struct tensor *tensor)
{
    const char *path = safetensors_path(file);
    const struct weight_row *row = original_of(table, tensor->name);

    if (ends_with(tensor->name, ".rotary_emb.inv_freq")) {
        return STATUS_OK;
    }
    if (row == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is not of this architecture", path,
                          tensor->name);
    }

    const struct tensor *main_copy = safetensors_find(file, row->name);

    TRY(check_shape(path, tensor, row->shape, row->n_dims));
    if (main_copy != NULL && main_copy->dtype == tensor->dtype &&
        memcmp(main_copy->data, tensor->data,
               tensor->n_elements * tensor_dtype_bytes(tensor->dtype)) != 0) {
        log_warn("model",
                 "%s: %s differs from %s, of which it should be a copy; the latter is used", path,
                 tensor->name, row->name);
    }
    return STATUS_OK;
}

static enum status load_all(struct loader *loader, const struct weight_table *table, float *data)
{
    const size_t n = safetensors_count(loader->file);

    for (size_t i = 0; i < table->n_rows; i++) {
        const enum status status = load_row(loader, &table->rows[i], data + table->rows[i].offset);

        if (status == STATUS_UNSUPPORTED) {
            return status_wrap(status, "%s", safetensors_path(loader->file));
        }
        TRY(status);
    }
    for (size_t i = 0; i < n; i++) {
        if (loader->is_used[i]) {
            continue;
        }
        TRY(check_extra(loader->file, table, safetensors_at(loader->file, i)));
    }
    return STATUS_OK;
}

/* Experts of a layer, from the shape of the first router in the table. */
static size_t count_experts(const struct weight_table *table)
{
    for (size_t i = 0; i < table->n_rows; i++) {
        if (ends_with(table->rows[i].name, ".mlp.gate.weight")) {
            return table->rows[i].shape[0];
        }
    }
    return 0;
}

enum status weights_load(const char *dir, const struct weight_table *table, float *data)
{
    struct safetensors *file = NULL;
    struct loader loader = {.is_used = NULL};
    const struct weight_row *broken;
    enum status status = safetensors_open_folder(dir, &file);

    if (status == STATUS_OK) {
        loader.file = file;
        loader.n_experts = count_experts(table);
        status = memory_alloc(safetensors_count(file), sizeof(bool), &loader.is_used);
    }
    if (status == STATUS_OK) {
        status = safetensors_verify(file);
    }
    if (status == STATUS_OK) {
        status = load_all(&loader, table, data);
    }
    if (status == STATUS_OK && !weights_are_finite(table, data, &broken)) {
        status = status_set(STATUS_BAD_FORMAT, "%s: tensor %s holds a value that is not finite",
                            safetensors_path(file), broken->name);
    }
    memory_free(loader.is_used);
    safetensors_close(file);
    return status;
}

enum status weights_probe_mtp(const char *dir, struct model_config *config)
{
    struct safetensors *file;
    char name[96];
    size_t n = 0;

    TRY(safetensors_open_folder(dir, &file));
    do {
        (void)snprintf(name, sizeof(name), "model.layers.%zu.eh_proj.weight", config->n_layers + n);
        n++;
    } while (safetensors_find(file, name) != NULL);
    safetensors_close(file);
    n--;
    if (n > MODEL_MTP_MAX) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: %zu MTP modules; this build computes at most %zu", dir, n,
                          MODEL_MTP_MAX);
    }
    if (config->n_mtp_modules > n) {
        log_warn("model", "%s: config.json promises %zu MTP modules, the tensors hold %zu", dir,
                 config->n_mtp_modules, n);
    }
    config->n_mtp_modules = n;
    return STATUS_OK;
}

static struct tensor tensor_of_row(const struct weight_row *row, const float *data)
{
    struct tensor tensor = {.name = row->name,
                            .dtype = TENSOR_F32,
                            .n_dims = row->n_dims,
                            .n_elements = row->count,
                            .data = data + row->offset};

    memcpy(tensor.shape, row->shape, row->n_dims * sizeof(size_t));
    return tensor;
}

/* Every row, then for each MTP module its copies of embedding and head, named in names. */
static size_t list_tensors(const struct model_config *config, const struct weight_table *table,
                           const float *data, struct tensor *tensors, char (*names)[96])
{
    const struct weight_row *embedding = weight_table_find(table, "model.embed_tokens.weight");
    const struct weight_row *head = head_row(table);
    size_t n = 0;

    for (size_t i = 0; i < table->n_rows; i++) {
        tensors[n++] = tensor_of_row(&table->rows[i], data);
    }
    for (size_t i = 0; i < config->n_mtp_modules; i++) {
        const size_t layer = config->n_layers + i;

        (void)snprintf(names[2 * i], sizeof(names[0]), "model.layers.%zu.embed_tokens.weight",
                       layer);
        tensors[n] = tensor_of_row(embedding, data);
        tensors[n++].name = names[2 * i];
        (void)snprintf(names[2 * i + 1], sizeof(names[0]),
                       "model.layers.%zu.shared_head.head.weight", layer);
        tensors[n] = tensor_of_row(head, data);
        tensors[n++].name = names[2 * i + 1];
    }
    return n;
}

enum status weights_save(const char *dir, const struct model_config *config,
                         const struct weight_table *table, const float *data)
{
    const size_t n_copies = 2 * config->n_mtp_modules;
    struct tensor *tensors = NULL;
    char(*names)[96] = NULL;
    char *path = NULL;
    enum status status = memory_alloc(table->n_rows + n_copies, sizeof(struct tensor), &tensors);

    if (status == STATUS_OK) {
        status = memory_alloc(n_copies, sizeof(*names), &names);
    }
    if (status == STATUS_OK) {
        status = path_join(dir, "model.safetensors", &path);
    }
    if (status == STATUS_OK) {
        status = safetensors_write(path, tensors, list_tensors(config, table, data, tensors, names),
                                   true);
    }
    memory_free(tensors);
    memory_free(names);
    memory_free(path);
    return status;
}
