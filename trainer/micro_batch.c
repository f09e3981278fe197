#include "trainer/micro_batch.h"

#include "base/memory.h"

#include <assert.h>
#include <string.h>

enum status micro_batch_init(size_t capacity, struct micro_batch *out)
{
    *out = (struct micro_batch){.capacity = capacity};
    struct {
        void *pointer;
        size_t count, size;
    } const wanted[] = {
        {&out->tokens, capacity, sizeof(int32_t)},
        {&out->offsets, capacity + 1, sizeof(size_t)},
        {&out->continues, capacity, sizeof(bool)},
        {&out->target_rows, capacity, sizeof(int32_t)},
        {&out->targets, capacity, sizeof(int32_t)},
        {&out->mtp_rows, capacity, sizeof(int32_t)},
        {&out->mtp_targets, capacity, sizeof(int32_t)},
        {&out->mtp_index, capacity, sizeof(size_t)},
        {&out->mtp_draws, capacity, sizeof(struct sample_row)},
        {&out->logp, capacity, sizeof(float)},
        {&out->entropy, capacity, sizeof(float)},
        {&out->g, capacity, sizeof(float)},
        {&out->mtp_logp, capacity, sizeof(float)},
        {&out->mtp_g, capacity, sizeof(float)},
        {&out->mtp_drawn, capacity, sizeof(int32_t)},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        const enum status status = memory_alloc(wanted[i].count, wanted[i].size, wanted[i].pointer);
        if (status != STATUS_OK) {
            micro_batch_dispose(out);
            return status;
        }
    }
    return STATUS_OK;
}

void micro_batch_dispose(struct micro_batch *batch)
{
    void *const blocks[] = {batch->tokens,      batch->offsets,   batch->continues,
                            batch->target_rows, batch->targets,   batch->mtp_rows,
                            batch->mtp_targets, batch->mtp_index, batch->mtp_draws,
                            batch->logp,        batch->entropy,   batch->g,
                            batch->mtp_logp,    batch->mtp_g,     batch->mtp_drawn};
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        memory_free(blocks[i]);
    }
    *batch = (struct micro_batch){0};
}

size_t train_sequence_rows(const struct train_sequence *sequence)
{
    return sequence->n_prompt + sequence->n_response - 1;
}

size_t train_sequence_mtp_targets(const struct train_sequence *sequence)
{
    const size_t first = sequence->n_prompt < 2 ? 2 : sequence->n_prompt;
    const size_t end = sequence->n_prompt + sequence->n_response;
    return end > first ? end - first : 0;
}

static int32_t token_at(const struct train_sequence *sequence, size_t position)
{
    return position < sequence->n_prompt ? sequence->prompt[position]
                                         : sequence->response[position - sequence->n_prompt];
}

/* Rows of a shared prompt. All but its last token, which predicts something else in every sequence;
 * with an MTP module all but two, since it predicts one token further. */
static size_t shared_rows(const struct micro_batch_plan *plan,
                          const struct train_sequence *sequence)
{
    const size_t n_own = plan->has_mtp ? 2 : 1;
    return sequence->n_prompt > n_own ? sequence->n_prompt - n_own : 0;
}

static bool has_same_prompt(const struct train_sequence *a, const struct train_sequence *b)
{
    return a->group == b->group && a->n_prompt == b->n_prompt &&
           (a->prompt == b->prompt ||
            memcmp(a->prompt, b->prompt, a->n_prompt * sizeof(*a->prompt)) == 0);
}

/* What sequences [first, end) of one prompt take. */
struct cost {
    size_t n_shared; /* rows of the prompt that stand once, 0: none */
    size_t n_rows, n_entries;
};

static struct cost cost_of(const struct micro_batch_plan *plan,
                           const struct train_sequence *sequences, size_t first, size_t end)
{
    struct cost cost = {.n_shared = end > first + 1 ? shared_rows(plan, &sequences[first]) : 0};
    cost.n_rows = cost.n_shared;
    cost.n_entries = cost.n_shared;
    for (size_t i = first; i < end; i++) {
        const size_t n_rows = train_sequence_rows(&sequences[i]);
        cost.n_rows += n_rows - cost.n_shared;
        cost.n_entries += n_rows;
    }
    return cost;
}

/* One past the last sequence that shares its prompt with the first. */
static size_t group_end(const struct micro_batch_plan *plan, const struct train_sequence *sequences,
                        size_t first, size_t n)
{
    size_t end = first + 1;
    while (plan->shares_prompts && shared_rows(plan, &sequences[first]) > 0 && end < n &&
           has_same_prompt(&sequences[first], &sequences[end])) {
        end++;
    }
    return end;
}

