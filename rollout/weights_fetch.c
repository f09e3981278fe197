/* Chunk states and a window over them. */
#include "rollout/weights_fetch.h"

#include "base/memory.h"
#include "model/weights.h"

#include <string.h>

enum chunk_state { CHUNK_MISSING, CHUNK_ASKED, CHUNK_HERE };

struct weights_fetch {
    float *weights; /* borrowed */
    size_t n_floats, bytes, n_chunks;
    unsigned char *states; /* (n_chunks) enum chunk_state */
    struct digest128 *digests;
    struct weights_id id;
    bool is_active, has_info, has_asked_info;
    size_t n_here, n_asked, n_bad;
    size_t n_leading;    /* chunks that are here without one missing before them */
    int64_t progress_us; /* last time that something useful came or was asked anew */
};

enum status weights_fetch_create(size_t n_floats, float *weights, struct weights_fetch **out)
{
    struct weights_fetch *fetch = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*fetch), &fetch));
    fetch->weights = weights;
    fetch->n_floats = n_floats;
    fetch->bytes = n_floats * sizeof(float);
    fetch->n_chunks = weights_chunks(n_floats);
    enum status status = memory_alloc(fetch->n_chunks, 1, &fetch->states);
    if (status == STATUS_OK) {
        status = memory_alloc(fetch->n_chunks, sizeof(*fetch->digests), &fetch->digests);
    }
    if (status != STATUS_OK) {
        weights_fetch_destroy(fetch);
        return status;
    }
    *out = fetch;
    return STATUS_OK;
}

void weights_fetch_destroy(struct weights_fetch *fetch)
{
    if (fetch == NULL) {
        return;
    }
    memory_free(fetch->digests);
    memory_free(fetch->states);
    memory_free(fetch);
}

void weights_fetch_begin(struct weights_fetch *fetch, const struct weights_id *id, int64_t now_us)
{
    fetch->id = *id;
    fetch->is_active = true;
    fetch->has_info = false;
    fetch->has_asked_info = false;
    fetch->n_here = 0;
    fetch->n_leading = 0;
    fetch->n_asked = 0;
    fetch->n_bad = 0;
    fetch->progress_us = now_us;
    memset(fetch->states, CHUNK_MISSING, fetch->n_chunks);
}

void weights_fetch_end(struct weights_fetch *fetch)
{
    fetch->is_active = false;
}

bool weights_fetch_is_active(const struct weights_fetch *fetch)
{
    return fetch->is_active;
}

const struct weights_id *weights_fetch_id(const struct weights_fetch *fetch)
{
    return &fetch->id;
}

/* The first run of chunks that are not under way. After a stall those under way count as lost. */
static void next_run(const struct weights_fetch *fetch, bool is_stalled,
                     struct fetch_request *request)
{
    const size_t room = FETCH_WINDOW - (is_stalled ? 0 : fetch->n_asked);
    const enum chunk_state known = is_stalled ? CHUNK_HERE : CHUNK_ASKED;
    size_t first = 0;
    size_t count = 0;

    while (first < fetch->n_chunks && fetch->states[first] >= known) {
        first++;
    }
    while (count < room && first + count < fetch->n_chunks &&
           fetch->states[first + count] < known) {
        count++;
    }
    request->first = (int64_t)first;
    request->count = count;
}

bool weights_fetch_next(const struct weights_fetch *fetch, int64_t now_us,
                        struct fetch_request *request)
{
    const bool is_stalled = now_us - fetch->progress_us >= FETCH_STALL_US;

    if (!fetch->is_active || weights_fetch_is_complete(fetch)) {
        return false;
    }
    request->version = fetch->id.version;
    if (!fetch->has_info) {
        request->first = -1;
        request->count = 0;
        return !fetch->has_asked_info || is_stalled;
    }
    next_run(fetch, is_stalled, request);
    return request->count > 0;
}

void weights_fetch_asked(struct weights_fetch *fetch, const struct fetch_request *request,
                         int64_t now_us)
{
    if (request->first < 0) {
        fetch->has_asked_info = true;
        fetch->progress_us = now_us;
        return;
    }
    if (now_us - fetch->progress_us >= FETCH_STALL_US) {
        for (size_t i = 0; i < fetch->n_chunks; i++) {
            if (fetch->states[i] == CHUNK_ASKED) {
                fetch->states[i] = CHUNK_MISSING;
            }
        }
        fetch->n_asked = 0;
        fetch->progress_us = now_us;
    }
    memset(fetch->states + request->first, CHUNK_ASKED, request->count);
    fetch->n_asked += request->count;
}

