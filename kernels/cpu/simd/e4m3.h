/* Owns rounding to E4M3 and its scales (model.md 10.1, 10.2), bit for bit what checkpoints hold. */
#ifndef HONE_KERNELS_CPU_SIMD_E4M3_H
#define HONE_KERNELS_CPU_SIMD_E4M3_H

#include "kernels/cpu/simd/lanes.h"

#include <string.h>

#define E4M3_MAX 448.0F

/* max(amax, 1e-4) / 448. Of a block whose values are codes times such a scale it is that scale
 * again: for every float a, (a / 448 * 448) / 448 is a / 448. */
static inline float e4m3_float_scale(float amax)
{
    return (amax > 1e-4F ? amax : 1e-4F) / E4M3_MAX;
}

/* The smallest power of two that is at least that. */
static inline float e4m3_scale(float amax)
{
    const float q = e4m3_float_scale(amax);
    uint32_t bits;
    float scale;
    memcpy(&bits, &q, sizeof(bits));
    bits = ((bits >> 23) + ((bits & 0x7FFFFFU) != 0)) << 23;
    memcpy(&scale, &bits, sizeof(scale));
    return scale;
}

/* The nearest value of a code, ties to even; magnitudes above 448 become 448, NaN stays NaN. */
SIMD_INLINE f32x16 e4m3_round(f32x16 a)
{
    const i32x16 bits = vec_bits(a);
    const i32x16 sign = ivec_and(bits, ivec_set1(INT32_MIN));
    const i32x16 magnitude = ivec_and(bits, ivec_set1(INT32_MAX));
    const i32x16 last = ivec_and(ivec_shift_right(magnitude, 20), ivec_set1(1));
    const i32x16 up = ivec_add(ivec_add(magnitude, ivec_set1(0x7FFFF)), last);
    i32x16 out = ivec_and(up, ivec_set1(-0x100000));
    /* 2^14 has a last place of 2^-9, so the addition rounds to a multiple of that. */
    const f32x16 big = vec_set1(0x1p14F);
    const f32x16 small = vec_sub(vec_add(ivec_as_float(magnitude), big), big);
    out = ivec_select(ivec_lt(magnitude, vec_bits(vec_set1(0x1p-6F))), vec_bits(small), out);
    const i32x16 most = vec_bits(vec_set1(E4M3_MAX));
    out = ivec_select(ivec_lt(most, magnitude), most, out);
    out = ivec_select(ivec_lt(ivec_set1(0x7F800000), magnitude), magnitude, out);
    return ivec_as_float(ivec_or(out, sign));
}

/* The same for magnitudes up to 448 and NaN, of which every row that was divided by its scale
 * consists; what rounds to zero is +0. A float 2^20 above the value's own exponent has the last
 * place of a code, so that an addition rounds. */
SIMD_INLINE f32x16 e4m3_round_scaled(f32x16 a)
{
    const f32x16 exponent = ivec_as_float(ivec_and(vec_bits(a), ivec_set1(0x7F800000)));
    const f32x16 power = vec_max(vec_set1(0x1p-6F), exponent); /* subnormal codes share a place */
    const f32x16 big = vec_mul(power, vec_set1(0x1.8p20F));
    return vec_sub(vec_add(a, big), big);
}

/* The codes of values that e4m3_round gave. */
SIMD_INLINE i32x16 e4m3_codes(f32x16 a)
{
    const i32x16 bits = vec_bits(a);
    const i32x16 sign = ivec_and(ivec_shift_right(bits, 24), ivec_set1(0x80));
    const i32x16 magnitude = ivec_and(bits, ivec_set1(INT32_MAX));
    const i32x16 normal = ivec_sub(ivec_shift_right(magnitude, 20), ivec_set1((127 - 7) << 3));
    const i32x16 subnormal = vec_to_int(vec_mul(ivec_as_float(magnitude), vec_set1(0x1p9F)));
    i32x16 code = ivec_select(ivec_lt(magnitude, vec_bits(vec_set1(0x1p-6F))), subnormal, normal);
    code = ivec_select(ivec_lt(ivec_set1(0x7F800000), magnitude), ivec_set1(0x7F), code);
    return ivec_or(code, sign);
}

/* The largest magnitude of n values. */
SIMD_INLINE f32x16 e4m3_largest(f32x16 largest, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += SIMD_LANES) {
        largest = vec_max(vec_abs(lanes_load(x + i, lanes_left(i, n))), largest);
    }
    return largest;
}

#endif
