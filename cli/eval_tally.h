/* Owns the numbers of `hone eval`: counted sample by sample and row by row, for all rows and for
 * each data source. eval_report.c shows them. */
#ifndef HONE_CLI_EVAL_TALLY_H
#define HONE_CLI_EVAL_TALLY_H

#include "base/status.h"
#include "cli/pass_at.h"
#include "reward/scoring.h"
#include "rollout/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCORE_STATUSES 4u
#define SOURCES_MAX ((size_t)256) /* further ones only count as part of the whole */

struct component_tally {
    const char *name; /* borrowed */
    double weight, sum;
    size_t counts[SCORE_STATUSES]; /* by enum score_status */
};

/* Of all rows, or of those of one data source. */
struct source_tally {
    char *name; /* "" for rows without one */
    size_t n_rows, n_samples, n_passed, n_rewards;
    uint64_t n_tokens;
    double reward_sum;
    double pass_sums[PASS_AT_MAX]; /* over rows, by index into the list of k */
};

struct eval_tally {
    struct component_tally *components;
    size_t n_components;
    size_t pass_component; /* the first with a weight: its value >= 1 passes */
    struct pass_at_list pass_at;
    struct source_tally all;
    struct source_tally *sources; /* (SOURCES_MAX) in the order of their first row */
    size_t n_sources;
    size_t n_finished[FINISH_ABORT + 1];
    double seconds, sampling_seconds;
    size_t n_drafted, n_accepted; /* MTP; 0 drafted: not measured */
};

/* Components are those of the scoring, whose texts are borrowed. Dispose *tally, also after a
 * failure. */
MUST_CHECK enum status eval_tally_init(const struct scoring *scoring,
                                       const struct pass_at_list *pass_at,
                                       struct eval_tally *tally);
void eval_tally_dispose(struct eval_tally *tally);
/* The tally of a data source ("" or NULL: none given), made when it is new; NULL beyond
 * SOURCES_MAX.
 */
MUST_CHECK enum status eval_tally_source(struct eval_tally *tally, const char *name,
                                         struct source_tally **out);
/* source may be NULL. */
void eval_tally_add_completion(struct eval_tally *tally, struct source_tally *source,
                               const struct completion *completion);
/* True when the sample passes. */
bool eval_tally_add_result(struct eval_tally *tally, struct source_tally *source,
                           const struct score_result *result);
/* A row all of whose samples are scored. */
void eval_tally_add_row(struct eval_tally *tally, struct source_tally *source, size_t n_samples,
                        size_t n_passed);

/* --- eval_report.c --- */

/* Keys: rows samples pass pass@K... reward length finish_stop finish_length tokens_per_s seconds
 * mtp_acceptance components sources (NAME: rows samples pass@K... reward length; absent when no row
 * names one). What was not measured is null. */
MUST_CHECK enum status eval_report_json(const struct eval_tally *tally);
void eval_report_table(const struct eval_tally *tally);

#endif
