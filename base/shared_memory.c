/* A sealed memfd behind an aligned mapping. The kernel gives shared memory no huge pages by itself
 * in most settings ("never" in /sys/kernel/mm/transparent_hugepage/shmem_enabled), but collapses a
 * range into them when told so, cheapest while one byte of each is there. */
#include "base/shared_memory.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)1 << 21)
#define SMALL_PAGE ((size_t)4096)
#define HUGE_FROM ((size_t)1 << 25) /* with less, what the last page wastes is worth more */
#define OWNER_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static const char magic[8] = "honeshm1";

struct header {
    char magic[sizeof(magic)];
    uint64_t n_bytes;
    unsigned char nonce[SHARED_MEMORY_NONCE];
    _Atomic int64_t version;
};

struct shared_memory {
    struct shared_memory_name name;
    struct header *header; /* where the mapping begins */
    size_t n_mapped;
    int fd;
    bool is_owner;
};

static atomic_size_t live_bytes;

size_t shared_memory_bytes(void)
{
    return atomic_load_explicit(&live_bytes, memory_order_relaxed);
}

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

/* Bytes of the file for n_bytes of data: whole pages of the size that is hoped for. */
static bool file_bytes(size_t n_bytes, size_t *out)
{
    if (n_bytes > (size_t)PTRDIFF_MAX - 2 * HUGE_PAGE) {
        return false;
    }
    *out = SHARED_MEMORY_AT + round_up(n_bytes, n_bytes >= HUGE_FROM ? HUGE_PAGE : SMALL_PAGE);
    return true;
}

/* Maps n bytes of the file from a border of 2 MiB on; NULL and errno when it cannot be. */
static void *map_aligned(int fd, size_t n, int protection)
{
    const size_t n_reserved = n + HUGE_PAGE;
    char *reserved =
        mmap(NULL, n_reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (reserved == MAP_FAILED) {
        return NULL;
    }
    const size_t n_before = round_up((uintptr_t)reserved, HUGE_PAGE) - (uintptr_t)reserved;
    char *const begin = reserved + n_before;
    const size_t n_used = round_up(n, SMALL_PAGE);
    void *mapped = mmap(begin, n, protection, MAP_SHARED | MAP_FIXED, fd, 0);

    if (mapped == MAP_FAILED) {
        (void)munmap(reserved, n_reserved);
        return NULL;
    }
    if (n_before > 0) {
        (void)munmap(reserved, n_before);
    }
    if (n_reserved - n_before > n_used) {
        (void)munmap(begin + n_used, n_reserved - n_before - n_used);
    }
    return mapped;
}

/* Every page of the data, large ones if the kernel has them. */
static bool take_pages(struct shared_memory *memory)
{
    volatile char *data = shared_memory_data(memory);
    const size_t n = memory->n_mapped - SHARED_MEMORY_AT;

    if (n == 0) {
        return true;
    }
    if (n >= HUGE_FROM) {
        for (size_t i = 0; i < n; i += HUGE_PAGE) {
            data[i] = 0; /* what is empty does not collapse */
        }
        (void)madvise(shared_memory_data(memory), n, MADV_COLLAPSE); /* only faster */
    }
    /* A kernel before 5.14 does not know the advice, and takes them when they are written. */
    return madvise(shared_memory_data(memory), n, MADV_POPULATE_WRITE) == 0 || errno == EINVAL;
}

static enum status fill(struct shared_memory *memory, size_t n_file)
{
    if (ftruncate(memory->fd, (off_t)n_file) != 0) {
        return status_set(STATUS_NO_MEMORY, "no shared memory of %zu bytes: %s", n_file,
                          strerror(errno));
    }
    memory->header = map_aligned(memory->fd, n_file, PROT_READ | PROT_WRITE);
    if (memory->header == NULL) {
        return status_set(STATUS_NO_MEMORY, "cannot map %zu bytes of shared memory: %s", n_file,
                          strerror(errno));
    }
    memory->n_mapped = n_file;
    /* Nobody else may write; a kernel before 5.1 cannot promise that, and readers do not try. */
    if (fcntl(memory->fd, F_ADD_SEALS, OWNER_SEALS | F_SEAL_FUTURE_WRITE) != 0 &&
        fcntl(memory->fd, F_ADD_SEALS, OWNER_SEALS) != 0) {
        return status_set(STATUS_UNSUPPORTED, "cannot seal shared memory: %s", strerror(errno));
    }
    if (!take_pages(memory)) {
        return status_set(STATUS_NO_MEMORY, "no shared memory of %zu bytes: %s", n_file,
                          strerror(errno));
    }
    return STATUS_OK;
}

static enum status write_header(struct shared_memory *memory)
{
    struct header *header = memory->header;
    struct shared_memory_name *name = &memory->name;

    if (getrandom(name->nonce, sizeof(name->nonce), 0) != (ssize_t)sizeof(name->nonce)) {
        return status_set(STATUS_UNSUPPORTED, "no random bytes: %s", strerror(errno));
    }
    name->pid = getpid();
    name->fd = memory->fd;
    header->n_bytes = name->n_bytes;
    memcpy(header->nonce, name->nonce, sizeof(header->nonce));
    memcpy(header->magic, magic, sizeof(magic));
    shared_memory_set_version(memory, -1);
    return STATUS_OK;
}

static enum status create(size_t n_bytes, struct shared_memory *memory)
{
    size_t n_file;

    if (!file_bytes(n_bytes, &n_file)) {
        return status_set(STATUS_NO_MEMORY, "%zu bytes exceed the address space", n_bytes);
    }
    memory->fd = memfd_create("hone", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory->fd < 0) {
        return status_set(STATUS_UNSUPPORTED, "no shared memory here: %s", strerror(errno));
    }
    TRY(fill(memory, n_file));
    TRY(write_header(memory));
    memory->is_owner = true;
    atomic_fetch_add_explicit(&live_bytes, n_bytes, memory_order_relaxed);
    return STATUS_OK;
}

static enum status begin(size_t n_bytes, struct shared_memory **out)
{
    TRY(memory_alloc(1, sizeof(**out), out));
    (*out)->name.n_bytes = n_bytes;
    (*out)->fd = -1;
    return STATUS_OK;
}

static enum status end(enum status status, struct shared_memory **memory)
{
    if (status != STATUS_OK) {
        shared_memory_close(*memory);
        *memory = NULL;
    }
    return status;
}

enum status shared_memory_create(size_t n_bytes, struct shared_memory **out)
{
    TRY(begin(n_bytes, out));
    return end(create(n_bytes, *out), out);
}

/* A descriptor to look at what another process has open, without opening it: opening a device or a
 * pipe, which a stranger's descriptor may be, can do things. */
static int look_at(const char *path, size_t n_file)
{
    const int fd = open(path, O_PATH | O_CLOEXEC);
    struct stat found;

    if (fd < 0) {
        return -1;
    }
    if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_size >= 0 &&
        (size_t)found.st_size == n_file) {
        return fd;
    }
    (void)close(fd);
    errno = ENXIO;
    return -1;
}

