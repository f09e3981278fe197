/* Owns the only exp, log, sigmoid and silu of every forward path, on f32x16. Each is a fixed
 * sequence of correctly rounded operations, so the bits are the same on every instruction set and a
 * value does not depend on its lane. The default rounding mode is assumed; subnormals are kept.
 * Included by simd.h alone. */
#ifndef HONE_KERNELS_CPU_SIMD_SIMD_MATH_H
#define HONE_KERNELS_CPU_SIMD_SIMD_MATH_H

#define SIMD_EXP_MAX ((size_t)8)

/* 2^n for n in [-126, 127]. */
SIMD_INLINE f32x16 vec_power_of_two(i32x16 n)
{
    return ivec_as_float(ivec_shift_left(ivec_add(n, ivec_set1(127)), 23));
}

#ifndef SIMD_HAS_SCALE
/* p 2^n for p near 1 and integers n of at most 252, rounded once. 2^n is multiplied in two halves:
 * the first product is exact, so that a subnormal result is rounded once. */
SIMD_INLINE f32x16 vec_scale(f32x16 p, f32x16 n)
{
    const i32x16 k = vec_to_int(n);
    const i32x16 half = ivec_shift_right_signed(k, 1);
    p = vec_mul(p, vec_power_of_two(half));
    return vec_mul(p, vec_power_of_two(ivec_sub(k, half)));
}
#endif

/* x[i] = e^x[i] of n vectors, at most 0.90 ulp; 0 below -105, infinity above 88.73, NaN gives NaN.
 * x = k ln 2 + r, |r| <= ln 2 / 2, degree 6 in r. Step by step for all of them: one alone is a
 * chain in which each step waits for the last. */
SIMD_INLINE void vec_exp_all(f32x16 *x, size_t n)
{
    static const float factors[] = {0.00836874528F, 0.0416683908F, 0.166665204F,
                                    0.499999934F,   1.0F,          1.0F};
    f32x16 k[SIMD_EXP_MAX], r[SIMD_EXP_MAX];

#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        r[i] = vec_min(vec_set1(89.5F), vec_max(vec_set1(-105.0F), x[i]));
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        k[i] = vec_round(vec_mul(r[i], vec_set1(1.44269504F)));
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        r[i] = vec_fnma(k[i], vec_set1(0.693145751953125F), r[i]);
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        r[i] = vec_fnma(k[i], vec_set1(1.42860682e-6F), r[i]);
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        x[i] = vec_set1(0.00138145399F);
    }
#pragma GCC unroll 6
    for (size_t step = 0; step < sizeof(factors) / sizeof(factors[0]); step++) {
#pragma GCC unroll 8
        for (size_t i = 0; i < n; i++) {
            x[i] = vec_fma(x[i], r[i], vec_set1(factors[step]));
        }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        x[i] = vec_scale(x[i], k[i]);
    }
}

SIMD_INLINE f32x16 vec_exp(f32x16 x)
{
    vec_exp_all(&x, 1);
    return x;
}

/* ln x, at most 0.91 ulp; -infinity at 0, NaN below and for NaN, infinity at infinity.
 * x = 2^e (1 + f) with 1 + f in [1/sqrt 2, sqrt 2], ln(1 + f) = f + f^2 Q(f), Q the minimax
 * polynomial of degree 8 (relative error 0.07 * 2^-24). With e = 0 there is one rounding beyond
 * Q's, so the result near 1 is good to the last bit. */
SIMD_INLINE f32x16 vec_log(f32x16 x)
{
    const mask16 is_small = vec_lt(x, vec_set1(0x1p-126F));
    const f32x16 scaled = vec_select(is_small, vec_mul(x, vec_set1(0x1p23F)), x);
    const i32x16 base = ivec_set1(0x3f3504f3); /* sqrt(1/2) */
    const i32x16 offset = ivec_sub(vec_bits(scaled), base);
    const f32x16 exponent = ivec_to_float(ivec_shift_right_signed(offset, 23));
    const f32x16 e = vec_add(exponent, vec_select(is_small, vec_set1(-23.0F), vec_zero()));
    const i32x16 mantissa = ivec_add(ivec_and(offset, ivec_set1(0x007fffff)), base);
    const f32x16 f = vec_sub(ivec_as_float(mantissa), vec_set1(1.0F));
    f32x16 q = vec_fma(vec_set1(-0.076217778F), f, vec_set1(0.129044324F));
    q = vec_fma(q, f, vec_set1(-0.132429883F));
    q = vec_fma(q, f, vec_set1(0.141818255F));
    q = vec_fma(q, f, vec_set1(-0.166090831F));
    q = vec_fma(q, f, vec_set1(0.200019732F));
    q = vec_fma(q, f, vec_set1(-0.250015825F));
    q = vec_fma(q, f, vec_set1(0.333333254F));
    q = vec_fma(q, f, vec_set1(-0.499999881F));
    const f32x16 low = vec_fma(e, vec_set1(1.42860677e-6F), f);
    const f32x16 sum = vec_fma(vec_mul(f, f), q, low);
    const f32x16 result = vec_fma(e, vec_set1(0.693145751953125F), sum);
    const f32x16 infinity = vec_set1(__builtin_inff());
    const f32x16 finite = vec_select(vec_lt(x, infinity), result, vec_add(x, infinity));
    const f32x16 positive = vec_select(vec_eq(x, vec_zero()), vec_neg(infinity), finite);
    return vec_select(vec_lt(x, vec_zero()), vec_set1(__builtin_nanf("")), positive);
}

/* 1 / (1 + e^-x), formed from e^-|x| so that both tails keep their relative precision. */
SIMD_INLINE f32x16 vec_sigmoid(f32x16 x)
{
    const f32x16 one = vec_set1(1.0F);
    const f32x16 e = vec_exp(vec_neg(vec_abs(x)));
    return vec_div(vec_select(vec_lt(x, vec_zero()), e, one), vec_add(one, e));
}

/* x sigmoid(x). */
SIMD_INLINE f32x16 vec_silu(f32x16 x)
{
    return vec_mul(x, vec_sigmoid(x));
}

#endif
