/* Owns the look at expert load: counts of a step, the worst imbalance, experts without work
 * (grpo.md 11), and which auxiliary losses a configuration asks for. */
#ifndef HONE_TRAINER_BALANCE_H
#define HONE_TRAINER_BALANCE_H

#include "base/arena.h"
#include "base/status.h"
#include "configs/config.h"
#include "model/policy.h"

#include <stddef.h>
#include <stdint.h>

/* Zeroed (n_moe_layers, n_experts) counters in the arena; *out is NULL for a dense model. */
MUST_CHECK enum status balance_counts_alloc(const struct policy *policy, struct arena *arena,
                                            uint32_t **out);
/* *max_violation: largest max/mean - 1 over the layers of the trunk (NaN when counts is NULL);
 * *n_dead: experts without a token. */
void balance_measure(const struct policy *policy, const uint32_t *counts, double *max_violation,
                     size_t *n_dead);
enum policy_balance_kind balance_kind_of(const struct run_config *config);
enum policy_indexer_loss indexer_loss_of(const struct run_config *config);

#endif
