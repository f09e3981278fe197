/* Owns the CPU backend: its threads and parts, and the memory functions of the op table. The ops
 * themselves are in simd/. */
#include "kernels/cpu/cpu_backend.h"

#include "base/memory.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/scratch_stack.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_ROOM 1024 /* of a status message that passes from a thread to the caller */

/* A part has no pool and no parts: all that it is asked for runs on the thread that asks. */
struct cpu_backend {
    struct backend base; /* first: a struct backend * is one of these */
    struct cpu_device device;
    struct pool *pool;
    struct cpu_part *parts; /* one a thread; NULL with one thread */
    struct scratch_stack scratch;
    bool is_rehearsing;
};

/* A thread's backend in run_parts, and the first of its parts that failed in the last run. */
struct cpu_part {
    struct cpu_backend cpu;
    size_t failed_index;
    enum status status;
    char message[MESSAGE_ROOM];
};

static struct cpu_backend *cpu_of(struct backend *backend)
{
    return (struct cpu_backend *)(void *)backend;
}

static size_t count_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return (size_t)CPU_COUNT(&set);
    }
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (size_t)n : 1;
}

static void init_backend(struct cpu_backend *cpu, const struct cpu_device *device, size_t n_threads)
{
    cpu->base = (struct backend){.ops = device->ops,
                                 .name = device->name,
                                 .numerics_ids = {"cpu-f32-1", "cpu-bf16-2", "cpu-fp8-2"},
                                 .n_threads = n_threads,
                                 .n_parts = n_threads,
                                 .is_host = true};
    cpu->device = *device;
}

static enum status create_threads(struct cpu_backend *cpu)
{
    const size_t n = cpu->base.n_threads;
    TRY(pool_create(n, &cpu->pool));
    if (n == 1) {
        return STATUS_OK;
    }
    TRY(memory_alloc(n, sizeof(*cpu->parts), &cpu->parts));
    for (size_t i = 0; i < n; i++) {
        init_backend(&cpu->parts[i].cpu, &cpu->device, 1);
    }
    return STATUS_OK;
}

enum status cpu_backend_open(const char *device, size_t n_threads, struct backend **out)
{
    struct cpu_device found;
    *out = NULL;
    TRY(cpu_device_find(device, &found));
    struct cpu_backend *cpu = NULL;
    TRY(memory_alloc(1, sizeof(*cpu), &cpu));
    init_backend(cpu, &found, n_threads == 0 ? count_cores() : n_threads);
    const enum status status = create_threads(cpu);
    if (status != STATUS_OK) {
        cpu_backend_close(&cpu->base);
        return status;
    }
    *out = &cpu->base;
    return STATUS_OK;
}

void cpu_backend_close(struct backend *backend)
{
    struct cpu_backend *cpu = cpu_of(backend);
    if (cpu == NULL) {
        return;
    }
    pool_destroy(cpu->pool);
    for (size_t i = 0; cpu->parts != NULL && i < cpu->base.n_threads; i++) {
        scratch_stack_dispose(&cpu->parts[i].cpu.scratch);
    }
    memory_free(cpu->parts);
    scratch_stack_dispose(&cpu->scratch);
    memory_free(cpu);
}

struct pool *cpu_pool(struct backend *backend)
{
    return cpu_of(backend)->pool;
}

void cpu_run(struct backend *backend, size_t work, pool_task *task, void *context)
{
    if (cpu_of(backend)->is_rehearsing) {
        return;
    }
    if (backend->n_threads == 1 || work < CPU_WORK_MIN) {
        task(context, 0, 1);
        return;
    }
    pool_run(cpu_of(backend)->pool, task, context);
}

struct parts_job {
    struct cpu_part *parts;
    backend_part *function;
    void *context;
    size_t n_parts;
};

/* Every n_threads-th part. The message is kept, since that of the thread belongs to the thread. */
static void parts_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct parts_job *const job = context;
    struct cpu_part *const part = &job->parts[thread_index];
    part->status = STATUS_OK;
    for (size_t i = thread_index; i < job->n_parts; i += n_threads) {
        const enum status status = job->function(job->context, i, &part->cpu.base);
        if (status != STATUS_OK && part->status == STATUS_OK) {
            part->status = status;
            part->failed_index = i;
            (void)snprintf(part->message, sizeof(part->message), "%s", status_message());
        }
    }
}

