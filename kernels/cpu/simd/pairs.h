/* Owns products of bfloat16 pairs: acc = fma(x_even, w_even, fma(x_odd, w_odd, acc)), subnormal
 * results become zero. With AVX512_BF16 that is one instruction, vdpbf16ps; its twin made of two
 * fused multiply-adds gives the same bits. How a pair of x is held differs between the two.
 *
 *   pair16           a weight pair for each of sixteen columns     pair_x  one pair of x, broadcast
 *   PAIR_WORDS       words of 4 bytes of a pair in a row of x
 *   codes_join       the words that pairs_decode reads, from codes in the lowest byte of each lane:
 *                    of sixteen columns even and odd, then of the sixteen behind them
 *   flush_begin/end  around products of BF16, in which compiled code may not be reordered: call
 *                    them only around calls that are not inlined
 *   PAIRS_FLUSH_THEMSELVES  pair_fma flushes in any mode: products alone need no flush_begin
 *   pairs_join       the words that pairs_load reads, from the two rows of the pairs
 *   pairs_of         what pairs_load makes of these words
 *   pair_broadcast_joined  a word of those, broadcast as a pair_x
 *   vec_flush        subnormals become zero, where flush_begin does not see to that */
#ifndef HONE_KERNELS_CPU_SIMD_PAIRS_H
#define HONE_KERNELS_CPU_SIMD_PAIRS_H

#include "kernels/cpu/simd/simd.h"

#include <stdbool.h>

#ifdef __AVX2__
#define CONTROL_FLUSH_TO_ZERO 0x8000U
SIMD_INLINE uint32_t flush_begin(void)
{
    const uint32_t mode = _mm_getcsr();
    _mm_setcsr(mode | CONTROL_FLUSH_TO_ZERO);
    return mode;
}

SIMD_INLINE void flush_end(uint32_t mode)
{
    _mm_setcsr(mode);
}

SIMD_INLINE f32x16 vec_flush(f32x16 a)
{
    return a;
}
#else
SIMD_INLINE uint32_t flush_begin(void)
{
    return 0;
}

SIMD_INLINE void flush_end(uint32_t mode)
{
    (void)mode;
}

SIMD_INLINE f32x16 vec_flush(f32x16 a)
{
    const f32x16 zero = ivec_as_float(ivec_and(vec_bits(a), ivec_set1(INT32_MIN)));
    return vec_select(vec_lt(vec_abs(a), vec_set1(0x1p-126F)), zero, a);
}
#endif

/* Subnormals become zero, whatever the mode: sums that come from memory. */
SIMD_INLINE f32x16 vec_flush_memory(f32x16 a)
{
    const f32x16 zero = ivec_as_float(ivec_and(vec_bits(a), ivec_set1(INT32_MIN)));
    return vec_select(vec_lt(vec_abs(a), vec_set1(0x1p-126F)), zero, a);
}

