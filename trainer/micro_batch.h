/* Owns packing: sequences in order, as many as fit into the rows of one forward. Consecutive
 * sequences of one group and prompt may share it: its rows then stand once before theirs, and the
 * policy computes them once (policy_batch.continues).
 *
 * A group goes into one micro-batch if one can hold it; else it is cut, and every part has a prompt
 * of its own. Cutting between groups (and between sequences that share nothing) changes no bit of
 * the result, because every gradient is one chain over rows (kernels/backend.h). A cut inside a
 * group changes the rounding of gradients and nothing else; where it is depends on the group and on
 * the plan alone. */
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

/* How sequences are packed. */
struct micro_batch_plan {
    size_t max_rows; /* a sequence of more goes alone */
    /* Most tokens of the sequences of one batch, a prompt in each that has it and once more where
     * it is shared: room for cache entries. At least max_rows and the longest sequence; not read
     * unless prompts are shared. */
    size_t max_entries;
    struct sampling_params sampling; /* what MTP drafts are drawn from */
    bool has_mtp;                    /* list targets of MTP module 0 */
    bool shares_prompts;
};

/* Room for one micro-batch; arrays are (capacity) long. */
struct micro_batch {
    size_t capacity; /* rows */
    int32_t *tokens;
    size_t n_rows;
    size_t *offsets;                /* (capacity + 1) */
    bool *continues;                /* sequence i goes on where the shared prompt before it ends */
    size_t n_sequences;             /* shared prompts count as well */
    size_t n_inputs;                /* rows there would be if nothing was shared */
    size_t n_entries;               /* of its sequences, as in the plan */
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
/* Packs sequences[first ...] of n and returns one past the last packed; capacity must hold
 * plan->max_rows and the longest sequence. */
size_t micro_batch_pack(struct micro_batch *batch, const struct micro_batch_plan *plan,
                        const struct train_sequence *sequences, size_t first, size_t n);

#endif
