/* Owns one thread's stack of scratch memory for kernels: blocks that are acquired and released last
 * in, first out. It grows on demand, in several slabs, and becomes one slab when nothing is in use,
 * so that a steady state allocates nothing. */
#ifndef HONE_KERNELS_CPU_SCRATCH_STACK_H
#define HONE_KERNELS_CPU_SCRATCH_STACK_H

#include "base/status.h"

#include <stddef.h>

/* Slabs that one op and those it calls fill at a time. */
#define SCRATCH_SLABS_MAX 32

/* All zero is an empty one. Blocks are stacked in data from the bottom; used counts bytes. */
struct scratch_stack {
    struct scratch_slab {
        char *data;
        size_t bytes, used;
    } slabs[SCRATCH_SLABS_MAX];
    size_t n_slabs, most_bytes; /* most_bytes: the most that was in use at a time */
};

void scratch_stack_dispose(struct scratch_stack *stack);

/* n * size bytes, 64-byte aligned, contents undefined. Errors: NO_MEMORY. */
MUST_CHECK enum status scratch_stack_acquire(struct scratch_stack *stack, size_t n, size_t size,
                                             void *out_pointer);
/* The block acquired last; NULL is legal. */
void scratch_stack_release(struct scratch_stack *stack, void *block);
/* What was ever in use at a time becomes one slab, while nothing is; without memory for it the next
 * acquire asks again. */
void scratch_stack_settle(struct scratch_stack *stack);
/* The pages of large slabs go back while nothing is in use. */
void scratch_stack_rest(const struct scratch_stack *stack);
size_t scratch_stack_bytes(const struct scratch_stack *stack); /* that it holds */

#endif
