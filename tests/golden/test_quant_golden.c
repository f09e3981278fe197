/* Number formats and block quantisation against golden/quant: every bit must agree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/quant.h"
#include "model/safetensors.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static struct safetensors *file; /* NULL: the shared data is absent */

static int open_file(void **state)
{
    char path[512];

    (void)state;
    if (support_shared_path("golden/quant/quant.safetensors", path, sizeof(path))) {
        assert_ok(safetensors_open(path, &file));
    }
    return 0;
}

static int close_file(void **state)
{
    (void)state;
    safetensors_close(file);
    return 0;
}

static const struct tensor *find(const char *name)
{
    const struct tensor *tensor;

    if (file == NULL) {
        skip();
    }
    tensor = safetensors_find(file, name);
    assert_non_null(tensor);
    return tensor;
}

/* A copy of a tensor's values, aligned; the caller frees it. */
static void *copy_of(const struct tensor *tensor)
{
    const size_t n = tensor->n_elements * tensor_dtype_bytes(tensor->dtype);
    void *copy;

    assert_ok(memory_alloc(n, 1, &copy));
    memcpy(copy, tensor->data, n);
    return copy;
}

static void assert_table(const char *name, float (*value_of)(uint8_t))
{
    float *want = copy_of(find(name));

    for (size_t i = 0; i < 256; i++) {
        const float got = value_of((uint8_t)i);

        if (isnan(want[i])) {
            assert_true(isnan(got));
        } else {
            assert_memory_equal(&got, &want[i], sizeof(got));
        }
    }
    memory_free(want);
}

static void every_code_has_its_value(void **state)
{
    (void)state;
    assert_table("e4m3_table", quant_e4m3_value);
    assert_table("e8m0_table", quant_e8m0_value);
}

static void floats_round_to_the_known_codes(void **state)
{
    const struct tensor *in = find("e4m3_in");
    float *values = copy_of(in);
    const unsigned char *want = find("e4m3_codes")->data;

    (void)state;
    for (size_t i = 0; i < in->n_elements; i++) {
        if (quant_e4m3_code(values[i]) != want[i]) {
            fail_msg("%a gives 0x%02x, want 0x%02x", (double)values[i],
                     (unsigned)quant_e4m3_code(values[i]), (unsigned)want[i]);
        }
    }
    memory_free(values);
}

static void floats_round_to_the_known_bf16(void **state)
{
    const struct tensor *in = find("bf16_in");
    const struct tensor *bits = find("bf16_bits");
    float *values = copy_of(in);
    uint16_t *got;

    (void)state;
    assert_ok(memory_alloc(in->n_elements, sizeof(uint16_t), &got));
    quant_bf16_row(values, in->n_elements, got);
    assert_memory_equal(got, bits->data, in->n_elements * sizeof(uint16_t));
    memory_free(got);
    memory_free(values);
}

/* Compares "m.NAME.<kind>.codes" and ".scales" with what hone computes. */
static void check_matrix(const struct tensor *matrix, const char *kind, size_t block_rows)
{
    char name[128];
    const size_t n_rows = matrix->shape[0], n_columns = matrix->shape[1];
    const size_t n_down = (n_rows + block_rows - 1) / block_rows;
    float *values = copy_of(matrix), *scales;
    uint8_t *codes;

    assert_ok(memory_alloc(matrix->n_elements, 1, &codes));
    assert_ok(memory_alloc(n_down * quant_blocks(n_columns), sizeof(float), &scales));
    quant_matrix(values, n_rows, n_columns, block_rows, codes, scales);
    (void)snprintf(name, sizeof(name), "%s.%s.scales", matrix->name, kind);
    assert_int_equal(find(name)->n_elements, n_down * quant_blocks(n_columns));
    assert_memory_equal(scales, find(name)->data, find(name)->n_elements * sizeof(float));
    (void)snprintf(name, sizeof(name), "%s.%s.codes", matrix->name, kind);
    assert_memory_equal(codes, find(name)->data, matrix->n_elements);
    memory_free(values);
    memory_free(codes);
    memory_free(scales);
}

static void every_matrix_has_the_known_codes_and_scales(void **state)
{
    size_t n_checked = 0;

    (void)state;
    (void)find("e4m3_table");
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor *tensor = safetensors_at(file, i);

        if (strncmp(tensor->name, "m.", 2) != 0 || strchr(tensor->name + 2, '.') != NULL) {
            continue;
        }
        check_matrix(tensor, "128x128", QUANT_BLOCK);
        check_matrix(tensor, "1x128", 1);
        n_checked++;
    }
    assert_true(n_checked >= 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_its_value),
        cmocka_unit_test(floats_round_to_the_known_codes),
        cmocka_unit_test(floats_round_to_the_known_bf16),
        cmocka_unit_test(every_matrix_has_the_known_codes_and_scales),
    };

    return cmocka_run_group_tests(tests, open_file, close_file);
}
