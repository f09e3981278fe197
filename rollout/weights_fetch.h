/* Owns the transfer of one weight version (reliability.md 5.4, I21): what to ask for next, where
 * chunks go, and their digests. Nothing is sampled with before every chunk and the root fit. Pure
 * but for the buffer: messages are decoded and sent by the worker. */
#ifndef HONE_ROLLOUT_WEIGHTS_FETCH_H
#define HONE_ROLLOUT_WEIGHTS_FETCH_H

#include "base/status.h"
#include "rollout/work_queue.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FETCH_WINDOW ((size_t)16)         /* chunks under way at once */
#define FETCH_STALL_US INT64_C(3000000)   /* then what is missing is asked for again */
#define FETCH_BAD_CHUNKS_MAX ((size_t)16) /* damaged chunks before the transfer is given up */

struct weights_fetch;

/* weights: the model's flat buffer (n_floats), borrowed; chunks are written to it as they come. */
MUST_CHECK enum status weights_fetch_create(size_t n_floats, float *weights,
                                            struct weights_fetch **out);
void weights_fetch_destroy(struct weights_fetch *fetch); /* NULL is legal */

/* Starts on a version; whatever came of another one is forgotten. */
void weights_fetch_begin(struct weights_fetch *fetch, const struct weights_id *id, int64_t now_us);
/* Stops; messages that still come are ignored. */
void weights_fetch_end(struct weights_fetch *fetch);
bool weights_fetch_is_active(const struct weights_fetch *fetch);
const struct weights_id *weights_fetch_id(const struct weights_fetch *fetch);

/* A request to send now: W_GET's first (-1: the description) and count. false: none. */
struct fetch_request {
    int64_t version, first;
    size_t count;
};
bool weights_fetch_next(const struct weights_fetch *fetch, int64_t now_us,
                        struct fetch_request *request);
void weights_fetch_asked(struct weights_fetch *fetch, const struct fetch_request *request,
                         int64_t now_us);

/* W_INFO. Another version's is ignored. Errors: PEER (the size is not this model's), BAD_FORMAT
 * (the digests do not have the root that WORK named). */
struct weights_info {
    int64_t version;
    size_t bytes, chunk_bytes;
    const unsigned char *digests; /* 16 bytes a chunk */
    size_t digests_bytes;
};
MUST_CHECK enum status weights_fetch_info(struct weights_fetch *fetch,
                                          const struct weights_info *info, int64_t now_us);
/* W_CHUNK. Unknown and repeated ones are ignored; a damaged one is asked for again. Errors:
 * BAD_FORMAT after FETCH_BAD_CHUNKS_MAX damaged ones. */
MUST_CHECK enum status weights_fetch_chunk(struct weights_fetch *fetch, int64_t version,
                                           int64_t index, const void *data, size_t bytes,
                                           int64_t now_us);
/* The description is here, and fits. */
bool weights_fetch_is_described(const struct weights_fetch *fetch);
bool weights_fetch_is_complete(const struct weights_fetch *fetch);
/* Chunks that are here, of *n_all; since when nothing new came. */
size_t weights_fetch_progress(const struct weights_fetch *fetch, size_t *n_all, int64_t *since_us);
/* Floats from the first on that are here. */
size_t weights_fetch_ready(const struct weights_fetch *fetch);

#endif
