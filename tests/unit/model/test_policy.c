/* The exactness contract of the policy in training (DESIGN 3): cuts of a batch (in fp32), threads
 * and instruction sets give the same bits, and gradients are those of finite differences. */
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

/* Gradients of the whole batch learnt in pieces that end before these sequences. */
static float *gradients_of(const char *device, size_t n_threads, const size_t *cuts, size_t n_cuts,
                           enum mtp_use use)
{
    struct backend *backend = open_backend(device, n_threads);
    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;
    struct batch batch;
    float *copy;
    size_t first = 0;

    batch_fill(&batch);
    for (size_t i = 0; i <= n_cuts; i++) {
        const size_t last = cuts != NULL && i < n_cuts ? cuts[i] : N_SEQUENCES;

        learn_sequences(policy, &batch, first, last, use);
        first = last;
    }
    assert_ok(policy_finish_gradients(policy));
    assert_ok(memory_alloc(n, sizeof(float), &copy));
    memcpy(copy, policy_gradients(policy), n * sizeof(float));
    policy_destroy(policy);
    backend_close(backend);
    return copy;
}

static size_t tiny_floats(void)
{
    struct model_config config;
    struct weight_table *table;

    variant_config(&config);
    assert_ok(weight_table_create(&config, &table));

    const size_t n = table->n_floats;

    weight_table_destroy(table);
    return n;
}

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
    const size_t n = tiny_floats();

    for (int use = WITHOUT_MTP; use <= MTP_ATTACHED; use++) {
        float *whole = gradients_of("cpu", 1, NULL, 0, (enum mtp_use)use);
        float *cut = gradients_of("cpu", 1, cuts, 3, (enum mtp_use)use);

        assert_same_gradients(whole, cut, n);
        memory_free(whole);
        memory_free(cut);
    }
}

static void cutting_a_batch_between_sequences_changes_no_bit(void **state)
{
    (void)state;
    for_all(check_cuts);
}

static void check_devices(void)
{
    static const char *const devices[] = {"cpu-avx512bf16", "cpu-avx512", "cpu-avx2",
                                          "cpu-portable"};
    const size_t n = tiny_floats();
    float *reference = gradients_of("cpu", 1, NULL, 0, MTP_ATTACHED);
    float *threaded = gradients_of("cpu", 2, NULL, 0, MTP_ATTACHED);

    assert_memory_equal(reference, threaded, n * sizeof(float));
    memory_free(threaded);
    for (size_t i = 0; i < 4; i++) {
        struct backend *backend;

        if (backend_open(devices[i], 1, &backend) != STATUS_OK) {
            print_message("%s: skipped\n", status_message());
            continue;
        }
        backend_close(backend);

        float *other = gradients_of(devices[i], 1 + i / 2 % 2, NULL, 0, MTP_ATTACHED);

        assert_memory_equal(reference, other, n * sizeof(float));
        memory_free(other);
    }
    memory_free(reference);
}

static void threads_and_instruction_sets_change_no_bit(void **state)
{
    (void)state;
    for_all(check_devices);
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
    const size_t n = tiny_floats();
    float *without = gradients_of("cpu", 1, NULL, 0, WITHOUT_MTP);
    float *detached = gradients_of("cpu", 1, NULL, 0, MTP_DETACHED);
    struct model_config config;
    struct weight_table *table;
    bool is_mtp_zero = true;

    (void)state;
    assert_ok(model_config_preset("tiny", &config));
    assert_ok(weight_table_create(&config, &table));
    assert_int_equal(n, table->n_floats);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];

        if (!row->is_mtp) {
            assert_memory_equal(without + row->offset, detached + row->offset,
                                row->count * sizeof(float));
        }
        for (size_t j = 0; row->is_mtp && j < row->count; j++) {
            is_mtp_zero = is_mtp_zero && detached[row->offset + j] == 0;
        }
    }
    assert_false(is_mtp_zero);
    weight_table_destroy(table);
    memory_free(without);
    memory_free(detached);
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
        cmocka_unit_test(threads_and_instruction_sets_change_no_bit),
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(a_policy_that_cannot_train_gives_the_same_log_probabilities),
        cmocka_unit_test(a_detached_module_leaves_the_trunk_alone),
        cmocka_unit_test(a_step_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
