/* The thread pool: everyone takes part once, nothing is lost between runs, sleepers wake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/pool.h"
#include "tests/support/support.h"

#include <stdatomic.h>
#include <string.h>

#define THREADS_MAX 5u

struct tally {
    atomic_uint n_calls[THREADS_MAX];
    size_t n_threads;
};

static void count_call(void *context, size_t thread_index, size_t n_threads)
{
    struct tally *tally = context;

    tally->n_threads = n_threads == tally->n_threads ? n_threads : 0;
    atomic_fetch_add(&tally->n_calls[thread_index], 1);
}

static void count_only(void *context, size_t thread_index, size_t n_threads)
{
    struct tally *tally = context;

    (void)n_threads;
    atomic_fetch_add(&tally->n_calls[thread_index], 1);
}

static void every_thread_runs_every_task_once(void **state)
{
    (void)state;
    for (size_t n = 1; n <= THREADS_MAX; n++) {
        struct tally tally = {.n_threads = n};
        struct pool *pool;
        assert_ok(pool_create(n, &pool));
        assert_int_equal(pool_threads(pool), n);
        for (unsigned run = 1; run <= 200; run++) {
            pool_run(pool, count_only, &tally);
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(atomic_load(&tally.n_calls[i]), run);
            }
        }
        pool_destroy(pool);
    }
    pool_destroy(NULL);
}

static void a_pool_of_one_runs_on_the_caller(void **state)
{
    struct tally tally = {.n_threads = 1};
    struct pool *pool;

    (void)state;
    assert_ok(pool_create(1, &pool));
    pool_run(pool, count_call, &tally);
    assert_int_equal(tally.n_threads, 1);
    pool_barrier(pool, 0);
    pool_destroy(pool);
    assert_status(pool_create(0, &pool), STATUS_BAD_ARGUMENT, NULL);
    assert_null(pool);
}

static void sleeping_workers_wake_up(void **state)
{
    struct tally tally = {.n_threads = 3};
    struct pool *pool;

    (void)state;
    assert_ok(pool_create(3, &pool));
    for (unsigned run = 1; run <= 5; run++) {
        clock_sleep_us(4000); /* longer than the spin */
        pool_run(pool, count_only, &tally);
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(atomic_load(&tally.n_calls[i]), run);
        }
    }
    clock_sleep_us(4000);
    pool_destroy(pool);
}

static void wait_unevenly(void *context, size_t thread_index, size_t n_threads)
{
    struct tally *tally = context;

    (void)n_threads;
    clock_sleep_us(thread_index == 2 ? 5000 : 0); /* the caller sleeps too, waiting for this one */
    atomic_fetch_add(&tally->n_calls[thread_index], 1);
}

static void a_run_ends_after_its_slowest_thread(void **state)
{
    struct tally tally = {.n_threads = 3};
    struct pool *pool;

    (void)state;
    assert_ok(pool_create(3, &pool));
    for (unsigned run = 1; run <= 3; run++) {
        pool_run(pool, wait_unevenly, &tally);
        assert_int_equal(atomic_load(&tally.n_calls[2]), run);
    }
    pool_destroy(pool);
}

#define PHASES 300u

struct phases {
    struct pool *pool;
    unsigned written[2][THREADS_MAX]; /* plain: the barrier orders them */
    atomic_uint n_wrong;
};

static void check_phases(void *context, size_t thread_index, size_t n_threads)
{
    struct phases *phases = context;

    for (unsigned phase = 0; phase < PHASES; phase++) {
        phases->written[phase % 2][thread_index] = phase;
        pool_barrier(phases->pool, thread_index);
        for (size_t i = 0; i < n_threads; i++) {
            if (phases->written[phase % 2][i] != phase) {
                atomic_fetch_add(&phases->n_wrong, 1);
            }
        }
    }
    pool_barrier(phases->pool, thread_index);
}

static void nobody_passes_a_barrier_early(void **state)
{
    (void)state;
    for (size_t n = 2; n <= 4; n++) {
        struct phases phases = {.pool = NULL};
        assert_ok(pool_create(n, &phases.pool));
        pool_run(phases.pool, check_phases, &phases);
        pool_run(phases.pool, check_phases, &phases);
        assert_int_equal(atomic_load(&phases.n_wrong), 0);
        pool_destroy(phases.pool);
    }
}

static void shares_cover_everything_once_and_evenly(void **state)
{
    (void)state;
    for (size_t n = 0; n < 40; n++) {
        for (size_t n_threads = 1; n_threads < 9; n_threads++) {
            size_t expected = 0;
            for (size_t i = 0; i < n_threads; i++) {
                size_t begin, end;
                pool_share(n, i, n_threads, &begin, &end);
                assert_int_equal(begin, expected);
                assert_true(end - begin == n / n_threads || end - begin == n / n_threads + 1);
                expected = end;
            }
            assert_int_equal(expected, n);
        }
    }
}

static enum status build_pool(void *context)
{
    struct pool *pool;

    (void)context;
    TRY(pool_create(3, &pool));
    pool_destroy(pool);
    return STATUS_OK;
}

static void short_memory_is_reported_at_every_point(void **state)
{
    (void)state;
    assert_int_equal(support_fail_allocations(build_pool, NULL), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_every_task_once),
        cmocka_unit_test(a_pool_of_one_runs_on_the_caller),
        cmocka_unit_test(sleeping_workers_wake_up),
        cmocka_unit_test(a_run_ends_after_its_slowest_thread),
        cmocka_unit_test(nobody_passes_a_barrier_early),
        cmocka_unit_test(shares_cover_everything_once_and_evenly),
        cmocka_unit_test(short_memory_is_reported_at_every_point),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
