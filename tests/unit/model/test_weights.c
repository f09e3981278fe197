/* The table of parameters, fresh weights, files and digests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct model {
    struct model_config config;
    struct weight_table *table;
    float *data;
};

static void model_create_as(uint64_t seed, bool is_v2, struct model *out)
{
    assert_ok(model_config_preset("tiny", &out->config));
    out->config.has_softmax_router = is_v2;
    out->config.has_attention_bias = is_v2;
    out->config.has_tied_head = is_v2;
    out->config.n_mtp_modules = is_v2 ? 2 : 1;
    assert_ok(weight_table_create(&out->config, &out->table));
    assert_ok(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    weights_init(&out->config, out->table, seed, out->data);
}

static void model_create(uint64_t seed, struct model *out)
{
    model_create_as(seed, false, out);
}

static void model_dispose(struct model *model)
{
    weight_table_destroy(model->table);
    memory_free(model->data);
}

static const struct weight_row *find(const struct model *model, const char *name)
{
    const struct weight_row *row = weight_table_find(model->table, name);

    assert_non_null(row);
    return row;
}

static void rows_are_aligned_adjacent_and_counted(void **state)
{
    struct model model;
    size_t n = 0, end = 0;

    (void)state;
    model_create(1, &model);
    for (size_t i = 0; i < model.table->n_rows; i++) {
        const struct weight_row *row = &model.table->rows[i];

        assert_int_equal(row->offset % 16, 0);
        assert_in_range(row->offset, end, end + 15);
        assert_int_equal(row->count, row->shape[0] * (row->n_dims == 2 ? row->shape[1] : 1));
        end = row->offset + row->count;
        n += row->count;
    }
    assert_int_equal(n, model_config_parameters(&model.config));
    model_dispose(&model);
}

static void the_experts_of_a_layer_have_one_stride(void **state)
{
    struct model model;
    size_t gate[4] = {0}, up[4] = {0}, down[4] = {0};

    (void)state;
    model_create(1, &model);
    for (size_t i = 0; i < 4; i++) {
        char name[96];

        (void)snprintf(name, sizeof(name), "model.layers.1.mlp.experts.%zu.gate_proj.weight", i);
        gate[i] = find(&model, name)->offset;
        (void)snprintf(name, sizeof(name), "model.layers.1.mlp.experts.%zu.up_proj.weight", i);
        up[i] = find(&model, name)->offset;
        (void)snprintf(name, sizeof(name), "model.layers.1.mlp.experts.%zu.down_proj.weight", i);
        down[i] = find(&model, name)->offset;
        assert_int_equal(gate[i] - gate[0], i * (gate[1] - gate[0]));
        assert_int_equal(up[i] - gate[i], up[0] - gate[0]);
        assert_int_equal(down[i] - up[i], up[0] - gate[0]);
    }
    model_dispose(&model);
}

static void rows_know_what_they_are(void **state)
{
    struct model model;

    (void)state;
    model_create(1, &model);
    assert_false(find(&model, "model.embed_tokens.weight")->decays);
    assert_true(find(&model, "lm_head.weight")->decays);
    assert_false(find(&model, "model.norm.weight")->decays);
    assert_false(find(&model, "model.layers.1.mlp.gate.e_score_correction_bias")->is_trainable);
    assert_true(find(&model, "model.layers.2.eh_proj.weight")->is_mtp);
    assert_false(find(&model, "model.layers.1.mlp.gate.weight")->is_mtp);
    assert_null(weight_table_find(model.table, "model.layers.2.embed_tokens.weight"));
    model_dispose(&model);
}

static void fresh_weights_depend_on_the_seed_alone(void **state)
{
    struct model a, b, c;

    (void)state;
    model_create(5, &a);
    model_create(5, &b);
    model_create(6, &c);
    assert_memory_equal(a.data, b.data, a.table->n_floats * sizeof(float));
    assert_memory_not_equal(a.data, c.data, a.table->n_floats * sizeof(float));
    assert_true(a.data[find(&a, "model.norm.weight")->offset] == 1);
    assert_true(a.data[find(&a, "model.layers.1.mlp.gate.e_score_correction_bias")->offset] == 0);

    const struct weight_row *row = find(&a, "model.embed_tokens.weight");
    double sum = 0;

    for (size_t i = 0; i < row->count; i++) {
        sum += (double)a.data[row->offset + i] * (double)a.data[row->offset + i];
    }
    assert_true(fabs(sqrt(sum / (double)row->count) / a.config.initializer_range - 1) < 0.1);
    model_dispose(&a);
    model_dispose(&b);
    model_dispose(&c);
}

/* A tied head is in the file only as the modules' copies; biases start as zero. */
static void a_tied_head_has_no_row_and_is_not_written(void **state)
{
    struct model model, loaded;
    struct safetensors *file;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create_as(1, true, &model);
    model_create_as(2, true, &loaded);
    assert_null(weight_table_find(model.table, "lm_head.weight"));
    assert_null(weight_table_find(model.table, "model.layers.1.mlp.gate.e_score_correction_bias"));
    assert_int_equal(find(&model, "model.layers.3.eh_proj.weight")->mtp_module, 1);

    const struct weight_row *bias = find(&model, "model.layers.0.self_attn.o_proj.bias");

    assert_true(bias->is_bias && bias->is_trainable && !bias->decays);
    assert_true(model.data[bias->offset] == 0);
    model.data[bias->offset] = 2;
    assert_ok(weights_save(dir, &model.config, model.table, model.data));
    loaded.config.n_mtp_modules = 0;
    assert_ok(weights_probe_mtp(dir, &loaded.config));
    assert_int_equal(loaded.config.n_mtp_modules, 2);
    assert_ok(weights_load(dir, loaded.table, loaded.data));
    assert_memory_equal(model.data, loaded.data, model.table->n_floats * sizeof(float));
    assert_ok(safetensors_open_folder(dir, &file));
    assert_null(safetensors_find(file, "lm_head.weight"));
    assert_non_null(safetensors_find(file, "model.layers.3.shared_head.head.weight"));
    safetensors_close(file);
    model_dispose(&model);
    model_dispose(&loaded);
    support_temp_dir_remove(dir);
}

