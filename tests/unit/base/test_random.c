/* Philox against its published vectors; the draws built on it against their promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

/* Known answers of Philox4x32-10, Random123 (Salmon et al. 2011). */
static void philox_gives_the_published_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], wanted[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t got[4];
        random_philox(cases[i].counter, cases[i].key, got);
        assert_memory_equal(got, cases[i].wanted, sizeof(got));
    }
}

static void bits_are_philox_under_the_documented_key(void **state)
{
    const uint32_t counter[4] = {0x89abcdef, 0x01234567, 5, 0};
    const uint32_t key[2] = {0x22222222, 0x11111111 ^ (2u * 0x9E3779B9u)};
    uint32_t words[4];

    (void)state;
    random_philox(counter, key, words);
    assert_int_equal(random_bits(0x1111111122222222, RANDOM_SHUFFLE, 0x0123456789abcdef, 5),
                     words[0] | (uint64_t)words[1] << 32);
    assert_true(random_bits(1, RANDOM_INIT, 0, 0) != random_bits(1, RANDOM_TASK, 0, 0));
}

static void uniforms_are_open_and_even(void **state)
{
    const size_t n = 100000;
    double sum = 0, sum_squares = 0;

    (void)state;
    for (uint64_t i = 0; i < n; i++) {
        const double u = (double)random_uniform(7, RANDOM_TEST, i, 0);
        assert_true(u > 0.0 && u < 1.0);
        sum += u;
        sum_squares += u * u;
    }
    assert_true(fabs(sum / (double)n - 0.5) < 0.005);
    assert_true(fabs(sum_squares / (double)n - 1.0 / 3.0) < 0.005);
}

static void normals_have_the_moments_of_a_normal(void **state)
{
    const size_t n = 100000;
    double sums[4] = {0};

    (void)state;
    for (uint64_t i = 0; i < n; i++) {
        const double z = (double)random_normal(7, RANDOM_TEST, i, 1);
        assert_true(isfinite(z));
        sums[0] += z;
        sums[1] += z * z;
        sums[2] += z * z * z;
        sums[3] += z * z * z * z;
    }
    assert_true(fabs(sums[0] / (double)n) < 0.015);
    assert_true(fabs(sums[1] / (double)n - 1.0) < 0.02);
    assert_true(fabs(sums[2] / (double)n) < 0.05);
    assert_true(fabs(sums[3] / (double)n - 3.0) < 0.15);
}

static void below_stays_below_and_reaches_everything(void **state)
{
    size_t counts[7] = {0};

    (void)state;
    for (uint64_t i = 0; i < 7000; i++) {
        const uint64_t value = random_below(3, RANDOM_TEST, i, 2, 7);
        assert_true(value < 7);
        counts[value]++;
    }
    for (size_t i = 0; i < 7; i++) {
        assert_true(counts[i] > 850 && counts[i] < 1150);
    }
    assert_int_equal(random_below(3, RANDOM_TEST, 0, 2, 1), 0);
    assert_true(random_below(3, RANDOM_TEST, 0, 2, UINT64_MAX) < UINT64_MAX);
}

static void permute_is_a_bijection_that_changes_with_the_epoch(void **state)
{
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097};

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        const uint64_t n = sizes[s];
        unsigned char *is_seen;
        size_t n_moved = 0;
        assert_ok(memory_alloc((size_t)n, 1, &is_seen));
        for (uint64_t i = 0; i < n; i++) {
            const uint64_t to = random_permute(11, 2, i, n);
            assert_true(to < n && is_seen[to] == 0);
            is_seen[to] = 1;
            n_moved += to != random_permute(11, 3, i, n) ? 1 : 0;
        }
        assert_true(n < 100 || n_moved > n * 9 / 10);
        memory_free(is_seen);
    }
    assert_true(random_permute(1, 0, UINT64_C(1) << 40, UINT64_C(1) << 41) < UINT64_C(1) << 41);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(bits_are_philox_under_the_documented_key),
        cmocka_unit_test(uniforms_are_open_and_even),
        cmocka_unit_test(normals_have_the_moments_of_a_normal),
        cmocka_unit_test(below_stays_below_and_reaches_everything),
        cmocka_unit_test(permute_is_a_bijection_that_changes_with_the_epoch),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
