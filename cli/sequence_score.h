/* Owns log-probabilities of given tokens: a whole sequence in one forward, as the trainer does it.
 * Bit for bit what the sampler records when it draws at that temperature. */
#ifndef HONE_CLI_SEQUENCE_SCORE_H
#define HONE_CLI_SEQUENCE_SCORE_H

#include "base/status.h"
#include "model/policy.h"

#include <stddef.h>
#include <stdint.h>

struct sequence_score;

/* policy: borrowed, created for at least max_rows. max_rows: tokens of a sequence at most. */
MUST_CHECK enum status sequence_score_create(struct policy *policy, size_t max_rows,
                                             struct sequence_score **out);
void sequence_score_destroy(struct sequence_score *score); /* NULL is legal */
/* *logp (n_completion, borrowed until the next call): of each token of the completion, at
 * temperature 1 over the whole vocabulary. Both counts are at least 1. */
MUST_CHECK enum status sequence_score_run(struct sequence_score *score, const int32_t *prompt,
                                          size_t n_prompt, const int32_t *completion,
                                          size_t n_completion, const float **logp);

#endif
