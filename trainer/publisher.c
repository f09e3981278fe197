#include "trainer/publisher.h"

#include "base/memory.h"
#include "model/weights.h"

#include <stdio.h>

struct publisher {
    const float *weights;
    size_t n_floats, n_chunks, version;
    struct digest128 *digests; /* (n_chunks) */
    struct digest128 root;
    struct policy_share share; /* no memory: chunks alone */
    struct digest128 packing;  /* of the packed copies in it */
};

enum status publisher_create(const float *weights, size_t n_floats, struct publisher **out)
{
    struct publisher *publisher = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*publisher), &publisher));
    publisher->weights = weights;
    publisher->n_floats = n_floats;
    publisher->n_chunks = weights_chunks(n_floats);
    const enum status status =
        memory_alloc(publisher->n_chunks, sizeof(struct digest128), &publisher->digests);
    if (status != STATUS_OK) {
        publisher_destroy(publisher);
        return status;
    }
    *out = publisher;
    return STATUS_OK;
}

void publisher_destroy(struct publisher *publisher)
{
    if (publisher != NULL) {
        memory_free(publisher->digests);
        memory_free(publisher);
    }
}

enum status publisher_share(struct publisher *publisher, const struct policy *policy)
{
    TRY(policy_packing(policy, &publisher->packing));
    publisher->share = policy_share(policy);
    return STATUS_OK;
}

static void set_shared_version(const struct publisher *publisher, int64_t version)
{
    if (publisher->share.memory != NULL) {
        shared_memory_set_version(publisher->share.memory, version);
    }
}

void publisher_withdraw(struct publisher *publisher)
{
    set_shared_version(publisher, -1);
}

void publisher_offer(struct publisher *publisher, size_t version)
{
    for (size_t i = 0; i < publisher->n_chunks; i++) {
        publisher->digests[i] = weights_chunk_digest(publisher->weights, publisher->n_floats, i);
    }
    publisher->root = weights_root(publisher->digests, publisher->n_chunks);
    publisher->version = version;
    set_shared_version(publisher, (int64_t)version);
}

size_t publisher_version(const struct publisher *publisher)
{
    return publisher->version;
}

struct digest128 publisher_digest(const struct publisher *publisher)
{
    return publisher->root;
}

/* Where a worker of this host finds the weights and their packed copies. */
static void put_share(const struct publisher *publisher, struct message *message)
{
    char text[DIGEST128_TEXT];
    if (publisher->share.memory == NULL) {
        return;
    }
    const struct shared_memory_name name = shared_memory_name(publisher->share.memory);
    message_put_int(message, "pid", name.pid);
    message_put_int(message, "fd", name.fd);
    message_put_int(message, "shared_bytes", (int64_t)name.n_bytes);
    message_put_int(message, "weights_at", (int64_t)publisher->share.weights_at);
    message_put_int(message, "packed_at", (int64_t)publisher->share.packed_at);
    message_put_text(message, "nonce", hash_hex(name.nonce, sizeof(name.nonce), text));
    message_put_text(message, "packing",
                     hash_hex(publisher->packing.bytes, sizeof(publisher->packing.bytes), text));
}

static enum status send_info(const struct publisher *publisher, struct socket *socket,
                             const struct peer_id *peer)
{
    struct message *message = NULL;
    char root[DIGEST128_TEXT];
    TRY(message_create(MESSAGE_W_INFO, &message));
    message_put_int(message, "version", (int64_t)publisher->version);
    message_put_int(message, "bytes", (int64_t)(publisher->n_floats * sizeof(float)));
    message_put_int(message, "chunk_bytes", (int64_t)WEIGHTS_CHUNK_BYTES);
    message_put_text(message, "root",
                     hash_hex(publisher->root.bytes, sizeof(publisher->root.bytes), root));
    message_put_array(message, "digests", DTYPE_U8, publisher->digests,
                      publisher->n_chunks * sizeof(struct digest128));
    put_share(publisher, message);
    const enum status status = socket_send(socket, peer, message);
    message_destroy(message);
    return status;
}

static enum status send_chunk(const struct publisher *publisher, struct socket *socket,
                              const struct peer_id *peer, size_t index)
{
    const size_t n_bytes = publisher->n_floats * sizeof(float);
    const size_t begin = index * WEIGHTS_CHUNK_BYTES;
    const size_t n = n_bytes - begin < WEIGHTS_CHUNK_BYTES ? n_bytes - begin : WEIGHTS_CHUNK_BYTES;
    struct message *message = NULL;
    TRY(message_create(MESSAGE_W_CHUNK, &message));
    message_put_int(message, "version", (int64_t)publisher->version);
    message_put_int(message, "index", (int64_t)index);
    message_put_array(message, "data", DTYPE_U8, (const unsigned char *)publisher->weights + begin,
                      n);
    const enum status status = socket_send(socket, peer, message);
    message_destroy(message);
    return status;
}

static enum status refuse(const struct publisher *publisher, struct socket *socket,
                          const struct peer_id *peer)
{
    struct message *message = NULL;
    char reason[64];
    const int n = snprintf(reason, sizeof(reason), "only version %zu is here", publisher->version);
    TRY(message_create(MESSAGE_REFUSE, &message));
    message_put_text(message, "reason", n < 0 ? "gone" : reason);
    const enum status status = socket_send(socket, peer, message);
    message_destroy(message);
    return status;
}

enum status publisher_answer(struct publisher *publisher, struct socket *socket,
                             const struct peer_id *peer, const struct message *request)
{
    const int64_t first = message_int(request, "first", -1);
    const int64_t count = message_int(request, "count", 0);
    const bool is_present = message_int(request, "version", -1) == (int64_t)publisher->version;
    if (!is_present) {
        return refuse(publisher, socket, peer);
    }
    if (first < 0) {
        return send_info(publisher, socket, peer);
    }
    for (int64_t i = first; i < first + count && (size_t)i < publisher->n_chunks; i++) {
        const enum status status = send_chunk(publisher, socket, peer, (size_t)i);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}
