/* Owns the question whether the next turn drafts: what a turn with drafts costs against one
 * without, measured on this machine for this model, against the share of drafts that came true of
 * late. Neither changes a token; a wrong answer costs time. */
#ifndef HONE_ROLLOUT_SPECULATION_H
#define HONE_ROLLOUT_SPECULATION_H

#include "model/policy.h"

#define SPECULATION_LEVELS ((size_t)8) /* batches of 1, 2, 4, ... 128 */

struct speculation {
    size_t n_drafts;  /* behind a sequence; 0: never */
    size_t max_batch; /* sequences at once with drafts; 0: as long as it is measured to be faster */
    double cost[SPECULATION_LEVELS]; /* turn with drafts / turn without, by batch; 0: unknown */
    double fed, right;               /* drafts of late */
};

void speculation_init(size_t n_drafts, size_t max_batch, struct speculation *out);
/* Drafts for each of n_running sequences. */
size_t speculation_choose(const struct speculation *speculation, size_t n_running);
/* What came of a turn's drafts. */
void speculation_note(struct speculation *speculation, size_t n_fed, size_t n_right);
/* Other weights: what was learned of drafts no longer holds. */
void speculation_forget(struct speculation *speculation);

struct speculation_room {
    size_t n_pages, max_num_seqs, max_batch_tokens;
};
/* Times turns on pages that nobody uses, a few milliseconds at each batch until drafts do not pay.
 * Nothing happens where max_batch decides, or without drafts. */
MUST_CHECK enum status speculation_measure(struct speculation *speculation, struct policy *policy,
                                           struct policy_cache *cache,
                                           const struct speculation_room *room);

#endif
