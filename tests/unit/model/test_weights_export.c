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
#include "tests/unit/model/export_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define N_CORRUPTIONS ((size_t)160)

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
    struct weights_export_stats stats;
};

static enum status export_once(void *context)
{
    struct attempt *attempt = context;
    const struct weights_export_options options = {WEIGHTS_FP8, 20000};
    return weights_export(attempt->dir, &attempt->model.config, attempt->model.table,
                          attempt->model.data, &options, &attempt->stats);
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
    model_create_as(model_configure_small, &attempt.model);
    assert_ok(memory_alloc(attempt.model.table->n_floats, sizeof(float), &attempt.loaded));
    assert_ok(export_once(&attempt));
    assert_true(attempt.stats.n_files > 1 && attempt.stats.n_coded > 0);
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
        cmocka_unit_test(a_damaged_checkpoint_is_refused_and_never_crashes),
        cmocka_unit_test(a_shard_that_is_not_there_is_named),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
