/* Owns exp, log, sigmoid and silu over an array, on the calling thread: what the ops use lane by
 * lane, open to measurement. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

/* Applies one function by name, so that each gets a loop of its own. */
#define MAP_LOOP(function)                                                                         \
    for (size_t i = 0; i < n; i += SIMD_LANES) {                                                   \
        const size_t lanes = n - i < SIMD_LANES ? n - i : SIMD_LANES;                              \
        vec_store_n(y + i, function(vec_load_n(x + i, lanes)), lanes);                             \
    }

void ISA(math_map)(enum cpu_math function, const float *x, float *y, size_t n)
{
    switch (function) {
    case CPU_MATH_EXP:
        MAP_LOOP(vec_exp)
        break;
    case CPU_MATH_LOG:
        MAP_LOOP(vec_log)
        break;
    case CPU_MATH_SIGMOID:
        MAP_LOOP(vec_sigmoid)
        break;
    case CPU_MATH_SILU:
        MAP_LOOP(vec_silu)
        break;
    }
}
