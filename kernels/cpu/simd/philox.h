/* Owns the noise of the sampler: 64 uniforms at a time from Philox4x32-10, the same words as
 * base/random.h's random_philox.
 *
 * u_v of a row is a function of (seed; group, sample, position, v) only. The row's key is
 * random_bits(seed, RANDOM_SAMPLING, group, sample | position << 32); token v takes word
 * (v / 16) % 4 of the block with counter {16 (v / 64) + v % 16, position, sample, 0}, so that the
 * sixteen lanes of each word belong to sixteen adjacent tokens and nothing is transposed. */
#ifndef HONE_KERNELS_CPU_SIMD_PHILOX_H
#define HONE_KERNELS_CPU_SIMD_PHILOX_H

#include "base/random.h"
#include "kernels/cpu/simd/simd.h"

#include <stddef.h>
#include <stdint.h>

#define NOISE_TILE ((size_t)64) /* tokens whose words are made together */

#define NOISE_ROUNDS ((size_t)10)

/* What a row's blocks share. Two of a counter's words are the row's and one is zero, so of the
 * first round half is the same in every block, and a half of the second: those are here. */
struct noise_key {
    uint32_t keys[NOISE_ROUNDS][2]; /* of each round */
    uint32_t sample_low;            /* second word after the first round */
    uint32_t row_low, row_high;     /* both halves of the second round's first product */
};

#define NOISE_FACTOR0 UINT32_C(0xD2511F53)
#define NOISE_FACTOR1 UINT32_C(0xCD9E8D57)

static inline struct noise_key noise_key_make(uint64_t seed, uint64_t group, uint32_t sample,
                                              uint32_t position)
{
    const uint64_t bits =
        random_bits(seed, RANDOM_SAMPLING, group, (uint64_t)sample | (uint64_t)position << 32);
    uint32_t key0 = (uint32_t)bits, key1 = (uint32_t)(bits >> 32);
    struct noise_key out;

    for (size_t round = 0; round < NOISE_ROUNDS; round++) {
        out.keys[round][0] = key0;
        out.keys[round][1] = key1;
        key0 += UINT32_C(0x9E3779B9);
        key1 += UINT32_C(0xBB67AE85);
    }
    const uint64_t of_sample = (uint64_t)NOISE_FACTOR1 * sample;
    const uint32_t first = (uint32_t)(of_sample >> 32) ^ position ^ out.keys[0][0];
    const uint64_t of_row = (uint64_t)NOISE_FACTOR0 * first;
    out.sample_low = (uint32_t)of_sample;
    out.row_low = (uint32_t)of_row;
    out.row_high = (uint32_t)(of_row >> 32);
    return out;
}

/* The four words of sixteen blocks, or of eight in the even lanes, anything in the odd ones: there
 * products need no merging, and what lies above a word is never looked at. */
struct noise_words {
    i32x16 c[4];
};

SIMD_INLINE i32x16 noise_set1(uint32_t x)
{
    return ivec_set1((int32_t)x);
}

SIMD_INLINE void noise_round(struct noise_words *w, const uint32_t key[2])
{
    const i32x16 product0 = ivec_mul_even(w->c[0], noise_set1(NOISE_FACTOR0));
    const i32x16 product1 = ivec_mul_even(w->c[2], noise_set1(NOISE_FACTOR1));

    w->c[0] = ivec_xor3(ivec_odd(product1), w->c[1], noise_set1(key[0]));
    w->c[1] = product1;
    w->c[2] = ivec_xor3(ivec_odd(product0), w->c[3], noise_set1(key[1]));
    w->c[3] = product0;
}

/* Two rounds of the blocks whose counters are in the even lanes. */
SIMD_INLINE struct noise_words noise_begin(const struct noise_key *row, i32x16 counter)
{
    const i32x16 product0 = ivec_mul_even(counter, noise_set1(NOISE_FACTOR0));
    const i32x16 third = ivec_xor(ivec_odd(product0), noise_set1(row->keys[0][1]));
    const i32x16 product1 = ivec_mul_even(third, noise_set1(NOISE_FACTOR1));

    return (struct noise_words){
        {ivec_xor(ivec_odd(product1), noise_set1(row->sample_low ^ row->keys[1][0])), product1,
         ivec_xor(product0, noise_set1(row->row_high ^ row->keys[1][1])),
         noise_set1(row->row_low)}};
}

#define NOISE_TILES_MAX ((size_t)3)

/* n tiles; lane j of a tile's word i: 32 bits of its token 16 i + j. All blocks go round by round
 * together: one alone would wait for its products. Three tiles keep the multipliers busy, more do
 * not fit the registers. */
SIMD_INLINE void noise_tiles(const struct noise_key *row, const size_t *tiles, const size_t n,
                             struct noise_words *out)
{
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct noise_words even[NOISE_TILES_MAX], odd[NOISE_TILES_MAX];

#pragma GCC unroll 3
    for (size_t i = 0; i < n; i++) {
        const i32x16 at = ivec_add(ivec_load(lanes), ivec_set1((int32_t)(16 * tiles[i])));
        even[i] = noise_begin(row, at);
        odd[i] = noise_begin(row, ivec_odd(at));
    }
#pragma GCC unroll 8
    for (size_t round = 2; round < NOISE_ROUNDS; round++) {
#pragma GCC unroll 3
        for (size_t i = 0; i < n; i++) {
            noise_round(&even[i], row->keys[round]);
            noise_round(&odd[i], row->keys[round]);
        }
    }
#pragma GCC unroll 12
    for (size_t i = 0; i < 4 * n; i++) {
        out[i / 4].c[i % 4] = ivec_zip_even(even[i / 4].c[i % 4], odd[i / 4].c[i % 4]);
    }
}

/* Uniform in (0, 1): 23 bits and a half are exact in a float, so neither end is ever reached and
 * -log u is positive. */
SIMD_INLINE f32x16 noise_uniform(i32x16 words)
{
    const f32x16 bits = ivec_to_float(ivec_shift_right(words, 9));
    return vec_mul(vec_add(bits, vec_set1(0.5F)), vec_set1(0x1p-23F));
}

#endif
