/* Digests against published vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/memory.h"
#include "tests/support/support.h"

#include <string.h>

static void assert_sha256(const void *data, size_t n, const char *wanted)
{
    char text[DIGEST256_TEXT];
    const struct digest256 digest = hash_sha256(data, n);

    assert_string_equal(hash_hex(digest.bytes, sizeof(digest.bytes), text), wanted);
}

/* FIPS 180-4 examples. */
static void sha256_gives_the_published_answers(void **state)
{
    char *million;

    (void)state;
    assert_sha256("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_sha256("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    assert_sha256("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
                  "ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
                  112, "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
    assert_ok(memory_alloc(1000000, 1, &million));
    memset(million, 'a', 1000000);
    assert_sha256(million, 1000000,
                  "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    memory_free(million);
}

/* Lengths around the end of a block, where padding needs one block or two. */
static void sha256_pads_every_length_right(void **state)
{
    static const struct {
        size_t n;
        const char *wanted;
    } cases[] = {
        {55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
        {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
        {63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
        {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
        {65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
    };
    char text[65];

    (void)state;
    memset(text, 'a', sizeof(text));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_sha256(text, cases[i].n, cases[i].wanted);
    }
}

static void xxh3_gives_the_published_answers(void **state)
{
    const struct digest128 empty = hash_128("", 0);
    const struct digest128 abc = hash_128("abc", 3);
    char text[DIGEST128_TEXT];

    (void)state;
    assert_int_equal(hash_64("", 0), 0x2d06800538d394c2);
    assert_string_equal(hash_hex(empty.bytes, 16, text), "99aa06d3014798d86001c324468d497f");
    assert_false(digest128_equal(&empty, &abc));
    assert_true(digest128_equal(&abc, &abc));
}

static void parts_cover_lengths_and_bytes(void **state)
{
    const struct hash_part ab_c[] = {{"ab", 2}, {"c", 1}};
    const struct hash_part a_bc[] = {{"a", 1}, {"bc", 2}};
    const struct hash_part empty[] = {{"ab", 2}, {"c", 1}, {NULL, 0}};
    const char laid_out[] = "\2\0\0\0\0\0\0\0ab\1\0\0\0\0\0\0\0c";

    (void)state;
    assert_int_equal(hash_64_parts(ab_c, 2), hash_64(laid_out, sizeof(laid_out) - 1));
    assert_true(hash_64_parts(ab_c, 2) != hash_64_parts(a_bc, 2));
    assert_true(hash_64_parts(ab_c, 2) != hash_64_parts(empty, 3));
}

static void hexadecimal_goes_both_ways_and_is_checked(void **state)
{
    unsigned char bytes[3];
    char text[7];

    (void)state;
    assert_true(hash_unhex("00fFa9", bytes, 3));
    assert_string_equal(hash_hex(bytes, 3, text), "00ffa9");
    assert_false(hash_unhex("00ffa", bytes, 3));
    assert_false(hash_unhex("00ffa9b", bytes, 3));
    assert_false(hash_unhex("00ffg9", bytes, 3));
    assert_false(hash_unhex("", bytes, 3));
    assert_true(hash_unhex("", bytes, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_published_answers),
        cmocka_unit_test(sha256_pads_every_length_right),
        cmocka_unit_test(xxh3_gives_the_published_answers),
        cmocka_unit_test(parts_cover_lengths_and_bytes),
        cmocka_unit_test(hexadecimal_goes_both_ways_and_is_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
