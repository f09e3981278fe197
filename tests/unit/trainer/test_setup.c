/* What a configuration makes of a policy: which activations it keeps. */
#include "configs/config.h"
#include "trainer/setup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define GIBI ((size_t)1 << 30)

static struct policy_options options_of(const char *preset, size_t max_rows,
                                        enum activation_checkpointing wanted)
{
    struct run_config run = {.optim = {.activation_checkpointing = wanted}};
    const struct learner_options learner = {
        .micro_batch_tokens = max_rows, .max_sequence_rows = 64, .shares_prompts = true};
    struct model_config model;
    struct policy_options options;

    assert_ok(model_config_preset(preset, &model));
    assert_ok(setup_policy_options(&run, &model, &learner, &options));
    assert_true(options.is_trainable);
    assert_int_equal(options.max_rows, max_rows);
    assert_int_equal(options.max_entries, learner_max_entries(&learner));
    return options;
}

/* Bytes of all activations, and of what the rule compares them with. */
static size_t kept_bytes(const char *preset, size_t max_rows, size_t *others)
{
    const struct policy_options options = options_of(preset, max_rows, ACTIVATIONS_NONE);
    struct model_config model;
    struct policy_memory memory;

    assert_ok(model_config_preset(preset, &model));
    assert_ok(policy_measure(&model, &options, &memory));
    *others = 3 * memory.weights + memory.gradients;
    return memory.activations;
}

static void check_rule(const char *preset, size_t max_rows)
{
    size_t others = 0;
    const size_t kept = kept_bytes(preset, max_rows, &others);

    assert_int_equal(options_of(preset, max_rows, ACTIVATIONS_AUTO).recomputes,
                     kept > GIBI && kept > others);
}

static void activations_are_kept_until_they_are_most_of_what_is_held(void **state)
{
    size_t others = 0;

    (void)state;
    for (size_t rows = 512; rows < (size_t)1 << 20; rows *= 2) {
        check_rule("small", rows);
        check_rule("medium", rows);
    }
    assert_true(kept_bytes("small", 1024, &others) < GIBI);
    assert_false(options_of("small", 1024, ACTIVATIONS_AUTO).recomputes);
    assert_true(kept_bytes("small", 65536, &others) > GIBI);
    assert_true(options_of("small", 65536, ACTIVATIONS_AUTO).recomputes);
    assert_true(kept_bytes("medium", 4096, &others) > GIBI);
    assert_false(options_of("medium", 4096, ACTIVATIONS_AUTO).recomputes);
}

static void none_and_layer_say_it_themselves(void **state)
{
    (void)state;
    assert_true(options_of("small", 64, ACTIVATIONS_LAYER).recomputes);
    assert_false(options_of("small", 65536, ACTIVATIONS_NONE).recomputes);
}

static void a_reference_has_no_activations_to_keep(void **state)
{
    const struct policy_options trained = options_of("small", 64, ACTIVATIONS_LAYER);
    const struct policy_options frozen = setup_reference_options(&trained);

    (void)state;
    assert_false(frozen.is_trainable || frozen.recomputes);
    assert_int_equal(frozen.max_rows, trained.max_rows);
    assert_int_equal(frozen.precision, trained.precision);
}

static void the_cache_is_as_wide_as_the_products_unless_said(void **state)
{
    /* dtype: rows; kv_cache_dtype: columns */
    static const enum precision want[3][4] = {
        {PRECISION_F32, PRECISION_F32, PRECISION_BF16, PRECISION_FP8},
        {PRECISION_BF16, PRECISION_F32, PRECISION_BF16, PRECISION_FP8},
        {PRECISION_BF16, PRECISION_F32, PRECISION_BF16, PRECISION_FP8}};
    struct model_config model;

    (void)state;
    assert_ok(model_config_preset("small", &model));
    for (size_t i = 0; i < 12; i++) {
        struct run_config run = {.model = {.dtype = (enum model_dtype)(i / 4),
                                           .kv_cache_dtype = (enum kv_cache_dtype)(i % 4)}};
        struct policy_options options;

        const struct learner_options learner = {.micro_batch_tokens = 64, .max_sequence_rows = 64};

        assert_ok(setup_policy_options(&run, &model, &learner, &options));
        assert_int_equal(options.cache, want[i / 4][i % 4]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations_are_kept_until_they_are_most_of_what_is_held),
        cmocka_unit_test(none_and_layer_say_it_themselves),
        cmocka_unit_test(a_reference_has_no_activations_to_keep),
        cmocka_unit_test(the_cache_is_as_wide_as_the_products_unless_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
