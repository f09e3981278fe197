/* Owns what the reward service decides, as functions of state, event and time: which completion is
 * stored, which is a duplicate or late; when a scored sample is sent again; when a group is
 * finished with; who may be the trainer; when too many scorers fail. No socket, no database, no
 * clock: those are around it.
 *
 * A sample's way: EMPTY -> WAITING (stored, unscored) -> QUEUED (scored) -> SENT -> TAKEN. A sample
 * that the trainer refuses goes back to EMPTY, so that another attempt can fill its place. */
#ifndef HONE_REWARD_INTAKE_H
#define HONE_REWARD_INTAKE_H

#include "base/hash.h"
#include "base/status.h"
#include "db/run_rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum slot_state { SLOT_EMPTY, SLOT_WAITING, SLOT_QUEUED, SLOT_SENT, SLOT_TAKEN };

struct slot {
    enum slot_state state;
    bool is_masked, has_reward, has_weight_digest;
    int64_t sample_id, attempt, version_first;
    int64_t sent_us; /* SENT: when */
    double reward;
    struct digest128 content;       /* of tokens and log-probabilities */
    struct digest128 weight_digest; /* not stored: unknown after a restart */
};
struct intake_group {
    int64_t group_id, step;
    bool is_eval;
    bool is_closed; /* its step is committed, or it was given up: nothing is sent any more */
    size_t n;
    struct digest256 prompt_sha;
    struct slot *slots; /* (n) */
    void *payload;      /* of the owner; freed by the function given to intake_create */
};

struct intake;
typedef void payload_free(void *payload);
MUST_CHECK enum status intake_create(payload_free *free_payload, struct intake **out);
void intake_destroy(struct intake *intake); /* NULL is legal */
size_t intake_groups(const struct intake *intake);

/* Borrowed, NULL when not in memory. */
struct intake_group *intake_find(const struct intake *intake, int64_t group_id);
/* facts: all but slots. Takes payload on success only. Errors: NO_MEMORY. */
MUST_CHECK enum status intake_add(struct intake *intake, const struct intake_group *facts,
                                  struct intake_group **out);
/* The slot that holds sample_id; NULL when none does. *group is its group. */
struct slot *intake_find_sample(const struct intake *intake, int64_t sample_id,
                                struct intake_group **group);

struct completion_facts {
    int64_t idx, attempt, inc, version_first, version_last;
    const char *finish;
    const int32_t *tokens;
    const float *logprobs;
    size_t n_tokens, n_logprobs;
};
/* What is wrong with a completion by itself; NULL when nothing is. */
const char *completion_problem(const struct completion_facts *facts);
struct digest128 completion_digest(const struct completion_facts *facts);

enum intake_verdict {
    INTAKE_STORE,     /* a row, waiting to be scored */
    INTAKE_DUPLICATE, /* stored before, same content */
    INTAKE_LATE,      /* a row that is never scored: superseded or different from what is there */
    INTAKE_REFUSE,    /* no row: it can never be right */
};
/* inc_newest: the current incarnation. *reason is set for LATE and REFUSE. */
enum intake_verdict intake_judge(const struct intake_group *group,
                                 const struct completion_facts *facts, int64_t inc_newest,
                                 const char **reason);

/* Fills the slot idx of a group with a sample. slot: all facts, its state included. Errors:
 * NO_MEMORY. */
MUST_CHECK enum status intake_fill(struct intake *intake, struct intake_group *group, size_t idx,
                                   const struct slot *slot);
/* A waiting sample got its score; *totals are the group's now. */
void intake_score(struct intake_group *group, struct slot *slot, bool is_masked,
                  const double *reward, struct group_totals *totals);
/* The trainer answered: accepted (TAKEN) or refused (EMPTY). false when the sample is unknown. */
bool intake_take(struct intake *intake, int64_t sample_id, bool is_accepted);
/* Training groups of steps <= step are closed: their manifest is committed. */
void intake_close_step(struct intake *intake, int64_t step);
/* Writes the ids of samples that were sent before now_us - resend_us into ids (room) and marks them
 * QUEUED. Returns how many. */
size_t intake_resend(struct intake *intake, int64_t now_us, int64_t resend_us, int64_t *ids,
                     size_t room);
/* Samples that were sent and not answered; *since_us: when the first of them was, 0
 * without any. */
size_t intake_unanswered(const struct intake *intake, int64_t *since_us);
/* Forgets every group that nothing is expected of: all samples taken, or closed with none waiting
 * for a score. */
void intake_sweep(struct intake *intake);

/* Who is the trainer. */
struct holder {
    int64_t inc; /* 0: none yet */
    int64_t pid;
    char host[257];
    int64_t last_us; /* its last frame; 0: not heard of since this service started */
    bool is_gone;    /* its process is known to have ended, or it said so */
};
enum hello_verdict {
    HELLO_NEW,  /* gets a new incarnation */
    HELLO_SAME, /* the holder again, after a lost connection: keeps its incarnation */
    HELLO_HELD, /* another trainer beats: refused */
};
#define HOLDER_SILENCE_US INT64_C(3000000)
enum hello_verdict holder_judge(const struct holder *holder, int64_t pid, const char *host,
                                int64_t inc_claimed, int64_t now_us);

/* Scorer failures by step and component. */
#define BUDGET_CALLS_MIN 20u
#define BUDGET_EXAMPLES 3u
#define BUDGET_CAUSE_ROOM 200u
struct budget_entry {
    int64_t step;
    size_t component, n_calls, n_failures;
    int64_t examples[BUDGET_EXAMPLES]; /* sample ids of the first failures */
    char cause[BUDGET_CAUSE_ROOM];     /* of the last one */
};
struct error_budget {
    struct budget_entry *entries;
    size_t count, room;
    double rate_max;
    size_t n_expected; /* calls that a whole step makes */
};
void error_budget_dispose(struct error_budget *budget);
/* Counts a call; failure: what went wrong, NULL if nothing did. *exceeded becomes the entry once so
 * many failed that the step must end above rate_max, else NULL; it is never early: the rest of the
 * step could not bring it back. */
MUST_CHECK enum status error_budget_count(struct error_budget *budget, int64_t step,
                                          size_t component, int64_t sample_id, const char *failure,
                                          const struct budget_entry **exceeded);
/* The step's first entry above rate_max now that all its calls were made, or NULL. */
const struct budget_entry *error_budget_final(const struct error_budget *budget, int64_t step);
/* Forgets steps <= step. */
void error_budget_forget(struct error_budget *budget, int64_t step);

#endif
