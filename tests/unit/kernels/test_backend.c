/* Opening a backend, its memory and its scratch stack. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/support/support.h"

#include <string.h>

static void an_unknown_device_is_refused_with_what_there_is(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    assert_status(backend_open("cuda", 1, &backend), STATUS_UNSUPPORTED, "cpu-portable");
    assert_null(backend);
}

static void every_instruction_set_has_one_numerics_id_and_every_op(void **state)
{
    static const char *const devices[] = {"auto",       "cpu",      "cpu-avx512bf16",
                                          "cpu-avx512", "cpu-avx2", "cpu-portable"};
    (void)state;
    for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++) {
        struct backend *backend = NULL;
        if (backend_open(devices[i], 3, &backend) != STATUS_OK) {
            print_message("[ SKIPPED  ] %s: not on this machine\n", devices[i]);
            continue;
        }
        void *ops[sizeof(*backend->ops) / sizeof(void *)];
        memcpy(ops, backend->ops, sizeof(ops));
        for (size_t j = 0; j < sizeof(ops) / sizeof(ops[0]); j++) {
            assert_non_null(ops[j]);
        }
        assert_string_equal(backend->numerics_ids[PRECISION_F32], "cpu-f32-1");
        assert_string_equal(backend->numerics_ids[PRECISION_BF16], "cpu-bf16-2");
        assert_string_equal(backend->numerics_ids[PRECISION_FP8], "cpu-fp8-2");
        assert_int_equal(backend->n_threads, 3);
        backend_close(backend);
    }
    backend_close(NULL);
}

static void no_thread_count_means_all_cores(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    assert_ok(backend_open("cpu-portable", 0, &backend));
    assert_true(backend->n_threads >= 1);
    backend_close(backend);
}

static enum status open_and_close(void *context)
{
    struct backend *backend = NULL;
    (void)context;
    TRY(backend_open("auto", 2, &backend));
    backend_close(backend);
    return STATUS_OK;
}

static void open_survives_every_failed_allocation(void **state)
{
    (void)state;
    assert_true(support_fail_allocations(open_and_close, NULL) >= 1);
}

static void device_memory_is_zeroed_and_keeps_what_is_uploaded(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    const float up[3] = {1.0F, 2.0F, 3.0F};
    float down[3] = {0.0F, 0.0F, 0.0F};
    float *device = NULL;
    assert_ok(backend_open("auto", 1, &backend));
    assert_ok(backend->ops->alloc(backend, 3, sizeof(*device), &device));
    assert_int_equal((uintptr_t)device % 64, 0);
    assert_ok(backend->ops->download(backend, down, device, sizeof(down)));
    assert_true(down[0] == 0.0F && down[2] == 0.0F);
    assert_ok(backend->ops->upload(backend, device, up, sizeof(up)));
    assert_ok(backend->ops->download(backend, down, device, sizeof(down)));
    assert_memory_equal(up, down, sizeof(up));
    backend->ops->release(backend, device);
    backend_close(backend);
}

/* Nested blocks of growing size, filled to see that they do not overlap. */
static enum status nest_scratch(struct backend *backend, size_t depth)
{
    char *block = NULL;
    const size_t n = 1000U << depth;
    TRY(cpu_scratch_acquire(backend, n, 1, &block));
    assert_int_equal((uintptr_t)block % 64, 0);
    memset(block, (int)depth, n);
    const enum status status = depth < 10 ? nest_scratch(backend, depth + 1) : STATUS_OK;
    for (size_t i = 0; i < n; i += 100) {
        assert_int_equal(block[i], depth);
    }
    cpu_scratch_release(backend, block);
    return status;
}

static void large_scratch_goes_back_and_comes_again(void **state)
{
    const size_t page = 4096, n = MEMORY_HUGE_BYTES;
    struct backend *backend;
    unsigned char *block;

    (void)state;
    assert_ok(backend_open("cpu", 2, &backend));
    for (int i = 0; i < 2; i++) {
        assert_ok(cpu_scratch_acquire(backend, n, 1, &block));
        memset(block, 7, n);
        assert_true(support_resident_bytes(block, n) >= n - 2 * page);
        cpu_scratch_release(backend, block);

        const size_t n_scratch = backend_scratch_bytes(backend);

        backend_rest(backend);
        assert_true(support_resident_bytes(block, n) <= 2 * page);
        assert_int_equal(backend_scratch_bytes(backend), n_scratch);
    }
    backend_close(backend);
}

