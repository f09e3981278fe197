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

struct noise_key {
    uint32_t key[2];
    uint32_t position, sample;
};

static inline struct noise_key noise_key_make(uint64_t seed, uint64_t group, uint32_t sample,
                                              uint32_t position)
{
    const uint64_t bits =
        random_bits(seed, RANDOM_SAMPLING, group, (uint64_t)sample | (uint64_t)position << 32);
    return (struct noise_key){{(uint32_t)bits, (uint32_t)(bits >> 32)}, position, sample};
}

/* The four words of sixteen blocks. */
struct noise_words {
    i32x16 c[4];
};

SIMD_INLINE void noise_round(struct noise_words *w, uint32_t key0, uint32_t key1)
{
    i32x16 low0, high0, low1, high1;

    ivec_mul_wide(w->c[0], ivec_set1((int32_t)UINT32_C(0xD2511F53)), &low0, &high0);
    ivec_mul_wide(w->c[2], ivec_set1((int32_t)UINT32_C(0xCD9E8D57)), &low1, &high1);
    w->c[0] = ivec_xor(ivec_xor(high1, w->c[1]), ivec_set1((int32_t)key0));
    w->c[1] = low1;
    w->c[2] = ivec_xor(ivec_xor(high0, w->c[3]), ivec_set1((int32_t)key1));
    w->c[3] = low0;
}

/* Lane j of word i: 32 bits of token 64 tile + 16 i + j. */
SIMD_INLINE void noise_tile(const struct noise_key *row, size_t tile, struct noise_words *out)
{
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint32_t key0 = row->key[0], key1 = row->key[1];

    out->c[0] = ivec_add(ivec_load(lanes), ivec_set1((int32_t)(16 * tile)));
    out->c[1] = ivec_set1((int32_t)row->position);
    out->c[2] = ivec_set1((int32_t)row->sample);
    out->c[3] = ivec_set1(0);
#pragma GCC unroll 10
    for (size_t round = 0; round < 10; round++) {
        noise_round(out, key0, key1);
        key0 += UINT32_C(0x9E3779B9);
        key1 += UINT32_C(0xBB67AE85);
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
