/* Weights stored as F32, BF16 and FP8: what is written, what is read back, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "model/quant.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "model/weights_export.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_CORRUPTIONS ((size_t)160)

struct model {
    struct model_config config;
    struct weight_table *table;
    float *data;
};

/* Wide enough for several blocks, with short ones at the edges. */
static void model_create(struct model *out)
{
    assert_ok(model_config_preset("tiny", &out->config));
    out->config.hidden_size = 160;
    out->config.moe_intermediate_size = 136;
    assert_ok(weight_table_create(&out->config, &out->table));
    assert_ok(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    weights_init(&out->config, out->table, 3, out->data);
}

static void model_dispose(struct model *model)
{
    weight_table_destroy(model->table);
    memory_free(model->data);
}

/* Writes the model into dir and reads it back into *out, which the caller frees. */
static struct weights_export_stats export_and_load(const struct model *model, const char *dir,
                                                   enum weights_format format, size_t shard_bytes,
                                                   float **out)
{
    const struct weights_export_options options = {format, shard_bytes};
    struct weights_export_stats stats;

    assert_ok(weights_export(dir, &model->config, model->table, model->data, &options, &stats));
    assert_int_equal(stats.bytes, weights_export_bytes(&model->config, model->table, format));
    assert_ok(memory_alloc(model->table->n_floats, sizeof(float), out));
    assert_ok(weights_load(dir, model->table, *out));
    return stats;
}

static void f32_in_shards_loads_bit_for_bit(void **state)
{
    struct model model;
    struct weights_export_stats stats;
    char dir[256];
    float *loaded;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create(&model);
    stats = export_and_load(&model, dir, WEIGHTS_F32, 300000, &loaded);
    assert_true(stats.n_files > 3);
    assert_int_equal(stats.n_coded, 0);
    assert_memory_equal(model.data, loaded, model.table->n_floats * sizeof(float));
    memory_free(loaded);
    model_dispose(&model);
    support_temp_dir_remove(dir);
}

static void bf16_holds_the_nearest_values(void **state)
{
    struct model model;
    char dir[256];
    float *loaded;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create(&model);
    (void)export_and_load(&model, dir, WEIGHTS_BF16, SIZE_MAX, &loaded);
    for (size_t i = 0; i < model.table->n_floats; i++) {
        assert_true(fabsf(loaded[i] - model.data[i]) <= fabsf(model.data[i]) * 0x1p-8f);
        assert_true(loaded[i] == quant_bf16_value(quant_bf16_bits(model.data[i])));
    }
    memory_free(loaded);
    model_dispose(&model);
    support_temp_dir_remove(dir);
}

static bool is_linear(const char *name)
{
    return strstr(name, "eh_proj") == NULL &&
           (strstr(name, "_proj.weight") != NULL || strstr(name, "_proj_with_mqa.weight") != NULL);
}

static void fp8_codes_the_linears_and_nothing_else(void **state)
{
    struct model model;
    struct safetensors *file;
    char dir[256];
    float *loaded;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create(&model);
    (void)export_and_load(&model, dir, WEIGHTS_FP8, 200000, &loaded);
    assert_ok(safetensors_open_folder(dir, &file));
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor *tensor = safetensors_at(file, i);
        const bool is_f32 = strstr(tensor->name, "_scale_inv") != NULL ||
                            strstr(tensor->name, "e_score_correction_bias") != NULL;

        assert_int_equal(tensor->dtype, is_f32                    ? TENSOR_F32
                                        : is_linear(tensor->name) ? TENSOR_F8_E4M3
                                                                  : TENSOR_BF16);
    }
    safetensors_close(file);
    for (size_t i = 0; i < model.table->n_rows; i++) {
        const struct weight_row *row = &model.table->rows[i];

        for (size_t j = row->offset; is_linear(row->name) && j < row->offset + row->count; j++) {
            assert_true(fabsf(loaded[j] - model.data[j]) <=
                        fabsf(model.data[j]) * 0x1p-4f + 0x1p-10f);
        }
    }
    memory_free(loaded);
    model_dispose(&model);
    support_temp_dir_remove(dir);
}

static void fp8_of_fp8_holds_the_same_values(void **state)
{
    struct model model;
    char dir[256], again[256];
    float *once, *twice;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    support_temp_dir(again, sizeof(again));
    model_create(&model);
    (void)export_and_load(&model, dir, WEIGHTS_FP8, SIZE_MAX, &once);
    memcpy(model.data, once, model.table->n_floats * sizeof(float));
    (void)export_and_load(&model, again, WEIGHTS_FP8, 100000, &twice);
    assert_memory_equal(once, twice, model.table->n_floats * sizeof(float));
    memory_free(once);
    memory_free(twice);
    model_dispose(&model);
    support_temp_dir_remove(dir);
    support_temp_dir_remove(again);
}