static void scratch_nests_and_stops_growing(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    assert_ok(backend_open("auto", 1, &backend));
    assert_ok(nest_scratch(backend, 0));
    assert_ok(nest_scratch(backend, 0));
    const size_t n_blocks = memory_total_blocks();
    assert_ok(nest_scratch(backend, 0));
    assert_int_equal(memory_total_blocks(), n_blocks);
    backend_close(backend);
}

static enum status open_and_nest(void *context)
{
    struct backend *backend = NULL;
    (void)context;
    TRY(backend_open("auto", 1, &backend));
    const enum status status = nest_scratch(backend, 0);
    backend_close(backend);
    return status;
}

static void scratch_survives_every_failed_allocation(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    void *block = NULL;
    assert_true(support_fail_allocations(open_and_nest, NULL) >= 3);
    assert_ok(backend_open("auto", 1, &backend));
    assert_status(cpu_scratch_acquire(backend, SIZE_MAX / 2, 4, &block), STATUS_NO_MEMORY,
                  "scratch");
    assert_null(block);
    backend_close(backend);
}

static void padded_strides_are_odd_numbers_of_lines(void **state)
{
    (void)state;
    assert_int_equal(cpu_padded_stride(1), 16);
    assert_int_equal(cpu_padded_stride(17), 48);
    assert_int_equal(cpu_padded_stride(1024), 1040);
}

#define PARTS ((size_t)7)

struct tally {
    struct backend *backends[PARTS];
    size_t n_calls[PARTS];
    size_t failing; /* parts from this one on fail */
};

/* Uses the part's scratch, as an op does. */
static enum status count_part(void *context, size_t index, struct backend *part)
{
    struct tally *const tally = context;
    char *block = NULL;
    TRY(cpu_scratch_acquire(part, 1000 * (index + 1), 1, &block));
    memset(block, (int)index, 1000 * (index + 1));
    tally->n_calls[index]++;
    tally->backends[index] = part;
    cpu_scratch_release(part, block);
    if (index >= tally->failing) {
        return status_set(STATUS_NUMERICS, "part %zu", index);
    }
    return STATUS_OK;
}

static void every_part_runs_once_on_a_backend_of_its_own(void **state)
{
    (void)state;
    for (size_t n_threads = 1; n_threads <= 3; n_threads++) {
        struct backend *backend = NULL;
        struct tally tally = {.failing = PARTS};
        assert_ok(backend_open("auto", n_threads, &backend));
        assert_int_equal(backend->n_parts, n_threads);
        assert_ok(backend->ops->run_parts(backend, PARTS, count_part, &tally));
        for (size_t i = 0; i < PARTS; i++) {
            assert_int_equal(tally.n_calls[i], 1);
            assert_int_equal(tally.backends[i]->n_threads, 1);
            assert_int_equal(tally.backends[i]->n_parts, 1);
            assert_ptr_equal(tally.backends[i]->ops, backend->ops);
        }
        assert_int_equal(tally.backends[0] == tally.backends[1], n_threads == 1);
        backend_close(backend);
    }
}

static void the_first_part_that_fails_says_why(void **state)
{
    (void)state;
    for (size_t n_threads = 1; n_threads <= 3; n_threads++) {
        struct backend *backend = NULL;
        assert_ok(backend_open("auto", n_threads, &backend));
        for (size_t failing = 0; failing < PARTS; failing++) {
            struct tally tally = {.failing = failing};
            char want[] = "part 0";
            want[5] = (char)('0' + failing);
            assert_status(backend->ops->run_parts(backend, PARTS, count_part, &tally),
                          STATUS_NUMERICS, want);
        }
        struct tally tally = {.failing = PARTS};
        assert_ok(backend->ops->run_parts(backend, PARTS, count_part, &tally));
        backend_close(backend);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unknown_device_is_refused_with_what_there_is),
        cmocka_unit_test(every_instruction_set_has_one_numerics_id_and_every_op),
        cmocka_unit_test(no_thread_count_means_all_cores),
        cmocka_unit_test(open_survives_every_failed_allocation),
        cmocka_unit_test(device_memory_is_zeroed_and_keeps_what_is_uploaded),
        cmocka_unit_test(large_scratch_goes_back_and_comes_again),
        cmocka_unit_test(scratch_nests_and_stops_growing),
        cmocka_unit_test(scratch_survives_every_failed_allocation),
        cmocka_unit_test(every_part_runs_once_on_a_backend_of_its_own),
        cmocka_unit_test(the_first_part_that_fails_says_why),
        cmocka_unit_test(padded_strides_are_odd_numbers_of_lines),
    };
    return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
