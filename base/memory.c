/* Owns the heap; the only file that calls the C library's allocator. */
#include "base/memory.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK_ALIGNMENT ((size_t)64) /* a cache line, and the widest vector */
#define LARGE_BYTES ((size_t)1 << 20)

static atomic_size_t live_blocks;
static atomic_size_t total_blocks;
static atomic_size_t live_bytes;
static atomic_long fail_countdown = -1;

/* Counts one allocation down; true when it is the one that must fail. */
static bool must_fail(void)
{
    long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

    while (left >= 0) {
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) {
            return left == 0;
        }
    }
    return false;
}

static void count_block(void *block)
{
    atomic_fetch_add_explicit(&live_bytes, malloc_usable_size(block), memory_order_relaxed);
    atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&total_blocks, 1, memory_order_relaxed);
}

/* An uninitialised block of at least n_bytes, or NULL. */
static void *take_block(size_t n_bytes)
{
    size_t padded;

    if (!size_add(n_bytes == 0 ? 1 : n_bytes, BLOCK_ALIGNMENT - 1, &padded) ||
        padded > PTRDIFF_MAX || must_fail()) {
        return NULL;
    }
    void *block = aligned_alloc(BLOCK_ALIGNMENT, padded & ~(BLOCK_ALIGNMENT - 1));
    if (block != NULL) {
        count_block(block);
    }
    return block;
}

/* The whole pages of n bytes: where they begin; *n_bytes 0 when there are none. */
static unsigned char *whole_pages(unsigned char *bytes, size_t n, size_t *n_bytes)
{
    const size_t page = 4096;
    const uintptr_t begin = ((uintptr_t)bytes + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)bytes + n) / page * page;

    *n_bytes = end > begin ? end - begin : 0;
    return bytes + (begin - (uintptr_t)bytes);
}

void memory_forget(void *bytes, size_t n)
{
    unsigned char *begin = bytes;
    size_t n_inner;
    unsigned char *pages = whole_pages(begin, n, &n_inner);
    const size_t n_before = (size_t)(pages - begin);

    if (n_inner == 0 || madvise(pages, n_inner, MADV_DONTNEED) != 0) {
        memset(begin, 0, n);
        return;
    }
    memset(begin, 0, n_before);
    memset(pages + n_inner, 0, n - n_before - n_inner);
}

/* Zeroes a block. Large ones are not touched: the kernel takes their pages back and gives zeroed
 * ones on first use, so a buffer sized for the worst case costs only what is used of it. */
static void zero(unsigned char *block, size_t n_bytes)
{
    size_t n_inner;
    unsigned char *pages = whole_pages(block, n_bytes, &n_inner);

    if (n_bytes < LARGE_BYTES) {
        memset(block, 0, n_bytes);
        return;
    }
    if (n_bytes >= MEMORY_HUGE_BYTES) {
        (void)madvise(pages, n_inner, MADV_HUGEPAGE); /* fewer, larger pages; only faster */
    }
    memory_forget(block, n_bytes);
}

enum status memory_alloc(size_t n, size_t size, void *out_pointer)
{
    void *block = NULL;
    size_t n_bytes;

    memcpy(out_pointer, &block, sizeof(block));
    if (!size_multiply(n, size, &n_bytes)) {
        return status_set(STATUS_NO_MEMORY, "%zu items of %zu bytes exceed the address space", n,
                          size);
    }
    block = take_block(n_bytes);
    if (block == NULL) {
        return status_set(STATUS_NO_MEMORY, "no memory for %zu bytes", n_bytes);
    }
    zero(block, n_bytes);
    memcpy(out_pointer, &block, sizeof(block));
    return STATUS_OK;
}

enum status memory_resize(size_t old_bytes, size_t n, size_t size, void *block_pointer)
{
    void *old;
    void *block;
    size_t n_bytes;

    memcpy(&old, block_pointer, sizeof(old));
    if (!size_multiply(n, size, &n_bytes)) {
        return status_set(STATUS_NO_MEMORY, "%zu items of %zu bytes exceed the address space", n,
                          size);
    }
    block = take_block(n_bytes);
    if (block == NULL) {
        return status_set(STATUS_NO_MEMORY, "no memory for %zu bytes", n_bytes);
    }
    const size_t n_kept = old == NULL ? 0 : (old_bytes < n_bytes ? old_bytes : n_bytes);
    if (n_kept > 0) {
        memcpy(block, old, n_kept);
    }
    memset((unsigned char *)block + n_kept, 0, n_bytes - n_kept);
    memory_free(old);
    memcpy(block_pointer, &block, sizeof(block));
    return STATUS_OK;
}

void memory_free(void *block)
{
    if (block != NULL) {
        atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&live_bytes, malloc_usable_size(block), memory_order_relaxed);
        free(block);
    }
}

enum status memory_copy_text(const char *text, size_t n, char **out)
{
    size_t n_bytes;

    *out = NULL;
    if (!size_add(n, 1, &n_bytes)) {
        return status_set(STATUS_NO_MEMORY, "text of %zu bytes exceeds the address space", n);
    }
    TRY(memory_alloc(n_bytes, 1, out));
    if (n > 0) {
        memcpy(*out, text, n);
    }
    return STATUS_OK;
}

void *memory_library_alloc(size_t n)
{
    if (must_fail()) {
        return NULL;
    }
    void *block = malloc(n == 0 ? 1 : n);
    if (block != NULL) {
        count_block(block);
    }
    return block;
}

void memory_library_free(void *block)
{
    memory_free(block);
}

size_t memory_live_blocks(void)
{
    return atomic_load_explicit(&live_blocks, memory_order_relaxed);
}

size_t memory_live_bytes(void)
{
    return atomic_load_explicit(&live_bytes, memory_order_relaxed);
}

size_t memory_total_blocks(void)
{
    return atomic_load_explicit(&total_blocks, memory_order_relaxed);
}

void memory_fail_after(long n)
{
    atomic_store(&fail_countdown, n < 0 ? -1 : n);
}

bool memory_fail_is_pending(void)
{
    return atomic_load(&fail_countdown) >= 0;
}

bool size_multiply(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
