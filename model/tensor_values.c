/* Owns conversion of stored tensor values to what hone computes with. */
#include "model/safetensors.h"

#include <string.h>

static float float_of_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void read_bf16(const unsigned char *data, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;

        memcpy(&half, data + 2 * i, sizeof(half));
        out[i] = float_of_bits((uint32_t)half << 16);
    }
}

/* IEEE half to float, exact, subnormals included. */
static float half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu;
    const uint32_t mantissa = half & 0x3ffu;

    if (exponent == 31) {
        return float_of_bits(sign | 0x7f800000u | (mantissa << 13));
    }
    if (exponent == 0) {
        const float magnitude = (float)mantissa * 0x1p-24f;

        return sign != 0 ? -magnitude : magnitude;
    }
    return float_of_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

static void read_f16(const unsigned char *data, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;

        memcpy(&half, data + 2 * i, sizeof(half));
        out[i] = half_to_float(half);
    }
}

enum status tensor_read_floats(const struct tensor *tensor, float *out)
{
    if (tensor->dtype == TENSOR_F32) {
        memcpy(out, tensor->data, tensor->n_elements * sizeof(float));
        return STATUS_OK;
    }
    if (tensor->dtype == TENSOR_BF16) {
        read_bf16(tensor->data, tensor->n_elements, out);
        return STATUS_OK;
    }
    if (tensor->dtype == TENSOR_F16) {
        read_f16(tensor->data, tensor->n_elements, out);
        return STATUS_OK;
    }
    return status_set(STATUS_UNSUPPORTED, "tensor %s is %s; this build reads F32, BF16 and F16",
                      tensor->name, tensor_dtype_name(tensor->dtype));
}

enum status tensor_read_integers(const struct tensor *tensor, int32_t *out)
{
    if (tensor->dtype != TENSOR_I32) {
        return status_set(STATUS_UNSUPPORTED, "tensor %s is %s, want I32", tensor->name,
                          tensor_dtype_name(tensor->dtype));
    }
    memcpy(out, tensor->data, tensor->n_elements * sizeof(int32_t));
    return STATUS_OK;
}
