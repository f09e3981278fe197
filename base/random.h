/* Owns randomness: Philox4x32-10 (Salmon et al., SC 2011), a pure function of key and counter.
 * Nothing in hone has hidden random state; a draw is named by what it is for. */
#ifndef HONE_BASE_RANDOM_H
#define HONE_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* The four words of counter under key. */
void random_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* What a stream is for; part of the key, so streams never meet. */
enum random_stream {
    /* Token draws. The 64 bits of (seed; group, sample | position << 32) are the key of a row's
     * noise; its counters are in kernels/cpu/simd/philox.h. */
    RANDOM_SAMPLING = 1,
    RANDOM_SHUFFLE = 2, /* data order */
    RANDOM_INIT = 3,    /* weights of a fresh model */
    RANDOM_TASK = 4,    /* rows of hone data make */
    RANDOM_TEST = 5,
};

/* 64 random bits, a function of the arguments only. */
uint64_t random_bits(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b);
/* Uniform in (0, 1): ((bits >> 41) + 0.5) * 2^-23, exact in float, never 0 or 1. */
float random_uniform(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b);
/* Standard normal (Box-Muller in double, rounded once). */
float random_normal(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b);
/* Index in [0, n), without bias worth naming (multiply-shift on 64 bits). */
uint64_t random_below(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b, uint64_t n);
/* Counter-based permutation: where index i of [0, n) goes in epoch `epoch`. A bijection, so a
 * resume needs only the cursor (Feistel network with cycle walking). */
uint64_t random_permute(uint64_t seed, uint64_t epoch, uint64_t i, uint64_t n);

#endif
