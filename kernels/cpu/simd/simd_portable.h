/* Owns f32x16 in C alone: four vectors of four (gcc and clang lower them to SSE2, NEON or scalar
 * code), fmaf by the C library. It is the specification of the other two. Contract: simd.h, which
 * includes this. */
#ifndef HONE_KERNELS_CPU_SIMD_SIMD_PORTABLE_H
#define HONE_KERNELS_CPU_SIMD_SIMD_PORTABLE_H

#include <math.h>
#include <string.h>

/* f32x16 of a matrix tile's row: as many as the register file feeds (gemm_tile.h). */
#define SIMD_TILE_VECTORS 1

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef struct {
    f32x4 q[4];
} f32x16;
typedef struct {
    i32x4 q[4];
} i32x16;
typedef struct {
    i32x4 q[4]; /* all ones or all zeroes a lane */
} mask16;

/* The vector whose quarter i is the expression. */
#define RETURN_QUARTERS(type, ...)                                                                 \
    type out;                                                                                      \
    for (size_t i = 0; i < 4; i++) {                                                               \
        out.q[i] = __VA_ARGS__;                                                                    \
    }                                                                                              \
    return out

SIMD_INLINE mask16 mask_first(size_t n)
{
    RETURN_QUARTERS(mask16, (i32x4){4 * i + 0 < n ? -1 : 0, 4 * i + 1 < n ? -1 : 0,
                                    4 * i + 2 < n ? -1 : 0, 4 * i + 3 < n ? -1 : 0});
}

SIMD_INLINE mask16 mask_and(mask16 a, mask16 b)
{
    RETURN_QUARTERS(mask16, a.q[i] & b.q[i]);
}

SIMD_INLINE mask16 mask_or(mask16 a, mask16 b)
{
    RETURN_QUARTERS(mask16, a.q[i] | b.q[i]);
}

SIMD_INLINE mask16 mask_not(mask16 a)
{
    RETURN_QUARTERS(mask16, ~a.q[i]);
}

SIMD_INLINE uint32_t mask_bits(mask16 a)
{
    uint32_t bits = 0;
    for (size_t j = 0; j < SIMD_LANES; j++) {
        bits |= ((uint32_t)a.q[j / 4][j % 4] & 1U) << j;
    }
    return bits;
}

SIMD_INLINE f32x16 vec_set1(float x)
{
    RETURN_QUARTERS(f32x16, (f32x4){x, x, x, x});
}

SIMD_INLINE f32x16 vec_zero(void)
{
    return vec_set1(0.0F);
}

SIMD_INLINE f32x16 vec_load(const float *p)
{
    f32x16 out;
    memcpy(&out, p, sizeof(out));
    return out;
}

SIMD_INLINE void vec_store(float *p, f32x16 a)
{
    memcpy(p, &a, sizeof(a));
}

SIMD_INLINE f32x16 vec_load_n(const float *p, size_t n)
{
    f32x16 out = vec_set1(0);
    memcpy(&out, p, n * sizeof(*p));
    return out;
}

SIMD_INLINE void vec_store_n(float *p, f32x16 a, size_t n)
{
    memcpy(p, &a, n * sizeof(*p));
}

SIMD_INLINE i32x16 ivec_set1(int32_t x)
{
    RETURN_QUARTERS(i32x16, (i32x4){x, x, x, x});
}

SIMD_INLINE i32x16 ivec_load(const int32_t *p)
{
    i32x16 out;
    memcpy(&out, p, sizeof(out));
    return out;
}

SIMD_INLINE void ivec_store(int32_t *p, i32x16 a)
{
    memcpy(p, &a, sizeof(a));
}

SIMD_INLINE i32x16 ivec_load_n(const int32_t *p, size_t n)
{
    i32x16 out = ivec_set1(0);
    memcpy(&out, p, n * sizeof(*p));
    return out;
}

SIMD_INLINE void ivec_store_n(int32_t *p, i32x16 a, size_t n)
{
    memcpy(p, &a, n * sizeof(*p));
}

SIMD_INLINE f32x16 vec_add(f32x16 a, f32x16 b)
{
    RETURN_QUARTERS(f32x16, a.q[i] + b.q[i]);
}