static void a_value_too_large_for_the_format_is_refused(void **state)
{
    struct weights_export_stats stats;
    struct weights_export_options options = {WEIGHTS_BF16, SIZE_MAX};
    struct model model;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create(&model);
    model.data[weight_table_find(model.table, "model.layers.0.mlp.up_proj.weight")->offset] =
        0x1.fffffep127f;
    assert_status(weights_export(dir, &model.config, model.table, model.data, &options, &stats),
                  STATUS_UNSUPPORTED, "too large for BF16");
    options.format = WEIGHTS_FP8;
    assert_status(weights_export(dir, &model.config, model.table, model.data, &options, &stats),
                  STATUS_UNSUPPORTED, "too large for FP8");
    model_dispose(&model);
    support_temp_dir_remove(dir);
}

/* Tensors of an FP8 file to be altered and written again. */
struct altered {
    struct model model;
    struct safetensors *file;
    struct tensor tensors[400];
    size_t count;
    char dir[256], path[300];
    float *loaded;
};

static void altered_create(struct altered *out)
{
    support_temp_dir(out->dir, sizeof(out->dir));
    (void)snprintf(out->path, sizeof(out->path), "%s/model.safetensors", out->dir);
    model_create(&out->model);
    (void)export_and_load(&out->model, out->dir, WEIGHTS_FP8, SIZE_MAX, &out->loaded);
    assert_ok(safetensors_open(out->path, &out->file));
    out->count = safetensors_count(out->file);
    assert_true(out->count + 2 < sizeof(out->tensors) / sizeof(out->tensors[0]));
    memcpy(out->tensors, safetensors_at(out->file, 0), out->count * sizeof(out->tensors[0]));
}

static void altered_dispose(struct altered *altered)
{
    safetensors_close(altered->file);
    memory_free(altered->loaded);
    model_dispose(&altered->model);
    support_temp_dir_remove(altered->dir);
}

static struct tensor *altered_find(struct altered *altered, const char *name)
{
    size_t i = 0;

    while (i < altered->count && strcmp(altered->tensors[i].name, name) != 0) {
        i++;
    }
    assert_true(i < altered->count);
    return &altered->tensors[i];
}

static enum status altered_load(struct altered *altered, float *out)
{
    assert_ok(safetensors_write(altered->path, altered->tensors, altered->count, false));
    return weights_load(altered->dir, altered->model.table, out);
}

#define UP "model.layers.1.mlp.experts.2.up_proj.weight"

static void a_wrong_scale_is_refused_in_one_line(void **state)
{
    static const float zero[4] = {0};
    static struct altered altered;
    struct tensor saved, *scale;

    (void)state;
    altered_create(&altered);
    scale = altered_find(&altered, UP "_scale_inv");
    saved = *scale;
    scale->shape[1] = 1;
    assert_status(altered_load(&altered, altered.loaded), STATUS_BAD_FORMAT,
                  "does not hold the 2x2 scales of " UP);
    *scale = saved;
    scale->data = zero;
    assert_status(altered_load(&altered, altered.loaded), STATUS_BAD_FORMAT, "scale 0 is 0");
    *scale = saved;
    scale->dtype = TENSOR_I32;
    assert_status(altered_load(&altered, altered.loaded), STATUS_UNSUPPORTED, "scales are F32");
    *scale = saved;
    scale->name = "model.layers.1.mlp.gate.weight_scale_inv";
    assert_status(altered_load(&altered, altered.loaded), STATUS_BAD_FORMAT,
                  "model.layers.1.mlp.gate.weight has scales, but is BF16");
    *scale = altered.tensors[--altered.count];
    assert_status(altered_load(&altered, altered.loaded), STATUS_BAD_FORMAT,
                  UP "_scale_inv is missing");
    altered_dispose(&altered);
}

