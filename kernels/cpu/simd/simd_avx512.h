/* Owns f32x16 on AVX-512 (F, DQ, BW, VL): one register. Contract: simd.h, which includes this. */
#ifndef HONE_KERNELS_CPU_SIMD_SIMD_AVX512_H
#define HONE_KERNELS_CPU_SIMD_SIMD_AVX512_H

#include <immintrin.h>

/* f32x16 of a matrix tile's row: as many as the register file feeds (gemm_tile.h). */
#define SIMD_TILE_VECTORS 4

typedef __m512 f32x16;
typedef __m512i i32x16;
typedef __mmask16 mask16;

SIMD_INLINE mask16 mask_first(size_t n)
{
    return (mask16)((1U << n) - 1U);
}

SIMD_INLINE mask16 mask_and(mask16 a, mask16 b)
{
    return (mask16)(a & b);
}

SIMD_INLINE mask16 mask_or(mask16 a, mask16 b)
{
    return (mask16)(a | b);
}

SIMD_INLINE mask16 mask_not(mask16 a)
{
    return (mask16)~a;
}

SIMD_INLINE uint32_t mask_bits(mask16 a)
{
    return a;
}

SIMD_INLINE f32x16 vec_zero(void)
{
    return _mm512_setzero_ps();
}

SIMD_INLINE f32x16 vec_set1(float x)
{
    return _mm512_set1_ps(x);
}

SIMD_INLINE f32x16 vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

SIMD_INLINE void vec_store(float *p, f32x16 a)
{
    _mm512_storeu_ps(p, a);
}

SIMD_INLINE f32x16 vec_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(mask_first(n), p);
}

SIMD_INLINE void vec_store_n(float *p, f32x16 a, size_t n)
{
    _mm512_mask_storeu_ps(p, mask_first(n), a);
}

SIMD_INLINE f32x16 vec_add(f32x16 a, f32x16 b)
{
    return _mm512_add_ps(a, b);
}

SIMD_INLINE f32x16 vec_sub(f32x16 a, f32x16 b)
{
    return _mm512_sub_ps(a, b);
}

SIMD_INLINE f32x16 vec_mul(f32x16 a, f32x16 b)
{
    return _mm512_mul_ps(a, b);
}

SIMD_INLINE f32x16 vec_div(f32x16 a, f32x16 b)
{
    return _mm512_div_ps(a, b);
}

SIMD_INLINE f32x16 vec_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

SIMD_INLINE f32x16 vec_fnma(f32x16 a, f32x16 b, f32x16 c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

SIMD_INLINE f32x16 vec_sqrt(f32x16 a)
{
    return _mm512_sqrt_ps(a);
}

SIMD_INLINE f32x16 vec_min(f32x16 a, f32x16 b)
{
    return _mm512_min_ps(a, b);
}

SIMD_INLINE f32x16 vec_max(f32x16 a, f32x16 b)
{
    return _mm512_max_ps(a, b);
}

SIMD_INLINE f32x16 vec_abs(f32x16 a)
{
    return _mm512_abs_ps(a);
}

SIMD_INLINE f32x16 vec_neg(f32x16 a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0F));
}

