/* Owns randomness. Philox4x32-10: ten rounds of two 32x32 -> 64 bit products, the key bumped by the
 * Weyl constants between rounds.
 *
 * Key of a stream: {lo(seed), hi(seed) ^ stream * 0x9E3779B9}; counter: {lo(a), hi(a), lo(b),
 * hi(b)}. */
#include "base/random.h"

#include <math.h>

#define PHILOX_M0 UINT64_C(0xD2511F53)
#define PHILOX_M1 UINT64_C(0xCD9E8D57)
#define WEYL_0 UINT32_C(0x9E3779B9)
#define WEYL_1 UINT32_C(0xBB67AE85)
#define PHILOX_ROUNDS 10

__extension__ typedef unsigned __int128 wide;

void random_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const uint64_t p0 = PHILOX_M0 * c0;
        const uint64_t p1 = PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += WEYL_0;
        k1 += WEYL_1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void draw(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b, uint32_t out[4])
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32) ^ ((uint32_t)stream * WEYL_0)};
    const uint32_t counter[4] = {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b,
                                 (uint32_t)(b >> 32)};
    random_philox(counter, key, out);
}

static uint64_t join(uint32_t low, uint32_t high)
{
    return (uint64_t)low | (uint64_t)high << 32;
}

uint64_t random_bits(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b)
{
    uint32_t words[4];

    draw(seed, stream, a, b, words);
    return join(words[0], words[1]);
}

float random_uniform(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b)
{
    return ((float)(random_bits(seed, stream, a, b) >> 41) + 0.5f) * 0x1p-23f;
}

float random_normal(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b)
{
    uint32_t words[4];

    draw(seed, stream, a, b, words);
    const double u = ((double)(join(words[0], words[1]) >> 12) + 0.5) * 0x1p-52; /* never 0 */
    const double v = (double)(join(words[2], words[3]) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(2.0 * 3.14159265358979323846 * v));
}

uint64_t random_below(uint64_t seed, enum random_stream stream, uint64_t a, uint64_t b, uint64_t n)
{
    return (uint64_t)((wide)random_bits(seed, stream, a, b) * n >> 64);
}

#define FEISTEL_ROUNDS 8

/* A bijection of [0, 2^(2 * half_bits)): the halves are swapped and mixed FEISTEL_ROUNDS times. */
static uint64_t feistel(uint64_t seed, uint64_t epoch, uint64_t value, unsigned half_bits)
{
    const uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint64_t left = value >> half_bits;
    uint64_t right = value & mask;

    for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
        const uint64_t mix = random_bits(seed, RANDOM_SHUFFLE, epoch, right | round << 32) & mask;
        const uint64_t next = left ^ mix;
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

uint64_t random_permute(uint64_t seed, uint64_t epoch, uint64_t i, uint64_t n)
{
    unsigned half_bits = 1;

    while (half_bits < 32 && n > UINT64_C(1) << (2 * half_bits)) {
        half_bits++;
    }
    /* The domain is less than 4 n, so walking the cycle until it is inside [0, n) is short, and it
     * ends: i itself lies on the cycle. */
    uint64_t value = i;
    do {
        value = feistel(seed, epoch, value, half_bits);
    } while (value >= n);
    return value;
}
