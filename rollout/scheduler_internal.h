/* What the files of the scheduler share: scheduler_groups.c keeps groups, slots and their pages;
 * scheduler.c makes the turns; scheduler_drafts.c plans drafts. */
#ifndef HONE_ROLLOUT_SCHEDULER_INTERNAL_H
#define HONE_ROLLOUT_SCHEDULER_INTERNAL_H

#include "rollout/scheduler.h"

struct scheduler {
    struct scheduler_limits limits;
    struct kv_cache *cache;
    struct group *groups, **last; /* in order of arrival; last: where the next one is linked */
    struct sequence *slots;       /* (max_num_seqs) */
    size_t *free_slots;           /* a stack */
    size_t n_free_slots;
    size_t cursor; /* slot that decodes first, so that no one starves when rows are few */
    int32_t *id_memory;
    float *logprob_memory;
    struct schedule schedule;
    struct page_copy *copies;         /* (max_num_seqs) */
    const struct sequence **finished; /* (max_num_seqs) */
    size_t n_copies, n_finished;
    struct draft_plan plan;
};

/* Room for plans. Errors: BAD_ARGUMENT (more drafts than a sequence holds), NO_MEMORY. */
MUST_CHECK enum status scheduler_create_plan(struct scheduler *scheduler);
void scheduler_destroy_plan(struct scheduler *scheduler);
/* n_rows prompt rows, the last of the schedule, join the plan. */
void scheduler_plan_prompt(struct scheduler *scheduler, const struct group *group, size_t n_rows);
/* Takes the pages up to a position, which were promised. */
void scheduler_hold_pages(struct scheduler *scheduler, struct sequence *sequence, size_t position);

void scheduler_release_group(struct scheduler *scheduler, struct group *group);
/* Gives back the pages of a sequence and the promises it did not use. */
void scheduler_release_sequence(struct scheduler *scheduler, struct sequence *sequence);
void scheduler_free_slot(struct scheduler *scheduler, struct sequence *sequence);
/* Unlinks and frees the group that *link points to; its sequences are gone already. */
void scheduler_remove_group(struct scheduler *scheduler, struct group **link);

#endif
