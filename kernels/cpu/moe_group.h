/* Owns the order in which routed rows meet their experts. A slot is (row t, choice k), numbered
 * t * top_k + k; slots are sorted by expert, ascending inside an expert, and the place of a slot in
 * that order is its position. Positions are cut into items that threads take one at a time, so that
 * uneven experts balance. */
#ifndef HONE_KERNELS_CPU_MOE_GROUP_H
#define HONE_KERNELS_CPU_MOE_GROUP_H

#include "base/status.h"
#include "kernels/backend.h"

#include <stddef.h>
#include <stdint.h>

#define MOE_ITEM_ROWS ((size_t)48) /* cpu.md 5.11 */
/* Rows of one grouping: what the backward pass keeps between its passes then stays in the caches
 * (with 2048 it runs at three quarters of the speed), and scratch memory is bounded. */
#define MOE_BLOCK_ROWS ((size_t)512)

struct moe_item {
    uint32_t expert, begin, end; /* positions, one expert's */
};

struct moe_groups {
    size_t n_slots, n_items;
    uint32_t *first;       /* (n_experts + 1): positions of an expert start here */
    uint32_t *slot_at;     /* (n_slots): by position */
    uint32_t *position_of; /* (n_slots): by slot */
    struct moe_item *items;
    void *block; /* scratch that holds them all */
};

/* indices: (n_rows, top_k), each in [0, n_experts). The groups live in the backend's scratch until
 * released, last in, first out. Errors: NO_MEMORY. */
MUST_CHECK enum status moe_groups_build(struct backend *backend, const int32_t *indices,
                                        size_t n_rows, size_t top_k, size_t n_experts,
                                        struct moe_groups *out);
void moe_groups_release(struct backend *backend, struct moe_groups *groups);

#endif