/* Round to nearest even, subnormals to zero, NaN stays NaN: what vcvtneps2bf16 gives. */
#ifdef __AVX512BF16__
SIMD_INLINE f32x16 vec_round_bf16(f32x16 a)
{
    const __m256i halves = (__m256i)_mm512_cvtneps_pbh(a);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
#else
SIMD_INLINE f32x16 vec_round_bf16(f32x16 a)
{
    const i32x16 bits = vec_bits(a);
    const i32x16 sign = ivec_and(bits, ivec_set1(INT32_MIN));
    const i32x16 magnitude = ivec_and(bits, ivec_set1(INT32_MAX));
    const i32x16 last = ivec_and(ivec_shift_right(bits, 16), ivec_set1(1));
    i32x16 out = ivec_add(ivec_add(bits, ivec_set1(0x7FFF)), last);
    out = ivec_select(ivec_lt(ivec_set1(0x7F800000), magnitude), ivec_or(bits, ivec_set1(0x400000)),
                      out);
    out = ivec_select(ivec_lt(magnitude, ivec_set1(0x800000)), sign, out);
    return ivec_as_float(ivec_and(out, ivec_set1(-0x10000)));
}
#endif

/* The code in the lowest byte of each lane: exponent and mantissa moved into place, the exponent's
 * bias made good by a multiplication, which is exact for subnormal codes too. */
SIMD_INLINE f32x16 code_value(i32x16 codes)
{
    const i32x16 sign = ivec_shift_left(ivec_and(codes, ivec_set1(0x80)), 24);
    const i32x16 magnitude = ivec_and(codes, ivec_set1(0x7F));
    const f32x16 value = vec_mul(ivec_as_float(ivec_shift_left(magnitude, 20)), vec_set1(0x1p120F));
    const i32x16 bits =
        ivec_select(ivec_eq(magnitude, ivec_set1(0x7F)), ivec_set1(0x7FC00000), vec_bits(value));
    return ivec_as_float(ivec_or(bits, sign));
}

#ifdef __AVX512BF16__
#define PAIR_WORDS ((size_t)1)
#define PAIRS_FLUSH_THEMSELVES true
typedef __m512bh pair16;
typedef __m512bh pair_x;

/* The pairs of 32 consecutive values, rounded. */
SIMD_INLINE void pairs_store(float *words, f32x16 first, f32x16 second)
{
    _mm512_storeu_si512(words, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

/* The words of sixteen pairs whose halves are given, rounded: what pairs_load reads. */
SIMD_INLINE f32x16 pairs_join(f32x16 even, f32x16 odd)
{
    static const uint16_t order[32] __attribute__((aligned(64))) = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    return _mm512_castsi512_ps(
        _mm512_permutexvar_epi16(_mm512_load_si512((const void *)order), both));
}

/* One of the words that pairs_join makes, broadcast. */
SIMD_INLINE pair_x pair_broadcast_joined(const float *word)
{
    return (pair_x)_mm512_castps_si512(_mm512_set1_ps(*word));
}

SIMD_INLINE pair_x pair_broadcast(const float *words)
{
    return (pair_x)_mm512_castps_si512(_mm512_set1_ps(*words));
}

SIMD_INLINE pair16 pairs_load(const float *words)
{
    return (pair16)_mm512_loadu_si512(words);
}

SIMD_INLINE pair16 pairs_of(f32x16 words)
{
    return (pair16)_mm512_castps_si512(words);
}

SIMD_INLINE f32x16 pair_fma(pair_x x, pair16 w, f32x16 acc)
{
    return _mm512_dpbf16_ps(acc, x, w);
}

/* In packed weights a code's bits are in another order, since a table of 64 bytes costs half of one
 * of 128: sign | m2 | exponent | m1 m0, its place. Low and high byte of its bfloat16 then are
 *   place_low[exponent m1 m0] ^ m2 << 6,    place_high[m2 exponent m1 m0] | sign << 7.
 * Codes 0 to 7, which are subnormal, share the eight places of exponent 0 as that needs it. The low
 * byte of zero comes out as 0x40: a subnormal bfloat16, which products take for zero. */
static const uint8_t code_place[128] __attribute__((aligned(64))) = {
    0x00, 0x40, 0x01, 0x41, 0x02, 0x03, 0x42, 0x43, 0x04, 0x05, 0x06, 0x07, 0x44, 0x45, 0x46, 0x47,
    0x08, 0x09, 0x0a, 0x0b, 0x48, 0x49, 0x4a, 0x4b, 0x0c, 0x0d, 0x0e, 0x0f, 0x4c, 0x4d, 0x4e, 0x4f,
    0x10, 0x11, 0x12, 0x13, 0x50, 0x51, 0x52, 0x53, 0x14, 0x15, 0x16, 0x17, 0x54, 0x55, 0x56, 0x57,
    0x18, 0x19, 0x1a, 0x1b, 0x58, 0x59, 0x5a, 0x5b, 0x1c, 0x1d, 0x1e, 0x1f, 0x5c, 0x5d, 0x5e, 0x5f,
    0x20, 0x21, 0x22, 0x23, 0x60, 0x61, 0x62, 0x63, 0x24, 0x25, 0x26, 0x27, 0x64, 0x65, 0x66, 0x67,
    0x28, 0x29, 0x2a, 0x2b, 0x68, 0x69, 0x6a, 0x6b, 0x2c, 0x2d, 0x2e, 0x2f, 0x6c, 0x6d, 0x6e, 0x6f,
    0x30, 0x31, 0x32, 0x33, 0x70, 0x71, 0x72, 0x73, 0x34, 0x35, 0x36, 0x37, 0x74, 0x75, 0x76, 0x77,
    0x38, 0x39, 0x3a, 0x3b, 0x78, 0x79, 0x7a, 0x7b, 0x3c, 0x3d, 0x3e, 0x3f, 0x7c, 0x7d, 0x7e, 0x7f,
};
static const uint8_t place_low[64] __attribute__((aligned(64))) = {
    0x40, 0x80, 0x00, 0x20, 0x80, 0x90, 0xa0, 0xb0, 0x00, 0x10, 0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0,
    0x00, 0x10, 0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0, 0x00, 0x10, 0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0,
    0x00, 0x10, 0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0, 0x00, 0x10, 0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0,
    0x00, 0x10, 0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0, 0x00, 0x10, 0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0,
};
static const uint8_t place_high[128] __attribute__((aligned(64))) = {
    0x00, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d,
    0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43,
    0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3c, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d, 0x3d,
    0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x7f,
};

SIMD_INLINE f32x16 codes_join(i32x16 even, i32x16 odd, i32x16 next_even, i32x16 next_odd)
{
    const i32x16 first = ivec_or(even, ivec_shift_left(odd, 8));
    const i32x16 second = ivec_or(next_even, ivec_shift_left(next_odd, 8));
    const __m512i codes = _mm512_packus_epi32(first, second);
    const __m512i places = _mm512_permutex2var_epi8(_mm512_load_si512(code_place), codes,
                                                    _mm512_load_si512(code_place + 64));
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(places, codes, _mm512_set1_epi8(INT8_MIN), 0xF8));
}

SIMD_INLINE void pairs_decode(const float *words, pair16 *first, pair16 *second)
{
    const __m512i places = _mm512_loadu_si512(words);
    const __m512i low =
        _mm512_ternarylogic_epi32(_mm512_permutexvar_epi8(places, _mm512_load_si512(place_low)),
                                  places, _mm512_set1_epi8(0x40), 0x78);
    const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(place_high), places,
                                                       _mm512_load_si512(place_high + 64));
    const __m512i high =
        _mm512_ternarylogic_epi32(magnitude, places, _mm512_set1_epi8(INT8_MIN), 0xF8);
    *first = (pair16)_mm512_unpacklo_epi8(low, high);
    *second = (pair16)_mm512_unpackhi_epi8(low, high);
}
#else
#define PAIR_WORDS ((size_t)2)
#define PAIRS_FLUSH_THEMSELVES false
typedef struct {
    f32x16 even, odd;
} pair16;
typedef pair16 pair_x;

SIMD_INLINE void pairs_store(float *words, f32x16 first, f32x16 second)
{
    vec_store(words, vec_round_bf16(first));
    vec_store(words + SIMD_LANES, vec_round_bf16(second));
}

SIMD_INLINE f32x16 pairs_join(f32x16 even, f32x16 odd)
{
    const i32x16 low = ivec_shift_right(vec_bits(vec_round_bf16(even)), 16);
    return ivec_as_float(ivec_or(low, vec_bits(vec_round_bf16(odd))));
}

SIMD_INLINE pair_x pair_broadcast_joined(const float *word)
{
    const i32x16 both = vec_bits(vec_set1(*word));
    return (pair_x){ivec_as_float(ivec_shift_left(both, 16)),
                    ivec_as_float(ivec_and(both, ivec_set1(-0x10000)))};
}

SIMD_INLINE pair_x pair_broadcast(const float *words)
{
    return (pair_x){vec_set1(words[0]), vec_set1(words[1])};
}

SIMD_INLINE pair16 pairs_of(f32x16 words)
{
    const i32x16 both = vec_bits(words);
    return (pair16){ivec_as_float(ivec_shift_left(both, 16)),
                    ivec_as_float(ivec_and(both, ivec_set1(-0x10000)))};
}

SIMD_INLINE pair16 pairs_load(const float *words)
{
    return pairs_of(vec_load(words));
}

SIMD_INLINE f32x16 pair_fma(pair_x x, pair16 w, f32x16 acc)
{
    return vec_flush(vec_fma(x.even, w.even, vec_flush(vec_fma(x.odd, w.odd, acc))));
}

SIMD_INLINE f32x16 codes_join(i32x16 even, i32x16 odd, i32x16 next_even, i32x16 next_odd)
{
    const i32x16 first = ivec_or(even, ivec_shift_left(odd, 8));
    const i32x16 second = ivec_or(next_even, ivec_shift_left(next_odd, 8));
    return ivec_as_float(ivec_or(first, ivec_shift_left(second, 16)));
}

SIMD_INLINE void pairs_decode(const float *words, pair16 *first, pair16 *second)
{
    const i32x16 codes = vec_bits(vec_load(words));
    *first = (pair16){code_value(codes), code_value(ivec_shift_right(codes, 8))};
    *second =
        (pair16){code_value(ivec_shift_right(codes, 16)), code_value(ivec_shift_right(codes, 24))};
}
#endif

#endif