static void saving_and_loading_gives_the_same_bits(void **state)
{
    struct model model, loaded;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create(1, &model);
    model_create(2, &loaded);
    assert_ok(weights_save(dir, &model.config, model.table, model.data));
    loaded.config.n_mtp_modules = 0;
    assert_ok(weights_probe_mtp(dir, &loaded.config));
    assert_int_equal(loaded.config.n_mtp_modules, 1);
    assert_ok(weights_load(dir, loaded.table, loaded.data));
    assert_memory_equal(model.data, loaded.data, model.table->n_floats * sizeof(float));
    model_dispose(&model);
    model_dispose(&loaded);
    support_temp_dir_remove(dir);
}

/* Saves the tiny model, lets `change` alter the list of tensors, and loads it. */
static enum status load_changed(size_t (*change)(struct tensor *tensors, size_t n), char *message,
                                size_t room)
{
    struct model model;
    struct safetensors *file;
    struct tensor tensors[256];
    char dir[256], path[300];
    size_t n;
    enum status status;

    support_temp_dir(dir, sizeof(dir));
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    model_create(1, &model);
    assert_ok(weights_save(dir, &model.config, model.table, model.data));
    assert_ok(safetensors_open(path, &file));
    n = safetensors_count(file);
    assert_true(n + 1 < 256);
    memcpy(tensors, safetensors_at(file, 0), n * sizeof(tensors[0]));
    n = change(tensors, n);
    assert_ok(safetensors_write(path, tensors, n, false));
    safetensors_close(file);
    status = weights_load(dir, model.table, model.data);
    (void)snprintf(message, room, "%s", status_message());
    model_dispose(&model);
    support_temp_dir_remove(dir);
    return status;
}

static size_t drop_first(struct tensor *tensors, size_t n)
{
    memmove(tensors, tensors + 1, (n - 1) * sizeof(tensors[0]));
    return n - 1;
}

static size_t reshape_first(struct tensor *tensors, size_t n)
{
    tensors[0].shape[0] /= 2;
    return n;
}

static size_t add_stranger(struct tensor *tensors, size_t n)
{
    tensors[n] = tensors[0];
    tensors[n].name = "model.layers.0.mlp.gate.bias";
    return n + 1;
}

static size_t add_rotary_table(struct tensor *tensors, size_t n)
{
    tensors[n] = tensors[0];
    tensors[n].name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    return n + 1;
}

static size_t poison_first(struct tensor *tensors, size_t n)
{
    static float values[64 * 32];

    values[77] = NAN;
    tensors[0].data = values;
    return n;
}

static size_t use_integers(struct tensor *tensors, size_t n)
{
    tensors[0].dtype = TENSOR_I32;
    return n;
}

