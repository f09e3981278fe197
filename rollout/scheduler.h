/* Owns continuous batching: which rows the next forward has, and what its draws did. Every running
 * sequence gets one row; what is left of the row budget goes to sequences that come back and to
 * prompts, in order of arrival, cut into chunks. A chunk that ends a prompt draws the first token
 * of every admitted sample of the group from that one row. Groups are admitted strictly in order,
 * with pages for what they have; when pages run out the youngest sequence is preempted and computed
 * anew later (scheduler_pages.c). Pure: no model, no clock; what is drawn does not depend on what
 * is decided here (DESIGN, exactness).
 *
 * Pages of full prompt blocks have names (a digest of all tokens up to their end), under which
 * groups with the same beginning share them, also one after the other. A prompt whose next block
 * another one computes in this turn waits for it.
 *
 * Drafts: a sequence may guess its next tokens. They are fed behind its last one, each of these
 * rows draws, and the draws count as long as what was fed is what was drawn; the entries of rows
 * behind that are written over by the next turn. So drafts save turns and change no token. */
#ifndef HONE_ROLLOUT_SCHEDULER_H
#define HONE_ROLLOUT_SCHEDULER_H

#include "rollout/kv_cache.h"
#include "rollout/sequence.h"

struct scheduler;

struct scheduler_limits {
    size_t max_num_seqs;     /* sequences that have pages */
    size_t max_batch_tokens; /* rows of one forward */
    size_t max_sequence;     /* tokens of one sequence */
    size_t n_drafts;         /* of one sequence, DRAFTS_MAX at most; 0: none, and no plans */
};

/* Rows of the last schedule and the tokens behind them, as policy_draft wants them; arrays borrowed
 * until the next plan. */
struct draft_plan {
    int32_t *rows, *tokens, *positions; /* (n_rows) */
    size_t n_rows;
    struct kv_span *spans; /* (n_spans) */
    size_t n_spans;
    size_t *n_drafts;         /* (n_spans) wanted */
    struct sample_row *draws; /* (n_spans) */
    size_t *slots;            /* (n_spans); the scheduler's own */
    int32_t *drafts;          /* (n_spans, limits.n_drafts) to be filled; -1: none */
};

/* One forward; arrays borrowed until the next scheduler_next. */
struct schedule {
    int32_t *tokens, *positions; /* (n_rows) */
    size_t n_rows;
    struct kv_span *spans;
    size_t n_spans;
    int32_t *draw_rows;       /* (n_draws) row of each draw; a row may be drawn from repeatedly */
    struct sample_row *draws; /* (n_draws) */
    size_t *draw_slots;       /* (n_draws) sequence that gets the token; the scheduler's own */
    size_t n_draws;           /* at most scheduler_max_draws */
};

/* What came of the draws; arrays borrowed until the next scheduler_next. */
struct page_copy {
    int32_t from, to;
    size_t n_tokens; /* entries from the page's first on */
};
struct schedule_result {
    const struct page_copy *copies; /* to be done in this order, before the next forward */
    size_t n_copies;
    const struct sequence *const *finished; /* pages already given back */
    size_t n_finished;
    size_t n_tokens;               /* that sequences got */
    size_t n_turns, n_turn_tokens; /* sequences that decoded, and what they got */
    size_t n_fed, n_right;         /* drafts of what was drawn, and those that were right */
    /* By place: i-th drafts that were judged, those before them being right, and those that gave
     * one token more: right, and not the sequence's last token. */
    size_t n_judged_at[DRAFTS_MAX], n_gained_at[DRAFTS_MAX];
};

/* cache is borrowed and kept until scheduler_destroy. */
MUST_CHECK enum status scheduler_create(const struct scheduler_limits *limits,
                                        struct kv_cache *cache, struct scheduler **out);
/* Gives back every page and frees every group. NULL is legal. */
void scheduler_destroy(struct scheduler *scheduler);

/* Queues a copy of the request. Errors: BAD_ARGUMENT when it can never run, NO_MEMORY. */
MUST_CHECK enum status scheduler_add(struct scheduler *scheduler,
                                     const struct engine_request *request);
/* Whether drafts are wanted of groups that are admitted from now on; true at first. For the others
 * no plan is made. */
void scheduler_want_drafts(struct scheduler *scheduler, bool wants_drafts);
/* Chooses the next forward; n_rows is 0 when nothing can run, which means that nothing is queued.
 * now_us stamps groups that begin. */
const struct schedule *scheduler_next(struct scheduler *scheduler, int64_t now_us);
/* Takes the (n_draws) tokens drawn for the last schedule. end_tokens: ids that end a sequence. */
void scheduler_accept(struct scheduler *scheduler, const int32_t *drawn, const float *logp,
                      const int32_t *end_tokens, size_t n_end_tokens,
                      struct schedule_result *result);
/* Between scheduler_next and scheduler_accept: rows of the schedule that a known token follows, of
 * prompts and of sequences that come back; they want no drafts. */
const struct draft_plan *scheduler_prompt_plan(const struct scheduler *scheduler);
/* After scheduler_accept, its copies done: the rows that stay of every sequence that drew and goes
 * on; each wants n_drafts drafts or as many as it has room for. */
const struct draft_plan *scheduler_draft_plan(struct scheduler *scheduler, size_t n_drafts);
/* Gives the sequences what the plan's drafts became. */
void scheduler_take_drafts(struct scheduler *scheduler);
/* Sequences that draw at every turn. */
size_t scheduler_running(const struct scheduler *scheduler);
/* Draws of a schedule at most, and rows of a plan: the size of what the caller keeps for them. */
size_t scheduler_max_draws(const struct scheduler_limits *limits);

/* Drops every group with this id; not between scheduler_next and scheduler_accept. */
void scheduler_cancel(struct scheduler *scheduler, uint64_t group_id);

/* The sequence of an admitted sample, or NULL. */
const struct sequence *scheduler_find(const struct scheduler *scheduler, uint64_t group_id,
                                      uint32_t sample);
/* Since scheduler_create. */
struct scheduler_counts {
    uint64_t n_preempted;      /* sequences that lost their pages */
    uint64_t n_prompt_tokens;  /* of prompts that were computed */
    uint64_t n_prefix_tokens;  /* ... that were found computed, in whole blocks */
    uint64_t n_resumed_tokens; /* computed anew for sequences that came back */
};
struct scheduler_counts scheduler_counts(const struct scheduler *scheduler);
/* Samples not finished: running and waiting. */
size_t scheduler_queued(const struct scheduler *scheduler);

#endif
