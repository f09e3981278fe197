/* The exactness contract of the policy in training (DESIGN 3): gradients have the same bits on
 * every instruction set and with any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <string.h>

/* The first one's gradients are those that the others must have. */
static const struct {
    const char *name;
    size_t n_threads;
} devices[] = {{"cpu", 1},        {"cpu", 2},      {"cpu-avx512bf16", 1},
               {"cpu-avx512", 1}, {"cpu-avx2", 2}, {"cpu-portable", 2}};
#define N_DEVICES (sizeof(devices) / sizeof(devices[0]))

static struct backend *backends[N_DEVICES]; /* NULL: not on this machine */

static int open_devices(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_DEVICES; i++) {
        if (backend_open(devices[i].name, devices[i].n_threads, &backends[i]) != STATUS_OK) {
            print_message("%s: skipped\n", status_message());
        }
    }
    return backends[0] == NULL || backends[1] == NULL ? -1 : 0;
}

static int close_devices(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_DEVICES; i++) {
        backend_close(backends[i]);
    }
    return 0;
}

/* The gradients of the three sequences that end the batch, 48, 17 and 2 rows. */
static void learn_batch(struct policy *policy)
{
    struct batch batch;

    batch_fill(&batch);
    learn_sequences(policy, &batch, 2, N_SEQUENCES, MTP_ATTACHED);
    assert_ok(policy_finish_gradients(policy));
}

static void check_device(const struct policy *reference, const float *gradients,
                         struct backend *backend)
{
    struct policy *policy = make_policy(backend, true);

    learn_batch(policy);
    assert_memory_equal(gradients, policy_gradients(policy),
                        policy_table(reference)->n_floats * sizeof(float));
    policy_destroy(policy);
}

static void check_devices(void)
{
    struct policy *reference = make_policy(backends[0], true);

    learn_batch(reference);
    for (size_t i = 1; i < N_DEVICES; i++) {
        if (backends[i] != NULL) {
            check_device(reference, policy_gradients(reference), backends[i]);
        }
    }
    policy_destroy(reference);
}

static void threads_and_instruction_sets_change_no_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_VARIANTS * N_PROFILES; i++) {
        variant = variants[i / N_PROFILES];
        set_profile(i % N_PROFILES);
        check_devices();
    }
    variant = 0;
    set_profile(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_and_instruction_sets_change_no_bit),
    };

    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
