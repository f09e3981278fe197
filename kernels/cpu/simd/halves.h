/* Owns bfloat16 values in memory, one behind the other: the first n of a vector to and from them.
 * Rounding is to nearest even, subnormals to zero (pairs.h). */
#ifndef HONE_KERNELS_CPU_SIMD_HALVES_H
#define HONE_KERNELS_CPU_SIMD_HALVES_H

#include "kernels/cpu/simd/pairs.h"

#include <string.h>

#ifdef __AVX512BW__
SIMD_INLINE void halves_store(uint16_t *to, f32x16 a, size_t n)
{
    const __m512i high = _mm512_srli_epi32(_mm512_castps_si512(vec_round_bf16(a)), 16);
    _mm256_mask_storeu_epi16(to, mask_first(n), _mm512_cvtepi32_epi16(high));
}

SIMD_INLINE f32x16 halves_load(const uint16_t *from, size_t n)
{
    const __m256i halves = _mm256_maskz_loadu_epi16(mask_first(n), from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
#else
SIMD_INLINE void halves_store(uint16_t *to, f32x16 a, size_t n)
{
    int32_t bits[SIMD_LANES];
    uint16_t halves[SIMD_LANES];

    ivec_store(bits, ivec_shift_right(vec_bits(vec_round_bf16(a)), 16));
    for (size_t j = 0; j < SIMD_LANES; j++) {
        halves[j] = (uint16_t)bits[j];
    }
    memcpy(to, halves, n * sizeof(*to));
}

SIMD_INLINE f32x16 halves_load(const uint16_t *from, size_t n)
{
    int32_t bits[SIMD_LANES];
    uint16_t halves[SIMD_LANES] = {0};

    memcpy(halves, from, n * sizeof(*from));
    for (size_t j = 0; j < SIMD_LANES; j++) {
        bits[j] = halves[j];
    }
    return ivec_as_float(ivec_shift_left(ivec_load(bits), 16));
}
#endif

#endif
