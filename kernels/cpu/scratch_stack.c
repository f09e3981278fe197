#include "kernels/cpu/scratch_stack.h"

#include "base/memory.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#define SLAB_BYTES_MIN ((size_t)1 << 18) /* untouched, it costs addresses alone */
#define ALIGNMENT ((size_t)64)

void scratch_stack_dispose(struct scratch_stack *stack)
{
    for (size_t i = 0; i < stack->n_slabs; i++) {
        memory_free(stack->slabs[i].data);
    }
    stack->n_slabs = 0;
}

static size_t bytes_in_use(const struct scratch_stack *stack)
{
    size_t bytes = 0;
    for (size_t i = 0; i < stack->n_slabs; i++) {
        bytes += stack->slabs[i].used;
    }
    return bytes;
}

/* With nothing in use, several slabs, or one that is too small, become one of the most that was
 * ever in use, so that the next round of the same requests fits without growing. */
static void forget_small_slabs(struct scratch_stack *stack, size_t *bytes_wanted)
{
    const bool fits = stack->n_slabs == 1 && stack->slabs[0].bytes >= *bytes_wanted;
    if (stack->n_slabs == 0 || fits || bytes_in_use(stack) > 0) {
        return;
    }
    scratch_stack_dispose(stack);
    if (*bytes_wanted < stack->most_bytes) {
        *bytes_wanted = stack->most_bytes;
    }
    *bytes_wanted += *bytes_wanted / 4;
}

/* The topmost slab that holds something, or the bottom one. */
static size_t top_slab(const struct scratch_stack *stack)
{
    size_t i = stack->n_slabs;
    while (i > 1 && stack->slabs[i - 1].used == 0) {
        i--;
    }
    return i == 0 ? 0 : i - 1;
}

static enum status add_slab(struct scratch_stack *stack, size_t bytes)
{
    /* The next step's rows are seldom as many. */
    const size_t room = bytes < SIZE_MAX / 2 ? bytes + bytes / 8 : bytes;
    const size_t wanted = room > SLAB_BYTES_MIN ? room : SLAB_BYTES_MIN;
    if (stack->n_slabs == SCRATCH_SLABS_MAX) {
        return status_set(STATUS_NO_MEMORY, "kernel scratch: %zu more bytes do not fit", bytes);
    }
    struct scratch_slab *slab = &stack->slabs[stack->n_slabs];
    TRY(memory_alloc(wanted, 1, &slab->data));
    slab->bytes = wanted;
    slab->used = 0;
    stack->n_slabs++;
    return STATUS_OK;
}

enum status scratch_stack_acquire(struct scratch_stack *stack, size_t n, size_t size,
                                  void *out_pointer)
{
    size_t bytes = 0;
    void *block = NULL;
    memcpy(out_pointer, &block, sizeof(block));
    if (!size_multiply(n, size, &bytes) || !size_add(bytes, 2 * ALIGNMENT, &bytes)) {
        return status_set(STATUS_NO_MEMORY, "kernel scratch: %zu items of %zu bytes", n, size);
    }
    bytes -= bytes % ALIGNMENT; /* never 0, so that used > 0 means in use */
    size_t slab_bytes = bytes;
    forget_small_slabs(stack, &slab_bytes);
    size_t i = top_slab(stack);
    while (i < stack->n_slabs && stack->slabs[i].bytes - stack->slabs[i].used < bytes) {
        i++;
    }
    if (i == stack->n_slabs) {
        TRY(add_slab(stack, slab_bytes));
    }
    struct scratch_slab *slab = &stack->slabs[i];
    block = slab->data + slab->used;
    slab->used += bytes;
    const size_t in_use = bytes_in_use(stack);
    stack->most_bytes = in_use > stack->most_bytes ? in_use : stack->most_bytes;
    memcpy(out_pointer, &block, sizeof(block));
    return STATUS_OK;
}

void scratch_stack_release(struct scratch_stack *stack, void *block)
{
    if (block == NULL) {
        return;
    }
    struct scratch_slab *slab = &stack->slabs[top_slab(stack)];
    assert((char *)block >= slab->data && (char *)block < slab->data + slab->used);
    slab->used = (size_t)((char *)block - slab->data);
}

void scratch_stack_settle(struct scratch_stack *stack)
{
    void *block = NULL;
    if (stack->most_bytes > 0 && scratch_stack_acquire(stack, 1, ALIGNMENT, &block) == STATUS_OK) {
        scratch_stack_release(stack, block);
    }
}

void scratch_stack_rest(const struct scratch_stack *stack)
{
    for (size_t i = 0; i < stack->n_slabs; i++) {
        if (stack->slabs[i].bytes >= MEMORY_HUGE_BYTES) {
            memory_forget(stack->slabs[i].data, stack->slabs[i].bytes);
        }
    }
}

size_t scratch_stack_bytes(const struct scratch_stack *stack)
{
    size_t bytes = 0;
    for (size_t i = 0; i < stack->n_slabs; i++) {
        bytes += stack->slabs[i].bytes;
    }
    return bytes;
}