static void scales_may_be_exponent_bytes(void **state)
{
    static const enum tensor_dtype dtypes[] = {TENSOR_F8_E8M0, TENSOR_U8};
    static struct altered altered;
    struct tensor *scale;
    uint8_t bytes[4];
    float scales[4], *loaded;

    (void)state;
    altered_create(&altered);
    scale = altered_find(&altered, UP "_scale_inv");
    memcpy(scales, scale->data, sizeof(scales));
    for (size_t i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(ilogbf(scales[i]) + 127);
    }
    assert_ok(memory_alloc(altered.model.table->n_floats, sizeof(float), &loaded));
    for (size_t i = 0; i < 2; i++) {
        scale->dtype = dtypes[i];
        scale->data = bytes;
        assert_ok(altered_load(&altered, loaded));
        assert_memory_equal(loaded, altered.loaded, altered.model.table->n_floats * sizeof(float));
    }
    bytes[3] = 0xff;
    assert_status(altered_load(&altered, loaded), STATUS_BAD_FORMAT, "scale 3 is");
    memory_free(loaded);
    altered_dispose(&altered);
}

static void a_code_that_is_no_number_is_refused(void **state)
{
    static struct altered altered;
    static unsigned char codes[136 * 160];
    struct tensor *up;

    (void)state;
    altered_create(&altered);
    up = altered_find(&altered, UP);
    codes[5] = 0x7f;
    up->data = codes;
    assert_status(altered_load(&altered, altered.loaded), STATUS_BAD_FORMAT,
                  UP " holds a value that is not finite");
    altered_dispose(&altered);
}

#define FUSED_EXPERTS ((size_t)4)
#define FUSED_ROWS ((size_t)272)
#define FUSED_COLUMNS ((size_t)160)
#define FUSED_HALF ((size_t)136)

/* gate_up_proj of 4 experts: 272 rows in 3 blocks, so a block holds rows of gate and of up. */
static void fused_fp8_experts_are_read_block_by_block(void **state)
{
    static unsigned char codes[FUSED_EXPERTS * FUSED_ROWS * FUSED_COLUMNS];
    static float scales[FUSED_EXPERTS * 3 * 2];
    static struct altered altered;
    size_t n = 0;

    (void)state;
    altered_create(&altered);
    for (size_t i = 0; i < sizeof(codes); i++) {
        codes[i] = (unsigned char)(random_bits(1, RANDOM_TEST, i, 0) % 0x7f);
    }
    for (size_t i = 0; i < sizeof(scales) / sizeof(scales[0]); i++) {
        scales[i] = 0.25f + (float)i;
    }
    for (size_t i = 0; i < altered.count; i++) { /* layer 1's gate and up go */
        const char *name = altered.tensors[i].name;

        if (strncmp(name, "model.layers.1.mlp.experts.", 27) != 0 || strstr(name, "down") != NULL) {
            altered.tensors[n++] = altered.tensors[i];
        }
    }
    altered.tensors[n++] = (struct tensor){.name = "model.layers.1.mlp.experts.gate_up_proj",
                                           .dtype = TENSOR_F8_E4M3,
                                           .n_dims = 3,
                                           .shape = {FUSED_EXPERTS, FUSED_ROWS, FUSED_COLUMNS},
                                           .data = codes};
    altered.tensors[n++] =
        (struct tensor){.name = "model.layers.1.mlp.experts.gate_up_proj_scale_inv",
                        .dtype = TENSOR_F32,
                        .n_dims = 3,
                        .shape = {FUSED_EXPERTS, 3, 2},
                        .data = scales};
    altered.count = n;
    assert_ok(altered_load(&altered, altered.loaded));
    for (size_t i = 0; i < sizeof(codes); i++) {
        const size_t expert = i / (FUSED_ROWS * FUSED_COLUMNS),
                     row = i / FUSED_COLUMNS % FUSED_ROWS, column = i % FUSED_COLUMNS;
        const float want =
            quant_e4m3_value(codes[i]) * scales[(expert * 3 + row / 128) * 2 + column / 128];
        char name[96];

        if (i % FUSED_COLUMNS % 53 != 0) {
            continue; /* a sample of columns is enough */
        }
        (void)snprintf(name, sizeof(name), "model.layers.1.mlp.experts.%zu.%s_proj.weight", expert,
                       row < FUSED_HALF ? "gate" : "up");
        assert_true(altered.loaded[weight_table_find(altered.model.table, name)->offset +
                                   row % FUSED_HALF * FUSED_COLUMNS + column] == want);
    }
    altered_dispose(&altered);
}

/* Unlike the library's writers: nobody needs it on the disk. */
static void write_quickly(const char *path, const char *data, size_t n)
{
    FILE *stream = fopen(path, "wb");

    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, n, stream), n);
    assert_int_equal(fclose(stream), 0);
}

/* Loads the folder with the file at path damaged in a way that `seed` decides: bytes changed or the
 * end cut off. */
