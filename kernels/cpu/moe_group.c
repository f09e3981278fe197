/* Owns grouping: a counting sort of slots by expert. */
#include "kernels/cpu/moe_group.h"

#include "kernels/cpu/cpu_backend.h"

#include <assert.h>
#include <string.h>

#define ITEM_ROWS_MIN ((size_t)12)

/* Rows of an item: 48, fewer where that leaves threads without work. */
static size_t item_rows(size_t n_slots, size_t n_threads)
{
    const size_t even = (n_slots + 2 * n_threads - 1) / (2 * n_threads);
    const size_t rows = even < MOE_ITEM_ROWS ? even : MOE_ITEM_ROWS;
    return rows > ITEM_ROWS_MIN ? rows : ITEM_ROWS_MIN;
}

static void sort_slots(const int32_t *indices, size_t n_experts, struct moe_groups *groups)
{
    uint32_t *const first = groups->first;
    memset(first, 0, (n_experts + 1) * sizeof(*first));
    for (size_t slot = 0; slot < groups->n_slots; slot++) {
        assert(indices[slot] >= 0 && (size_t)indices[slot] < n_experts);
        first[indices[slot] + 1]++;
    }
    for (size_t e = 0; e < n_experts; e++) {
        first[e + 1] += first[e];
    }
    /* first[e] runs to the end of e while slots are placed, then everything moves up by one. */
    for (size_t slot = 0; slot < groups->n_slots; slot++) {
        const uint32_t position = first[indices[slot]]++;
        groups->slot_at[position] = (uint32_t)slot;
        groups->position_of[slot] = position;
    }
    memmove(first + 1, first, n_experts * sizeof(*first));
    first[0] = 0;
}

static void cut_items(size_t n_experts, size_t rows_max, struct moe_groups *groups)
{
    groups->n_items = 0;
    for (size_t e = 0; e < n_experts; e++) {
        const size_t begin = groups->first[e];
        const size_t n = groups->first[e + 1] - begin;
        const size_t n_parts = (n + rows_max - 1) / rows_max;
        for (size_t i = 0; i < n_parts; i++) {
            groups->items[groups->n_items++] =
                (struct moe_item){(uint32_t)e, (uint32_t)(begin + n * i / n_parts),
                                  (uint32_t)(begin + n * (i + 1) / n_parts)};
        }
    }
}

enum status moe_groups_build(struct backend *backend, const int32_t *indices, size_t n_rows,
                             size_t top_k, size_t n_experts, struct moe_groups *out)
{
    const size_t n_slots = n_rows * top_k;
    const size_t rows_max = item_rows(n_slots, backend->n_threads);
    const size_t n_items_max = n_experts + n_slots / rows_max;
    const size_t n_words = n_experts + 1 + 2 * n_slots + 3 * n_items_max;
    uint32_t *words = NULL;
    TRY(cpu_scratch_acquire(backend, n_words, sizeof(*words), &words));
    out->block = words;
    out->n_slots = n_slots;
    out->items = (struct moe_item *)(void *)words;
    out->first = words + 3 * n_items_max;
    out->slot_at = out->first + n_experts + 1;
    out->position_of = out->slot_at + n_slots;
    sort_slots(indices, n_experts, out);
    cut_items(n_experts, rows_max, out);
    return STATUS_OK;
}

void moe_groups_release(struct backend *backend, struct moe_groups *groups)
{
    cpu_scratch_release(backend, groups->block);
}