enum status weights_fetch_info(struct weights_fetch *fetch, const struct weights_info *info,
                               int64_t now_us)
{
    char text[DIGEST128_TEXT];

    if (!fetch->is_active || fetch->has_info || info->version != fetch->id.version) {
        return STATUS_OK;
    }
    if (info->bytes != fetch->bytes || info->chunk_bytes != WEIGHTS_CHUNK_BYTES ||
        info->digests_bytes != fetch->n_chunks * sizeof(*fetch->digests)) {
        return status_set(STATUS_PEER,
                          "the trainer's weights are %zu bytes in chunks of %zu, this model's are "
                          "%zu in chunks of %zu",
                          info->bytes, info->chunk_bytes, fetch->bytes, WEIGHTS_CHUNK_BYTES);
    }
    memcpy(fetch->digests, info->digests, info->digests_bytes);
    const struct digest128 root = weights_root(fetch->digests, fetch->n_chunks);
    if (strcmp(hash_hex(root.bytes, sizeof(root.bytes), text), fetch->id.digest) != 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "weights of version %lld have digest %s, the work item wants %s",
                          (long long)info->version, text, fetch->id.digest);
    }
    fetch->has_info = true;
    fetch->progress_us = now_us;
    return STATUS_OK;
}

static size_t chunk_bytes(const struct weights_fetch *fetch, size_t chunk)
{
    const size_t offset = chunk * WEIGHTS_CHUNK_BYTES;

    return fetch->bytes - offset < WEIGHTS_CHUNK_BYTES ? fetch->bytes - offset
                                                       : WEIGHTS_CHUNK_BYTES;
}

enum status weights_fetch_chunk(struct weights_fetch *fetch, int64_t version, int64_t index,
                                const void *data, size_t bytes, int64_t now_us)
{
    if (!fetch->is_active || !fetch->has_info || version != fetch->id.version || index < 0 ||
        (uint64_t)index >= fetch->n_chunks || fetch->states[index] == CHUNK_HERE) {
        return STATUS_OK;
    }
    const size_t chunk = (size_t)index;
    if (fetch->states[chunk] == CHUNK_ASKED) {
        fetch->n_asked--;
    }
    fetch->states[chunk] = CHUNK_MISSING;
    const struct digest128 digest = hash_128(data, bytes);
    if (bytes != chunk_bytes(fetch, chunk) || !digest128_equal(&digest, &fetch->digests[chunk])) {
        if (++fetch->n_bad >= FETCH_BAD_CHUNKS_MAX) {
            return status_set(STATUS_BAD_FORMAT,
                              "%zu damaged chunks of weights version %lld, the last is chunk %zu",
                              fetch->n_bad, (long long)version, chunk);
        }
        return STATUS_OK;
    }
    memcpy((char *)fetch->weights + chunk * WEIGHTS_CHUNK_BYTES, data, bytes);
    fetch->states[chunk] = CHUNK_HERE;
    fetch->n_here++;
    while (fetch->n_leading < fetch->n_chunks && fetch->states[fetch->n_leading] == CHUNK_HERE) {
        fetch->n_leading++;
    }
    fetch->progress_us = now_us;
    return STATUS_OK;
}

bool weights_fetch_is_described(const struct weights_fetch *fetch)
{
    return fetch->is_active && fetch->has_info;
}

bool weights_fetch_is_complete(const struct weights_fetch *fetch)
{
    return fetch->is_active && fetch->has_info && fetch->n_here == fetch->n_chunks;
}

size_t weights_fetch_progress(const struct weights_fetch *fetch, size_t *n_all, int64_t *since_us)
{
    *n_all = fetch->n_chunks;
    *since_us = fetch->progress_us;
    return fetch->n_here;
}

size_t weights_fetch_ready(const struct weights_fetch *fetch)
{
    const size_t n = fetch->n_leading * (WEIGHTS_CHUNK_BYTES / sizeof(float));

    return n < fetch->n_floats ? n : fetch->n_floats;
}
