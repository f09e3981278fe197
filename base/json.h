/* Owns JSON in hone: a small typed surface over jansson, so that no other folder includes it. Input
 * is hostile: depth is bounded before the parser runs, duplicate keys and NUL escapes are refused,
 * and the hash seed is random. A `struct json` is a value of jansson (json_t) under hone's name. */
#ifndef HONE_BASE_JSON_H
#define HONE_BASE_JSON_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json; /* a reference-counted value */

enum json_kind { JSON_NULL, JSON_BOOL, JSON_INT, JSON_REAL, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* Parses text[0..n), nesting at most depth_max. Caller owns *out. Errors: BAD_FORMAT with
 * line:column. */
MUST_CHECK enum status json_parse(const char *text, size_t n, unsigned depth_max,
                                  struct json **out);
/* As json_parse but accepts the escape \u0000 inside strings (tokenizer files and data rows have
 * it). */
MUST_CHECK enum status json_parse_with_nul(const char *text, size_t n, unsigned depth_max,
                                           struct json **out);
/* Reads and parses a whole file of at most bytes_max. The message begins with the path. */
MUST_CHECK enum status json_load(const char *path, size_t bytes_max, unsigned depth_max,
                                 struct json **out);
void json_destroy(struct json *value);        /* gives one reference back; NULL is legal */
struct json *json_retain(struct json *value); /* takes one more reference */

enum json_kind json_kind_of(const struct json *value); /* NULL counts as JSON_NULL */
bool json_is(const struct json *value, enum json_kind kind);
/* Borrowed member, or NULL when absent or `object` is no object. */
struct json *json_get(const struct json *object, const char *key);
/* Follows dots: json_path(v, "reward_model.ground_truth"). */
struct json *json_path(const struct json *object, const char *dotted_key);
struct json *json_at(const struct json *array, size_t index); /* borrowed, NULL outside */
size_t json_count(const struct json *value);                  /* members or items; 0 for others */
/* Iterates over members: `struct json_iterator it = {.object = o}; while (json_next(&it)) it.key
 * ...`. The object must not change meanwhile. */
struct json_iterator {
    const struct json *object;
    void *position;
    const char *key;
    size_t key_bytes;
    struct json *value;
};
bool json_next(struct json_iterator *iterator);

/* Values with a fallback for another kind. Numbers accept ints and reals alike. */
int64_t json_int(const struct json *value, int64_t fallback);
double json_number(const struct json *value, double fallback);
bool json_bool(const struct json *value, bool fallback);
const char *json_text(const struct json *value, const char *fallback); /* borrowed */
size_t json_text_bytes(const struct json *value);                      /* 0 for others */

/* Builders; each returns a new reference or NULL when memory is short (a later json_put then
 * fails). */
struct json *json_object_create(void);
struct json *json_array_create(void);
struct json *json_from_int(int64_t value);
struct json *json_from_number(double value); /* NULL value (null) when not finite */
struct json *json_from_bool(bool value);
struct json *json_from_text(const char *text, size_t n); /* broken UTF-8 becomes U+FFFD */
struct json *json_null_create(void);
/* Takes the reference to value, also on failure. Errors: NO_MEMORY. */
MUST_CHECK enum status json_put(struct json *object, const char *key, struct json *value);
MUST_CHECK enum status json_append(struct json *array, struct json *value);

/* Compact text with sorted keys and as few digits (15 to 17) as give every number back, no locale;
 * the canonical form for hashing. Caller frees *out with memory_free; *n_out (may be NULL) is its
 * length. */
MUST_CHECK enum status json_print(const struct json *value, char **out, size_t *n_out);

/* text[0..n) with each broken UTF-8 sequence replaced by U+FFFD; *is_lossy tells whether any was.
 * Caller frees *out with memory_free. */
MUST_CHECK enum status utf8_repair(const char *text, size_t n, char **out, size_t *n_out,
                                   bool *is_lossy);

#endif