SIMD_INLINE f32x16 vec_round(f32x16 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* p 2^n, rounded once: what simd_math.h makes of several steps elsewhere. */
#define SIMD_HAS_SCALE
SIMD_INLINE f32x16 vec_scale(f32x16 p, f32x16 n)
{
    return _mm512_scalef_ps(p, n);
}

SIMD_INLINE mask16 vec_lt(f32x16 a, f32x16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

SIMD_INLINE mask16 vec_le(f32x16 a, f32x16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}

SIMD_INLINE mask16 vec_eq(f32x16 a, f32x16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

SIMD_INLINE f32x16 vec_select(mask16 m, f32x16 if_true, f32x16 if_false)
{
    return _mm512_mask_blend_ps(m, if_false, if_true);
}

SIMD_INLINE void vec_widen(f32x16 a, f64x8 *lo, f64x8 *hi)
{
    *lo = (f64x8)_mm512_cvtps_pd(_mm512_castps512_ps256(a));
    *hi = (f64x8)_mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}

SIMD_INLINE f32x16 vec_squeeze(f32x16 a, mask16 m)
{
    return _mm512_maskz_compress_ps(m, a);
}

SIMD_INLINE float vec_sum(f32x16 a)
{
    const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

SIMD_INLINE float vec_hmax(f32x16 a)
{
    const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

SIMD_INLINE i32x16 ivec_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}

SIMD_INLINE i32x16 ivec_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}

SIMD_INLINE void ivec_store(int32_t *p, i32x16 a)
{
    _mm512_storeu_si512(p, a);
}

SIMD_INLINE i32x16 ivec_load_n(const int32_t *p, size_t n)
{
    return _mm512_maskz_loadu_epi32(mask_first(n), p);
}

SIMD_INLINE void ivec_store_n(int32_t *p, i32x16 a, size_t n)
{
    _mm512_mask_storeu_epi32(p, mask_first(n), a);
}

SIMD_INLINE i32x16 ivec_add(i32x16 a, i32x16 b)
{
    return _mm512_add_epi32(a, b);
}

SIMD_INLINE i32x16 ivec_sub(i32x16 a, i32x16 b)
{
    return _mm512_sub_epi32(a, b);
}

SIMD_INLINE i32x16 ivec_mul(i32x16 a, i32x16 b)
{
    return _mm512_mullo_epi32(a, b);
}

SIMD_INLINE i32x16 ivec_mul_even(i32x16 a, i32x16 b)
{
    return _mm512_mul_epu32(a, b);
}

SIMD_INLINE i32x16 ivec_odd(i32x16 a)
{
    return _mm512_srli_epi64(a, 32);
}

SIMD_INLINE i32x16 ivec_zip_even(i32x16 a, i32x16 b)
{
    return _mm512_mask_shuffle_epi32(a, 0xAAAA, b, _MM_PERM_CCAA);
}

SIMD_INLINE i32x16 ivec_and(i32x16 a, i32x16 b)
{
    return _mm512_and_si512(a, b);
}

SIMD_INLINE i32x16 ivec_or(i32x16 a, i32x16 b)
{
    return _mm512_or_si512(a, b);
}

SIMD_INLINE i32x16 ivec_xor(i32x16 a, i32x16 b)
{
    return _mm512_xor_si512(a, b);
}

SIMD_INLINE i32x16 ivec_xor3(i32x16 a, i32x16 b, i32x16 c)
{
    return _mm512_ternarylogic_epi32(a, b, c, 0x96);
}

SIMD_INLINE i32x16 ivec_shift_left(i32x16 a, int32_t count)
{
    return _mm512_sllv_epi32(a, _mm512_set1_epi32(count));
}

SIMD_INLINE i32x16 ivec_shift_right(i32x16 a, int32_t count)
{
    return _mm512_srlv_epi32(a, _mm512_set1_epi32(count));
}

SIMD_INLINE i32x16 ivec_shift_right_signed(i32x16 a, int32_t count)
{
    return _mm512_srav_epi32(a, _mm512_set1_epi32(count));
}

SIMD_INLINE mask16 ivec_lt(i32x16 a, i32x16 b)
{
    return _mm512_cmplt_epi32_mask(a, b);
}

SIMD_INLINE mask16 ivec_eq(i32x16 a, i32x16 b)
{
    return _mm512_cmpeq_epi32_mask(a, b);
}

SIMD_INLINE i32x16 ivec_select(mask16 m, i32x16 if_true, i32x16 if_false)
{
    return _mm512_mask_blend_epi32(m, if_false, if_true);
}

SIMD_INLINE i32x16 ivec_squeeze(i32x16 a, mask16 m)
{
    return _mm512_maskz_compress_epi32(m, a);
}

SIMD_INLINE i32x16 vec_to_int(f32x16 a)
{
    return _mm512_cvtps_epi32(a);
}

SIMD_INLINE f32x16 ivec_to_float(i32x16 a)
{
    return _mm512_cvtepi32_ps(a);
}

SIMD_INLINE i32x16 vec_bits(f32x16 a)
{
    return _mm512_castps_si512(a);
}

SIMD_INLINE f32x16 ivec_as_float(i32x16 a)
{
    return _mm512_castsi512_ps(a);
}

#endif
