/* Owns the CPU backend: which instruction set is used, its threads, scratch memory and the memory
 * functions of the op table. The ops themselves are in simd/. */
#include "kernels/cpu/cpu_backend.h"

#include "base/memory.h"

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern const struct backend_ops cpu_ops_avx512bf16;
extern const struct backend_ops cpu_ops_avx512;
extern const struct backend_ops cpu_ops_avx2;
extern const struct backend_ops cpu_ops_portable;

typedef size_t burst_function(size_t n_rounds, float *sink);
burst_function fma_burst_avx512bf16, fma_burst_avx512, fma_burst_avx2, fma_burst_portable;
burst_function pair_burst_avx512bf16, pair_burst_avx512, pair_burst_avx2, pair_burst_portable;
typedef float read_function(const float *x, size_t n);
read_function read_sum_avx512bf16, read_sum_avx512, read_sum_avx2, read_sum_portable;
typedef void math_function(enum cpu_math function, const float *x, float *y, size_t n);
math_function math_map_avx512bf16, math_map_avx512, math_map_avx2, math_map_portable;

/* Blocks that one op and those it calls acquire at a time. */
#define N_SLABS_MAX 32
#define SLAB_BYTES_MIN ((size_t)1 << 18) /* untouched, it costs addresses alone */
#define ALIGNMENT ((size_t)64)
#define MESSAGE_ROOM 1024 /* of a status message that passes from a thread to the caller */

/* Blocks are stacked in data from the bottom; used counts bytes. */
struct slab {
    char *data;
    size_t bytes, used;
};

/* An instruction set: what it is called and what it brings. */
struct cpu_device {
    const char *name;
    const struct backend_ops *ops;
    burst_function *fma_burst, *pair_burst;
    math_function *math_map;
    read_function *read_sum;
};