SIMD_INLINE f32x16 vec_sub(f32x16 a, f32x16 b)
{
    RETURN_QUARTERS(f32x16, a.q[i] - b.q[i]);
}

SIMD_INLINE f32x16 vec_mul(f32x16 a, f32x16 b)
{
    RETURN_QUARTERS(f32x16, a.q[i] * b.q[i]);
}

SIMD_INLINE f32x16 vec_div(f32x16 a, f32x16 b)
{
    RETURN_QUARTERS(f32x16, a.q[i] / b.q[i]);
}

SIMD_INLINE f32x16 vec_fma(f32x16 a, f32x16 b, f32x16 c)
{
    RETURN_QUARTERS(f32x16, (f32x4){fmaf(a.q[i][0], b.q[i][0], c.q[i][0]),
                                    fmaf(a.q[i][1], b.q[i][1], c.q[i][1]),
                                    fmaf(a.q[i][2], b.q[i][2], c.q[i][2]),
                                    fmaf(a.q[i][3], b.q[i][3], c.q[i][3])});
}

SIMD_INLINE f32x16 vec_fnma(f32x16 a, f32x16 b, f32x16 c)
{
    RETURN_QUARTERS(f32x16, (f32x4){fmaf(-a.q[i][0], b.q[i][0], c.q[i][0]),
                                    fmaf(-a.q[i][1], b.q[i][1], c.q[i][1]),
                                    fmaf(-a.q[i][2], b.q[i][2], c.q[i][2]),
                                    fmaf(-a.q[i][3], b.q[i][3], c.q[i][3])});
}

SIMD_INLINE f32x16 vec_sqrt(f32x16 a)
{
    RETURN_QUARTERS(
        f32x16, (f32x4){sqrtf(a.q[i][0]), sqrtf(a.q[i][1]), sqrtf(a.q[i][2]), sqrtf(a.q[i][3])});
}

SIMD_INLINE mask16 vec_lt(f32x16 a, f32x16 b)
{
    RETURN_QUARTERS(mask16, a.q[i] < b.q[i]);
}

SIMD_INLINE mask16 vec_le(f32x16 a, f32x16 b)
{
    RETURN_QUARTERS(mask16, a.q[i] <= b.q[i]);
}

SIMD_INLINE mask16 vec_eq(f32x16 a, f32x16 b)
{
    RETURN_QUARTERS(mask16, a.q[i] == b.q[i]);
}

SIMD_INLINE f32x16 vec_select(mask16 m, f32x16 if_true, f32x16 if_false)
{
    RETURN_QUARTERS(f32x16,
                    (f32x4)(((i32x4)if_true.q[i] & m.q[i]) | ((i32x4)if_false.q[i] & ~m.q[i])));
}

SIMD_INLINE f32x16 vec_min(f32x16 a, f32x16 b)
{
    return vec_select(vec_lt(a, b), a, b);
}

SIMD_INLINE f32x16 vec_max(f32x16 a, f32x16 b)
{
    return vec_select(vec_lt(b, a), a, b);
}

SIMD_INLINE f32x16 vec_abs(f32x16 a)
{
    RETURN_QUARTERS(f32x16,
                    (f32x4)((i32x4)a.q[i] & (i32x4){INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}));
}

SIMD_INLINE f32x16 vec_neg(f32x16 a)
{
    RETURN_QUARTERS(f32x16, -a.q[i]);
}

SIMD_INLINE f32x16 vec_round(f32x16 a)
{
    RETURN_QUARTERS(
        f32x16, (f32x4){rintf(a.q[i][0]), rintf(a.q[i][1]), rintf(a.q[i][2]), rintf(a.q[i][3])});
}

SIMD_INLINE float simd_max2(float a, float b)
{
    return a > b ? a : b;
}

SIMD_INLINE float vec_sum(f32x16 a)
{
    float w[16];
    vec_store(w, a);
    for (size_t half = 8; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            w[j] = w[j] + w[j + half];
        }
    }
    return w[0];
}

SIMD_INLINE float vec_hmax(f32x16 a)
{
    float w[16];
    vec_store(w, a);
    for (size_t half = 8; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            w[j] = simd_max2(w[j], w[j + half]);
        }
    }
    return w[0];
}

SIMD_INLINE i32x16 ivec_add(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(i32x16, (i32x4)((u32x4)a.q[i] + (u32x4)b.q[i]));
}

