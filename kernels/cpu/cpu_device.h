/* Owns the instruction sets the kernels are compiled for: which of them this machine has, and what
 * each brings. */
#ifndef HONE_KERNELS_CPU_CPU_DEVICE_H
#define HONE_KERNELS_CPU_CPU_DEVICE_H

#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"

typedef size_t burst_function(size_t n_rounds, float *sink);
typedef float read_function(const float *x, size_t n);
typedef void math_function(enum cpu_math function, const float *x, float *y, size_t n);

/* An instruction set: what it is called and what it brings. */
struct cpu_device {
    const char *name;
    const struct backend_ops *ops;
    burst_function *fma_burst, *pair_burst;
    math_function *math_map;
    read_function *read_sum;
};

/* name: "auto" and "cpu" are the fastest. Errors: UNSUPPORTED (not here; names what there is). */
MUST_CHECK enum status cpu_device_find(const char *name, struct cpu_device *out);

#endif
