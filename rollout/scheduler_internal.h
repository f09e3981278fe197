/* What the files of the scheduler share: scheduler_groups.c keeps groups, slots and their pages;
 * scheduler_pages.c decides who has pages; scheduler.c makes the turns; scheduler_drafts.c plans
 * drafts. */
#ifndef HONE_ROLLOUT_SCHEDULER_INTERNAL_H
#define HONE_ROLLOUT_SCHEDULER_INTERNAL_H

#include "rollout/scheduler.h"

struct scheduler {
    struct scheduler_limits limits;
    struct kv_cache *cache;
    /* In order of arrival, so that those of which nothing is admitted come last; last: where the
     * next one is linked. */
    struct group *groups, **last;
    size_t n_queued;        /* samples of theirs that are not finished */
    struct sequence *slots; /* (max_num_seqs) */
    /* Admitted and not finished, in order of admission. All that are preempted come last: the
     * youngest goes first and nobody new is admitted before the last of them is back. */
    struct sequence *oldest, *youngest;
    size_t *free_slots; /* a stack */
    size_t n_free_slots;
    size_t cursor; /* slot that decodes first, so that no one starves when rows are few */
    int32_t *id_memory;
    float *logprob_memory;
    struct schedule schedule;
    struct page_copy *copies;         /* (max_num_seqs) */
    const struct sequence **finished; /* (max_num_seqs) */
    size_t n_copies, n_finished;
    struct draft_plan plan;
    struct scheduler_counts counts;
    bool wants_drafts; /* of groups that are admitted now */
};

/* Tokens whose entries are computed without a draw of their own: a group's prompt, or of a sequence
 * that comes back all but its last token, which decoding feeds. */
struct refill {
    const struct group *group;
    const int32_t *drawn; /* tokens behind the prompt */
    int32_t *blocks;
    size_t *n_cached; /* of n_tokens */
    size_t n_tokens;
    size_t n_known; /* tokens that exist: n_tokens, or one more */
};

/* Room for plans. Errors: BAD_ARGUMENT (more drafts than a sequence holds), NO_MEMORY. */
MUST_CHECK enum status scheduler_create_plan(struct scheduler *scheduler);
void scheduler_destroy_plan(struct scheduler *scheduler);
/* The schedule's last n_rows rows, at positions from first on, join the plan. */
void scheduler_plan_refill(struct scheduler *scheduler, const struct refill *refill, size_t first,
                           size_t n_rows);

/* Takes pages up to a position; false when there are too few, which leaves those that were. */
bool scheduler_hold_pages(struct scheduler *scheduler, struct sequence *sequence, size_t position);
/* A page for the next token of every sequence that runs, if need be from the youngest. */
void scheduler_grow(struct scheduler *scheduler);
/* Brings back who was preempted, then admits samples, as long as slots and pages suffice. */
void scheduler_admit(struct scheduler *scheduler, int64_t now_us);
/* Gives pages of the prompt that somebody has computed since; COMING: worth waiting a turn. */
enum kv_found scheduler_share_known(const struct scheduler *scheduler, const struct refill *refill);

void scheduler_release_group(struct scheduler *scheduler, struct group *group);
void scheduler_release_sequence(struct scheduler *scheduler, struct sequence *sequence);
/* The sequence is not among the admitted any more. */
void scheduler_unlink(struct scheduler *scheduler, struct sequence *sequence);
void scheduler_free_slot(struct scheduler *scheduler, struct sequence *sequence);
/* Unlinks and frees the group that *link points to; its sequences are gone already. */
void scheduler_remove_group(struct scheduler *scheduler, struct group **link);

#endif
