/* Owns the policy loss on token log-probabilities (grpo.md 4-6): clipped ratio, KL to the
 * reference, aggregation with exact global denominators. It never sees logits: the result is one
 * number g = dLoss/dlogp a token. */
#ifndef HONE_TRAINER_POLICY_LOSS_H
#define HONE_TRAINER_POLICY_LOSS_H

#include "base/status.h"
#include "configs/config.h"

#include <stdbool.h>
#include <stddef.h>

struct loss_options {
    enum loss_type type; /* sets the aggregation */
    double epsilon, epsilon_high;
    double beta;
    enum kl_estimator kl;
    size_t max_completion_length; /* L_max of dr_grpo */
};

/* Counts over one whole optimizer update, before its first micro-batch (grpo.md 6). */
struct loss_totals {
    size_t n_sequences;        /* all, masked ones too */
    size_t n_active_sequences; /* with an active token */
    size_t n_tokens;           /* active tokens */
};

/* One sequence. old_logp is the sampler's (equal to the trainer's under the exactness contract);
 * NULL: old := logp without gradient. ref_logp may be NULL when beta is 0. mask NULL: all n tokens
 * are active. */
struct loss_sequence {
    const float *logp, *old_logp, *ref_logp;
    const bool *mask;
    size_t n;
    float advantage;
};

/* What a sequence did; sums over its active tokens, in double. */
struct loss_stats {
    double loss; /* this sequence's share of the update's loss, KL included */
    double kl;   /* sum of k3 values */
    double ratio_max;
    size_t n_clipped_low, n_clipped_high, n_active;
};

/* Active tokens of a sequence. */
size_t loss_active_tokens(const struct loss_sequence *sequence);
/* Writes g (n), 0 where masked. Errors: NUMERICS when a log-probability that counts
 * is not finite: whose and where. */
MUST_CHECK enum status loss_sequence_gradient(const struct loss_options *options,
                                              const struct loss_totals *totals,
                                              const struct loss_sequence *sequence, float *g,
                                              struct loss_stats *stats);

#endif
