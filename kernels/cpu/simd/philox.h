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

#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

/* One Philox round on sixteen blocks. Plain loops: the compiler turns them into widening
 * multiplies. */
static inline __attribute__((always_inline)) void noise_round(uint32_t c0[16], uint32_t c1[16],
                                                              uint32_t c2[16], uint32_t c3[16],
                                                              const uint32_t key[2])
{
    for (size_t j = 0; j < 16; j++) {
        const uint64_t p0 = UINT64_C(0xD2511F53) * c0[j];
        const uint64_t p1 = UINT64_C(0xCD9E8D57) * c2[j];
        c0[j] = (uint32_t)(p1 >> 32) ^ c1[j] ^ key[0];
        c1[j] = (uint32_t)p1;
        c2[j] = (uint32_t)(p0 >> 32) ^ c3[j] ^ key[1];
        c3[j] = (uint32_t)p0;
    }
}

/* words[i]: 32 bits of token 64 tile + i. */
static inline __attribute__((always_inline)) void
noise_tile(const struct noise_key *row, size_t tile, uint32_t words[NOISE_TILE])
{
    uint32_t key[2] = {row->key[0], row->key[1]};
    const uint32_t first = (uint32_t)(16 * tile), position = row->position, sample = row->sample;
    uint32_t c0[16], c1[16], c2[16], c3[16];

    for (size_t j = 0; j < 16; j++) {
        c0[j] = first + (uint32_t)j;
    }
    for (size_t j = 0; j < 16; j++) {
        c1[j] = position;
    }
    for (size_t j = 0; j < 16; j++) {
        c2[j] = sample;
    }
    memset(c3, 0, sizeof(c3));
    for (size_t round = 0; round < 10; round++) {
        noise_round(c0, c1, c2, c3, key);
        key[0] += UINT32_C(0x9E3779B9);
        key[1] += UINT32_C(0xBB67AE85);
    }
    memcpy(words, c0, sizeof(c0));
    memcpy(words + 16, c1, sizeof(c1));
    memcpy(words + 32, c2, sizeof(c2));
    memcpy(words + 48, c3, sizeof(c3));
}

/* Uniform in (0, 1): 23 bits and a half are exact in a float, so neither end is ever reached and
 * -log u is positive. */
static inline float noise_uniform(uint32_t word)
{
    return ((float)(int32_t)(word >> 9) + 0.5F) * 0x1p-23F;
}

#endif
