/* Owns the question how many tokens the next turn drafts: what a turn with so many costs against
 * one without, measured on this machine for this model, against the shares of first, second, ...
 * drafts that gave a token of late. Neither changes a token; a wrong answer costs time. */
#ifndef HONE_ROLLOUT_SPECULATION_H
#define HONE_ROLLOUT_SPECULATION_H

#include "model/policy.h"
#include "rollout/engine.h"

#define SPECULATION_LEVELS ((size_t)8) /* batches of 1, 2, 4, ... 128 */

struct speculation {
    size_t n_drafts;  /* behind a sequence at most; 0: never */
    size_t max_batch; /* sequences at once with n_drafts each, none for more; 0: what is best */
    /* Turn with [j] drafts / turn without, by batch; 0: unknown. */
    double cost[SPECULATION_LEVELS][DRAFTS_MAX + 1];
    double quickest_us[SPECULATION_LEVELS][DRAFTS_MAX + 1]; /* turns, at the quickest moment */
    size_t n_moments; /* of speculation_measure that timed them */
    /* Of late: i-th drafts that were judged, those before them being right, and those that gave one
     * token more. */
    double judged[DRAFTS_MAX], gained[DRAFTS_MAX];
    /* Of late, by the number of drafts at once: turns of sequences, and tokens that they gave. */
    double turns[DRAFTS_MAX + 1], tokens[DRAFTS_MAX + 1];
    size_t n_now;   /* drafts that speculation_next gave last */
    size_t n_turns; /* of speculation_next, to try one draft more from time to time */
    size_t n_idle;  /* of them without drafts, one behind the other: learned shares fade */
};

void speculation_init(size_t n_drafts, size_t max_batch, struct speculation *out);
/* Drafts for each of n_running sequences: what is known to be best. */
size_t speculation_choose(const struct speculation *speculation, size_t n_running);
/* The same for the turn at hand; an eighth of the time, some turns in a row, one more if that could
 * be better: of a draft that is never made nothing is learned. */
size_t speculation_next(struct speculation *speculation, size_t n_running);
/* What came of a turn's drafts: (DRAFTS_MAX) each. */
void speculation_note(struct speculation *speculation, const size_t *n_judged,
                      const size_t *n_gained);
/* Turns of sequences since the last speculation_next, behind their first tokens, and what these
 * gave. Shares of drafts tell little of another number of them where answers are short: a draft
 * behind the best may save their last turn. */
void speculation_note_turns(struct speculation *speculation, size_t n_turns, size_t n_tokens);
/* Other weights: what was learned of drafts no longer holds. */
void speculation_forget(struct speculation *speculation);

struct speculation_room {
    size_t n_pages, max_num_seqs, max_batch_tokens;
};
/* Times turns on pages that nobody uses, at each batch until good drafts could not pay: some 25
 * milliseconds each the first time, a few in the next calls, nothing after that. Nor does anything
 * happen where max_batch decides, or without drafts. */
MUST_CHECK enum status speculation_measure(struct speculation *speculation, struct policy *policy,
                                           struct policy_cache *cache,
                                           const struct speculation_room *room);

#endif