/* A part has no pool and no parts: all that it is asked for runs on the thread that asks. */
struct cpu_backend {
    struct backend base; /* first: a struct backend * is one of these */
    struct cpu_device device;
    struct pool *pool;
    struct cpu_part *parts; /* one a thread; NULL with one thread */
    struct slab slabs[N_SLABS_MAX];
    size_t n_slabs, most_bytes; /* most_bytes: the most that was in use at a time */
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

#define N_DEVICES_MAX 4
#define DEVICE(isa)                                                                                \
    ((struct cpu_device){"cpu-" #isa, &cpu_ops_##isa, fma_burst_##isa, pair_burst_##isa,           \
                         math_map_##isa, read_sum_##isa})

/* Fastest first. The table's order decides what "auto" takes. */
static size_t list_devices(struct cpu_device out[N_DEVICES_MAX])
{
    size_t n = 0;
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_avx512 =
        has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (has_avx512 && __builtin_cpu_supports("avx512bf16") &&
        __builtin_cpu_supports("avx512vbmi")) {
        out[n++] = DEVICE(avx512bf16);
    }
    if (has_avx512) {
        out[n++] = DEVICE(avx512);
    }
    if (has_avx2) {
        out[n++] = DEVICE(avx2);
    }
    out[n++] = DEVICE(portable);
    return n;
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

static enum status unknown_device(const char *device, const struct cpu_device *devices, size_t n)
{
    const char *names[N_DEVICES_MAX] = {"", "", "", ""};
    for (size_t i = 0; i < n; i++) {
        names[i] = devices[i].name;
    }
    return status_set(STATUS_UNSUPPORTED, "no device %s here; there is auto, cpu, %s %s %s %s",
                      device, names[0], names[1], names[2], names[3]);
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
    struct cpu_device devices[N_DEVICES_MAX];
    const size_t n = list_devices(devices);
    const bool is_any = strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0;
    size_t i = 0;
    *out = NULL;
    while (!is_any && i < n && strcmp(device, devices[i].name) != 0) {
        i++;
    }
    if (i == n) {
        return unknown_device(device, devices, n);
    }
    struct cpu_backend *cpu = NULL;
    TRY(memory_alloc(1, sizeof(*cpu), &cpu));
    init_backend(cpu, &devices[i], n_threads == 0 ? count_cores() : n_threads);
    const enum status status = create_threads(cpu);
    if (status != STATUS_OK) {
        cpu_backend_close(&cpu->base);
        return status;
    }
    *out = &cpu->base;
    return STATUS_OK;
}

static void release_slabs(struct cpu_backend *cpu)
{
    for (size_t i = 0; i < cpu->n_slabs; i++) {
        memory_free(cpu->slabs[i].data);
    }
}

void cpu_backend_close(struct backend *backend)
{
    struct cpu_backend *cpu = cpu_of(backend);
    if (cpu == NULL) {
        return;
    }
    pool_destroy(cpu->pool);
    for (size_t i = 0; cpu->parts != NULL && i < cpu->base.n_threads; i++) {
        release_slabs(&cpu->parts[i].cpu);
    }
    memory_free(cpu->parts);
    release_slabs(cpu);
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

static size_t bytes_in_use(const struct cpu_backend *cpu)
{
    size_t bytes = 0;
    for (size_t i = 0; i < cpu->n_slabs; i++) {
        bytes += cpu->slabs[i].used;
    }
    return bytes;
}

/* With nothing in use, several slabs, or one that is too small, become one of the most that was
 * ever in use, so that the next round of the same requests fits without growing. */
static void forget_small_slabs(struct cpu_backend *cpu, size_t *bytes_wanted)
{
    const bool fits = cpu->n_slabs == 1 && cpu->slabs[0].bytes >= *bytes_wanted;
    if (cpu->n_slabs == 0 || fits || bytes_in_use(cpu) > 0) {
        return;
    }
    release_slabs(cpu);
    cpu->n_slabs = 0;
    if (*bytes_wanted < cpu->most_bytes) {
        *bytes_wanted = cpu->most_bytes;
    }
    *bytes_wanted += *bytes_wanted / 4;
}

/* The topmost slab that holds something, or the bottom one. */
static size_t top_slab(const struct cpu_backend *cpu)
{
    size_t i = cpu->n_slabs;
    while (i > 1 && cpu->slabs[i - 1].used == 0) {
        i--;
    }
    return i == 0 ? 0 : i - 1;
}

static enum status add_slab(struct cpu_backend *cpu, size_t bytes)
{
    /* The next step's rows are seldom as many. */
    const size_t room = bytes < SIZE_MAX / 2 ? bytes + bytes / 8 : bytes;
    const size_t wanted = room > SLAB_BYTES_MIN ? room : SLAB_BYTES_MIN;
    if (cpu->n_slabs == N_SLABS_MAX) {
        return status_set(STATUS_NO_MEMORY, "kernel scratch: %zu more bytes do not fit", bytes);
    }
    struct slab *slab = &cpu->slabs[cpu->n_slabs];
    TRY(memory_alloc(wanted, 1, &slab->data));
    slab->bytes = wanted;
    slab->used = 0;
    cpu->n_slabs++;
    return STATUS_OK;
}

enum status cpu_scratch_acquire(struct backend *backend, size_t n, size_t size, void *out_pointer)
{
    struct cpu_backend *cpu = cpu_of(backend);
    size_t bytes = 0;
    void *block = NULL;
    memcpy(out_pointer, &block, sizeof(block));
    if (!size_multiply(n, size, &bytes) || !size_add(bytes, 2 * ALIGNMENT, &bytes)) {
        return status_set(STATUS_NO_MEMORY, "kernel scratch: %zu items of %zu bytes", n, size);
    }
    bytes -= bytes % ALIGNMENT; /* never 0, so that used > 0 means in use */
    size_t slab_bytes = bytes;
    forget_small_slabs(cpu, &slab_bytes);
    size_t i = top_slab(cpu);
    while (i < cpu->n_slabs && cpu->slabs[i].bytes - cpu->slabs[i].used < bytes) {
        i++;
    }
    if (i == cpu->n_slabs) {
        TRY(add_slab(cpu, slab_bytes));
    }
    struct slab *slab = &cpu->slabs[i];
    block = slab->data + slab->used;
    slab->used += bytes;
    const size_t in_use = bytes_in_use(cpu);
    cpu->most_bytes = in_use > cpu->most_bytes ? in_use : cpu->most_bytes;
    memcpy(out_pointer, &block, sizeof(block));
    return STATUS_OK;
}

void cpu_scratch_release(struct backend *backend, void *block)
{
    struct cpu_backend *cpu = cpu_of(backend);
    if (block == NULL) {
        return;
    }
    struct slab *slab = &cpu->slabs[top_slab(cpu)];
    assert((char *)block >= slab->data && (char *)block < slab->data + slab->used);
    slab->used = (size_t)((char *)block - slab->data);
}

/* What a rehearsal took becomes one slab; without memory for it the next op asks again. */
static void settle(struct cpu_backend *cpu)
{
    void *block = NULL;
    if (cpu->most_bytes > 0 && cpu_scratch_acquire(&cpu->base, 1, ALIGNMENT, &block) == STATUS_OK) {
        cpu_scratch_release(&cpu->base, block);
    }
}

void cpu_backend_rehearse(struct backend *backend, bool is_rehearsing)
{
    struct cpu_backend *cpu = cpu_of(backend);
    cpu->is_rehearsing = is_rehearsing;
    settle(cpu);
    for (size_t i = 0; cpu->parts != NULL && i < backend->n_threads; i++) {
        cpu->parts[i].cpu.is_rehearsing = is_rehearsing;
        settle(&cpu->parts[i].cpu);
    }
}

static void rest_slabs(const struct cpu_backend *cpu)
{
    for (size_t i = 0; i < cpu->n_slabs; i++) {
        if (cpu->slabs[i].bytes >= MEMORY_HUGE_BYTES) {
            memory_forget(cpu->slabs[i].data, cpu->slabs[i].bytes);
        }
    }
}

void cpu_backend_rest(struct backend *backend)
{
    const struct cpu_backend *cpu = cpu_of(backend);
    rest_slabs(cpu);
    for (size_t i = 0; cpu->parts != NULL && i < backend->n_threads; i++) {
        rest_slabs(&cpu->parts[i].cpu);
    }
}

static size_t slab_bytes(const struct cpu_backend *cpu)
{
    size_t bytes = 0;
    for (size_t i = 0; i < cpu->n_slabs; i++) {
        bytes += cpu->slabs[i].bytes;
    }
    return bytes;
}

size_t cpu_scratch_bytes(const struct backend *backend)
{
    const struct cpu_backend *cpu = (const struct cpu_backend *)(const void *)backend;
    size_t bytes = slab_bytes(cpu);
    for (size_t i = 0; cpu->parts != NULL && i < backend->n_threads; i++) {
        bytes += slab_bytes(&cpu->parts[i].cpu);
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
