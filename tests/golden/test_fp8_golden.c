/* The FP8 checkpoints of the golden folder: what is read from them, and what hone writes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/model_config.h"
#include "model/quant.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "model/weights_export.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define LARGEST_CODE_224 0x76u /* then the scale halves and the codes double: the values stay */

struct model {
    char dir[512];
    struct model_config config;
    struct weight_table *table;
    float *data;
};

static void model_open(const char *fixture, struct model *out)
{
    char relative[64];

    (void)snprintf(relative, sizeof(relative), "golden/%s", fixture);
    if (!support_shared_path(relative, out->dir, sizeof(out->dir))) {
        skip();
    }
    assert_ok(model_config_load(out->dir, &out->config));
    assert_ok(weight_table_create(&out->config, &out->table));
    assert_ok(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    assert_ok(weights_load(out->dir, out->table, out->data));
}

static void model_close(struct model *model)
{
    weight_table_destroy(model->table);
    memory_free(model->data);
}

static void scales_as_bytes_give_the_same_weights(void **state)
{
    struct model floats, bytes;

    (void)state;
    model_open("fp8-ue8m0", &floats);
    model_open("fp8-e8m0", &bytes);
    assert_memory_equal(floats.data, bytes.data, floats.table->n_floats * sizeof(float));
    model_close(&floats);
    model_close(&bytes);
}

/* Scale of a matrix's element, whatever its alignment. */
static float scale_of(const struct tensor *scales, size_t row, size_t column)
{
    const size_t index = row / QUANT_BLOCK * scales->shape[1] + column / QUANT_BLOCK;
    float scale;

    memcpy(&scale, (const unsigned char *)scales->data + index * sizeof(scale), sizeof(scale));
    return scale;
}

static const struct tensor *find_scales(const struct safetensors *file, const struct tensor *codes)
{
    char name[160];

    (void)snprintf(name, sizeof(name), "%s_scale_inv", codes->name);
    assert_non_null(safetensors_find(file, name));
    return safetensors_find(file, name);
}

/* state is the fixture: every weight is its code's value times its block's scale. */
static void a_weight_is_its_code_times_its_scale(void **state)
{
    struct model model;
    struct safetensors *file;

    model_open(*state, &model);
    assert_ok(safetensors_open_folder(model.dir, &file));
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor *codes = safetensors_at(file, i);
        const unsigned char *bytes = codes->data;

        if (codes->dtype != TENSOR_F8_E4M3) {
            continue;
        }
        const float *got = model.data + weight_table_find(model.table, codes->name)->offset;
        const struct tensor *scales = find_scales(file, codes);

        for (size_t j = 0; j < codes->n_elements; j++) {
            const float scale = scale_of(scales, j / codes->shape[1], j % codes->shape[1]);

            assert_true(got[j] == quant_e4m3_value(bytes[j]) * scale);
        }
    }
    safetensors_close(file);
    model_close(&model);
}

/* Largest magnitude among a block's codes. */
static unsigned largest_code(const struct tensor *codes, size_t first_row, size_t first_column)
{
    const unsigned char *bytes = codes->data;
    unsigned largest = 0;

    for (size_t i = first_row; i < codes->shape[0] && i < first_row + QUANT_BLOCK; i++) {
        for (size_t j = first_column; j < codes->shape[1] && j < first_column + QUANT_BLOCK; j++) {
            const unsigned code = bytes[i * codes->shape[1] + j] & 0x7fu;

            largest = code > largest ? code : largest;
        }
    }
    return largest;
}

/* Returns how many blocks have exactly the golden codes and scale; the others must be those whose
 * largest code is 224. */
static size_t compare_blocks(const struct tensor *want, const struct tensor *want_scales,
                             const struct tensor *got, const struct tensor *got_scales)
{
    const unsigned char *want_codes = want->data, *got_codes = got->data;
    size_t n_equal = 0;

    assert_int_equal(got->n_elements, want->n_elements);
    for (size_t row = 0; row < want->shape[0]; row += QUANT_BLOCK) {
        for (size_t column = 0; column < want->shape[1]; column += QUANT_BLOCK) {
            const bool may_halve = largest_code(want, row, column) == LARGEST_CODE_224;
            const float scale = scale_of(want_scales, row, column);

            assert_true(scale_of(got_scales, row, column) == (may_halve ? scale / 2 : scale));
            n_equal += !may_halve;
        }
    }
    for (size_t i = 0, row = 0; row < want->shape[0]; row++) {
        for (size_t column = 0; column < want->shape[1]; column++, i++) {
            if (scale_of(want_scales, row, column) == scale_of(got_scales, row, column)) {
                assert_int_equal(got_codes[i], want_codes[i]);
            }
        }
    }
    return n_equal;
}

static void quantising_again_gives_the_golden_codes(void **state)
{
    const struct weights_export_options options = {WEIGHTS_FP8, 400000};
    struct weights_export_stats stats;
    struct model model;
    struct safetensors *want, *got;
    char dir[256];
    float *loaded;
    size_t n_equal = 0;

    (void)state;
    model_open("fp8-ue8m0", &model);
    support_temp_dir(dir, sizeof(dir));
    assert_ok(weights_export(dir, &model.config, model.table, model.data, &options, &stats));
    assert_ok(safetensors_open_folder(model.dir, &want));
    assert_ok(safetensors_open_folder(dir, &got));
    assert_int_equal(safetensors_count(got), safetensors_count(want));
    for (size_t i = 0; i < safetensors_count(want); i++) {
        const struct tensor *stored = safetensors_at(want, i);
        const struct tensor *mine = safetensors_find(got, stored->name);

        assert_non_null(mine);
        assert_int_equal(mine->dtype, stored->dtype);
        if (stored->dtype == TENSOR_F8_E4M3) {
            n_equal +=
                compare_blocks(stored, find_scales(want, stored), mine, find_scales(got, mine));
        } else if (strstr(stored->name, "_scale_inv") == NULL) {
            assert_memory_equal(mine->data, stored->data,
                                stored->n_elements * tensor_dtype_bytes(stored->dtype));
        }
    }
    assert_true(n_equal > 80);
    assert_ok(memory_alloc(model.table->n_floats, sizeof(float), &loaded));
    assert_ok(weights_load(dir, model.table, loaded));
    assert_memory_equal(loaded, model.data, model.table->n_floats * sizeof(float));
    memory_free(loaded);
    safetensors_close(want);
    safetensors_close(got);
    support_temp_dir_remove(dir);
    model_close(&model);
}

int main(void)
{
    static char fp8[] = "fp8", fp8_ue8m0[] = "fp8-ue8m0";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_weight_is_its_code_times_its_scale, fp8),
        cmocka_unit_test_prestate(a_weight_is_its_code_times_its_scale, fp8_ue8m0),
        cmocka_unit_test(scales_as_bytes_give_the_same_weights),
        cmocka_unit_test(quantising_again_gives_the_golden_codes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
