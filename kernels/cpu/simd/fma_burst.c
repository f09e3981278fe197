/* Owns the loops that measure the machine: fp32 FMA in registers, and reading memory. */
#include "kernels/cpu/simd/cpu_ops.h"

/* Independent chains: enough for two FMA a cycle at a latency of four, few enough for sixteen
 * registers of half the width. */
#define N_CHAINS ((size_t)(6 * SIMD_TILE_VECTORS))
#define SECTION ((size_t)8)

size_t ISA(fma_burst)(size_t n_rounds, float *sink)
{
    f32x16 sums[N_CHAINS];
#pragma GCC unroll 24
    for (size_t i = 0; i < N_CHAINS; i++) {
        sums[i] = vec_set1((float)i + *sink);
    }
    const f32x16 a = vec_set1(0.999F);
    const f32x16 b = vec_set1(0.001F);
    for (size_t round = 0; round < n_rounds; round++) {
#pragma GCC unroll 8
        for (size_t s = 0; s < SECTION; s++) {
#pragma GCC unroll 24
            for (size_t i = 0; i < N_CHAINS; i++) {
                sums[i] = vec_fma(sums[i], a, b);
            }
        }
    }
    f32x16 sum = sums[0];
#pragma GCC unroll 24
    for (size_t i = 1; i < N_CHAINS; i++) {
        sum = vec_add(sum, sums[i]);
    }
    *sink = vec_sum(sum);
    return 2 * SIMD_LANES * N_CHAINS * SECTION * n_rounds;
}

/* A cache line each of eight vectors a round, one stream. */
float ISA(read_sum)(const float *x, size_t n)
{
    f32x16 sums[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        sums[i] = vec_zero();
    }
    for (size_t at = 0; at + 8 * SIMD_LANES <= n; at += 8 * SIMD_LANES) {
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
            sums[i] = vec_add(sums[i], vec_load(x + at + i * SIMD_LANES));
        }
    }
    f32x16 sum = sums[0];
#pragma GCC unroll 8
    for (size_t i = 1; i < 8; i++) {
        sum = vec_add(sum, sums[i]);
    }
    return vec_sum(sum);
}
