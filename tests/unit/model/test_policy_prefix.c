/* Batches whose sequences share a prefix: bit for bit the log-probabilities of whole sequences, and
 * up to rounding their gradients, for every kind of model in every precision. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/model/prefix_fixture.h"
#include "tests/unit/model/slope.h"

#include <math.h>

static void check_variant(size_t turn, bool detached)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = open_policy(backend, true);
    const size_t n_modules = policy_config(policy)->n_mtp_modules;
    struct packed *whole = pack(n_modules, turn, false);
    struct packed *shared = pack(n_modules, turn, true);
    struct outcome *want = learn(policy, whole, detached);
    struct outcome *got = learn(policy, shared, detached);

    assert_true(shared->n_rows < whole->n_rows && whole->n_rows == whole->n_sequence_rows);
    assert_same_outcome(whole, got, want);
    assert_gradients_agree(policy, got->gradients, want->gradients);
    dispose(got);
    dispose(want);
    memory_free(shared);
    memory_free(whole);
    policy_destroy(policy);
    backend_close(backend);
}

static void a_shared_prefix_changes_no_bit_forward_and_rounding_backward(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_PROFILES * N_VARIANTS; i++) {
        variant = variants[i / N_PROFILES];
        set_profile(i % N_PROFILES);
        check_variant(i / N_PROFILES + i, i % 2 == 0);
    }
    variant = 0;
    set_profile(0);
}

/* Of the whole range of threads and instruction sets, for one kind of each attention. */
static void threads_and_instruction_sets_change_no_bit_of_a_shared_batch(void **state)
{
    static const unsigned kinds[] = {VARIANT_TWO_MODULES, VARIANT_QWEN3_MOE};
    static const char *const devices[] = {"cpu", "cpu-avx2", "cpu-portable"};

    (void)state;
    for (size_t i = 0; i < N_PROFILES; i++) {
        variant = kinds[i % 2];
        set_profile(i);
        struct outcome *outcomes[3];
        struct packed *packed = NULL;
        size_t n_floats = 0;

        for (size_t k = 0; k < 3; k++) {
            struct backend *backend = open_backend(devices[k], 1 + k);
            struct policy *policy = open_policy(backend, true);

            memory_free(packed);
            packed = pack(policy_config(policy)->n_mtp_modules, i, true);
            outcomes[k] = learn(policy, packed, false);
            n_floats = policy_table(policy)->n_floats;
            policy_destroy(policy);
            backend_close(backend);
        }
        for (size_t k = 1; k < 3; k++) {
            assert_same_outcome(packed, outcomes[k], outcomes[0]);
            assert_memory_equal(outcomes[k]->gradients, outcomes[0]->gradients,
                                n_floats * sizeof(float));
            dispose(outcomes[k]);
        }
        dispose(outcomes[0]);
        memory_free(packed);
    }
    variant = 0;
    set_profile(0);
}

/* What keeps no activations (a reference, say) and what makes them again give the same bits. */
static void other_policies_give_the_same_bits(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = open_policy(backend, true);
    struct policy *reference = open_policy(backend, false);
    struct policy_options options = {.max_rows = ROWS_MAX,
                                     .max_entries = 2 * ROWS_MAX,
                                     .max_draws = 1,
                                     .is_trainable = true,
                                     .recomputes = true};
    struct model_config config;
    struct policy *again;
    struct packed *packed = pack(policy_config(policy)->n_mtp_modules, 1, true);
    const size_t n = policy_table(policy)->n_floats;

    (void)state;
    variant_config(&config);
    assert_ok(policy_create(backend, &config, &options, &again));
    memcpy(policy_weights(again), policy_weights(policy), n * sizeof(float));
    assert_ok(policy_refresh(again));

    struct outcome *want = learn(policy, packed, false);
    struct outcome *forward_only = learn(reference, packed, false);
    struct outcome *recomputed = learn(again, packed, false);

    assert_same_outcome(packed, forward_only, want);
    assert_same_outcome(packed, recomputed, want);
    assert_memory_equal(recomputed->gradients, want->gradients, n * sizeof(float));
    dispose(recomputed);
    dispose(forward_only);
    dispose(want);
    memory_free(packed);
    policy_destroy(again);
    policy_destroy(reference);
    policy_destroy(policy);
    backend_close(backend);
}

/* The sum that `learn` differentiates, in double. */
static double objective(struct policy *policy, const struct packed *packed)
{
    static struct outcome outcome;
    double sum = 0;

    run_forward(policy, packed, false, &outcome);
    for (size_t i = 0; i < packed->n_targets; i++) {
        sum += (double)packed->g[i] * (double)outcome.logp[i] +
               (double)packed->h[i] * (double)outcome.entropy[i];
    }
    for (size_t m = 0; m < packed->n_modules; m++) {
        for (size_t j = 0; j < packed->mtp[m].n; j++) {
            sum += (double)packed->mtp[m].g[j] * (double)outcome.mtp_logp[m][j];
        }
    }
    return sum;
}

static bool slope_agrees(struct policy *policy, const struct packed *packed, const float *gradients,
                         float step)
{
    const double component = move_weights(policy, gradients, 300, every_trainable, step);
    const double above = objective(policy, packed);

    (void)move_weights(policy, gradients, 300, every_trainable, -2 * step);

    const double slope = (above - objective(policy, packed)) / (2 * (double)step);

    (void)move_weights(policy, gradients, 300, every_trainable, step);
    print_message("variant %u, step %g: slope %g, gradient %g\n", variant, (double)step, slope,
                  component);
    return fabs(slope - component) <= 0.01 * fabs(component) + 0.2;
}