static enum status load_damaged(const char *path, uint64_t seed, const char *dir,
                                const struct model *model, float *loaded)
{
    const size_t span = seed % 2 == 0 ? SIZE_MAX : 2000; /* headers and indices above all */
    char *data, *changed;
    size_t n, n_changed;
    enum status status;

    assert_ok(file_read(path, (size_t)1 << 24, &data, &n));
    assert_ok(memory_copy_text(data, n, &changed));
    n_changed = seed % 8 == 0 ? random_below(seed, RANDOM_TEST, 1, 0, n) : n;
    for (size_t i = 0; seed % 8 != 0 && i <= seed % 5; i++) {
        changed[random_below(seed, RANDOM_TEST, 2, i, span < n ? span : n)] =
            (char)random_bits(seed, RANDOM_TEST, 3, i);
    }
    write_quickly(path, changed, n_changed);
    status = weights_load(dir, model->table, loaded);
    write_quickly(path, data, n);
    memory_free(changed);
    memory_free(data);
    return status;
}

static void a_damaged_checkpoint_is_refused_and_never_crashes(void **state)
{
    struct model model;
    struct file_list files;
    char dir[256];
    float *loaded;
    size_t n_refused = 0;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create(&model);
    (void)export_and_load(&model, dir, WEIGHTS_FP8, 300000, &loaded);
    assert_ok(file_list(dir, &files));
    for (size_t seed = 1; seed <= N_CORRUPTIONS; seed++) {
        char *path;
        enum status status;

        assert_ok(path_join(dir, files.names[seed % files.count], &path));
        status = load_damaged(path, seed, dir, &model, loaded);
        memory_free(path);
        assert_true(status == STATUS_OK || status == STATUS_BAD_FORMAT ||
                    status == STATUS_UNSUPPORTED);
        assert_true(status == STATUS_OK || strlen(status_message()) > 10);
        assert_null(strchr(status_message(), '\n'));
        n_refused += status != STATUS_OK;
    }
    print_message("%zu of %zu damaged folders refused\n", n_refused, N_CORRUPTIONS);
    assert_true(n_refused > N_CORRUPTIONS * 9 / 10); /* a changed space is no damage */
    file_list_free(&files);
    memory_free(loaded);
    model_dispose(&model);
    support_temp_dir_remove(dir);
}

static void a_shard_that_is_not_there_is_named(void **state)
{
    struct model model;
    char dir[256], name[64], path[330];
    float *loaded;
    size_t n_files;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    model_create(&model);
    n_files = export_and_load(&model, dir, WEIGHTS_BF16, 500000, &loaded).n_files;
    (void)snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", n_files, n_files);
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(remove(path), 0);
    assert_status(weights_load(dir, model.table, loaded), STATUS_BAD_FORMAT, name);
    memory_free(loaded);
    model_dispose(&model);
    support_temp_dir_remove(dir);
}

struct attempt {
    struct model model;
    char dir[256];
    float *loaded;
};

static enum status export_once(void *context)
{
    struct attempt *attempt = context;
    const struct weights_export_options options = {WEIGHTS_FP8, 1000000};
    struct weights_export_stats stats;

    return weights_export(attempt->dir, &attempt->model.config, attempt->model.table,
                          attempt->model.data, &options, &stats);
}

static enum status load_once(void *context)
{
    struct attempt *attempt = context;

    return weights_load(attempt->dir, attempt->model.table, attempt->loaded);
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct attempt attempt;

    (void)state;
    support_temp_dir(attempt.dir, sizeof(attempt.dir));
    model_create(&attempt.model);
    assert_ok(memory_alloc(attempt.model.table->n_floats, sizeof(float), &attempt.loaded));
    assert_ok(export_once(&attempt));
    (void)support_fail_allocations(export_once, &attempt);
    (void)support_fail_allocations(load_once, &attempt);
    memory_free(attempt.loaded);
    model_dispose(&attempt.model);
    support_temp_dir_remove(attempt.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_in_shards_loads_bit_for_bit),
        cmocka_unit_test(bf16_holds_the_nearest_values),
        cmocka_unit_test(fp8_codes_the_linears_and_nothing_else),
        cmocka_unit_test(fp8_of_fp8_holds_the_same_values),
        cmocka_unit_test(a_value_too_large_for_the_format_is_refused),
        cmocka_unit_test(a_wrong_scale_is_refused_in_one_line),
        cmocka_unit_test(scales_may_be_exponent_bytes),
        cmocka_unit_test(a_code_that_is_no_number_is_refused),
        cmocka_unit_test(fused_fp8_experts_are_read_block_by_block),
        cmocka_unit_test(a_damaged_checkpoint_is_refused_and_never_crashes),
        cmocka_unit_test(a_shard_that_is_not_there_is_named),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
