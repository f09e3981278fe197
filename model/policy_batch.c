/* Owns where the rows of a packed batch go: what is checked of it, spans and entries, positions,
 * targets, and how many sequences share a row.
 *
 * A sequence that continues a prefix has entries of its own for its whole length, so that the spans
 * of one call share none: the prefix' entries are copied there (the copies, listed behind the
 * spans), and the gradients of those entries are read back after the prefix' own. Entries are one
 * layer's in training, which makes this cheap. */
#include "model/policy_internal.h"

#include <string.h>

static bool continues(const struct policy_batch *batch, size_t sequence)
{
    return batch->continues != NULL && batch->continues[sequence];
}

static enum status check_targets(const struct policy *policy, const struct policy_batch *batch)
{
    for (size_t i = 0; i < batch->n_targets; i++) {
        const int32_t row = batch->target_rows[i];

        if (row < 0 || (size_t)row >= batch->n_rows ||
            (i > 0 && row <= batch->target_rows[i - 1])) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "target row %zu is %d, want ascending rows below %zu", i, (int)row,
                              batch->n_rows);
        }
    }
    return policy_check_tokens(policy, "target", batch->targets, batch->n_targets);
}

static enum status check_sequences(const struct policy *policy, const struct policy_batch *batch)
{
    size_t n_prefix = 0;

    for (size_t i = 0; i < batch->n_sequences; i++) {
        const size_t begin = batch->offsets[i], end = batch->offsets[i + 1];
        const size_t n_before = continues(batch, i) ? n_prefix : 0;

        if (end <= begin || end > batch->n_rows ||
            n_before + end - begin > policy->config.max_positions) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "sequence %zu has rows %zu to %zu, want 1 to %zu rows", i, begin, end,
                              policy->config.max_positions - n_before);
        }
        n_prefix = continues(batch, i) ? n_prefix : end - begin;
    }
    return STATUS_OK;
}

/* An indexer's loss is not made for rows that several sequences share. */
static enum status check_prefixes(const struct policy *policy, const struct policy_batch *batch)
{
    bool has_prefix = false;

    if (continues(batch, 0)) {
        return status_set(STATUS_BAD_ARGUMENT, "sequence 0 continues a prefix, and none is there");
    }
    for (size_t i = 0; i < batch->n_sequences; i++) {
        has_prefix = has_prefix || continues(batch, i);
    }
    return has_prefix && policy->indexer_loss != POLICY_INDEXER_OFF
               ? status_set(STATUS_BAD_ARGUMENT,
                            "a batch with prefixes, and an indexer that learns from it")
               : STATUS_OK;
}

static enum status check_batch(const struct policy *policy, const struct policy_batch *batch)
{
    if (batch->n_rows == 0 || batch->n_rows > policy->options.max_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "a batch of %zu rows, sized for 1 to %zu",
                          batch->n_rows, policy->options.max_rows);
    }
    if (batch->n_sequences == 0 || batch->offsets[0] != 0 ||
        batch->offsets[batch->n_sequences] != batch->n_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "the sequences do not cover the batch's %zu rows",
                          batch->n_rows);
    }
    TRY(check_sequences(policy, batch));
    TRY(check_prefixes(policy, batch));
    TRY(policy_check_tokens(policy, "token", batch->tokens, batch->n_rows));
    return check_targets(policy, batch);
}

/* A span with entries of its own, behind those of the spans before it; positions and uses of its
 * rows. */
static enum status place_span(struct policy *policy, size_t index, int32_t *blocks,
                              struct kv_span span)
{
    const size_t n_entries = span.n_cached + span.n_rows, first = policy->n_entries_used;