static void gradients_of_shared_rows_agree_with_finite_differences(void **state)
{
    static const unsigned kinds[] = {0, VARIANT_TWO_MODULES | VARIANT_SOFTMAX, VARIANT_LLAMA,
                                     VARIANT_QWEN3_MOE};

    (void)state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        variant = kinds[i];
        struct backend *backend = open_backend("cpu", 1);
        struct policy *policy = open_policy(backend, true);
        struct packed *packed = pack(policy_config(policy)->n_mtp_modules, i, true);
        struct outcome *outcome = learn(policy, packed, false);

        /* A token may change its expert within a step: then a smaller one. */
        assert_true(slope_agrees(policy, packed, outcome->gradients, 1e-4f) ||
                    slope_agrees(policy, packed, outcome->gradients, 3e-5f));
        dispose(outcome);
        memory_free(packed);
        policy_destroy(policy);
        backend_close(backend);
    }
    variant = 0;
}

/* One update's gradient with a balance loss of the kind over the batch's own load. */
static struct outcome *learn_balanced(struct policy *policy, enum policy_balance_kind kind,
                                      const struct packed *packed, double *loss)
{
    static struct outcome scratch;

    memset(scratch.counts, 0, sizeof(scratch.counts));
    run_forward(policy, packed, false, &scratch);

    const struct policy_balance balance = {
        .kind = kind, .coefficient = 3, .n_sequences = 1, .counts = scratch.counts};

    assert_ok(policy_set_balance(policy, &balance));

    struct outcome *out = learn(policy, packed, true);

    *loss = policy_balance_loss(policy);
    return out;
}

static void a_shared_row_weighs_in_the_balance_loss_as_often_as_it_is_used(void **state)
{
    static const enum policy_balance_kind kinds[] = {POLICY_BALANCE_BATCH, POLICY_BALANCE_LAYER};
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = open_policy(backend, true);
    const size_t n_modules = policy_config(policy)->n_mtp_modules;
    struct packed *whole = pack(n_modules, 0, false);
    struct packed *shared = pack(n_modules, 0, true);

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        double want_loss, loss;
        struct outcome *want = learn_balanced(policy, kinds[i], whole, &want_loss);
        struct outcome *got = learn_balanced(policy, kinds[i], shared, &loss);

        assert_true(want_loss > 0.5 && fabs(loss - want_loss) < 1e-9 * want_loss);
        assert_same_outcome(whole, got, want);
        assert_gradients_agree(policy, got->gradients, want->gradients);
        dispose(got);
        dispose(want);
    }

    const struct policy_balance of_sequences = {
        .kind = POLICY_BALANCE_SEQUENCE, .coefficient = 1, .n_sequences = 3};
    static struct outcome scratch;

    assert_ok(policy_set_balance(policy, &of_sequences));
    run_forward(policy, shared, true, &scratch);
    assert_status(policy_backward(policy, shared->g, shared->h), STATUS_BAD_ARGUMENT, "prefixes");
    memory_free(shared);
    memory_free(whole);
    policy_destroy(policy);
    backend_close(backend);
}

static void wrong_prefixes_are_refused(void **state)
{
    const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7}, rows[] = {4}, targets[] = {9};
    const size_t offsets[] = {0, 2, 4, 6, 7};
    bool continues[] = {true, true, true, true};
    struct policy_batch batch = {.tokens = tokens,
                                 .n_rows = 7,
                                 .offsets = offsets,
                                 .n_sequences = 4,
                                 .continues = continues,
                                 .target_rows = rows,
                                 .targets = targets,
                                 .n_targets = 1,
                                 .sampling = plain};
    const struct policy_mtp_args module = {.n_targets = 0};
    struct model_config config;
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy;
    float logp[1];

    (void)state;
    variant = VARIANT_SPARSE;
    variant_config(&config);
    assert_ok(
        policy_create(backend, &config,
                      &(struct policy_options){
                          .max_rows = 8, .max_draws = 1, .max_entries = 13, .is_trainable = true},
                      &policy));
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "sequence 0");
    continues[0] = false;
    assert_ok(policy_forward(policy, &batch, logp, NULL)); /* of 2, 4, 4 and 3 tokens */
    assert_status(policy_mtp_forward(policy, &module, logp), STATUS_BAD_ARGUMENT,
                  "sequence 2 continues a prefix"); /* with 5, sequence 1 with 3 */
    continues[2] = false;
    continues[3] = false;
    assert_ok(policy_forward(policy, &batch, logp, NULL));
    assert_ok(policy_mtp_forward(policy, &module, logp));
    assert_ok(policy_set_indexer_loss(policy, POLICY_INDEXER_SPARSE, 1));
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "indexer");
    policy_destroy(policy);
    assert_ok(
        policy_create(backend, &config,
                      &(struct policy_options){
                          .max_rows = 8, .max_draws = 1, .max_entries = 12, .is_trainable = true},
                      &policy));
    continues[2] = true;
    continues[3] = true;
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "sized for 12");
    policy_destroy(policy);
    backend_close(backend);
    variant = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shared_prefix_changes_no_bit_forward_and_rounding_backward),
        cmocka_unit_test(threads_and_instruction_sets_change_no_bit_of_a_shared_batch),
        cmocka_unit_test(other_policies_give_the_same_bits),
        cmocka_unit_test(gradients_of_shared_rows_agree_with_finite_differences),
        cmocka_unit_test(a_shared_row_weighs_in_the_balance_loss_as_often_as_it_is_used),
        cmocka_unit_test(wrong_prefixes_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
