/* Owns what instruction sets without an instruction for it do by way of memory; their headers
 * include this at the end. Contract: simd.h. */
#ifndef HONE_KERNELS_CPU_SIMD_SIMD_SPILL_H
#define HONE_KERNELS_CPU_SIMD_SIMD_SPILL_H

SIMD_INLINE i32x16 ivec_squeeze(i32x16 a, mask16 m)
{
    int32_t from[SIMD_LANES], to[SIMD_LANES] = {0};
    size_t n = 0;

    ivec_store(from, a);
    for (uint32_t bits = mask_bits(m); bits != 0; bits &= bits - 1) {
        to[n++] = from[__builtin_ctz(bits)];
    }
    return ivec_load(to);
}

SIMD_INLINE f32x16 vec_squeeze(f32x16 a, mask16 m)
{
    return ivec_as_float(ivec_squeeze(vec_bits(a), m));
}

SIMD_INLINE void vec_widen(f32x16 a, f64x8 *lo, f64x8 *hi)
{
    float lanes[SIMD_LANES];

    vec_store(lanes, a);
    for (size_t j = 0; j < SIMD_LANES / 2; j++) {
        (*lo)[j] = (double)lanes[j];
        (*hi)[j] = (double)lanes[j + SIMD_LANES / 2];
    }
}

#endif
