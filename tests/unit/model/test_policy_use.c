/* How a policy may be used: the order of calls and arguments that it takes, what MTP modules draw,
 * the experts that it counts and the router's bias rule, and the memory that it says it has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <string.h>

static void wrong_arguments_are_refused(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    const int32_t tokens[] = {1, 64}, rows[] = {1, 0}, good[] = {1, 2};
    const size_t offsets[] = {0, 2};
    struct policy_batch batch = {.tokens = tokens,
                                 .n_rows = 2,
                                 .offsets = offsets,
                                 .n_sequences = 1,
                                 .target_rows = rows,
                                 .targets = good,
                                 .n_targets = 2,
                                 .sampling = plain};
    const struct policy_mtp_args mtp = {.target_rows = rows, .targets = good, .n_targets = 1};
    float logp[2];

    (void)state;
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "token 1 is 64");
    batch.tokens = good;
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "target row 1");
    assert_status(policy_backward(policy, logp, NULL), STATUS_BAD_ARGUMENT, "forward pass before");
    batch.n_rows = MAX_ROWS + 1;
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "sized for 1");
    batch.n_rows = 2;
    batch.n_targets = 1;
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "MTP needs");
    assert_ok(policy_forward(policy, &batch, logp, NULL));
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "MTP target row 0");
    assert_status(policy_mtp_backward(policy, logp), STATUS_BAD_ARGUMENT, "MTP forward pass");
    policy_destroy(policy);
    backend_close(backend);
}

static void an_mtp_gradient_must_come_before_the_policys(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    struct policy_mtp_args mtp = {.n_targets = 0};
    float logp[MAX_ROWS], entropy[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    forward(policy, &batch, 0, 2, plain, logp, entropy);
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    assert_status(policy_backward(policy, batch.g, NULL), STATUS_BAD_ARGUMENT, "MTP");
    mtp.detached = true;
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    assert_ok(policy_backward(policy, batch.g, NULL));
    policy_destroy(policy);
    backend_close(backend);
}

static void mtp_draws_are_the_modules_own_with_the_noise_given(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, false);
    struct sample_row draws[MAX_ROWS] = {{0}};
    float logp[MAX_ROWS], drawn_logp[MAX_ROWS];
    int32_t drawn[MAX_ROWS], unused[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    for (size_t i = 0; i < batch.n_mtp; i++) {
        draws[i] = (struct sample_row){.seed = 1, .position = (uint32_t)i}; /* greedy */
    }
    struct policy_mtp_args args = {.target_rows = batch.mtp_rows,
                                   .targets = batch.mtp_targets,
                                   .n_targets = batch.n_mtp,
                                   .draws = draws,
                                   .drawn = drawn};

    forward(policy, &batch, 0, N_SEQUENCES, plain, logp, NULL);
    assert_ok(policy_mtp_forward(policy, &args, logp));
    args.targets = drawn;
    args.drawn = unused;
    assert_ok(policy_mtp_forward(policy, &args, drawn_logp));
    for (size_t i = 0; i < batch.n_mtp; i++) { /* the greedy draw is at least as likely */
        assert_true(drawn_logp[i] >= logp[i]);
    }
    policy_destroy(policy);
    backend_close(backend);
}

static void modules_run_in_order_and_a_softmax_router_has_no_bias(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy_mtp_args mtp = {.module = 1};
    const uint32_t made_up[3][4] = {{10, 2, 6, 6}};
    float logp[MAX_ROWS], entropy[MAX_ROWS];
    struct batch batch;
    struct digest128 before;

    (void)state;
    variant = VARIANT_SOFTMAX | VARIANT_TWO_MODULES;

    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;

    batch_fill(&batch);
    forward(policy, &batch, 0, 2, plain, logp, entropy);
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "module 1 cannot");
    mtp.module = 2;
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "with a module");
    mtp.module = 0;
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    mtp.module = 1;
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    before = weights_digest(policy_weights(policy), n);
    policy_update_router_bias(policy, &made_up[0][0], 0.5f);

    const struct digest128 after = weights_digest(policy_weights(policy), n);

    assert_memory_equal(&before, &after, sizeof(before));
    policy_destroy(policy);
    backend_close(backend);
    variant = 0;
}

static void every_row_takes_k_experts_and_the_bias_evens_them_out(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    const struct weight_row *bias =
        weight_table_find(policy_table(policy), "model.layers.1.mlp.gate.e_score_correction_bias");
    const uint32_t made_up[2][4] = {{10, 2, 6, 6}, {0, 0, 0, 0}};
    uint32_t counts[2][4] = {{0}};
    float logp[MAX_ROWS], entropy[MAX_ROWS];
    const int32_t *layers;
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    forward(policy, &batch, 0, N_SEQUENCES, plain, logp, entropy);
    assert_int_equal(policy_moe_layers(policy, &layers), 2);
    assert_int_equal(layers[0], 1);
    assert_int_equal(layers[1], 2);
    policy_expert_counts(policy, &counts[0][0]);
    assert_int_equal(counts[0][0] + counts[0][1] + counts[0][2] + counts[0][3],
                     2 * batch.offsets[N_SEQUENCES]);
    assert_int_equal(counts[1][0] + counts[1][1] + counts[1][2] + counts[1][3], 0);
    policy_update_router_bias(policy, &made_up[0][0], 0.5f);

    const float *values = policy_weights(policy) + bias->offset;

    assert_true(values[0] == -0.5f && values[1] == 0.5f && values[2] == 0 && values[3] == 0);
    policy_destroy(policy);
    backend_close(backend);
}

static enum status create_policy(void *context)
{
    const struct policy_options options = {.max_rows = 8, .max_draws = 2, .is_trainable = true};
    struct model_config config;
    struct policy *policy;
    struct policy_cache *cache;
    enum status status;

    TRY(model_config_preset("tiny", &config));
    TRY(policy_create(context, &config, &options, &policy));
    status = policy_cache_create(policy, 3, &cache);
    if (status == STATUS_OK) {
        policy_cache_destroy(cache);
    }
    policy_destroy(policy);
    return status;
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct backend *backend = open_backend("cpu", 1);

    (void)state;
    assert_ok(create_policy(backend));
    assert_true(support_fail_allocations(create_policy, backend) > 10);
    backend_close(backend);
}

static void what_is_measured_is_what_a_policy_holds(void **state)
{
    struct backend *backend = open_backend("cpu", 1);

    (void)state;
    for (size_t i = 0; i < 2 * N_VARIANTS; i++) {
        const struct policy_options options = {
            .max_rows = MAX_ROWS, .max_draws = MAX_ROWS, .is_trainable = i % 2 == 1};
        struct policy_memory measured, held;
        struct model_config config;
        struct policy *policy;

        variant = variants[i / 2];
        variant_config(&config);
        policy = make_policy(backend, options.is_trainable);
        held = policy_memory(policy);
        assert_ok(policy_measure(&config, &options, &measured));
        assert_memory_equal(&measured, &held, sizeof(held));
        policy_destroy(policy);
    }
    variant = 0;
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(an_mtp_gradient_must_come_before_the_policys),
        cmocka_unit_test(mtp_draws_are_the_modules_own_with_the_noise_given),
        cmocka_unit_test(modules_run_in_order_and_a_softmax_router_has_no_bias),
        cmocka_unit_test(every_row_takes_k_experts_and_the_bias_evens_them_out),
        cmocka_unit_test(what_is_measured_is_what_a_policy_holds),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
