/* Owns what the CPU's kernels share beyond their arguments: the threads, the scratch memory and the
 * memory functions of the op table. Only kernels/ includes
 * this. */
#ifndef HONE_KERNELS_CPU_CPU_BACKEND_H
#define HONE_KERNELS_CPU_CPU_BACKEND_H

#include "base/pool.h"
#include "base/status.h"
#include "kernels/backend.h"

#include <stddef.h>

/* Below this much work a fork-join costs more than it saves: about 3 us of one thread. It takes 0.5
 * us, and the lines of arguments, rows and results that cross between cores as much again or more;
 * rows that one thread keeps need not cross. */
#define CPU_WORK_MIN ((size_t)131072)

/* device: as backend_open, without what is not a CPU. Errors: UNSUPPORTED, NO_MEMORY, IO. */
MUST_CHECK enum status cpu_backend_open(const char *device, size_t n_threads, struct backend **out);
void cpu_backend_close(struct backend *backend);
/* As backend_rehearse, backend_rest and backend_scratch_bytes. */
void cpu_backend_rehearse(struct backend *backend, bool is_rehearsing);
void cpu_backend_rest(struct backend *backend);
size_t cpu_scratch_bytes(const struct backend *backend);

struct pool *cpu_pool(struct backend *backend);

/* Runs task on every thread, or on the caller alone as thread 0 of 1 if work < CPU_WORK_MIN; while
 * the backend rehearses, not at all. A task must give the same bits for any number of threads. All
 * that an op does with the numbers it is given, it does in tasks. */
void cpu_run(struct backend *backend, size_t work, pool_task *task, void *context);

/* A block of n * size bytes of the backend's scratch stack, 64-byte aligned, contents undefined.
 * Acquired and released last in, first out, by the calling thread between pool runs (never inside a
 * task: acquire once and share it out). Grows on demand and keeps what it has, so a steady state
 * allocates nothing. Errors: NO_MEMORY. */
MUST_CHECK enum status cpu_scratch_acquire(struct backend *backend, size_t n, size_t size,
                                           void *out_pointer);
void cpu_scratch_release(struct backend *backend, void *block);

/* Register-only FMA work of the calling thread, for measuring the peak: returns the flop done.
 * *sink is read and written. */
size_t cpu_fma_burst(struct backend *backend, size_t n_rounds, float *sink);
/* The same with products of bfloat16 pairs. */
size_t cpu_pair_burst(struct backend *backend, size_t n_rounds, float *sink);

/* Reads n floats on the calling thread, for measuring memory; returns about their sum. */
float cpu_read_sum(struct backend *backend, const float *x, size_t n);

/* y[i] = function of x[i] (simd/simd_math.h) on the calling thread; in place is legal. */
enum cpu_math { CPU_MATH_EXP, CPU_MATH_LOG, CPU_MATH_SIGMOID, CPU_MATH_SILU };
void cpu_math_map(struct backend *backend, enum cpu_math function, const float *x, float *y,
                  size_t n);

/* Entries of the op table. */
enum status cpu_alloc(struct backend *backend, size_t n, size_t size, void *out_pointer);
void cpu_release(struct backend *backend, void *block);
void cpu_forget(struct backend *backend, void *device, size_t n);
enum status cpu_upload(struct backend *backend, void *device, const void *host, size_t n);
enum status cpu_download(struct backend *backend, void *host, const void *device, size_t n);
enum status cpu_run_parts(struct backend *backend, size_t n_parts, backend_part *function,
                          void *context);

/* Row stride, in floats, for rows of n: whole cache lines, an odd number of them, so that rows do
 * not meet in the same sets of the first cache. */
size_t cpu_padded_stride(size_t n);

#endif
