/* Owns the wire format between hone's processes (reliability.md 5.2): frame 0 a JSON object, then
 * raw little-endian arrays that it describes, then 8 bytes of XXH3-64 over the lengths and bytes of
 * all frames before.
 *
 *   [ {"t":"COMPLETION","v":[1,0],"a":[{"k":"tokens","d":"i32","n":512}, ...], ...fields } ]
 * [tokens] [logprobs] ... [sum]
 *
 * One table (message_table.c) names every type, field, range and array; encoder, decoder and
 * validator obey it. */
#ifndef HONE_BASE_MESSAGE_H
#define HONE_BASE_MESSAGE_H

#include "base/json.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MESSAGE_MAJOR 1
#define MESSAGE_MINOR 0
#define MESSAGE_ARRAYS_MAX 6u /* 8 frames: head, 6 arrays, sum */
#define MESSAGE_HEAD_BYTES_MAX ((size_t)65536)
#define MESSAGE_ARRAY_BYTES_MAX ((size_t)16 << 20)
#define MESSAGE_DEPTH_MAX 8u

enum message_type {
    MESSAGE_HELLO,    /* first on every connection: role, name, pid, run, build, numerics, config */
    MESSAGE_HELLO_OK, /* welcome: incarnation, current weight version and digest */
    MESSAGE_REFUSE,   /* no: reason */
    MESSAGE_READY,    /* worker -> trainer: how many more groups it will take */
    MESSAGE_WORK, /* trainer -> worker: one prompt, which samples of its group, under which weights
                   */
    MESSAGE_COMPLETION, /* worker -> reward: one finished sample */
    MESSAGE_ACK,        /* reward -> worker: committed */
    MESSAGE_NACK,       /* reward -> worker: refused for ever */
    MESSAGE_GROUP,      /* trainer -> reward: a group is about to be sampled; its dataset row */
    MESSAGE_GROUP_OK,   /* reward -> trainer: the group's row is committed */
    MESSAGE_SCORED,     /* reward -> trainer: a stored and scored sample */
    MESSAGE_TAKEN,      /* trainer -> reward: what became of it */
    MESSAGE_MANIFEST,   /* trainer -> reward: the step's samples in order; also reward -> trainer in
                           answer to FETCH */
    MESSAGE_MANIFEST_OK, /* reward -> trainer: committed */
    MESSAGE_STEP,        /* trainer -> reward: the step is trained */
    MESSAGE_STEP_OK,     /* reward -> trainer: committed */
    MESSAGE_FETCH,       /* trainer -> reward after a start: manifests and samples after a step */
    MESSAGE_FETCHED,     /* reward -> trainer: all of it has been sent */
    MESSAGE_W_GET,       /* worker -> trainer: describe a version, or send chunks of it */
    MESSAGE_W_INFO,      /* trainer -> worker: size, chunk digests, root of a version */
    MESSAGE_W_CHUNK,     /* trainer -> worker: one chunk */
    MESSAGE_PING,        /* both ways, from the main loop, with progress */
    MESSAGE_PONG,        /* answer */
    MESSAGE_BYE,         /* leaving, or (from the trainer) the run is over */
    MESSAGE_SAMPLING,    /* worker -> reward: what sampling with a version has come to so far */
    MESSAGE_TYPES
};

enum message_dtype { DTYPE_I32, DTYPE_U32, DTYPE_U64, DTYPE_U16, DTYPE_U8, DTYPE_F32 };

enum field_kind { FIELD_INT, FIELD_NUMBER, FIELD_TEXT, FIELD_BOOL, FIELD_OBJECT, FIELD_ARRAY };

/* One row of the table. For FIELD_INT min..max is the range; for FIELD_TEXT max is the byte length;
 * for FIELD_ARRAY the item count, and dtype counts. FIELD_NUMBER must be finite. An optional field
 * may be absent or null. */
struct message_field {
    const char *key;
    int64_t min, max;
    enum message_type type;
    enum field_kind kind;
    enum message_dtype dtype;
    bool is_required;
};
extern const struct message_field message_fields[];
extern const size_t n_message_fields;
const char *message_type_name(enum message_type type); /* "HELLO" ... */

struct message;

/* An empty message of a type. Caller owns *out. */
MUST_CHECK enum status message_create(enum message_type type, struct message **out);
void message_destroy(struct message *message); /* NULL is legal */
enum message_type message_type_of(const struct message *message);

/* Setters remember the first failure; message_encode reports it. Arrays are copied. put_json takes
 * the reference. */
void message_put_int(struct message *message, const char *key, int64_t value);
void message_put_number(struct message *message, const char *key, double value);
void message_put_bool(struct message *message, const char *key, bool value);
void message_put_text(struct message *message, const char *key, const char *text);
void message_put_hex64(struct message *message, const char *key,
                       uint64_t value); /* "0x..." text, for seeds */
void message_put_json(struct message *message, const char *key, struct json *value);
void message_put_array(struct message *message, const char *key, enum message_dtype dtype,
                       const void *items, size_t n_items);

/* Getters for a message that passed the table: absent optional fields give the fallback (arrays:
 * NULL and 0; hex64: 0, also for text that is not "0x" and up to 16 lower-case digits). Borrowed
 * from the message. */
int64_t message_int(const struct message *message, const char *key, int64_t fallback);
double message_number(const struct message *message, const char *key, double fallback);
bool message_bool(const struct message *message, const char *key, bool fallback);
const char *message_text(const struct message *message, const char *key, const char *fallback);
uint64_t message_hex64(const struct message *message, const char *key);
struct json *message_json(const struct message *message, const char *key);
/* Items are 8-byte aligned. */
const void *message_array(const struct message *message, const char *key, size_t *n_items);

/* Bytes as they travel. */
struct frames {
    struct frame {
        unsigned char *data;
        size_t bytes;
    } items[MESSAGE_ARRAYS_MAX + 2];
    size_t count;
};
void frames_dispose(struct frames *frames);
/* Checks the message against the table and lays it out; the caller disposes *out. Errors:
 * BAD_ARGUMENT, NO_MEMORY. */
MUST_CHECK enum status message_encode(const struct message *message, struct frames *out);
/* Reads hostile frames. Errors: BAD_FORMAT (what, which key), NO_MEMORY. An unknown type or a key
 * that the table does not have is refused. */
MUST_CHECK enum status message_decode(const struct frames *frames, struct message **out);

#endif
