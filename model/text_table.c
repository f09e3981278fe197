#include "model/text_table.h"

#include "base/hash.h"
#include "base/memory.h"

#include <string.h>

size_t text_table_slots(size_t n)
{
    size_t slots = 16;

    while (slots < 2 * n) {
        slots *= 2;
    }
    return slots;
}

enum status text_table_init(struct text_table *table, size_t n_refs)
{
    const size_t n_slots = text_table_slots(n_refs);

    *table = (struct text_table){.n_refs = n_refs, .mask = n_slots - 1};
    TRY(memory_alloc(n_refs, sizeof(*table->refs), &table->refs));
    const enum status status = memory_alloc(n_slots, sizeof(*table->slots), &table->slots);
    if (status != STATUS_OK) {
        text_table_dispose(table);
    }
    return status;
}

void text_table_dispose(struct text_table *table)
{
    memory_free(table->slots);
    memory_free(table->refs);
    *table = (struct text_table){0};
}

void text_table_set(struct text_table *table, size_t index, const char *text, size_t n)
{
    const uint64_t hash = hash_64(text, n);
    size_t slot = (size_t)hash & table->mask;

    table->refs[index] = (struct text_ref){.text = text, .n = (uint32_t)n};
    while (table->slots[slot] != 0) {
        slot = (slot + 1) & table->mask;
    }
    table->slots[slot] = (hash & 0xFFFFFFFF00000000U) | (uint64_t)(index + 1);
}

int32_t text_table_find(const struct text_table *table, const char *text, size_t n)
{
    const uint64_t hash = hash_64(text, n);
    size_t slot = (size_t)hash & table->mask;

    for (; table->slots[slot] != 0; slot = (slot + 1) & table->mask) {
        if ((table->slots[slot] ^ hash) >> 32 != 0) {
            continue;
        }
        const size_t index = (size_t)(table->slots[slot] & 0xFFFFFFFFU) - 1;
        const struct text_ref *ref = &table->refs[index];
        if (ref->n == n && memcmp(ref->text, text, n) == 0) {
            return (int32_t)index;
        }
    }
    return -1;
}
