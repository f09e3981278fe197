/* Owns byte strings by number and number by byte string: the vocabulary of a tokenizer. */
#ifndef HONE_MODEL_TEXT_TABLE_H
#define HONE_MODEL_TEXT_TABLE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* Byte strings numbered 0 .. n-1 and a hash of them. The strings are borrowed. */
struct text_ref {
    const char *text; /* NULL: no such entry */
    uint32_t n;
};
struct text_table {
    struct text_ref *refs; /* (n_refs) */
    size_t n_refs;
    uint64_t *slots; /* hash in the upper half, index + 1 in the lower; 0 is free */
    size_t mask;
};
/* Slots of a hash table for n entries: a power of two with at least half of it free. */
size_t text_table_slots(size_t n);
/* Room for n_refs indices, all empty. Errors: NO_MEMORY. */
MUST_CHECK enum status text_table_init(struct text_table *table, size_t n_refs);
void text_table_dispose(struct text_table *table);
/* Gives index its string and makes it findable; the caller has checked that neither is taken. */
void text_table_set(struct text_table *table, size_t index, const char *text, size_t n);
/* Index of a string, or -1. */
int32_t text_table_find(const struct text_table *table, const char *text, size_t n);

#endif