static enum status open_named(const struct shared_memory_name *name, size_t n_file, int *out)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%lld/fd/%lld", (long long)name->pid,
                   (long long)name->fd);
    const int found = look_at(path, n_file);
    if (found >= 0) {
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", found);
        *out = open(path, O_RDONLY | O_CLOEXEC);
    }
    const int error = errno;
    if (found >= 0) {
        (void)close(found);
    }
    if (*out < 0) {
        return status_set(STATUS_IO, "cannot open descriptor %lld of process %lld: %s",
                          (long long)name->fd, (long long)name->pid, strerror(error));
    }
    return STATUS_OK;
}

/* A block of such data and nonce, whose pages cannot go away while they are read. */
static bool is_named_so(const struct shared_memory *memory)
{
    const struct header *header = memory->header;
    const int seals = fcntl(memory->fd, F_GET_SEALS);

    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 &&
           memcmp(header->magic, magic, sizeof(magic)) == 0 &&
           header->n_bytes == memory->name.n_bytes &&
           memcmp(header->nonce, memory->name.nonce, sizeof(header->nonce)) == 0;
}

static enum status attach(struct shared_memory *memory)
{
    const struct shared_memory_name *name = &memory->name;
    size_t n_file;

    if (!file_bytes(name->n_bytes, &n_file)) {
        return status_set(STATUS_PEER, "shared memory of %zu bytes cannot be", name->n_bytes);
    }
    TRY(open_named(name, n_file, &memory->fd));
    memory->header = map_aligned(memory->fd, n_file, PROT_READ);
    if (memory->header == NULL) {
        return status_set(STATUS_IO, "cannot map %zu bytes of process %lld: %s", n_file,
                          (long long)name->pid, strerror(errno));
    }
    memory->n_mapped = n_file;
    if (!is_named_so(memory)) {
        return status_set(STATUS_PEER, "descriptor %lld of process %lld is something else",
                          (long long)name->fd, (long long)name->pid);
    }
    return STATUS_OK;
}

enum status shared_memory_attach(const struct shared_memory_name *name, struct shared_memory **out)
{
    TRY(begin(name->n_bytes, out));
    (*out)->name = *name;
    return end(attach(*out), out);
}

void shared_memory_close(struct shared_memory *memory)
{
    if (memory == NULL) {
        return;
    }
    if (memory->header != NULL) {
        (void)munmap(memory->header, memory->n_mapped);
    }
    if (memory->fd >= 0) {
        (void)close(memory->fd);
    }
    if (memory->is_owner) {
        atomic_fetch_sub_explicit(&live_bytes, memory->name.n_bytes, memory_order_relaxed);
    }
    memory_free(memory);
}

struct shared_memory_name shared_memory_name(const struct shared_memory *memory)
{
    return memory->name;
}

void *shared_memory_data(const struct shared_memory *memory)
{
    return (char *)memory->header + SHARED_MEMORY_AT;
}

/* Fences on both sides: plain writes of the data stay behind a -1 and in front of a version. */
void shared_memory_set_version(struct shared_memory *memory, int64_t version)
{
    atomic_thread_fence(memory_order_seq_cst);
    atomic_store_explicit(&memory->header->version, version, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

int64_t shared_memory_version(const struct shared_memory *memory)
{
    atomic_thread_fence(memory_order_seq_cst);
    const int64_t version = atomic_load_explicit(&memory->header->version, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    return version;
}

bool shared_memory_is_orphan(const struct shared_memory *memory)
{
    return kill((pid_t)memory->name.pid, 0) != 0 && errno == ESRCH;
}
