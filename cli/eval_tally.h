/* Owns the numbers of `hone eval`: counted sample by sample, shown as a table or one JSON object.
 */
#ifndef HONE_CLI_EVAL_TALLY_H
#define HONE_CLI_EVAL_TALLY_H

#include "base/status.h"
#include "reward/scoring.h"
#include "rollout/engine.h"

#include <stddef.h>
#include <stdint.h>

#define SCORE_STATUSES 4u

struct component_tally {
    const char *name; /* borrowed */
    double weight, sum;
    size_t counts[SCORE_STATUSES]; /* by enum score_status */
};

struct eval_tally {
    struct component_tally *components;
    size_t n_components;
    size_t pass_component; /* the first with a weight: its value >= 1 passes */
    size_t n_rows, n_samples, n_passed, n_rewards;
    uint64_t n_tokens;
    size_t n_finished[FINISH_ABORT + 1];
    double reward_sum;
    double seconds, sampling_seconds;
    size_t n_drafted, n_accepted; /* MTP; 0 drafted: not measured */
};

/* Components are those of the scoring, whose texts are borrowed. */
MUST_CHECK enum status eval_tally_init(const struct scoring *scoring, struct eval_tally *tally);
void eval_tally_dispose(struct eval_tally *tally);
void eval_tally_add_completion(struct eval_tally *tally, const struct completion *completion);
void eval_tally_add_result(struct eval_tally *tally, const struct score_result *result);
/* Keys: rows samples pass reward length finish_stop finish_length tokens_per_s seconds
 * mtp_acceptance components. What was not measured is null. */
MUST_CHECK enum status eval_tally_print_json(const struct eval_tally *tally);
void eval_tally_print_table(const struct eval_tally *tally);

#endif
