/* Owns the check of every architecture at random: 200 small configurations, drawn so that every
 * branch is reached, each read from a config.json, run forwards and backwards in FP32 and compared
 * with the double-precision oracle (tests/support/oracle_model.h): log-probabilities and entropies
 * as they are, gradients against central finite differences of the oracle, along random
 * directions through each tensor and at single elements, the largest included. Tokens drawn while
 * the same batch grows in chunks have the log-probabilities of the whole, bit for bit.
 *
 * `test_random_configs SEED` makes 200 others, `test_random_configs SEED N` case N of them alone
 * and prints its tensors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/random_chunks.h"
#include "tests/golden/random_trial.h"

#include <stdlib.h>

#define N_CASES ((size_t)200)
#define SEED 20
#define REACHED_MIN ((size_t)5)

/* Taken in turn. */
static const enum random_family families[] = {
    RANDOM_V3,  RANDOM_V32,   RANDOM_V2, RANDOM_LLAMA,     RANDOM_QWEN2, RANDOM_V3,
    RANDOM_V32, RANDOM_QWEN3, RANDOM_V2, RANDOM_QWEN3_MOE, RANDOM_V32,   RANDOM_MIXTRAL};
#define N_FAMILIES (sizeof(families) / sizeof(families[0]))

static void run_case(size_t number)
{
    struct trial trial;
    double *direction;

    trial_open(families[number % N_FAMILIES], number, &trial);
    check_chunks(&trial);
    run_policy(&trial);

    const struct weight_table *table = policy_table(trial.policy);

    trial.rounding = rounding_of(&trial);
    assert_ok(memory_alloc(table->n_floats, sizeof(double), &direction));
    for (size_t i = 0; i < table->n_rows; i++) {
        if (table->rows[i].is_trainable) {
            check_tensor(&trial, i, direction);
        }
    }
    memory_free(direction);
    trial_close(&trial);
}

static void two_hundred_random_models_agree_with_the_oracle(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        run_case(i);
    }
    print_message("%zu models, %zu weights drawn, %zu tensors; worst share of the tolerance: "
                  "values %.3f, gradients %.3f\n",
                  N_CASES, all.n_attempts, all.n_tensors, all.worst_value, all.worst_gradient);
    assert_int_equal(all.n_failures, 0);
}

/* Prints and demands how often a branch was reached. */
static void check_reached(const char *name, size_t n)
{
    print_message("%-28s %zu\n", name, n);
    if (n < REACHED_MIN) {
        print_error("\"%s\" was reached %zu times, want %zu\n", name, n, REACHED_MIN);
        all.n_failures++;
    }
}

static void every_branch_was_reached(void **state)
{
    (void)state;
    all.n_failures = 0;
    for (size_t i = 0; i < N_RANDOM_FAMILIES; i++) {
        check_reached(random_family_names[i], all.n_by_family[i]);
    }
    for (size_t i = 0; i < N_CONFIG_BRANCHES; i++) {
        check_reached(random_branch_names[i], all.n_by_branch[i]);
    }
    for (size_t i = 0; i < N_BATCH_BRANCHES; i++) {
        check_reached(random_batch_branch_names[i], all.n_by_batch_branch[i]);
    }
    check_reached("negative biased scores", all.n_negative_routes);
    check_reached("keys not selected", all.n_dropped_keys);
    check_reached("experts without a token", all.n_idle_experts);
    assert_int_equal(all.n_failures, 0);
}

static int open_all(void **state)
{
    (void)state;
    assert_ok(backend_open("cpu", 1, &all.backend));
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    backend_close(all.backend);
    return 0;
}

static size_t only; /* the case asked for on the command line */

static void the_case_agrees_with_the_oracle(void **state)
{
    (void)state;
    all.is_verbose = true;
    run_case(only);
    assert_int_equal(all.n_failures, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_hundred_random_models_agree_with_the_oracle),
        cmocka_unit_test(every_branch_was_reached),
    };
    const struct CMUnitTest one[] = {cmocka_unit_test(the_case_agrees_with_the_oracle)};

    all.seed = argc > 1 ? strtoul(argv[1], NULL, 10) : SEED;
    if (argc > 2) {
        only = (size_t)strtoul(argv[2], NULL, 10);
        return cmocka_run_group_tests(one, open_all, close_all);
    }
    return cmocka_run_group_tests(tests, open_all, close_all);
}
