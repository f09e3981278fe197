/* Owns what message.c (building and reading fields) and message_wire.c (frames) share. */
#ifndef HONE_BASE_MESSAGE_INTERNAL_H
#define HONE_BASE_MESSAGE_INTERNAL_H

#include "base/message.h"

struct message_array {
    const struct message_field *field;
    void *items; /* memory_alloc'd, 64-byte aligned */
    size_t n_items;
};

struct message {
    enum message_type type;
    struct json *head;                               /* fields; after decoding also t, v and a */
    struct message_array arrays[MESSAGE_ARRAYS_MAX]; /* in the order in which they were put */
    size_t n_arrays;
    enum status failure; /* the first of a setter */
    char *failure_text;  /* its message; NULL when there was no memory for it */
};

/* Row of the table, or NULL. key_bytes allows keys with NUL inside, which match nothing. */
const struct message_field *message_field_find(enum message_type type, const char *key,
                                               size_t key_bytes);
size_t message_dtype_bytes(enum message_dtype dtype);
const char *message_dtype_name(enum message_dtype dtype); /* "i32" ... */

/* Adds an array of n_items, copied from items; the message owns the copy. Errors: BAD_ARGUMENT when
 * there are too many or it is there already, NO_MEMORY. */
MUST_CHECK enum status message_add_array(struct message *message, const struct message_field *field,
                                         const void *items, size_t n_items);

/* Checks every field of head and every array against the table: kinds, ranges, required ones.
 * Errors: `code`. */
MUST_CHECK enum status message_check(const struct message *message, enum status code);

#endif