    if (n_entries > policy->n_entries - first) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "the batch's sequences have %zu tokens and more, sized for %zu",
                          first + n_entries, policy->n_entries);
    }
    for (size_t j = 0; j * KV_BLOCK_TOKENS < n_entries; j++) {
        blocks[j] = (int32_t)(first + j * KV_BLOCK_TOKENS);
    }
    for (size_t j = 0; j < span.n_rows; j++) {
        policy->staging[span.first_row + j] = (int32_t)(span.n_cached + j);
        policy->uses[span.first_row + j] = 1;
    }
    span.blocks = blocks;
    policy->spans[index] = span;
    policy->n_entries_used += n_entries;
    return STATUS_OK;
}

/* The prefix' rows go to the entries of child `index` too, its n_children-th. */
static void place_copy(struct policy *policy, const struct kv_span *prefix, size_t index,
                       size_t n_children)
{
    policy->spans[policy->n_spans + policy->n_copies] =
        (struct kv_span){.first_row = prefix->first_row,
                         .n_rows = prefix->n_rows,
                         .blocks = policy->spans[index].blocks};
    policy->n_copies++;
    for (size_t j = 0; j < prefix->n_rows; j++) {
        policy->uses[prefix->first_row + j] = (uint32_t)n_children;
    }
}

static enum status place_sequences(struct policy *policy, const struct policy_batch *batch)
{
    const struct kv_span *prefix = NULL;
    size_t n_children = 0, n_blocks = 0;

    policy->n_spans = batch->n_sequences;
    policy->n_copies = 0;
    policy->n_entries_used = 0;
    for (size_t i = 0; i < batch->n_sequences; i++) {
        const bool goes_on = prefix != NULL && continues(batch, i);
        const struct kv_span span = {.first_row = batch->offsets[i],
                                     .n_rows = batch->offsets[i + 1] - batch->offsets[i],
                                     .n_cached = goes_on ? prefix->n_rows : 0};

        TRY(place_span(policy, i, policy->blocks + n_blocks, span));
        n_blocks += (span.n_cached + span.n_rows + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
        n_children = goes_on ? n_children + 1 : 0;
        if (goes_on) {
            place_copy(policy, prefix, i, n_children);
        } else {
            prefix = &policy->spans[i];
        }
    }
    return STATUS_OK;
}

/* Keeps the targets for the backward pass and uploads them. */
static enum status place_targets(struct policy *policy, const struct policy_batch *batch)
{
    const size_t n = batch->n_targets, t = policy->options.max_rows;

    policy->n_targets = n;
    policy->sampling = batch->sampling;
    if (n == 0) {
        return STATUS_OK;
    }
    memcpy(policy->host_targets, batch->target_rows, n * sizeof(int32_t));
    memcpy(policy->host_targets + t, batch->targets, n * sizeof(int32_t));
    TRY(policy_upload_rows(policy, policy->target_rows, batch->target_rows, n));
    return policy_upload_rows(policy, policy->targets, batch->targets, n);
}

enum status policy_batch_place(struct policy *policy, const struct policy_batch *batch)
{
    TRY(check_batch(policy, batch));
    TRY(place_sequences(policy, batch));
    memcpy(policy->host_tokens, batch->tokens, batch->n_rows * sizeof(int32_t));
    TRY(policy_upload_rows(policy, policy->positions, policy->staging, batch->n_rows));
    TRY(policy_upload_rows(policy, policy->tokens, batch->tokens, batch->n_rows));
    return place_targets(policy, batch);
}

enum status policy_copy_entries(struct policy *policy, const struct policy_block_rows *rows,
                                const struct kv_copy_args *args)
{
    const struct backend_ops *ops = policy->backend->ops;
    struct kv_copy_args copy = *args;

    copy.spans = rows->spans;
    copy.n_spans = rows->n_spans + (args->to_pages ? rows->n_copies : 0);
    TRY(ops->kv_copy(policy->backend, &copy));
    if (args->to_pages || rows->n_copies == 0) {
        return STATUS_OK;
    }
    copy.spans = rows->spans + rows->n_spans;
    copy.n_spans = rows->n_copies;
    copy.accumulate = true;
    return ops->kv_copy(policy->backend, &copy);
}
