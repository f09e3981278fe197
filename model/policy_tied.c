/* Owns the gradient of the embedding of a tied head, which is kept apart from the head's until an
 * update is whole: each is one chain over rows then, wherever the update is cut. The head's has
 * every token and lies in policy->gradients; the embedding's has the tokens that came, each in a
 * slot in the order in which they first did. */
#include "base/memory.h"
#include "model/policy_backward_internal.h"
#include "model/policy_internal.h"

#include <string.h>

size_t policy_tied_slots(const struct policy *policy)
{
    const size_t vocab = policy->config.vocab_size, n = policy->options.max_update_tokens;

    if (!policy->options.is_trainable || !policy->config.has_tied_head) {
        return 0;
    }
    return n == 0 || n > vocab ? vocab : n;
}

enum status policy_tied_create(struct policy *policy)
{
    const size_t vocab = policy->config.vocab_size, n_slots = policy_tied_slots(policy);
    struct policy_tied *tied = &policy->tied;

    if (n_slots == 0) {
        return STATUS_OK;
    }
    TRY(memory_alloc(vocab, sizeof(int32_t), &tied->slots));
    TRY(memory_alloc(n_slots, sizeof(int32_t), &tied->tokens));
    memset(tied->slots, -1, vocab * sizeof(int32_t));
    return policy->backend->ops->alloc(policy->backend, n_slots * policy->config.hidden_size,
                                       sizeof(float), &tied->rows);
}

void policy_tied_destroy(struct policy *policy)
{
    policy->backend->ops->release(policy->backend, policy->tied.rows);
    memory_free(policy->tied.tokens);
    memory_free(policy->tied.slots);
}

/* A token's slot; one that has none gets the next. */
static int32_t slot_of(struct policy_tied *tied, int32_t token)
{
    if (tied->slots[token] < 0) {
        tied->tokens[tied->n] = token;
        tied->slots[token] = (int32_t)tied->n;
        tied->n++;
    }
    return tied->slots[token];
}

enum status policy_tied_backward(struct policy *policy, const int32_t *tokens,
                                 struct embedding_backward_args *args)
{
    const size_t n_slots = policy_tied_slots(policy);
    struct policy_tied *tied = &policy->tied;

    for (size_t i = 0; i < args->n_rows; i++) {
        if (tied->n == n_slots && tied->slots[tokens[i]] < 0) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "an update has more different tokens than the %zu it is sized for",
                              n_slots);
        }
        policy->staging[i] = slot_of(tied, tokens[i]);
    }
    TRY(policy_upload_rows(policy, policy->grad.merged_targets, policy->staging, args->n_rows));
    args->ids = policy->grad.merged_targets;
    args->d_table = tied->rows;
    return policy->backend->ops->embedding_backward(policy->backend, args);
}

/* Slots [first, first + n) to the gradient that has every token. */
static enum status add_slots(struct policy *policy, size_t first, size_t n)
{
    const size_t d = policy->sizes.d;

    TRY(policy_upload_rows(policy, policy->grad.merged_rows, policy->tied.tokens + first, n));
    return policy->backend->ops->scatter_add_rows(
        policy->backend, &(struct rows_args){.src = policy->tied.rows + first * d,
                                             .src_stride = d,
                                             .rows = policy->grad.merged_rows,
                                             .dst = policy->gradients + policy->embedding,
                                             .dst_stride = d,
                                             .n_rows = n,
                                             .d = d});
}

enum status policy_finish_gradients(struct policy *policy)
{
    const size_t n_max = policy->options.max_rows;
    struct policy_tied *tied = &policy->tied;

    if (tied->n == 0) {
        return STATUS_OK;
    }
    for (size_t i = 0; i < tied->n; i += n_max) {
        const size_t left = tied->n - i;

        TRY(add_slots(policy, i, left < n_max ? left : n_max));
    }
    TRY(policy->backend->ops->fill(policy->backend, tied->rows, tied->n * policy->sizes.d, 0));
    for (size_t i = 0; i < tied->n; i++) {
        tied->slots[tied->tokens[i]] = -1;
    }
    tied->n = 0;
    return STATUS_OK;
}