/* The status of the part with the lowest index that failed. */
static enum status first_failure(const struct cpu_backend *cpu)
{
    const struct cpu_part *failed = NULL;
    for (size_t i = 0; i < cpu->base.n_threads; i++) {
        const struct cpu_part *part = &cpu->parts[i];
        if (part->status != STATUS_OK &&
            (failed == NULL || part->failed_index < failed->failed_index)) {
            failed = part;
        }
    }
    return failed == NULL ? STATUS_OK : status_set(failed->status, "%s", failed->message);
}

static enum status run_alone(struct backend *backend, size_t n_parts, backend_part *function,
                             void *context)
{
    for (size_t i = 0; i < n_parts; i++) {
        TRY(function(context, i, backend));
    }
    return STATUS_OK;
}

enum status cpu_run_parts(struct backend *backend, size_t n_parts, backend_part *function,
                          void *context)
{
    struct cpu_backend *cpu = cpu_of(backend);
    struct parts_job job = {
        .parts = cpu->parts, .function = function, .context = context, .n_parts = n_parts};
    if (job.parts == NULL) {
        return run_alone(backend, n_parts, function, context);
    }
    if (cpu->is_rehearsing) {
        for (size_t i = 0; i < cpu->base.n_threads; i++) {
            parts_task(&job, i, cpu->base.n_threads);
        }
    } else {
        pool_run(cpu->pool, parts_task, &job);
    }
    return first_failure(cpu);
}

enum status cpu_scratch_acquire(struct backend *backend, size_t n, size_t size, void *out_pointer)
{
    return scratch_stack_acquire(&cpu_of(backend)->scratch, n, size, out_pointer);
}

void cpu_scratch_release(struct backend *backend, void *block)
{
    scratch_stack_release(&cpu_of(backend)->scratch, block);
}

void cpu_backend_rehearse(struct backend *backend, bool is_rehearsing)
{
    struct cpu_backend *cpu = cpu_of(backend);
    cpu->is_rehearsing = is_rehearsing;
    scratch_stack_settle(&cpu->scratch);
    for (size_t i = 0; cpu->parts != NULL && i < backend->n_threads; i++) {
        cpu->parts[i].cpu.is_rehearsing = is_rehearsing;
        scratch_stack_settle(&cpu->parts[i].cpu.scratch);
    }
}

void cpu_backend_rest(struct backend *backend)
{
    const struct cpu_backend *cpu = cpu_of(backend);
    scratch_stack_rest(&cpu->scratch);
    for (size_t i = 0; cpu->parts != NULL && i < backend->n_threads; i++) {
        scratch_stack_rest(&cpu->parts[i].cpu.scratch);
    }
}

size_t cpu_scratch_bytes(const struct backend *backend)
{
    const struct cpu_backend *cpu = (const struct cpu_backend *)(const void *)backend;
    size_t bytes = scratch_stack_bytes(&cpu->scratch);
    for (size_t i = 0; cpu->parts != NULL && i < backend->n_threads; i++) {
        bytes += scratch_stack_bytes(&cpu->parts[i].cpu.scratch);
    }
    return bytes;
}

size_t cpu_fma_burst(struct backend *backend, size_t n_rounds, float *sink)
{
    return cpu_of(backend)->device.fma_burst(n_rounds, sink);
}

size_t cpu_pair_burst(struct backend *backend, size_t n_rounds, float *sink)
{
    return cpu_of(backend)->device.pair_burst(n_rounds, sink);
}

float cpu_read_sum(struct backend *backend, const float *x, size_t n)
{
    return cpu_of(backend)->device.read_sum(x, n);
}

void cpu_math_map(struct backend *backend, enum cpu_math function, const float *x, float *y,
                  size_t n)
{
    cpu_of(backend)->device.math_map(function, x, y, n);
}

enum status cpu_alloc(struct backend *backend, size_t n, size_t size, void *out_pointer)
{
    (void)backend;
    return memory_alloc(n, size, out_pointer);
}

void cpu_release(struct backend *backend, void *block)
{
    (void)backend;
    memory_free(block);
}

void cpu_forget(struct backend *backend, void *device, size_t n)
{
    (void)backend;
    memory_forget(device, n);
}

enum status cpu_upload(struct backend *backend, void *device, const void *host, size_t n)
{
    (void)backend;
    memcpy(device, host, n);
    return STATUS_OK;
}

enum status cpu_download(struct backend *backend, void *host, const void *device, size_t n)
{
    (void)backend;
    memcpy(host, device, n);
    return STATUS_OK;
}

size_t cpu_padded_stride(size_t n)
{
    const size_t lines = (n + 15) / 16;
    return (lines | 1) * 16;
}
