/* FP8 files as others write them: scales of other kinds and places, fused experts, and what is
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "model/quant.h"
#include "model/safetensors.h"
#include "tests/unit/model/export_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_scale_is_refused_in_one_line),
        cmocka_unit_test(scales_may_be_exponent_bytes),
        cmocka_unit_test(a_code_that_is_no_number_is_refused),
        cmocka_unit_test(fused_fp8_experts_are_read_block_by_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
