/* Owns digests. XXH3 comes from libxxhash; SHA-256 (FIPS 180-4) is written out here, since it only
 * identifies small things. */
#include "base/hash.h"

#include <endian.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state's size, so that it can live on the stack */
#include <xxhash.h>

#define SHA_BLOCK 64

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate_right(uint32_t value, unsigned bits)
{
    return value >> bits | value << (32 - bits);
}

static void expand_block(const unsigned char *block, uint32_t schedule[64])
{
    for (size_t i = 0; i < 16; i++) {
        schedule[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
                      (uint32_t)block[4 * i + 2] << 8 | (uint32_t)block[4 * i + 3];
    }
    for (size_t i = 16; i < 64; i++) {
        const uint32_t near = schedule[i - 2];
        const uint32_t far = schedule[i - 15];
        const uint32_t mix_near = rotate_right(near, 17) ^ rotate_right(near, 19) ^ near >> 10;
        const uint32_t mix_far = rotate_right(far, 7) ^ rotate_right(far, 18) ^ far >> 3;
        schedule[i] = schedule[i - 16] + mix_far + schedule[i - 7] + mix_near;
    }
}

/* One block of the compression function; v holds a..h of the standard. */
static void compress_block(const unsigned char *block, uint32_t state[8])
{
    uint32_t schedule[64];
    uint32_t v[8];

    expand_block(block, schedule);
    memcpy(v, state, sizeof(v));
    for (size_t i = 0; i < 64; i++) {
        const uint32_t sum_e =
            rotate_right(v[4], 6) ^ rotate_right(v[4], 11) ^ rotate_right(v[4], 25);
        const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        const uint32_t t1 = v[7] + sum_e + choice + round_constants[i] + schedule[i];
        const uint32_t sum_a =
            rotate_right(v[0], 2) ^ rotate_right(v[0], 13) ^ rotate_right(v[0], 22);
        const uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        memmove(v + 1, v, 7 * sizeof(v[0]));
        v[4] += t1;
        v[0] = t1 + sum_a + majority;
    }
    for (size_t i = 0; i < 8; i++) {
        state[i] += v[i];
    }
}

struct digest256 hash_sha256(const void *data, size_t n)
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const unsigned char *bytes = data;
    const size_t n_whole = n / SHA_BLOCK * SHA_BLOCK;
    const size_t n_rest = n - n_whole;
    unsigned char tail[2 * SHA_BLOCK] = {0};
    struct digest256 digest;

    for (size_t i = 0; i < n_whole; i += SHA_BLOCK) {
        compress_block(bytes + i, state);
    }
    /* The rest, a one bit, zeros, and the length in bits: one block, or two if they do not fit. */
    if (n_rest > 0) {
        memcpy(tail, bytes + n_whole, n_rest);
    }
    tail[n_rest] = 0x80;
    const size_t n_tail = n_rest < SHA_BLOCK - 8 ? SHA_BLOCK : 2 * SHA_BLOCK;
    const uint64_t n_bits = (uint64_t)n * 8;
    for (size_t i = 0; i < 8; i++) {
        tail[n_tail - 1 - i] = (unsigned char)(n_bits >> (8 * i));
    }
    for (size_t i = 0; i < n_tail; i += SHA_BLOCK) {
        compress_block(tail + i, state);
    }
    for (size_t i = 0; i < sizeof(digest.bytes); i++) {
        digest.bytes[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
    }
    return digest;
}

uint64_t hash_64(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}

uint64_t hash_64_parts(const struct hash_part *parts, size_t n_parts)
{
    XXH3_state_t state;

    (void)XXH3_64bits_reset(&state); /* these fail only for a NULL state */
    for (size_t i = 0; i < n_parts; i++) {
        const uint64_t n_bytes = htole64((uint64_t)parts[i].bytes);
        (void)XXH3_64bits_update(&state, &n_bytes, sizeof(n_bytes));
        if (parts[i].bytes > 0) {
            (void)XXH3_64bits_update(&state, parts[i].data, parts[i].bytes);
        }
    }
    return XXH3_64bits_digest(&state);
}

struct digest128 hash_128(const void *data, size_t n)
{
    struct digest128 digest;
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, n));
    memcpy(digest.bytes, canonical.digest, sizeof(digest.bytes));
    return digest;
}

bool digest128_equal(const struct digest128 *a, const struct digest128 *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

char *hash_hex(const unsigned char *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
    return out;
}

/* 0..15, or 16 for what is no hexadecimal digit. */
static unsigned digit_value(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return (unsigned)(digit - '0');
    }
    if (digit >= 'a' && digit <= 'f') {
        return (unsigned)(digit - 'a') + 10;
    }
    if (digit >= 'A' && digit <= 'F') {
        return (unsigned)(digit - 'A') + 10;
    }
    return 16;
}

bool hash_unhex(const char *text, unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned high = digit_value(text[2 * i]);
        if (high > 15) {
            return false; /* also stops at the end of a short text */
        }
        const unsigned low = digit_value(text[2 * i + 1]);
        if (low > 15) {
            return false;
        }
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    return text[2 * n] == '\0';
}
