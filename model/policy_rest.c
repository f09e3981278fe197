/* Owns what goes back to the device between two phases of a process: a trainer needs no gradients
 * while workers sample, a worker no cache while the trainer learns. Pages that are given back read
 * as zeros, as all memory of a policy does at first, so that what is computed next has the bits
 * that it would have had. */
#include "base/memory.h"
#include "model/policy_internal.h"

static void forget(const struct policy *policy, void *bytes, size_t n)
{
    if (bytes != NULL && n >= MEMORY_HUGE_BYTES) {
        policy->backend->ops->forget(policy->backend, bytes, n);
    }
}

/* Rows of the last forward pass, of which nobody may ask for more. */
static void forget_pass(struct policy *policy)
{
    policy->n_rows = 0;
    policy->n_targets = 0;
    policy->n_extended = 0;
    policy->n_mtp_run = 0;
    policy->n_mtp_left = 0;
    policy->mtp_reaches_trunk = false;
    policy->held_layer = SIZE_MAX;
}

static void rest_gradients(struct policy *policy)
{
    const size_t n = policy->table->n_floats * sizeof(float);
    const size_t n_tied = policy_tied_slots(policy) * policy->config.hidden_size * sizeof(float);

    forget(policy, policy->gradients, n);
    forget(policy, policy->tied.rows, n_tied); /* zeros between two updates */
    policy->is_cleared = n >= MEMORY_HUGE_BYTES;
}

void policy_rest(struct policy *policy)
{
    forget_pass(policy);
    forget(policy, (char *)policy->buffers + policy->lasting_bytes,
           policy->buffer_bytes - policy->lasting_bytes);
    if (policy->gradients != NULL) {
        rest_gradients(policy);
    }
    backend_rest(policy->backend);
}

enum status policy_clear_gradients(struct policy *policy)
{
    if (policy->is_cleared) {
        return STATUS_OK;
    }
    return policy->backend->ops->fill(policy->backend, policy->gradients, policy->table->n_floats,
                                      0.0F);
}

bool policy_cache_rest(struct policy_cache *cache)
{
    const struct policy *policy = cache->policy;
    const size_t n = cache->n_pages * policy_cache_page_bytes(policy);

    forget(policy, cache->data, n);
    return n >= MEMORY_HUGE_BYTES;
}
