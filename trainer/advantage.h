/* Owns rewards -> advantages (grpo.md 3), for the estimators of grpo.scale_rewards: "group" is A =
 * (R - mean) / (std + eps), "none" is A = R - mean. */
#ifndef HONE_TRAINER_ADVANTAGE_H
#define HONE_TRAINER_ADVANTAGE_H

#include "configs/config.h"
#include "trainer/samples.h"

struct advantage_options {
    enum scale_rewards scale;
    size_t ddof; /* 0 or 1 */
    double eps;
};

/* Fills the advantage of one group's samples from their rewards. Unscorable members get 0 and leave
 * the statistics; a group whose scorable rewards are all equal, or that has fewer than two, gets
 * exactly 0. Sums run in order, in double. Returns whether the group has any signal. */
bool advantages_fill_group(const struct advantage_options *options, struct sample *samples,
                           size_t n);

/* The same for every group; counts those without signal. */
size_t advantages_fill(const struct advantage_options *options, struct step_batch *batch);

#endif
