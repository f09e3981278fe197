/* Owns bump allocation. The arena is a list of blocks, newest first; only the newest is bumped. A
 * reset after growth replaces the list by one block of the summed size, so the next round of the
 * same work fits into one block and allocates nothing. */
#include "base/arena.h"

#include "base/memory.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#define ARENA_ALIGNMENT ((size_t)64)

struct arena_block {
    struct arena_block *next;
    size_t bytes; /* capacity after the header */
    size_t used;
};

#define HEADER_BYTES ARENA_ALIGNMENT
_Static_assert(sizeof(struct arena_block) <= HEADER_BYTES, "the header keeps data aligned");

struct arena {
    struct arena_block *blocks; /* newest first, never empty */
    size_t older_used;          /* bytes used in all blocks but the newest */
    size_t high_water;
};

static enum status block_create(size_t bytes, struct arena_block *next, struct arena_block **out)
{
    size_t total;

    *out = NULL;
    if (!size_add(bytes, HEADER_BYTES, &total)) {
        return status_set(STATUS_NO_MEMORY, "arena block of %zu bytes is too large", bytes);
    }
    TRY(memory_alloc(total, 1, out));
    **out = (struct arena_block){.next = next, .bytes = bytes};
    return STATUS_OK;
}

static void blocks_destroy(struct arena_block *block)
{
    while (block != NULL) {
        struct arena_block *next = block->next;
        memory_free(block);
        block = next;
    }
}

/* n rounded up to the alignment; false on overflow. */
static bool round_up(size_t n, size_t *out)
{
    if (!size_add(n, ARENA_ALIGNMENT - 1, out)) {
        return false;
    }
    *out &= ~(ARENA_ALIGNMENT - 1);
    return true;
}

enum status arena_create(size_t block_bytes, struct arena **out)
{
    struct arena *arena;
    size_t bytes;

    *out = NULL;
    if (!round_up(block_bytes == 0 ? 1 : block_bytes, &bytes)) {
        return status_set(STATUS_NO_MEMORY, "arena block of %zu bytes is too large", block_bytes);
    }
    TRY(memory_alloc(1, sizeof(*arena), &arena));
    const enum status status = block_create(bytes, NULL, &arena->blocks);
    if (status != STATUS_OK) {
        memory_free(arena);
        return status;
    }
    *out = arena;
    return STATUS_OK;
}

void arena_destroy(struct arena *arena)
{
    if (arena != NULL) {
        blocks_destroy(arena->blocks);
        memory_free(arena);
    }
}

/* Puts a fresh block in front that holds at least `needed` bytes. */
static enum status arena_grow(struct arena *arena, size_t needed)
{
    struct arena_block *block;
    size_t bytes;

    if (!size_multiply(arena->blocks->bytes, 2, &bytes) || bytes < needed) {
        bytes = needed;
    }
    TRY(block_create(bytes, arena->blocks, &block));
    arena->older_used += arena->blocks->used;
    arena->blocks = block;
    return STATUS_OK;
}

enum status arena_alloc(struct arena *arena, size_t n, size_t size, void *out_pointer)
{
    unsigned char *data = NULL;
    size_t n_bytes;
    size_t padded;

    memcpy(out_pointer, &data, sizeof(data));
    if (!size_multiply(n, size, &n_bytes) || !round_up(n_bytes == 0 ? 1 : n_bytes, &padded)) {
        return status_set(STATUS_NO_MEMORY, "%zu items of %zu bytes exceed the address space", n,
                          size);
    }
    if (padded > arena->blocks->bytes - arena->blocks->used) {
        TRY(arena_grow(arena, padded));
    }
    struct arena_block *block = arena->blocks;
    assert(block != NULL); /* an arena is never without a block */
    data = (unsigned char *)block + HEADER_BYTES + block->used;
    memset(data, 0, padded);
    block->used += padded;
    if (arena->older_used + block->used > arena->high_water) {
        arena->high_water = arena->older_used + block->used;
    }
    memcpy(out_pointer, &data, sizeof(data));
    return STATUS_OK;
}

enum status arena_copy_text(struct arena *arena, const char *text, size_t n, char **out)
{
    size_t n_bytes;

    *out = NULL;
    if (!size_add(n, 1, &n_bytes)) {
        return status_set(STATUS_NO_MEMORY, "text of %zu bytes exceeds the address space", n);
    }
    TRY(arena_alloc(arena, n_bytes, 1, out));
    if (n > 0) {
        memcpy(*out, text, n);
    }
    return STATUS_OK;
}

void arena_reset(struct arena *arena)
{
    struct arena_block *merged = NULL;

    if (arena->blocks->next != NULL) {
        size_t bytes = 0;
        for (const struct arena_block *b = arena->blocks; b != NULL; b = b->next) {
            bytes += b->bytes; /* each was allocated, so the sum fits */
        }
        /* When memory is short the newest block, the largest, is kept as it is: no failure. */
        if (block_create(bytes, NULL, &merged) == STATUS_OK) {
            blocks_destroy(arena->blocks);
            arena->blocks = merged;
        } else {
            blocks_destroy(arena->blocks->next);
            arena->blocks->next = NULL;
        }
    }
    assert(arena->blocks != NULL);
    arena->blocks->used = 0;
    arena->older_used = 0;
}

size_t arena_high_water(const struct arena *arena)
{
    return arena->high_water;
}
