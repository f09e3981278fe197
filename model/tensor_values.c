/* Owns conversion of stored tensor values to what hone computes with. */
#include "model/quant.h"
#include "model/safetensors.h"

#include <string.h>

void tensor_widen(enum tensor_dtype dtype, const void *data, size_t n, float *out)
{
    if (dtype == TENSOR_BF16) {
        quant_bf16_values(data, n, out);
    } else if (dtype == TENSOR_F16) {
        quant_f16_values(data, n, out);
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
