/* Owns samples between submit and the tick after their last score: each in a slot, whose index is
 * the ticket of its calls. Only reward/ includes this. */
#ifndef HONE_REWARD_SCORE_SLOTS_H
#define HONE_REWARD_SCORE_SLOTS_H

#include "reward/scoring.h"

/* Never moves. */
struct score_slot {
    struct score_sample sample; /* its strings are texts, its JSON is retained */
    char *texts[4];
    size_t n_texts;
    struct score *scores; /* (n_rewards) */
    size_t n_missing;
    bool is_used, is_reported;
};

/* All zero but n_rewards is an empty one. */
struct score_slots {
    size_t n_rewards;
    struct score_slot **at; /* (n) */
    size_t n;
    size_t *finished; /* (n) those with all scores that no tick has reported yet, in that order */
    size_t n_finished;
};

void score_slots_dispose(struct score_slots *slots);

/* A copy of the sample into a free slot, all of its scores missing. Errors: NO_MEMORY. */
MUST_CHECK enum status score_slots_take(struct score_slots *slots,
                                        const struct score_sample *sample, size_t *slot);
/* Takes the score's detail; the last one that is missing makes the slot a finished one. */
void score_slots_record(struct score_slots *slots, size_t slot, size_t reward,
                        const struct score *score);
/* Frees the slots that a tick has reported. */
void score_slots_release_reported(struct score_slots *slots);

#endif
