/* pass@k: cases worked out by hand, and the definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/pass_at.h"
#include "tests/support/support.h"

static void assert_about(double got, double want)
{
    support_compare_double("pass@k", &got, &want, 1, (struct tolerance){1e-12, 0});
}

static void pass_at_1_is_the_share_that_passes(void **state)
{
    (void)state;
    assert_about(pass_at_k(1, 0, 1), 0.0);
    assert_about(pass_at_k(1, 1, 1), 1.0);
    assert_about(pass_at_k(5, 2, 1), 0.4);
    assert_about(pass_at_k(200, 7, 1), 0.035);
}

/* 1 - C(n - c, k) / C(n, k). */
static void larger_k_agree_with_counting_by_hand(void **state)
{
    (void)state;
    assert_about(pass_at_k(4, 1, 2), 0.5);               /* 1 - C(3,2) / C(4,2) = 1 - 3/6 */
    assert_about(pass_at_k(5, 2, 2), 0.7);               /* 1 - C(3,2) / C(5,2) = 1 - 3/10 */
    assert_about(pass_at_k(5, 2, 3), 0.9);               /* 1 - C(3,3) / C(5,3) = 1 - 1/10 */
    assert_about(pass_at_k(10, 3, 5), 1.0 - 21.0 / 252); /* C(7,5), C(10,5) */
    assert_about(pass_at_k(8, 4, 4), 1.0 - 1.0 / 70);    /* C(4,4), C(8,4) */
}

static void too_few_failures_for_k_of_them_is_certainty(void **state)
{
    (void)state;
    assert_about(pass_at_k(5, 2, 4), 1.0);
    assert_about(pass_at_k(5, 1, 5), 1.0);
    assert_about(pass_at_k(5, 0, 5), 0.0);
    assert_about(pass_at_k(4096, 4096, 1), 1.0);
}

/* Every choice of k among n <= 10 samples, the first c of which pass. */
static void it_is_the_share_of_choices_that_hold_a_passing_one(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 10; n++) {
        for (unsigned i = 0; i < (n + 1) * n; i++) {
            const unsigned c = i / n;
            const unsigned k = i % n + 1;
            size_t n_choices = 0, n_passing = 0;

            for (unsigned choice = 0; choice < 1U << n; choice++) {
                const bool has_k = (unsigned)__builtin_popcount(choice) == k;

                n_choices += has_k ? 1 : 0;
                n_passing += has_k && (choice & ((1U << c) - 1)) != 0 ? 1 : 0;
            }
            assert_about(pass_at_k(n, c, k), (double)n_passing / (double)n_choices);
        }
    }
}

static void lists_are_ascending_numbers_up_to_n(void **state)
{
    static const char *const wrong[] = {"",
                                        ",",
                                        "0",
                                        "9",
                                        "1,",
                                        "2,1",
                                        "1,1",
                                        "1, 2",
                                        "-1",
                                        "+1",
                                        "1;2",
                                        "x",
                                        "1,9",
                                        "1e0",
                                        "99999999999999999999",
                                        "1,2,3,4,5,6,7,8,"};
    struct pass_at_list list;

    (void)state;
    assert_true(pass_at_parse("1,4,8", 8, &list));
    assert_int_equal(list.count, 3);
    assert_int_equal(list.items[2], 8);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_false(pass_at_parse(wrong[i], 8, &list));
    }
    assert_false(pass_at_parse("1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", 100, &list));
}

static void the_default_is_powers_of_two_and_n(void **state)
{
    struct pass_at_list list;

    (void)state;
    pass_at_default(1, &list);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.items[0], 1);
    pass_at_default(6, &list);
    assert_int_equal(list.count, 4);
    assert_int_equal(list.items[2], 4);
    assert_int_equal(list.items[3], 6);
    pass_at_default(4096, &list);
    assert_int_equal(list.count, 13);
    assert_int_equal(list.items[12], 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pass_at_1_is_the_share_that_passes),
        cmocka_unit_test(larger_k_agree_with_counting_by_hand),
        cmocka_unit_test(too_few_failures_for_k_of_them_is_certainty),
        cmocka_unit_test(it_is_the_share_of_choices_that_hold_a_passing_one),
        cmocka_unit_test(lists_are_ascending_numbers_up_to_n),
        cmocka_unit_test(the_default_is_powers_of_two_and_n),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
