/* Owns where weights and packed copies lie: in memory of the policy's own, in a block that other
 * processes can map, or, borrowed, in such a block of another process. Whoever computes reads them
 * through policy->weights and the pointers of the plan, so that borrowing moves pointers alone. */
#include "base/log.h"
#include "base/memory.h"
#include "model/policy_internal.h"

#include <string.h>

#define PAGE ((size_t)4096)

static size_t weight_bytes(const struct policy *policy)
{
    return policy->table->n_floats * sizeof(float);
}

static size_t packed_bytes(const struct policy *policy)
{
    return policy->packed_words * sizeof(float);
}

static size_t packed_at(const struct policy *policy)
{
    return (weight_bytes(policy) + PAGE - 1) / PAGE * PAGE;
}

/* Both in one block; false where that cannot be. */
static bool create_shared(struct policy *policy)
{
    const size_t n = packed_at(policy) + packed_bytes(policy);

    if (!policy->options.shares_weights || !policy->backend->is_host) {
        return false;
    }
    if (shared_memory_create(n, &policy->shared) != STATUS_OK) {
        log_warn("model", "no other process can map these weights: %s", status_message());
        return false;
    }
    char *const data = shared_memory_data(policy->shared);
    policy->weights = (float *)(void *)data;
    policy->packed = (float *)(void *)(data + packed_at(policy));
    return true;
}

enum status policy_weights_create(struct policy *policy)
{
    const struct backend_ops *ops = policy->backend->ops;

    if (create_shared(policy)) {
        return STATUS_OK;
    }
    TRY(ops->alloc(policy->backend, policy->table->n_floats, sizeof(float), &policy->weights));
    return ops->alloc(policy->backend, policy->packed_words, sizeof(float), &policy->packed);
}

void policy_weights_destroy(struct policy *policy)
{
    const struct backend_ops *ops = policy->backend->ops;

    policy_return_weights(policy);
    if (policy->shared != NULL) {
        shared_memory_close(policy->shared);
        return;
    }
    ops->release(policy->backend, policy->packed);
    if (!policy->is_hollow) {
        ops->release(policy->backend, policy->weights);
    }
}

struct policy_share policy_share(const struct policy *policy)
{
    return (struct policy_share){.memory = policy->shared, .packed_at = packed_at(policy)};
}

/* What a pack leaves where. */
#define PACK_WORDS ((size_t)11)
static void describe_pack(const struct policy *policy, const struct pack_args *pack, uint64_t *out)
{
    const bool borrows = policy->own_weights != NULL;
    const float *const weights = borrows ? policy->own_weights : policy->weights;
    const float *const packed = borrows ? policy->own_packed : policy->packed;
    const uint64_t words[PACK_WORDS] = {(uint64_t)(pack->src - weights),
                                        (uint64_t)(pack->dst - packed),
                                        pack->src_stride,
                                        pack->n_in,
                                        pack->n_out,
                                        pack->panel_stride,
                                        pack->precision,
                                        pack->rounding,
                                        pack->row_at,
                                        pack->whole_rows,
                                        pack->transposed};

    for (size_t i = 0; i < PACK_WORDS; i++) {
        out[i] = words[i];
    }
}

enum status policy_packing(const struct policy *policy, struct digest128 *out)
{
    const char *name = policy->backend->name;
    uint64_t *words = NULL;
    const size_t n = policy->n_packs * PACK_WORDS;

    TRY(memory_alloc(n + 2, sizeof(uint64_t), &words));
    for (size_t i = 0; i < policy->n_packs; i++) {
        describe_pack(policy, &policy->packs[i], words + i * PACK_WORDS);
    }
    words[n] = hash_64(name, strlen(name)); /* instruction sets may differ in what a panel is */
    words[n + 1] = hash_64(policy->numerics, strlen(policy->numerics));
    *out = hash_128(words, (n + 2) * sizeof(uint64_t));
    memory_free(words);
    return STATUS_OK;
}

void policy_borrow_weights(struct policy *policy, float *weights, float *packed)
{
    const struct backend_ops *ops = policy->backend->ops;

    policy_return_weights(policy);
    ops->forget(policy->backend, policy->weights, weight_bytes(policy));
    ops->forget(policy->backend, policy->packed, packed_bytes(policy));
    policy->own_weights = policy->weights;
    policy->own_packed = policy->packed;
    policy->weights = weights;
    policy->packed = packed;
    policy_packs_place(policy, packed);
}

void policy_return_weights(struct policy *policy)
{
    if (policy->own_weights == NULL) {
        return;
    }
    policy->weights = policy->own_weights;
    policy->packed = policy->own_packed;
    policy->own_weights = NULL;
    policy->own_packed = NULL;
    policy_packs_place(policy, policy->packed);
}
