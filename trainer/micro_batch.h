/* Owns packing: whole sequences in order, as many as fit into the rows of one forward. Cutting
 * elsewhere changes no bit of the result, because every gradient is one chain over rows
 * (kernels/backend.h). */
#ifndef HONE_TRAINER_MICRO_BATCH_H
#define HONE_TRAINER_MICRO_BATCH_H

#include "base/status.h"
#include "kernels/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One training sequence: prompt then response. The last token is predicted but is no input. */
struct train_sequence {
    const int32_t *prompt;
    size_t n_prompt;
    const int32_t *response;
    size_t n_response;    /* at least 1 */
    uint64_t seed, group; /* RNG key of the sampler, for coupled MTP drafts */
    uint32_t sample;
};

/* Room for one micro-batch; arrays are (capacity) long. */
struct micro_batch {
    size_t capacity; /* rows */
    int32_t *tokens;
    size_t n_rows;
    size_t *offsets; /* (capacity + 1) */
    size_t n_sequences;
    int32_t *target_rows, *targets; /* one per response token, in order */
    size_t n_targets;
    int32_t *mtp_rows, *mtp_targets; /* response tokens that an MTP module can predict */
    size_t *mtp_index;               /* which target (index into targets) each of them is */
    struct sample_row *mtp_draws;
    size_t n_mtp;
    float *logp, *entropy, *g, *mtp_logp, *mtp_g;
    int32_t *mtp_drawn;
};

MUST_CHECK enum status micro_batch_init(size_t capacity, struct micro_batch *out);
void micro_batch_dispose(struct micro_batch *batch);
/* Rows a sequence takes: all its tokens but the last. */
size_t train_sequence_rows(const struct train_sequence *sequence);
/* MTP targets of a sequence: response tokens at position 2 or later. */
size_t train_sequence_mtp_targets(const struct train_sequence *sequence);
/* Packs sequences[first ...] and returns one past the last packed. A sequence of more rows than
 * max_rows goes alone; capacity must hold it. sampling: the distribution MTP drafts are drawn from.
 */
size_t micro_batch_pack(struct micro_batch *batch, const struct train_sequence *sequences,
                        size_t first, size_t n, size_t max_rows,
                        const struct sampling_params *sampling);

#endif
