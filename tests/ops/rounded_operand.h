/* Owns values as products of a precision see them, rounded by model/quant.h. Include it after
 * cmocka.h. */
#ifndef HONE_TESTS_OPS_ROUNDED_OPERAND_H
#define HONE_TESTS_OPS_ROUNDED_OPERAND_H

#include "model/quant.h"
#include "tests/ops/op_fixture.h"

#include <math.h>
#include <string.h>

static inline float flush(float x)
{
    return fabsf(x) < 0x1p-126F ? copysignf(0.0F, x) : x;
}

static inline float bf16(float x)
{
    return quant_bf16_value(quant_bf16_bits(flush(x)));
}

/* Values and scales of n rows as products see them; scales (n_rows, quant_blocks(n_in)). */
struct operand {
    float *values, *scales;
};

static inline struct operand operand_make(enum precision precision, const float *src, size_t stride,
                                          size_t n_rows, size_t n_in, size_t block_rows)
{
    struct operand out = {new_floats(n_rows * n_in), new_floats(n_rows * quant_blocks(n_in))};
    uint8_t *codes = NULL;
    assert_ok(memory_alloc(n_rows * n_in, 1, &codes));
    for (size_t i = 0; i < n_rows; i++) {
        memcpy(out.values + i * n_in, src + i * stride, n_in * sizeof(float));
    }
    if (precision == PRECISION_FP8) {
        quant_matrix(out.values, n_rows, n_in, block_rows, codes, out.scales);
    }
    for (size_t i = 0; i < n_rows * n_in; i++) {
        out.values[i] =
            precision == PRECISION_FP8 ? quant_e4m3_value(codes[i]) : bf16(out.values[i]);
    }
    memory_free(codes);
    return out;
}

static inline void operand_free(struct operand *operand)
{
    memory_free(operand->values);
    memory_free(operand->scales);
}

#endif
