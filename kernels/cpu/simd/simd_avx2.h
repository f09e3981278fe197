/* Owns f32x16 on AVX2 + FMA: a pair of registers, lanes 0..7 and 8..15. Contract: simd.h, which
 * includes this. */
#ifndef HONE_KERNELS_CPU_SIMD_SIMD_AVX2_H
#define HONE_KERNELS_CPU_SIMD_SIMD_AVX2_H

#include <immintrin.h>

/* f32x16 of a matrix tile's row: as many as the register file feeds (gemm_tile.h). */
#define SIMD_TILE_VECTORS 1

typedef struct {
    __m256 lo, hi;
} f32x16;
typedef struct {
    __m256i lo, hi;
} i32x16;
typedef struct {
    __m256i lo, hi; /* all ones or all zeroes a lane */
} mask16;

SIMD_INLINE mask16 mask_first(size_t n)
{
    const __m256i count = _mm256_set1_epi32((int32_t)n);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i upper = _mm256_add_epi32(lanes, _mm256_set1_epi32(8));
    return (mask16){_mm256_cmpgt_epi32(count, lanes), _mm256_cmpgt_epi32(count, upper)};
}

SIMD_INLINE mask16 mask_and(mask16 a, mask16 b)
{
    return (mask16){_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}

SIMD_INLINE mask16 mask_or(mask16 a, mask16 b)
{
    return (mask16){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}

SIMD_INLINE mask16 mask_not(mask16 a)
{
    const __m256i ones = _mm256_set1_epi32(-1);
    return (mask16){_mm256_xor_si256(a.lo, ones), _mm256_xor_si256(a.hi, ones)};
}

SIMD_INLINE uint32_t mask_bits(mask16 a)
{
    const int lo = _mm256_movemask_ps(_mm256_castsi256_ps(a.lo));
    const int hi = _mm256_movemask_ps(_mm256_castsi256_ps(a.hi));
    return (uint32_t)lo | (uint32_t)hi << 8;
}

SIMD_INLINE f32x16 vec_zero(void)
{
    return (f32x16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

SIMD_INLINE f32x16 vec_set1(float x)
{
    return (f32x16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

SIMD_INLINE f32x16 vec_load(const float *p)
{
    return (f32x16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

SIMD_INLINE void vec_store(float *p, f32x16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

SIMD_INLINE f32x16 vec_load_n(const float *p, size_t n)
{
    const mask16 m = mask_first(n);
    return (f32x16){_mm256_maskload_ps(p, m.lo), _mm256_maskload_ps(p + 8, m.hi)};
}

SIMD_INLINE void vec_store_n(float *p, f32x16 a, size_t n)
{
    const mask16 m = mask_first(n);
    _mm256_maskstore_ps(p, m.lo, a.lo);
    _mm256_maskstore_ps(p + 8, m.hi, a.hi);
}

SIMD_INLINE f32x16 vec_add(f32x16 a, f32x16 b)
{
    return (f32x16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

SIMD_INLINE f32x16 vec_sub(f32x16 a, f32x16 b)
{
    return (f32x16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

SIMD_INLINE f32x16 vec_mul(f32x16 a, f32x16 b)
{
    return (f32x16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

SIMD_INLINE f32x16 vec_div(f32x16 a, f32x16 b)
{
    return (f32x16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

SIMD_INLINE f32x16 vec_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return (f32x16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

SIMD_INLINE f32x16 vec_fnma(f32x16 a, f32x16 b, f32x16 c)
{
    return (f32x16){_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}

SIMD_INLINE f32x16 vec_sqrt(f32x16 a)
{
    return (f32x16){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}

SIMD_INLINE f32x16 vec_min(f32x16 a, f32x16 b)
{
    return (f32x16){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

SIMD_INLINE f32x16 vec_max(f32x16 a, f32x16 b)
{
    return (f32x16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

SIMD_INLINE f32x16 vec_abs(f32x16 a)
{
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return (f32x16){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}

SIMD_INLINE f32x16 vec_neg(f32x16 a)
{
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return (f32x16){_mm256_xor_ps(sign, a.lo), _mm256_xor_ps(sign, a.hi)};
}

SIMD_INLINE f32x16 vec_round(f32x16 a)
{
    return (f32x16){_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                    _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

SIMD_INLINE mask16 vec_lt(f32x16 a, f32x16 b)
{
    const __m256 lo = _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ);
    const __m256 hi = _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ);
    return (mask16){_mm256_castps_si256(lo), _mm256_castps_si256(hi)};
}

SIMD_INLINE mask16 vec_le(f32x16 a, f32x16 b)
{
    const __m256 lo = _mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ);
    const __m256 hi = _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ);
    return (mask16){_mm256_castps_si256(lo), _mm256_castps_si256(hi)};
}

SIMD_INLINE mask16 vec_eq(f32x16 a, f32x16 b)
{
    const __m256 lo = _mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ);
    const __m256 hi = _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ);
    return (mask16){_mm256_castps_si256(lo), _mm256_castps_si256(hi)};
}

SIMD_INLINE f32x16 vec_select(mask16 m, f32x16 if_true, f32x16 if_false)
{
    return (f32x16){_mm256_blendv_ps(if_false.lo, if_true.lo, _mm256_castsi256_ps(m.lo)),
                    _mm256_blendv_ps(if_false.hi, if_true.hi, _mm256_castsi256_ps(m.hi))};
}

SIMD_INLINE float vec_sum(f32x16 a)
{
    const __m256 b = _mm256_add_ps(a.lo, a.hi);
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

SIMD_INLINE float vec_hmax(f32x16 a)
{
    const __m256 b = _mm256_max_ps(a.lo, a.hi);
    const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

SIMD_INLINE i32x16 ivec_set1(int32_t x)
{
    return (i32x16){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

SIMD_INLINE i32x16 ivec_load(const int32_t *p)
{
    return (i32x16){_mm256_loadu_si256((const __m256i_u *)p),
                    _mm256_loadu_si256((const __m256i_u *)(p + 8))};
}

SIMD_INLINE void ivec_store(int32_t *p, i32x16 a)
{
    _mm256_storeu_si256((__m256i_u *)p, a.lo);
    _mm256_storeu_si256((__m256i_u *)(p + 8), a.hi);
}

SIMD_INLINE i32x16 ivec_load_n(const int32_t *p, size_t n)
{
    const mask16 m = mask_first(n);
    return (i32x16){_mm256_maskload_epi32(p, m.lo), _mm256_maskload_epi32(p + 8, m.hi)};
}

SIMD_INLINE void ivec_store_n(int32_t *p, i32x16 a, size_t n)
{
    const mask16 m = mask_first(n);
    _mm256_maskstore_epi32(p, m.lo, a.lo);
    _mm256_maskstore_epi32(p + 8, m.hi, a.hi);
}

SIMD_INLINE i32x16 ivec_add(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_sub(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_mul(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_mul_even(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_mul_epu32(a.lo, b.lo), _mm256_mul_epu32(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_odd(i32x16 a)
{
    return (i32x16){_mm256_srli_epi64(a.lo, 32), _mm256_srli_epi64(a.hi, 32)};
}

SIMD_INLINE i32x16 ivec_zip_even(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_blend_epi32(a.lo, _mm256_slli_epi64(b.lo, 32), 0xAA),
                    _mm256_blend_epi32(a.hi, _mm256_slli_epi64(b.hi, 32), 0xAA)};
}

SIMD_INLINE i32x16 ivec_and(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_or(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_xor(i32x16 a, i32x16 b)
{
    return (i32x16){_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_xor3(i32x16 a, i32x16 b, i32x16 c)
{
    return ivec_xor(ivec_xor(a, b), c);
}

SIMD_INLINE i32x16 ivec_shift_left(i32x16 a, int32_t count)
{
    const __m256i n = _mm256_set1_epi32(count);
    return (i32x16){_mm256_sllv_epi32(a.lo, n), _mm256_sllv_epi32(a.hi, n)};
}

SIMD_INLINE i32x16 ivec_shift_right(i32x16 a, int32_t count)
{
    const __m256i n = _mm256_set1_epi32(count);
    return (i32x16){_mm256_srlv_epi32(a.lo, n), _mm256_srlv_epi32(a.hi, n)};
}

SIMD_INLINE i32x16 ivec_shift_right_signed(i32x16 a, int32_t count)
{
    const __m256i n = _mm256_set1_epi32(count);
    return (i32x16){_mm256_srav_epi32(a.lo, n), _mm256_srav_epi32(a.hi, n)};
}

SIMD_INLINE mask16 ivec_lt(i32x16 a, i32x16 b)
{
    return (mask16){_mm256_cmpgt_epi32(b.lo, a.lo), _mm256_cmpgt_epi32(b.hi, a.hi)};
}

SIMD_INLINE mask16 ivec_eq(i32x16 a, i32x16 b)
{
    return (mask16){_mm256_cmpeq_epi32(a.lo, b.lo), _mm256_cmpeq_epi32(a.hi, b.hi)};
}

SIMD_INLINE i32x16 ivec_select(mask16 m, i32x16 if_true, i32x16 if_false)
{
    return (i32x16){_mm256_blendv_epi8(if_false.lo, if_true.lo, m.lo),
                    _mm256_blendv_epi8(if_false.hi, if_true.hi, m.hi)};
}

SIMD_INLINE i32x16 vec_to_int(f32x16 a)
{
    return (i32x16){_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}

SIMD_INLINE f32x16 ivec_to_float(i32x16 a)
{
    return (f32x16){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}

SIMD_INLINE i32x16 vec_bits(f32x16 a)
{
    return (i32x16){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}

SIMD_INLINE f32x16 ivec_as_float(i32x16 a)
{
    return (f32x16){_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}

#include "kernels/cpu/simd/simd_spill.h"

#endif
