/* The most that a run took at one moment, from looks that are given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/process.h"
#include "cli/run_memory.h"
#include "tests/support/support.h"

#include <string.h>
#include <unistd.h>

#define SECOND ((int64_t)1000000)
#define MIB ((uint64_t)1 << 20)

/* One look at second_us that takes cost_us: a trainer and n workers. */
static void look(struct run_memory *memory, int64_t at_us, uint64_t trainer_mib,
                 uint64_t worker_mib, size_t n_workers)
{
    run_memory_look(memory, at_us);
    run_memory_add(memory, MEMORY_TRAINER, trainer_mib * MIB, true);
    for (size_t i = 0; i < n_workers; i++) {
        run_memory_add(memory, MEMORY_WORKERS, worker_mib * MIB, true);
    }
    run_memory_looked(memory, at_us + 10);
}

static void the_peak_is_one_moment_not_a_sum_of_peaks(void **state)
{
    struct run_memory memory;
    char text[256];

    (void)state;
    run_memory_begin(&memory, SECOND);
    look(&memory, 2 * SECOND, 900, 100, 2);
    look(&memory, 36 * SECOND, 800, 300, 2);
    look(&memory, 40 * SECOND, 1000, 50, 1);
    assert_int_equal(memory_moment_bytes(&memory.peak), 1400 * MIB);
    assert_string_equal(run_memory_text(&memory, text, sizeof(text)),
                        "at most 1400 MiB at once: trainer 800, 2 workers 600 (after 35s)");
    struct json *const object = run_memory_json(&memory);
    assert_true(json_number(json_get(object, "memory_peak_bytes"), 0) == (double)(1400 * MIB));
    assert_true(json_number(json_get(object, "workers_bytes"), 0) == (double)(600 * MIB));
    assert_true(json_number(json_get(object, "scorers_bytes"), 1) == 0);
    assert_true(json_number(json_get(object, "memory_peak_s"), 0) == 35.0);
    json_destroy(object);
}

static void without_a_look_there_is_nothing_to_tell(void **state)
{
    struct run_memory memory;
    char text[256];

    (void)state;
    run_memory_begin(&memory, 0);
    assert_string_equal(run_memory_text(&memory, text, sizeof(text)), "");
    assert_null(run_memory_json(&memory));
}

static void resident_sets_are_told_as_such(void **state)
{
    struct run_memory memory;
    char text[256];

    (void)state;
    run_memory_begin(&memory, 0);
    run_memory_look(&memory, SECOND / 2);
    run_memory_add(&memory, MEMORY_WORKERS, 10 * MIB, false);
    run_memory_looked(&memory, SECOND / 2);
    assert_string_equal(
        run_memory_text(&memory, text, sizeof(text)),
        "at most 10 MiB at once: worker 10 (after 0.5s; shared pages counted in each process)");
}

static void dear_looks_are_rare(void **state)
{
    static const struct {
        int64_t cost_us, wait_us;
    } cases[] = {{0, 50000}, {250, 50000}, {1000, 200000}, {5000, SECOND}, {80000, SECOND}};
    struct run_memory memory;

    (void)state;
    run_memory_begin(&memory, SECOND);
    assert_true(run_memory_is_due(&memory, SECOND));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        run_memory_look(&memory, 2 * SECOND);
        const int64_t end_us = 2 * SECOND + cases[i].cost_us;
        run_memory_looked(&memory, end_us);
        assert_false(run_memory_is_due(&memory, end_us + cases[i].wait_us - 1));
        assert_true(run_memory_is_due(&memory, end_us + cases[i].wait_us));
    }
}

static void a_scorer_and_what_it_starts_are_counted(void **state)
{
    static const char *const argv[] = {"sh", "-c", "sh -c 'sleep 10; :' & sleep 10", NULL};
    const struct process_options options = {.argv = argv};
    const int64_t deadline_us = clock_now_us() + 5000000;
    struct run_memory memory;
    struct process shell;
    uint64_t one = 0;

    (void)state;
    if (access("/proc/thread-self/children", R_OK) != 0) {
        skip();
    }
    assert_ok(process_start(&options, &shell));
    run_memory_begin(&memory, 0);
    do { /* the shell, its two children and one of theirs: four processes of some 100 KiB */
        run_memory_look(&memory, 0);
        run_memory_add_process(&memory, MEMORY_REWARD, shell.pid);
        run_memory_add_descendants(&memory, MEMORY_SCORERS, getpid());
        one = memory.now.bytes[MEMORY_REWARD];
        clock_sleep_us(2000);
    } while (memory.now.bytes[MEMORY_SCORERS] < 3 * one && clock_now_us() < deadline_us);
    process_stop(&shell, 0);
    assert_true(one > 0);
    assert_in_range(memory.now.bytes[MEMORY_SCORERS], 3 * one, 6 * one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_peak_is_one_moment_not_a_sum_of_peaks),
        cmocka_unit_test(without_a_look_there_is_nothing_to_tell),
        cmocka_unit_test(resident_sets_are_told_as_such),
        cmocka_unit_test(dear_looks_are_rare),
        cmocka_unit_test(a_scorer_and_what_it_starts_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
