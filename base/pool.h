/* Owns worker threads: one fork-join at a time, a bounded spin (about 1 ms) before anyone sleeps,
 * so that a busy machine is not burned and a quiet one answers in under a microsecond
 * (cpu.md 5.16). The caller is thread 0. */
#ifndef HONE_BASE_POOL_H
#define HONE_BASE_POOL_H

#include "base/status.h"

#include <stddef.h>

struct pool;

/* n_threads >= 1 in all, the caller's own included. Errors: NO_MEMORY, IO. */
MUST_CHECK enum status pool_create(size_t n_threads, struct pool **out);
void pool_destroy(struct pool *pool);
size_t pool_threads(const struct pool *pool);

/* One thread's share: called once a thread with its index; n_threads as in pool_create. */
typedef void pool_task(void *context, size_t thread_index, size_t n_threads);
/* Runs task on every thread and returns when all are done. Not re-entrant. */
void pool_run(struct pool *pool, pool_task *task, void *context);
/* Sense-reversing spin barrier for use inside a task. */
void pool_barrier(struct pool *pool, size_t thread_index);

/* [*begin, *end) of n items for thread i of n_threads: contiguous, sizes differ by at most one. */
void pool_share(size_t n, size_t thread_index, size_t n_threads, size_t *begin, size_t *end);

#endif
