/* Owns the vector vocabulary of the CPU kernels: f32x16, sixteen virtual lanes of float, with the
 * same bits on every instruction set. Every .c of this folder is compiled once an instruction set;
 * SIMD_HEADER names the implementation and ISA(name) gives the public symbols their suffix.
 *
 * What SIMD_HEADER provides (n counts lanes, 0..16; memory needs no alignment):
 *   f32x16   vec_zero set1 load store load_n store_n add sub mul div fma fnma sqrt min max abs neg
 *            round select squeeze lt le eq sum hmax
 *   mask16   mask_and mask_or mask_not mask_bits (bit j = lane j) mask_first
 *   i32x16   ivec_set1 load store load_n store_n add sub mul mul_even odd zip_even and or xor xor3
 *            shift_left shift_right shift_right_signed lt eq select squeeze
 *   between  vec_to_int, ivec_to_float, vec_bits, ivec_as_float, vec_widen
 * Meaning that is not obvious:
 *   vec_fma(a, b, c) = a b + c rounded once, vec_fnma(a, b, c) = c - a b rounded once.
 *   ivec_mul_even(a, b): the unsigned 64-bit products of the even lanes, low halves in the even
 *   lanes, high halves in the odd ones. ivec_odd(a) moves the odd lanes to the even ones below
 *   them, ivec_zip_even(a, b) takes even lanes of a, and of b to the odd ones above them.
 *   vec_squeeze(a, m) moves the lanes of m to the front, in their order; zeroes behind them.
 *   vec_widen(a, &lo, &hi): lanes 0..7 and 8..15 in double; f64x8 adds like a number.
 *   vec_min(a, b) = a < b ? a : b and vec_max(a, b) = a > b ? a : b: b if either is NaN.
 *   vec_lt, le, eq are false where either side is NaN.
 *   vec_round is to the nearest integer, ties to even; vec_to_int does the same to int32 and gives
 *   INT32_MIN for NaN and what does not fit.
 *   vec_load_n reads n floats and zeroes the other lanes; vec_store_n writes n floats.
 *   vec_sum and vec_hmax fold lane j with j + 8, then j + 4, j + 2, j + 1: the "fixed tree" of
 *   kernels/backend.h. */
#ifndef HONE_KERNELS_CPU_SIMD_SIMD_H
#define HONE_KERNELS_CPU_SIMD_SIMD_H

#include <stddef.h>
#include <stdint.h>

#define ISA_JOIN(name, isa) name##_##isa
#define ISA_EXPAND(name, isa) ISA_JOIN(name, isa)
#define ISA(name) ISA_EXPAND(name, SIMD_ISA)

#define SIMD_LANES ((size_t)16)
/* Always inlined: accumulator arrays must stay in registers, and vectors never cross a call. */
#define SIMD_INLINE static inline __attribute__((always_inline))

/* Passed by reference alone. */
typedef double f64x8 __attribute__((vector_size(64)));

#include SIMD_HEADER

#include "kernels/cpu/simd/simd_math.h"

#endif
