/* Owns worker threads. A run is a new value of `start`; a worker that sees it runs the task and
 * moves its own `done` up to it. What one thread writes and another reads costs a cache line's way
 * between two cores, 0.1 to 0.4 us: so task and context travel with `start`, the context's lines
 * are asked for at once, and no line is written by two threads. Waiting is in two parts: a spin
 * bounded in time, then a futex. Who changes a word that others may sleep on wakes them only if
 * `n_sleeping` says that somebody does: the counter is raised before the futex checks the word, and
 * read after the word has changed, both sequentially consistent, so a wake-up is never missed and a
 * busy pool makes no system call.
 *
 * A pool of as many threads as there are processors binds its workers, one each. Threads that spin
 * and yield look idle to the kernel, which then leaves two of them on one processor for seconds:
 * half the speed. The caller is not bound (what it starts would inherit that); it is moved to its
 * own processor when a run finds it elsewhere. */
#include "base/pool.h"

#include "base/clock.h"
#include "base/memory.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_US 1000        /* then sleep: a core is lent for a millisecond, not longer */
#define SPINS_PER_CLOCK 256 /* reading the clock costs about as much as these */
/* A thread that yields to another program is gone for milliseconds, and all others wait for it:
 * where every thread can have a processor of its own, only long waits yield. */
#define KEEP_US 50
#define CACHE_LINE 64
#define CONTEXT_LINES 4 /* of a context, that a worker asks for before the task does */

/* A word that threads wait on, alone on its cache line but for what it announces. */
struct gate {
    _Alignas(CACHE_LINE) atomic_uint value;
    atomic_uint n_sleeping;
    pool_task *task; /* of a run's start */
    void *context;
};

struct worker {
    struct gate done; /* the last run that it has finished */
    struct pool *pool;
    size_t index;
    pthread_t thread;
};

struct pool {
    struct gate start; /* one more for each run */
    struct gate sense; /* one more each time the barrier opens */
    _Alignas(CACHE_LINE) atomic_uint n_arrived;
    int home; /* the caller's processor; worker i has the i-th after it */
    size_t n_threads;
    size_t n_started;       /* workers that exist */
    struct worker *workers; /* n_threads - 1 */
    cpu_set_t allowed;      /* of the caller when the pool was made */
    int64_t keep_us;        /* of a wait until it yields */
    atomic_bool is_ending;
    bool is_bound;
};

static void pause_core(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(atomic_uint *word, unsigned expected)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Waits until the gate's value is no longer `old`; false when the spin's time is over. */
static bool spin_while(const struct pool *pool, struct gate *gate, unsigned old)
{
    const int64_t begin_us = clock_now_us();
    int64_t spent_us = 0;

    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(&gate->value, memory_order_acquire) != old) {
                return true;
            }
            pause_core();
        }
        spent_us = clock_now_us() - begin_us;
        if (spent_us >= pool->keep_us) {
            (void)sched_yield(); /* whoever we wait for may want this core */
        }
    } while (spent_us < SPIN_US);
    return false;
}

static void wait_while(const struct pool *pool, struct gate *gate, unsigned old)
{
    if (atomic_load_explicit(&gate->value, memory_order_acquire) != old ||
        spin_while(pool, gate, old)) {
        return;
    }
    atomic_fetch_add(&gate->n_sleeping, 1);
    while (atomic_load(&gate->value) == old) {
        futex_wait(&gate->value, old);
    }
    atomic_fetch_sub(&gate->n_sleeping, 1);
}

/* Call after the gate's value changed. */
static void wake_sleepers(struct gate *gate)
{
    if (atomic_load(&gate->n_sleeping) > 0) {
        futex_wake_all(&gate->value);
    }
}

static void expect_context(const char *context)
{
    for (size_t i = 0; i < CONTEXT_LINES; i++) {
        __builtin_prefetch(context + i * CACHE_LINE);
    }
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    unsigned seen = 0;

    for (;;) {
        wait_while(pool, &pool->start, seen);
        seen++; /* the next run starts only after this one is done: none is skipped */
        if (atomic_load(&pool->is_ending)) {
            return NULL;
        }
        expect_context(pool->start.context);
        pool->start.task(pool->start.context, worker->index, pool->n_threads);
        atomic_store(&worker->done.value, seen);
        wake_sleepers(&worker->done);
    }
}

/* Signals are for the main thread: workers block all of them. */
static int start_worker(struct worker *worker)
{
    sigset_t all;
    sigset_t old;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    const int reason = pthread_create(&worker->thread, NULL, worker_main, worker);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return reason;
}