static bool fits(const struct micro_batch *batch, const struct micro_batch_plan *plan,
                 const struct cost *cost)
{
    return batch->n_rows + cost->n_rows <= plan->max_rows &&
           (!plan->shares_prompts || batch->n_entries + cost->n_entries <= plan->max_entries);
}

/* The response token at `position` is predicted by row position - 1 of the trunk and row position -
 * 2 of the MTP module; first_row is that of position 0, or where it would be. */
static void add_target(struct micro_batch *batch, const struct micro_batch_plan *plan,
                       const struct train_sequence *sequence, size_t first_row, size_t position)
{
    const int32_t token = token_at(sequence, position);
    if (plan->has_mtp && position >= 2) {
        const size_t j = batch->n_mtp++;
        batch->mtp_rows[j] = (int32_t)(first_row + position - 2);
        batch->mtp_targets[j] = token;
        batch->mtp_index[j] = batch->n_targets;
        batch->mtp_draws[j] = (struct sample_row){.seed = sequence->seed,
                                                  .group = sequence->group,
                                                  .sample = sequence->sample,
                                                  .position = (uint32_t)position,
                                                  .sampling = plan->sampling};
    }
    batch->target_rows[batch->n_targets] = (int32_t)(first_row + position - 1);
    batch->targets[batch->n_targets] = token;
    batch->n_targets++;
}

/* Tokens [begin, end) of a sequence become rows. */
static void add_rows(struct micro_batch *batch, const struct train_sequence *sequence, size_t begin,
                     size_t end, bool continues)
{
    assert(batch->n_rows + (end - begin) <= batch->capacity);
    for (size_t i = begin; i < end; i++) {
        batch->tokens[batch->n_rows++] = token_at(sequence, i);
    }
    batch->continues[batch->n_sequences] = continues;
    batch->n_sequences++;
    batch->offsets[batch->n_sequences] = batch->n_rows;
}

/* A sequence whose first n_shared rows stand before it already. */
static void add_sequence(struct micro_batch *batch, const struct micro_batch_plan *plan,
                         const struct train_sequence *sequence, size_t n_shared)
{
    assert(sequence->n_prompt > 0 && sequence->n_response > 0);
    const size_t first_row = batch->n_rows - n_shared;
    const size_t n_rows = train_sequence_rows(sequence);
    add_rows(batch, sequence, n_shared, n_rows, n_shared > 0);
    for (size_t p = sequence->n_prompt; p <= n_rows; p++) {
        add_target(batch, plan, sequence, first_row, p);
    }
    batch->n_inputs += n_rows;
}

static void add_group(struct micro_batch *batch, const struct micro_batch_plan *plan,
                      const struct train_sequence *sequences, size_t first, size_t end)
{
    const struct cost cost = cost_of(plan, sequences, first, end);
    if (cost.n_shared > 0) {
        add_rows(batch, &sequences[first], 0, cost.n_shared, false);
    }
    for (size_t i = first; i < end; i++) {
        add_sequence(batch, plan, &sequences[i], cost.n_shared);
    }
    batch->n_entries += cost.n_entries;
}

/* As much of a group as an empty batch holds: one past its last sequence, at least one. */
static size_t part_end(const struct micro_batch *batch, const struct micro_batch_plan *plan,
                       const struct train_sequence *sequences, size_t first, size_t end)
{
    size_t next = first + 1;
    while (next < end) {
        const struct cost cost = cost_of(plan, sequences, first, next + 1);
        if (!fits(batch, plan, &cost)) {
            break;
        }
        next++;
    }
    return next;
}

size_t micro_batch_pack(struct micro_batch *batch, const struct micro_batch_plan *plan,
                        const struct train_sequence *sequences, size_t first, size_t n)
{
    batch->n_rows = 0;
    batch->n_entries = 0;
    batch->n_inputs = 0;
    batch->n_sequences = 0;
    batch->n_targets = 0;
    batch->n_mtp = 0;
    batch->offsets[0] = 0;
    size_t next = first;
    while (next < n) {
        size_t end = group_end(plan, sequences, next, n);
        const struct cost cost = cost_of(plan, sequences, next, end);
        const bool is_whole = fits(batch, plan, &cost);
        if (!is_whole && next > first) {
            break;
        }
        if (!is_whole) {
            end = part_end(batch, plan, sequences, first, end);
        }
        add_group(batch, plan, sequences, next, end);
        next = end;
    }
    return next;
}
