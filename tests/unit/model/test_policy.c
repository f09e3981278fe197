/* The exactness contract of the policy in training (DESIGN 3): cuts of a batch (in fp32) give the
 * same bits, and gradients are those of finite differences. test_policy_devices.c: threads and
 * instruction sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"
#include "tests/unit/model/slope.h"

#include <math.h>
#include <string.h>

/* Products of BF16 take rows in pairs, which a cut behind an odd row changes: another rounding of
 * the same sums. */
static void assert_same_gradients(const float *a, const float *b, size_t n)
{
    double error = 0.0, size = 0.0;

    if (precision == PRECISION_F32) {
        assert_memory_equal(a, b, n * sizeof(float));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const double difference = (double)a[i] - (double)b[i];

        error += difference * difference;
        size += (double)a[i] * (double)a[i];
    }
    assert_true(size > 0.0 && error <= 1e-12 * size);
}

static void check_cuts(void)
{
    static const size_t cuts[] = {1, 3, 4};
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;
    float *whole;

    assert_ok(memory_alloc(n, sizeof(*whole), &whole));
    for (int use = WITHOUT_MTP; use <= MTP_ATTACHED; use++) {
        learn_whole(policy, (enum mtp_use)use);
        memcpy(whole, policy_gradients(policy), n * sizeof(*whole));
        learn_pieces(policy, cuts, 3, (enum mtp_use)use);
        assert_same_gradients(whole, policy_gradients(policy), n);
    }
    memory_free(whole);
    policy_destroy(policy);
    backend_close(backend);
}

static void cutting_a_batch_between_sequences_changes_no_bit(void **state)
{
    (void)state;
    for_all(check_cuts);
}

/* sum g logp + h entropy + mtp_g mtp_logp in double. */
static double objective(struct policy *policy, const struct batch *batch)
{
    float logp[MAX_ROWS], entropy[MAX_ROWS], mtp_logp[MAX_ROWS];
    struct mtp_rows mtp;
    double sum = 0;

    forward(policy, batch, 0, N_SEQUENCES, plain, logp, entropy);
    for (size_t i = 0; i < batch->offsets[N_SEQUENCES]; i++) {
        sum += (double)batch->g[i] * (double)logp[i] + (double)batch->h[i] * (double)entropy[i];
    }
    for (size_t i = 0; i < policy_config(policy)->n_mtp_modules; i++) {
        list_mtp_rows(batch, 0, N_SEQUENCES, i, &mtp);
        assert_ok(policy_mtp_forward(
            policy,
            &(struct policy_mtp_args){
                .module = i, .target_rows = mtp.rows, .targets = mtp.targets, .n_targets = mtp.n},
            mtp_logp));
        for (size_t j = 0; j < mtp.n; j++) {
            sum += (double)mtp.g[j] * (double)mtp_logp[j];
        }
    }
    return sum;
}

/* Whether the slope over `step` agrees with the gradient; the policy has learnt the batch and keeps
 * its weights but for rounding. */
static bool slope_agrees(struct policy *policy, const struct batch *batch, float step)
{
    const double component =
        move_weights(policy, policy_gradients(policy), 100, every_trainable, step);
    const double above = objective(policy, batch);

    (void)move_weights(policy, policy_gradients(policy), 100, every_trainable, -2 * step);

    const double slope = (above - objective(policy, batch)) / (2 * (double)step);

    (void)move_weights(policy, policy_gradients(policy), 100, every_trainable, step);
    print_message("variant %u, step %g: slope %g, gradient %g\n", variant, (double)step, slope,
                  component);
    return fabs(slope - component) <= 0.01 * fabs(component) + 0.05;
}

static void check_slope(void)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    struct batch batch;

    batch_fill(&batch);
    learn_sequences(policy, &batch, 0, N_SEQUENCES, MTP_ATTACHED);
    assert_ok(policy_finish_gradients(policy));
    /* A token may change its expert within a step: then a smaller one. */
    assert_true(slope_agrees(policy, &batch, 1e-4f) || slope_agrees(policy, &batch, 4e-5f));
    policy_destroy(policy);
    backend_close(backend);
}

/* Not of sparse attention: no step is so small that no row changes its keys. */
static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        variant = variants[i];
        if ((variant & VARIANT_SPARSE) == 0) {
            check_slope();
        }
    }
    variant = 0;
}

static void a_policy_that_cannot_train_gives_the_same_log_probabilities(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *trainable = make_policy(backend, true);
    struct policy *frozen = make_policy(backend, false);
    const struct sampling_params sampling = {.temperature = 0.7f, .top_k = 20, .top_p = 0.9f};
    float a[MAX_ROWS], b[MAX_ROWS], entropy[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    forward(trainable, &batch, 0, N_SEQUENCES, sampling, a, entropy);
    forward(frozen, &batch, 0, N_SEQUENCES, sampling, b, NULL);
    assert_memory_equal(a, b, batch.offsets[N_SEQUENCES] * sizeof(float));
    assert_status(policy_backward(frozen, a, NULL), STATUS_BAD_ARGUMENT, "trainable");
    policy_destroy(trainable);
    policy_destroy(frozen);
    backend_close(backend);
}

static void a_detached_module_leaves_the_trunk_alone(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *without = make_policy(backend, true), *detached = make_policy(backend, true);
    const struct weight_table *table = policy_table(without);
    bool is_mtp_zero = true;

    (void)state;
    learn_whole(without, WITHOUT_MTP);
    learn_whole(detached, MTP_DETACHED);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        const float *const got = policy_gradients(detached) + row->offset;

        if (!row->is_mtp) {
            assert_memory_equal(policy_gradients(without) + row->offset, got,
                                row->count * sizeof(float));
        }
        for (size_t j = 0; row->is_mtp && j < row->count; j++) {
            is_mtp_zero = is_mtp_zero && got[j] == 0;
        }
    }
    assert_false(is_mtp_zero);
    policy_destroy(detached);
    policy_destroy(without);
    backend_close(backend);
}

static void a_step_allocates_nothing(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make_policy(backend, true);
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    learn_sequences(policy, &batch, 0, N_SEQUENCES,
                    MTP_ATTACHED); /* the backend's scratch grows once */

    const size_t before = memory_total_blocks();

    learn_sequences(policy, &batch, 0, N_SEQUENCES, MTP_ATTACHED);
    assert_ok(policy_refresh(policy));
    assert_int_equal(memory_total_blocks(), before);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cutting_a_batch_between_sequences_changes_no_bit),
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(a_policy_that_cannot_train_gives_the_same_log_probabilities),
        cmocka_unit_test(a_detached_module_leaves_the_trunk_alone),
        cmocka_unit_test(a_step_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
