/* Owns the loops that measure the machine: products of floats and of pairs in registers, and
 * reading memory. */
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/pairs.h"

/* Independent chains, as many as a tile has: enough for two FMA a cycle at a latency of four, few
 * enough for sixteen registers of half the width. */
#define N_CHAINS ((size_t)(6 * SIMD_TILE_VECTORS))
#define SECTION ((size_t)8)

SIMD_INLINE void start_chains(f32x16 *sums, float sink)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < N_CHAINS; i++) {
        sums[i] = vec_set1((float)i + sink);
    }
}

SIMD_INLINE float end_chains(const f32x16 *sums)
{
    f32x16 sum = sums[0];
#pragma GCC unroll 24
    for (size_t i = 1; i < N_CHAINS; i++) {
        sum = vec_add(sum, sums[i]);
    }
    return vec_sum(sum);
}

size_t ISA(fma_burst)(size_t n_rounds, float *sink)
{
    f32x16 sums[N_CHAINS];
    const f32x16 a = vec_set1(0.999F);
    const f32x16 b = vec_set1(0.001F);
    start_chains(sums, *sink);
    for (size_t round = 0; round < n_rounds; round++) {
#pragma GCC unroll 8
        for (size_t s = 0; s < SECTION; s++) {
#pragma GCC unroll 24
            for (size_t i = 0; i < N_CHAINS; i++) {
                sums[i] = vec_fma(sums[i], a, b);
            }
        }
    }
    *sink = end_chains(sums);
    return 2 * SIMD_LANES * N_CHAINS * SECTION * n_rounds;
}

size_t ISA(pair_burst)(size_t n_rounds, float *sink)
{
    f32x16 sums[N_CHAINS];
    float words[SIMD_LANES * 2];
    pairs_store(words, vec_set1(0.5F), vec_set1(0.25F));
    const pair_x a = pair_broadcast(words);
    const pair16 b = pairs_load(words);
    start_chains(sums, *sink);
    for (size_t round = 0; round < n_rounds; round++) {
#pragma GCC unroll 8
        for (size_t s = 0; s < SECTION; s++) {
#pragma GCC unroll 24
            for (size_t i = 0; i < N_CHAINS; i++) {
                sums[i] = pair_fma(a, b, sums[i]);
            }
        }
    }
    *sink = end_chains(sums);
    return 4 * SIMD_LANES * N_CHAINS * SECTION * n_rounds;
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
