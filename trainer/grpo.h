/* Owns the learning half of a GRPO step: the samples of a committed manifest in, new weights out.
 * Live training and the replay after a crash are the same call, so both give the same bits. */
#ifndef HONE_TRAINER_GRPO_H
#define HONE_TRAINER_GRPO_H

#include "base/arena.h"
#include "base/status.h"
#include "configs/config.h"
#include "trainer/learner.h"
#include "trainer/samples.h"
#include "trainer/schedule.h"

#define SAMPLE_STATS 5u /* kl, entropy, clip_frac, mismatch_kl, ratio_max (MESSAGE_STEP) */

struct grpo_stats {
    double loss, kl, entropy, grad_norm, learning_rate;
    double mismatch_max; /* max |sampler log p - trainer log p| as measured: 0 or the step failed;
                            NaN: no samples */
    double ratio_max, clip_low, clip_high; /* fractions of active tokens */
    double mtp_loss, mtp_acceptance;       /* NaN without a trained module */
    double max_violation; /* largest max/mean - 1 of expert load over layers, NaN without experts */
    double balance_loss;  /* of the last update, without its coefficient; NaN without one */
    double indexer_loss;  /* of the last update, without its coefficient; NaN without one */
    size_t n_dead_experts;
    size_t n_inputs, n_tokens, n_updates;
    float *sample_stats;     /* (samples, SAMPLE_STATS), arena */
    uint32_t *expert_counts; /* (n_moe_layers, n_experts), arena; NULL without experts */
};

struct learner_options grpo_learner_options(const struct run_config *config);

/* Trains on batch (advantages filled). reference: NULL when grpo.beta is 0. Everything in stats
 * lives in the arena. A batch without samples changes nothing. Errors: INEXACT (a log-probability
 * of the sampler is not the trainer's, bit for bit: names group, sample, position, both values),
 * NUMERICS. */
MUST_CHECK enum status grpo_learn(struct learner *learner, struct policy *reference,
                                  const struct run_config *config, const struct schedule *schedule,
                                  const struct step_batch *batch, struct arena *arena,
                                  struct grpo_stats *stats);

#endif
