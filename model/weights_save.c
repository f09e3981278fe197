/* Owns saving of weights: one file of F32. */
#include "base/file.h"
#include "base/memory.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "model/weights_internal.h"

#include <stdio.h>
#include <string.h>

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
    const struct weight_row *head = weights_head_row(table);
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
