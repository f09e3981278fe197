/* Activations that are made again: what is seen when looking inside, and what indexers learn, has
 * the bits of a policy that keeps all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/model/recompute_fixture.h"

static void check_looking(void)
{
    struct pair one = open_pair(1);

    compare(&one, &(struct lesson){.use = MTP_ATTACHED, .looks = true});
    compare(&one, &(struct lesson){.use = WITHOUT_MTP, .looks = true});
    close_pair(&one);
}

static void what_is_seen_inside_is_the_same_and_disturbs_nothing(void **state)
{
    (void)state;
    for_all(check_looking);
}

static void check_indexers(void)
{
    if ((variant & VARIANT_SPARSE) == 0) {
        return;
    }
    struct pair one = open_pair(1), two = open_pair(2);

    for (int use = WITHOUT_MTP; use <= MTP_ATTACHED; use++) {
        for (size_t looks = use == MTP_ATTACHED ? 0 : 1; looks < 2; looks++) {
            struct lesson lesson = {.use = (enum mtp_use)use, .looks = looks == 1};

            lesson.indexer = POLICY_INDEXER_DENSE;
            compare(&one, &lesson);
            lesson.indexer = POLICY_INDEXER_SPARSE;
            compare(use == MTP_ATTACHED ? &two : &one, &lesson);
        }
    }
    close_pair(&two);
    close_pair(&one);
}

static void both_losses_of_indexers_have_the_same_bits(void **state)
{
    (void)state;
    for_all(check_indexers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_seen_inside_is_the_same_and_disturbs_nothing),
        cmocka_unit_test(both_losses_of_indexers_have_the_same_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
