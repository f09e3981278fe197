/* Owns conversion of stored tensor values to what hone computes with. */
#include "model/quant.h"
#include "model/safetensors.h"

#include <string.h>

#define LANES ((size_t)32) /* a fixed inner length vectorises */

static void widen_bf16(const unsigned char *data, size_t n, float *out)
{
    uint16_t halves[LANES];

    while (n > 0) {
        const size_t run = n < LANES ? n : LANES;

        memcpy(halves, data, run * sizeof(halves[0]));
        if (run < LANES) {
            for (size_t i = 0; i < run; i++) {
                out[i] = quant_bf16_value(halves[i]);
            }
            return;
        }
        for (size_t i = 0; i < LANES; i++) {
            out[i] = quant_bf16_value(halves[i]);
        }
        data += sizeof(halves);
        out += LANES;
        n -= LANES;
    }
}

static void widen_f16(const unsigned char *data, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;

        memcpy(&half, data + 2 * i, sizeof(half));
        out[i] = quant_f16_value(half);
    }
}

void tensor_widen(enum tensor_dtype dtype, const void *data, size_t n, float *out)
{
    if (dtype == TENSOR_BF16) {
        widen_bf16(data, n, out);
    } else if (dtype == TENSOR_F16) {
        widen_f16(data, n, out);
    } else {
        memcpy(out, data, n * sizeof(float));
    }
}

enum status tensor_read_floats(const struct tensor *tensor, float *out)
{
    if (tensor->dtype != TENSOR_F32 && tensor->dtype != TENSOR_BF16 &&
        tensor->dtype != TENSOR_F16) {
        return status_set(STATUS_UNSUPPORTED, "tensor %s is %s; this build reads F32, BF16 and F16",
                          tensor->name, tensor_dtype_name(tensor->dtype));
    }
    tensor_widen(tensor->dtype, tensor->data, tensor->n_elements, out);
    return STATUS_OK;
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
