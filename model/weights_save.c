/* Owns saving of weights as they are computed with: one file of F32. Other forms are
 * weights_export.c. */
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

/* Adds the row's values as tensor `part` of a layer. */
static void list_copy(const struct weight_row *row, const float *data, size_t layer,
                      const char *part, struct weights_list *list, char (*name)[96])
{
    (void)snprintf(*name, sizeof(*name), "model.layers.%zu.%s", layer, part);
    list->tensors[list->count] = tensor_of_row(row, data);
    list->tensors[list->count].name = *name;
    list->count++;
}

void weights_list_dispose(struct weights_list *list)
{
    memory_free(list->tensors);
    memory_free(list->names);
    *list = (struct weights_list){.count = 0};
}

enum status weights_list_create(const struct model_config *config, const struct weight_table *table,
                                const float *data, struct weights_list *out)
{
    const struct weight_row *embedding = weight_table_find(table, "model.embed_tokens.weight");
    const struct weight_row *head = weights_head_row(table);
    const size_t n_copies = 2 * config->n_mtp_modules;
    enum status status;

    *out = (struct weights_list){.count = 0};
    status = memory_alloc(table->n_rows + n_copies, sizeof(struct tensor), &out->tensors);
    if (status == STATUS_OK) {
        status = memory_alloc(n_copies, sizeof(*out->names), &out->names);
    }
    if (status != STATUS_OK) {
        weights_list_dispose(out);
        return status;
    }
    for (size_t i = 0; i < table->n_rows; i++) {
        out->tensors[out->count++] = tensor_of_row(&table->rows[i], data);
    }
    for (size_t i = 0; i < config->n_mtp_modules; i++) {
        const size_t layer = config->n_layers + i;

        list_copy(embedding, data, layer, "embed_tokens.weight", out, &out->names[2 * i]);
        list_copy(head, data, layer, "shared_head.head.weight", out, &out->names[2 * i + 1]);
    }
    return STATUS_OK;
}

enum status weights_save(const char *dir, const struct model_config *config,
                         const struct weight_table *table, const float *data)
{
    struct weights_list list;
    char *path = NULL;
    enum status status = weights_list_create(config, table, data, &list);

    if (status == STATUS_OK) {
        status = path_join(dir, "model.safetensors", &path);
    }
    if (status == STATUS_OK) {
        status = safetensors_write(path, list.tensors, list.count, true);
    }
    weights_list_dispose(&list);
    memory_free(path);
    return status;
}
