/* Owns bump allocation for things that end together (a step, a parse). Blocks come from memory.h
 * and are kept over a reset, so a steady step allocates nothing from the heap. */
#ifndef HONE_BASE_ARENA_H
#define HONE_BASE_ARENA_H

#include "base/status.h"

#include <stddef.h>

struct arena;

/* block_bytes: size of the first block; later ones double. Caller owns *out. Errors: NO_MEMORY. */
MUST_CHECK enum status arena_create(size_t block_bytes, struct arena **out);
/* NULL is legal. */
void arena_destroy(struct arena *arena);
/* n * size zeroed bytes, 64-byte aligned, valid until the next reset. Errors: NO_MEMORY. */
MUST_CHECK enum status arena_alloc(struct arena *arena, size_t n, size_t size, void *out_pointer);
/* Copy of n bytes followed by NUL. */
MUST_CHECK enum status arena_copy_text(struct arena *arena, const char *text, size_t n, char **out);
/* Ends everything allocated so far and keeps the memory; several blocks become one. */
void arena_reset(struct arena *arena);
/* Most bytes in use at once so far. */
size_t arena_high_water(const struct arena *arena);

#endif
