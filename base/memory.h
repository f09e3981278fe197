/* Owns the heap: every allocation of hone goes through here, is counted, and can be made to fail,
 * so that each constructor is tested at each of its failure points. */
#ifndef HONE_BASE_MEMORY_H
#define HONE_BASE_MEMORY_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Zero-filled block of n * size bytes, 64-byte aligned. *out is NULL on failure. n == 0 gives a
 * valid block of no use. Errors: NO_MEMORY (also when the product overflows). */
MUST_CHECK enum status memory_alloc(size_t n, size_t size, void *out_pointer);
/* Grows or shrinks *block (from memory_alloc, or NULL) to n * size bytes, keeping old_bytes of
 * content and zero-filling the rest; on failure *block is untouched. */
MUST_CHECK enum status memory_resize(size_t old_bytes, size_t n, size_t size, void *block_pointer);
/* Frees a block of memory_alloc; NULL is legal. */
void memory_free(void *block);
/* n bytes inside a block are needed no more: they read as zeros until they are written again, and
 * whole pages of them are given back to the kernel. */
void memory_forget(void *bytes, size_t n);
/* Blocks of so many bytes are in huge pages where the kernel has them: giving them back between two
 * uses and taking them anew then costs about what writing zeros does, of smaller ones many times
 * that. */
#define MEMORY_HUGE_BYTES ((size_t)1 << 25)
/* Copy of text (n bytes, then NUL). Free with memory_free. */
MUST_CHECK enum status memory_copy_text(const char *text, size_t n, char **out);

/* For libraries that take an allocator: malloc and free that are counted and made to fail like the
 * rest, without alignment beyond malloc's and without zero-filling. NULL when memory is short. */
void *memory_library_alloc(size_t n);
void memory_library_free(void *block);

/* Blocks allocated and not yet freed, over all threads. */
size_t memory_live_blocks(void);
/* Bytes of these, as the C library rounds them up. */
size_t memory_live_bytes(void);
/* Blocks ever allocated, over all threads: unchanged over a step that allocates nothing. */
size_t memory_total_blocks(void);
/* Fault injection for tests: the allocation after `n` more successful ones fails, then all succeed
 * again; a negative n switches it off. */
void memory_fail_after(long n);
/* true while a failure asked for has not happened yet. */
bool memory_fail_is_pending(void);

/* true and *out = a * b, or false on overflow. */
bool size_multiply(size_t a, size_t b, size_t *out);
/* true and *out = a + b, or false on overflow. */
bool size_add(size_t a, size_t b, size_t *out);

#endif
