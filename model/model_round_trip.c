/* Owns the check that a model folder survives saving: configuration and every bit of the weights.
 */
#include "base/memory.h"
#include "model/model_check.h"
#include "model/model_config.h"
#include "model/weights.h"

#include <string.h>

struct loaded {
    struct model_config config;
    struct weight_table *table;
    float *data;
};

static void loaded_dispose(struct loaded *loaded)
{
    weight_table_destroy(loaded->table);
    memory_free(loaded->data);
}

static enum status load(const char *dir, struct loaded *out)
{
    TRY(model_config_load(dir, &out->config));
    TRY(weights_probe_mtp(dir, &out->config));
    TRY(weight_table_create(&out->config, &out->table));
    TRY(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    return weights_load(dir, out->table, out->data);
}

static enum status compare(const char *dir, const struct loaded *a, const struct loaded *b)
{
    if (a->table->n_floats != b->table->n_floats || a->table->n_rows != b->table->n_rows) {
        return status_set(STATUS_BAD_FORMAT, "%s: saved and loaded again it has another shape",
                          dir);
    }
    for (size_t i = 0; i < a->table->n_rows; i++) {
        const struct weight_row *row = &a->table->rows[i];

        if (memcmp(a->data + row->offset, b->data + row->offset, row->count * sizeof(float)) != 0) {
            return status_set(STATUS_BAD_FORMAT, "%s: tensor %s changed by saving and loading", dir,
                              row->name);
        }
    }
    return STATUS_OK;
}

enum status model_check_round_trip(const char *dir, const char *scratch_dir)
{
    struct loaded first = {.table = NULL}, second = {.table = NULL};
    enum status status = load(dir, &first);

    if (status == STATUS_OK) {
        status = model_config_save(&first.config, scratch_dir);
    }
    if (status == STATUS_OK) {
        status = weights_save(scratch_dir, &first.config, first.table, first.data);
    }
    if (status == STATUS_OK) {
        status = load(scratch_dir, &second);
    }
    if (status == STATUS_OK) {
        status = compare(dir, &first, &second);
    }
    loaded_dispose(&first);
    loaded_dispose(&second);
    return status;
}