static enum status start_workers(struct pool *pool)
{
    for (size_t i = 0; i + 1 < pool->n_threads; i++) {
        pool->workers[i].pool = pool;
        pool->workers[i].index = i + 1;
        const int reason = start_worker(&pool->workers[i]);
        if (reason != 0) {
            return status_set(STATUS_IO, "cannot start thread %zu of %zu: %s", i + 1,
                              pool->n_threads, strerror(reason));
        }
        pool->n_started++;
    }
    return STATUS_OK;
}

/* The n-th processor of a set. */
static int nth_processor(const cpu_set_t *set, size_t n)
{
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (CPU_ISSET((size_t)i, set) && n-- == 0) {
            return i;
        }
    }
    return -1;
}

/* What the workers go by: before they start. */
static void find_processors(struct pool *pool)
{
    const bool is_known = sched_getaffinity(0, sizeof(pool->allowed), &pool->allowed) == 0;
    const size_t n_processors = is_known ? (size_t)CPU_COUNT(&pool->allowed) : 0;
    pool->is_bound = pool->n_threads > 1 && n_processors == pool->n_threads;
    pool->keep_us = pool->n_threads <= n_processors ? KEEP_US : 0;
}

/* Without the right to bind, or with fewer threads than processors, the kernel decides. */
static void bind_workers(struct pool *pool)
{
    for (size_t i = 0; pool->is_bound && i < pool->n_started; i++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET((size_t)nth_processor(&pool->allowed, i + 1), &one);
        pool->is_bound = pthread_setaffinity_np(pool->workers[i].thread, sizeof(one), &one) == 0;
    }
    pool->home = pool->is_bound ? nth_processor(&pool->allowed, 0) : -1;
}

/* Two calls: there, and free again. A failure leaves the caller where it is, which is only slower.
 */
static void go_home(const struct pool *pool)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)pool->home, &one);
    (void)sched_setaffinity(0, sizeof(one), &one);
    (void)sched_setaffinity(0, sizeof(pool->allowed), &pool->allowed);
}

enum status pool_create(size_t n_threads, struct pool **out)
{
    struct pool *pool;
    enum status status = STATUS_OK;

    *out = NULL;
    if (n_threads == 0 || n_threads > UINT_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "a pool of %zu threads: want at least 1", n_threads);
    }
    TRY(memory_alloc(1, sizeof(*pool), &pool));
    pool->n_threads = n_threads;
    status = memory_alloc(n_threads - 1, sizeof(*pool->workers), &pool->workers);
    if (status == STATUS_OK) {
        find_processors(pool);
        status = start_workers(pool);
    }
    if (status != STATUS_OK) {
        pool_destroy(pool);
        return status;
    }
    bind_workers(pool);
    *out = pool;
    return STATUS_OK;
}

void pool_destroy(struct pool *pool)
{
    if (pool == NULL) {
        return;
    }
    atomic_store(&pool->is_ending, true);
    atomic_fetch_add(&pool->start.value, 1);
    wake_sleepers(&pool->start);
    for (size_t i = 0; i < pool->n_started; i++) {
        (void)pthread_join(pool->workers[i].thread, NULL); /* fails only for what is no thread */
    }
    memory_free(pool->workers);
    memory_free(pool);
}

size_t pool_threads(const struct pool *pool)
{
    return pool->n_threads;
}

void pool_run(struct pool *pool, pool_task *task, void *context)
{
    if (pool->n_threads == 1) {
        task(context, 0, 1);
        return;
    }
    if (pool->is_bound && sched_getcpu() != pool->home) {
        go_home(pool);
    }
    pool->start.task = task;
    pool->start.context = context;
    const unsigned before = atomic_fetch_add(&pool->start.value, 1); /* publishes the lines above */
    wake_sleepers(&pool->start);
    task(context, 0, pool->n_threads);
    for (size_t i = 0; i + 1 < pool->n_threads; i++) {
        wait_while(pool, &pool->workers[i].done, before);
    }
}

void pool_barrier(struct pool *pool, size_t thread_index)
{
    (void)thread_index;
    if (pool->n_threads == 1) {
        return;
    }
    const unsigned sense = atomic_load_explicit(&pool->sense.value, memory_order_relaxed);
    if (atomic_fetch_add(&pool->n_arrived, 1) + 1 == (unsigned)pool->n_threads) {
        atomic_store_explicit(&pool->n_arrived, 0, memory_order_relaxed);
        atomic_fetch_add(&pool->sense.value, 1); /* publishes the line above and all work before */
        wake_sleepers(&pool->sense);
        return;
    }
    wait_while(pool, &pool->sense, sense);
}

void pool_share(size_t n, size_t thread_index, size_t n_threads, size_t *begin, size_t *end)
{
    const size_t quotient = n / n_threads;
    const size_t rest = n % n_threads;

    *begin = thread_index * quotient + (thread_index < rest ? thread_index : rest);
    *end = *begin + quotient + (thread_index < rest ? 1 : 0);
}