SIMD_INLINE i32x16 ivec_sub(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(i32x16, (i32x4)((u32x4)a.q[i] - (u32x4)b.q[i]));
}

SIMD_INLINE i32x16 ivec_mul(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(i32x16, (i32x4)((u32x4)a.q[i] * (u32x4)b.q[i]));
}

SIMD_INLINE i32x16 ivec_mul_even(i32x16 a, i32x16 b)
{
    i32x16 out;
    for (size_t i = 0; i < 4; i++) {
        const uint64_t first = (uint64_t)(uint32_t)a.q[i][0] * (uint32_t)b.q[i][0];
        const uint64_t second = (uint64_t)(uint32_t)a.q[i][2] * (uint32_t)b.q[i][2];
        out.q[i] = (i32x4){(int32_t)(uint32_t)first, (int32_t)(uint32_t)(first >> 32),
                           (int32_t)(uint32_t)second, (int32_t)(uint32_t)(second >> 32)};
    }
    return out;
}

SIMD_INLINE i32x16 ivec_odd(i32x16 a)
{
    RETURN_QUARTERS(i32x16, (i32x4){a.q[i][1], 0, a.q[i][3], 0});
}

SIMD_INLINE i32x16 ivec_zip_even(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(i32x16, (i32x4){a.q[i][0], b.q[i][0], a.q[i][2], b.q[i][2]});
}

SIMD_INLINE i32x16 ivec_and(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(i32x16, a.q[i] & b.q[i]);
}

SIMD_INLINE i32x16 ivec_or(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(i32x16, a.q[i] | b.q[i]);
}

SIMD_INLINE i32x16 ivec_xor(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(i32x16, a.q[i] ^ b.q[i]);
}

SIMD_INLINE i32x16 ivec_xor3(i32x16 a, i32x16 b, i32x16 c)
{
    return ivec_xor(ivec_xor(a, b), c);
}

SIMD_INLINE i32x16 ivec_shift_left(i32x16 a, int32_t count)
{
    RETURN_QUARTERS(i32x16, (i32x4)((u32x4)a.q[i] << count));
}

SIMD_INLINE i32x16 ivec_shift_right(i32x16 a, int32_t count)
{
    RETURN_QUARTERS(i32x16, (i32x4)((u32x4)a.q[i] >> count));
}

SIMD_INLINE i32x16 ivec_shift_right_signed(i32x16 a, int32_t count)
{
    RETURN_QUARTERS(i32x16, a.q[i] >> count);
}

SIMD_INLINE mask16 ivec_lt(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(mask16, a.q[i] < b.q[i]);
}

SIMD_INLINE mask16 ivec_eq(i32x16 a, i32x16 b)
{
    RETURN_QUARTERS(mask16, a.q[i] == b.q[i]);
}

SIMD_INLINE i32x16 ivec_select(mask16 m, i32x16 if_true, i32x16 if_false)
{
    RETURN_QUARTERS(i32x16, (if_true.q[i] & m.q[i]) | (if_false.q[i] & ~m.q[i]));
}

SIMD_INLINE int32_t simd_to_int(float x)
{
    return x >= -0x1p31F && x < 0x1p31F ? (int32_t)rintf(x) : INT32_MIN;
}

SIMD_INLINE i32x16 vec_to_int(f32x16 a)
{
    RETURN_QUARTERS(i32x16, (i32x4){simd_to_int(a.q[i][0]), simd_to_int(a.q[i][1]),
                                    simd_to_int(a.q[i][2]), simd_to_int(a.q[i][3])});
}

SIMD_INLINE f32x16 ivec_to_float(i32x16 a)
{
    RETURN_QUARTERS(
        f32x16, (f32x4){(float)a.q[i][0], (float)a.q[i][1], (float)a.q[i][2], (float)a.q[i][3]});
}

SIMD_INLINE i32x16 vec_bits(f32x16 a)
{
    RETURN_QUARTERS(i32x16, (i32x4)a.q[i]);
}

SIMD_INLINE f32x16 ivec_as_float(i32x16 a)
{
    RETURN_QUARTERS(f32x16, (f32x4)a.q[i]);
}

#include "kernels/cpu/simd/simd_spill.h"

#endif
