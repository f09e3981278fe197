/* Owns the digest that hone puts into the metadata of the checkpoints it writes, since the format
 * itself cannot tell a flipped bit of data from a weight. It is the exclusive or, over tensors, of
 * XXH3-128 of (name digest, data digest, type, shape), so it depends on no order. */
#include "model/safetensors_internal.h"

#include <string.h>

/* What is hashed of one tensor; no padding between the members. */
struct tensor_seal {
    struct digest128 name, data;
    uint64_t dtype, n_dims, shape[TENSOR_DIMS_MAX];
};

size_t tensor_bytes(const struct tensor *tensor)
{
    size_t n = tensor_dtype_bytes(tensor->dtype);

    for (size_t i = 0; i < tensor->n_dims; i++) {
        n *= tensor->shape[i];
    }
    return n;
}

void tensor_digest_add(const struct tensor *tensor, struct digest128 *sum)
{
    struct tensor_seal seal = {.name = hash_128(tensor->name, strlen(tensor->name)),
                               .data = hash_128(tensor->data, tensor_bytes(tensor)),
                               .dtype = (uint64_t)tensor->dtype,
                               .n_dims = tensor->n_dims};

    for (size_t i = 0; i < tensor->n_dims; i++) {
        seal.shape[i] = tensor->shape[i];
    }

    const struct digest128 digest = hash_128(&seal, sizeof(seal));

    for (size_t i = 0; i < sizeof(sum->bytes); i++) {
        sum->bytes[i] ^= digest.bytes[i];
    }
}
