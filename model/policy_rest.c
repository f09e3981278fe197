/* Owns what goes back to the device between two phases of a process: a trainer needs no gradients
 * while workers sample, a worker no cache while the trainer learns. Pages that are given back read
 * as zeros, as all memory of a policy does at first, so that what is computed next has the bits
 * that it would have had. */
#include "base/memory.h"
#include "model/policy_internal.h"

/* n where that is worth giving back. */
static size_t if_large(size_t n)
{
    return n >= MEMORY_HUGE_BYTES ? n : 0;
}

static void forget(const struct policy *policy, void *bytes, size_t n)
{
    if (bytes != NULL && if_large(n) > 0) {
        policy->backend->ops->forget(policy->backend, bytes, n);
    }
}

static size_t row_bytes(const struct policy *policy)
{
    return policy->buffer_bytes - policy->lasting_bytes;
}

static size_t gradient_bytes(const struct policy *policy)
{
    return policy->options.is_trainable ? policy->table->n_floats * sizeof(float) : 0;
}

static size_t tied_bytes(const struct policy *policy)
{
    return policy_tied_slots(policy) * policy->config.hidden_size * sizeof(float);
}

size_t policy_resting_bytes(const struct policy *policy)
{
    return if_large(row_bytes(policy)) + if_large(gradient_bytes(policy)) +
           if_large(tied_bytes(policy));
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

void policy_rest(struct policy *policy)
{
    forget_pass(policy);
    forget(policy, (char *)policy->buffers + policy->lasting_bytes, row_bytes(policy));
    forget(policy, policy->gradients, gradient_bytes(policy));
    forget(policy, policy->tied.rows, tied_bytes(policy)); /* zeros between two updates */
    policy->is_cleared = policy->is_cleared || if_large(gradient_bytes(policy)) > 0;
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
