/* Owns how often the MTP module would have drafted the token that was sampled, under shared noise
 * (DESIGN, speculation by coupling): finished samples are packed, run through the model once more,
 * and the draft of every token but a completion's first is drawn with the noise that its own draw
 * had. */
#ifndef HONE_CLI_EVAL_ACCEPTANCE_H
#define HONE_CLI_EVAL_ACCEPTANCE_H

#include "base/status.h"
#include "model/policy.h"

#include <stddef.h>
#include <stdint.h>

struct eval_acceptance;

/* policy: borrowed, has an MTP module. max_rows: as it was created; no sample may be longer. */
MUST_CHECK enum status eval_acceptance_create(struct policy *policy, size_t max_rows,
                                              struct eval_acceptance **out);
void eval_acceptance_destroy(struct eval_acceptance *acceptance); /* NULL is legal */

/* A finished sample; draw is the key of its draws (position is ignored). */
struct accepted_sample {
    const int32_t *prompt, *completion;
    size_t n_prompt, n_completion;
    struct sample_row draw;
};
MUST_CHECK enum status eval_acceptance_add(struct eval_acceptance *acceptance,
                                           const struct accepted_sample *sample);
/* Runs what is still packed. */
MUST_CHECK enum status eval_acceptance_finish(struct eval_acceptance *acceptance, size_t *n_drafted,
                                              size_t *n_accepted);

#endif
