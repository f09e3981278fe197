/* Owns digests: XXH3 for transfers and manifests (libxxhash), SHA-256 for identities (configs,
 * tokenizers, rows). */
#ifndef HONE_BASE_HASH_H
#define HONE_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct digest128 {
    unsigned char bytes[16]; /* canonical (big-endian) XXH3-128 */
};
struct digest256 {
    unsigned char bytes[32]; /* SHA-256 */
};

uint64_t hash_64(const void *data, size_t n);
/* XXH3-64 over, for each part in turn, its length as 8 little-endian bytes and then its bytes. */
struct hash_part {
    const void *data;
    size_t bytes;
};
uint64_t hash_64_parts(const struct hash_part *parts, size_t n_parts);
struct digest128 hash_128(const void *data, size_t n);
struct digest256 hash_sha256(const void *data, size_t n);
bool digest128_equal(const struct digest128 *a, const struct digest128 *b);

#define DIGEST128_TEXT 33 /* 32 hexadecimal digits and NUL */
#define DIGEST256_TEXT 65
/* Lower-case hexadecimal of n bytes into out (2 n + 1 bytes). Returns out. */
char *hash_hex(const unsigned char *bytes, size_t n, char *out);
/* Back again; false unless text is exactly 2 n hexadecimal digits. */
bool hash_unhex(const char *text, unsigned char *bytes, size_t n);

#endif
