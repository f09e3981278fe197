/* Activations that are made again: every number that a policy gives out has the bits of one that
 * keeps all of them (what is seen inside: test_policy_recompute_inside.c), for less memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/recompute_fixture.h"

static void check_training(void)
{
    struct pair one = open_pair(1), two = open_pair(2);

    compare(&one, &(struct lesson){.use = WITHOUT_MTP});
    compare(&one, &(struct lesson){.use = MTP_DETACHED});
    compare(&two, &(struct lesson){.use = MTP_ATTACHED, .balances = true});
    close_pair(&two);
    close_pair(&one);
}

static void gradients_have_the_same_bits(void **state)
{
    (void)state;
    for_all(check_training);
}

static size_t activation_bytes(const struct model_config *config, bool recomputes)
{
    struct policy_memory memory;

    assert_ok(policy_measure(
        config,
        &(struct policy_options){
            .max_rows = MAX_ROWS, .max_draws = 1, .is_trainable = true, .recomputes = recomputes},
        &memory));
    return memory.activations;
}

static void a_layer_more_costs_its_input_alone(void **state)
{
    struct model_config config;
    size_t few[2];

    (void)state;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        variant = variants[i];
        variant_config(&config);
        few[0] = activation_bytes(&config, false);
        few[1] = activation_bytes(&config, true);
        assert_true(few[1] < few[0]);
        config.n_layers++;
        /* hidden_size is padded to whole cache lines */
        assert_int_equal(activation_bytes(&config, true) - few[1],
                         MAX_ROWS * ((config.hidden_size + 15) / 16 * 16) * sizeof(float));
        assert_true(activation_bytes(&config, false) - few[0] >
                    5 * (activation_bytes(&config, true) - few[1]));
    }
    variant = 0;
}

static void a_step_allocates_nothing(void **state)
{
    const struct lesson lesson = {.use = MTP_ATTACHED};
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make(backend, true);
    struct outcome outcome;
    struct bytes seen = {.data = NULL};

    (void)state;
    run(policy, &lesson, &outcome, &seen); /* the backend's scratch grows once */

    const size_t before = memory_total_blocks();

    run(policy, &lesson, &outcome, &seen);
    assert_int_equal(memory_total_blocks(), before);
    policy_destroy(policy);
    backend_close(backend);
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct creation creation = {
        .backend = open_backend("cpu", 1),
        .options = {.max_rows = 8, .max_draws = 2, .is_trainable = true, .recomputes = true}};

    (void)state;
    variant = VARIANT_SPARSE | VARIANT_TWO_MODULES;
    assert_true(support_fail_allocations(create_variant, &creation) > 10);
    variant = 0;
    backend_close(creation.backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_have_the_same_bits),
        cmocka_unit_test(a_layer_more_costs_its_input_alone),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
