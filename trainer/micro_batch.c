#include "trainer/micro_batch.h"

#include "base/memory.h"

#include <assert.h>

enum status micro_batch_init(size_t capacity, struct micro_batch *out)
{
    *out = (struct micro_batch){.capacity = capacity};
    struct {
        void *pointer;
        size_t count, size;
    } const wanted[] = {
        {&out->tokens, capacity, sizeof(int32_t)},
        {&out->offsets, capacity + 1, sizeof(size_t)},
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
    void *const blocks[] = {
        batch->tokens,      batch->offsets,   batch->target_rows, batch->targets,  batch->mtp_rows,
        batch->mtp_targets, batch->mtp_index, batch->mtp_draws,   batch->logp,     batch->entropy,
        batch->g,           batch->mtp_logp,  batch->mtp_g,       batch->mtp_drawn};
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

/* The response token at `position` is predicted by row position - 1 of the trunk and row position -
 * 2 of the MTP module. */
static void add_target(struct micro_batch *batch, const struct train_sequence *sequence,
                       size_t first_row, size_t position, const struct sampling_params *sampling)
{
    const int32_t token = token_at(sequence, position);
    if (position >= 2) {
        const size_t j = batch->n_mtp++;
        batch->mtp_rows[j] = (int32_t)(first_row + position - 2);
        batch->mtp_targets[j] = token;
        batch->mtp_index[j] = batch->n_targets;
        batch->mtp_draws[j] = (struct sample_row){.seed = sequence->seed,
                                                  .group = sequence->group,
                                                  .sample = sequence->sample,
                                                  .position = (uint32_t)position,
                                                  .sampling = *sampling};
    }
    batch->target_rows[batch->n_targets] = (int32_t)(first_row + position - 1);
    batch->targets[batch->n_targets] = token;
    batch->n_targets++;
}

static void add_sequence(struct micro_batch *batch, const struct train_sequence *sequence,
                         const struct sampling_params *sampling)
{
    assert(sequence->n_prompt > 0 && sequence->n_response > 0);
    const size_t first_row = batch->n_rows;
    const size_t n_rows = train_sequence_rows(sequence);
    for (size_t i = 0; i < n_rows; i++) {
        batch->tokens[first_row + i] = token_at(sequence, i);
    }
    for (size_t p = sequence->n_prompt; p <= n_rows; p++) {
        add_target(batch, sequence, first_row, p, sampling);
    }
    batch->n_rows += n_rows;
    batch->n_sequences++;
    batch->offsets[batch->n_sequences] = batch->n_rows;
}

size_t micro_batch_pack(struct micro_batch *batch, const struct train_sequence *sequences,
                        size_t first, size_t n, size_t max_rows,
                        const struct sampling_params *sampling)
{
    batch->n_rows = 0;
    batch->n_sequences = 0;
    batch->n_targets = 0;
    batch->n_mtp = 0;
    batch->offsets[0] = 0;
    size_t next = first;
    while (next < n) {
        const size_t n_rows = train_sequence_rows(&sequences[next]);
        if (next > first && batch->n_rows + n_rows > max_rows) {
            break;
        }
        assert(batch->n_rows + n_rows <= batch->capacity);
        add_sequence(batch, &sequences[next], sampling);
        next++;
    }
    return next;
}