static void wrong_tensors_are_refused_by_name(void **state)
{
    char message[1100];

    (void)state;
    assert_int_equal(load_changed(drop_first, message, sizeof(message)), STATUS_BAD_FORMAT);
    assert_non_null(strstr(message, "lm_head.weight is missing"));
    assert_int_equal(load_changed(reshape_first, message, sizeof(message)), STATUS_BAD_FORMAT);
    assert_non_null(strstr(message, "lm_head.weight is 32x32, the configuration wants 64x32"));
    assert_int_equal(load_changed(add_stranger, message, sizeof(message)), STATUS_BAD_FORMAT);
    assert_non_null(strstr(message, "model.layers.0.mlp.gate.bias is not of this architecture"));
    assert_int_equal(load_changed(poison_first, message, sizeof(message)), STATUS_BAD_FORMAT);
    assert_non_null(strstr(message, "lm_head.weight holds a value that is not finite"));
    assert_int_equal(load_changed(use_integers, message, sizeof(message)), STATUS_UNSUPPORTED);
    assert_non_null(strstr(message, "lm_head.weight is I32"));
    assert_int_equal(load_changed(add_rotary_table, message, sizeof(message)), STATUS_OK);
}

static void fused_experts_load_like_single_ones(void **state)
{
    char plain_dir[512], fused_dir[512];
    struct model_config config;
    struct weight_table *table;
    float *plain, *fused;

    (void)state;
    if (!support_shared_path("golden/v3-core", plain_dir, sizeof(plain_dir)) ||
        !support_shared_path("golden/v3-fused", fused_dir, sizeof(fused_dir))) {
        skip();
    }
    assert_ok(model_config_load(fused_dir, &config));
    assert_ok(weight_table_create(&config, &table));
    assert_ok(memory_alloc(table->n_floats, sizeof(float), &plain));
    assert_ok(memory_alloc(table->n_floats, sizeof(float), &fused));
    assert_ok(weights_load(plain_dir, table, plain));
    assert_ok(weights_load(fused_dir, table, fused));
    assert_memory_equal(plain, fused, table->n_floats * sizeof(float));
    memory_free(plain);
    memory_free(fused);
    weight_table_destroy(table);
}

static void a_digest_changes_with_any_bit(void **state)
{
    const size_t n = WEIGHTS_CHUNK_BYTES / sizeof(float) * 2 + 5;
    float *data;

    (void)state;
    assert_ok(memory_alloc(n, sizeof(float), &data));
    assert_int_equal(weights_chunks(n), 3);

    const struct digest128 whole = weights_digest(data, n);
    const struct digest128 last = weights_chunk_digest(data, n, 2);

    data[n - 1] = -0.0f;

    const struct digest128 changed = weights_digest(data, n);
    const struct digest128 last_changed = weights_chunk_digest(data, n, 2);

    assert_false(digest128_equal(&whole, &changed));
    assert_false(digest128_equal(&last, &last_changed));
    memory_free(data);
}

static void a_value_that_is_not_finite_is_found(void **state)
{
    struct model model;
    const struct weight_row *row = NULL;

    (void)state;
    model_create(1, &model);
    assert_true(weights_are_finite(model.table, model.data, &row));
    model.data[find(&model, "lm_head.weight")->offset + 3] = INFINITY;
    assert_false(weights_are_finite(model.table, model.data, &row));
    assert_string_equal(row->name, "lm_head.weight");
    model_dispose(&model);
}

static enum status create_table(void *context)
{
    struct weight_table *table;

    TRY(weight_table_create(context, &table));
    weight_table_destroy(table);
    return STATUS_OK;
}

struct save_case {
    struct model model;
    char dir[256];
};

static enum status save(void *context)
{
    const struct save_case *attempt = context;

    return weights_save(attempt->dir, &attempt->model.config, attempt->model.table,
                        attempt->model.data);
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct save_case attempt;

    (void)state;
    support_temp_dir(attempt.dir, sizeof(attempt.dir));
    model_create(1, &attempt.model);
    (void)support_fail_allocations(create_table, &attempt.model.config);
    (void)support_fail_allocations(save, &attempt);
    model_dispose(&attempt.model);
    support_temp_dir_remove(attempt.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_aligned_adjacent_and_counted),
        cmocka_unit_test(the_experts_of_a_layer_have_one_stride),
        cmocka_unit_test(rows_know_what_they_are),
        cmocka_unit_test(fresh_weights_depend_on_the_seed_alone),
        cmocka_unit_test(a_tied_head_has_no_row_and_is_not_written),
        cmocka_unit_test(saving_and_loading_gives_the_same_bits),
        cmocka_unit_test(wrong_tensors_are_refused_by_name),
        cmocka_unit_test(fused_experts_load_like_single_ones),
        cmocka_unit_test(a_digest_changes_with_any_bit),
        cmocka_unit_test(a_value_that_is_not_finite_is_found),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
