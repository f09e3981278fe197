/* Owns the model whose weights tests export and read back. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_MODEL_EXPORT_FIXTURE_H
#define HONE_TESTS_UNIT_MODEL_EXPORT_FIXTURE_H

#include "base/memory.h"
#include "model/weights.h"
#include "model/weights_export.h"
#include "tests/support/support.h"

struct model {
    struct model_config config;
    struct weight_table *table;
    float *data;
};

/* Wide enough for several blocks, with short ones at the edges. */
static inline void model_configure(struct model_config *out)
{
    assert_ok(model_config_preset("tiny", out));
    out->hidden_size = 160;
    out->moe_intermediate_size = 136;
}

/* Few and small tensors. */
static inline void model_configure_small(struct model_config *out)
{
    assert_ok(model_config_preset("tiny", out));
    out->n_experts = 1;
    out->n_mtp_modules = 0;
    out->n_groups = 1;
    out->top_groups = 1;
    out->experts_per_token = 1;
}

static inline void model_create_as(void (*configure)(struct model_config *out), struct model *out)
{
    configure(&out->config);
    assert_ok(weight_table_create(&out->config, &out->table));
    assert_ok(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    weights_init(&out->config, out->table, 3, out->data);
}

static inline void model_create(struct model *out)
{
    model_create_as(model_configure, out);
}

static inline void model_dispose(struct model *model)
{
    weight_table_destroy(model->table);
    memory_free(model->data);
}

/* Writes the model into dir and reads it back into *out, which the caller frees. */
static inline struct weights_export_stats export_and_load(const struct model *model,
                                                          const char *dir,
                                                          enum weights_format format,
                                                          size_t shard_bytes, float **out)
{
    const struct weights_export_options options = {format, shard_bytes};
    struct weights_export_stats stats;

    assert_ok(weights_export(dir, &model->config, model->table, model->data, &options, &stats));
    assert_int_equal(stats.bytes, weights_export_bytes(&model->config, model->table, format));
    assert_ok(memory_alloc(model->table->n_floats, sizeof(float), out));
    assert_ok(weights_load(dir, model->table, *out));
    return stats;
}

#endif
