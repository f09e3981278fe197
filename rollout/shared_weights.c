#include "rollout/shared_weights.h"

#include "base/hash.h"
#include "base/log.h"

#include <string.h>

#define LINE_BYTES ((size_t)64) /* what kernels read begins on a cache line */

struct offer {
    struct shared_memory_name name;
    size_t weights_at, packed_at;
    const char *packing; /* of the message */
};

/* false: W_INFO names no memory, or not all of it. */
static bool read_offer(const struct message *info, struct offer *out)
{
    const int64_t bytes = message_int(info, "shared_bytes", -1);
    const int64_t weights_at = message_int(info, "weights_at", -1);
    const int64_t packed_at = message_int(info, "packed_at", -1);

    *out = (struct offer){
        .name = {.pid = message_int(info, "pid", -1), .fd = message_int(info, "fd", -1)},
        .packing = message_text(info, "packing", "")};
    if (out->name.pid < 0 || out->name.fd < 0 || bytes < 0 || weights_at < 0 || packed_at < 0) {
        return false;
    }
    out->name.n_bytes = (size_t)bytes;
    out->weights_at = (size_t)weights_at;
    out->packed_at = (size_t)packed_at;
    return hash_unhex(message_text(info, "nonce", ""), out->name.nonce, sizeof(out->name.nonce));
}

static bool is_inside(size_t at, size_t n_bytes, size_t n_all)
{
    return at % LINE_BYTES == 0 && at <= n_all && n_bytes <= n_all - at;
}

/* The policy would find its weights and packed copies there, and in its own form. */
static enum status check_fit(const struct offer *offer, const struct policy *policy)
{
    const struct policy_memory memory = policy_memory(policy);
    const size_t n_weights = policy_table(policy)->n_floats * sizeof(float);
    const size_t n_all = offer->name.n_bytes;
    struct digest128 packing;
    char text[DIGEST128_TEXT];

    TRY(policy_packing(policy, &packing));
    if (strcmp(hash_hex(packing.bytes, sizeof(packing.bytes), text), offer->packing) != 0) {
        return status_set(STATUS_PEER, "the trainer packs weights otherwise");
    }
    if (!is_inside(offer->weights_at, n_weights, n_all) ||
        !is_inside(offer->packed_at, memory.packed, n_all)) {
        return status_set(STATUS_PEER, "%zu bytes do not hold weights at %zu and %zu", n_all,
                          offer->weights_at, offer->packed_at);
    }
    return STATUS_OK;
}

static bool has_nonce(const struct shared_memory *memory, const struct offer *offer)
{
    const struct shared_memory_name name = shared_memory_name(memory);

    return memcmp(name.nonce, offer->name.nonce, sizeof(name.nonce)) == 0;
}

static enum status attach(struct shared_weights *shared, const struct offer *offer,
                          const struct policy *policy)
{
    TRY(check_fit(offer, policy));
    TRY(shared_memory_attach(&offer->name, &shared->memory));
    shared->weights_at = offer->weights_at;
    shared->packed_at = offer->packed_at;
    return STATUS_OK;
}

/* The first time for these weights. That they are out of reach is no failure: there are chunks. */
static enum status try_attach(struct shared_weights *shared, const struct offer *offer,
                              const struct policy *policy)
{
    if (shared->has_refused &&
        memcmp(shared->refused, offer->name.nonce, sizeof(shared->refused)) == 0) {
        return STATUS_OK;
    }
    const enum status status = attach(shared, offer, policy);
    if (status == STATUS_NO_MEMORY) {
        return status;
    }
    if (status == STATUS_OK) {
        log_info("rollout", "weights mapped_mib=%zu trainer_pid=%lld", offer->name.n_bytes >> 20,
                 (long long)offer->name.pid);
        return STATUS_OK;
    }
    log_info("rollout", "weights are not mapped but fetched: %s", status_message());
    memcpy(shared->refused, offer->name.nonce, sizeof(shared->refused));
    shared->has_refused = true;
    return STATUS_OK;
}

enum status shared_weights_map(struct shared_weights *shared, const struct message *info,
                               const struct policy *policy, bool *is_mapped)
{
    struct offer offer;

    *is_mapped = false;
    if (!read_offer(info, &offer)) {
        shared_weights_unmap(shared);
        return STATUS_OK;
    }
    if (shared->memory != NULL && !has_nonce(shared->memory, &offer)) {
        shared_weights_unmap(shared);
    }
    if (shared->memory == NULL) {
        TRY(try_attach(shared, &offer, policy));
    }
    *is_mapped = shared->memory != NULL;
    return STATUS_OK;
}

void shared_weights_unmap(struct shared_weights *shared)
{
    shared_memory_close(shared->memory);
    shared->memory = NULL;
}

int64_t shared_weights_version(const struct shared_weights *shared)
{
    return shared->memory == NULL ? -1 : shared_memory_version(shared->memory);
}

bool shared_weights_is_orphan(const struct shared_weights *shared)
{
    return shared->memory != NULL && shared_memory_is_orphan(shared->memory);
}

void shared_weights_lend(const struct shared_weights *shared, struct policy *policy)
{
    char *const data = shared_memory_data(shared->memory);

    policy_borrow_weights(policy, (float *)(void *)(data + shared->weights_at),
                          (float *)(void *)(data + shared->packed_at));
}
