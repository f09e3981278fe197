/* Owns the shape of a step's data inside the trainer: groups of scored samples in manifest order,
 * (group, idx) ascending. All memory belongs to the arena of the step. */
#ifndef HONE_TRAINER_SAMPLES_H
#define HONE_TRAINER_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sample {
    int64_t sample_id; /* of the database */
    uint64_t seed;
    const int32_t *tokens; /* completion, end token included */
    const float *logprobs; /* the sampler's, one a token */
    size_t n_tokens;
    double reward;
    float advantage; /* filled by advantages_fill, or from a stored manifest */
    int32_t idx;     /* in its group */
    bool has_reward; /* false: no weighted component had anything to say; advantage 0 */
    bool is_truncated;
};

struct sample_group {
    uint64_t group_id;
    const int32_t *prompt;
    size_t n_prompt;
    struct sample *samples; /* those that count: masked ones are left out */
    size_t n_samples;
};

struct step_batch {
    size_t step;
    struct sample_group *groups;
    size_t n_groups;
};

/* Samples over all groups. */
size_t step_batch_samples(const struct step_batch *batch);

#endif
