/* Owns how buffers are carved out of a policy's block: policy_layout.c, and
 * policy_layout_gradients.c for what is on the way back. */
#ifndef HONE_MODEL_POLICY_LAYOUT_INTERNAL_H
#define HONE_MODEL_POLICY_LAYOUT_INTERNAL_H

#include "base/memory.h"
#include "model/policy_internal.h"

#define LINE_BYTES ((size_t)64)

struct carver {
    char *base; /* NULL while measuring */
    size_t used;
    bool has_overflow;
};

/* n items of `size` bytes on a cache line; NULL while measuring. */
static inline void *carve(struct carver *carver, size_t n, size_t size)
{
    const size_t at = carver->used;
    size_t bytes, end;

    if (!size_multiply(n, size, &bytes) || !size_add(at, bytes, &end) ||
        !size_add(end, LINE_BYTES - 1, &end)) {
        carver->has_overflow = true;
        return NULL;
    }
    carver->used = end / LINE_BYTES * LINE_BYTES;
    return carver->base == NULL ? NULL : carver->base + at;
}

static inline float *carve_floats(struct carver *carver, size_t n_rows, size_t n)
{
    size_t count;

    if (!size_multiply(n_rows, n, &count)) {
        carver->has_overflow = true;
        return NULL;
    }
    return carve(carver, count, sizeof(float));
}

static inline int32_t *carve_ids(struct carver *carver, size_t n)
{
    return carve(carver, n, sizeof(int32_t));
}

/* Where gradients of rows lie. */
void policy_carve_gradients(struct carver *c, struct policy *policy);

#endif
