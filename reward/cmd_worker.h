/* Owns one child of a cmd: component in its role as a worker: start, hello, one call at a time,
 * deadline, verdicts over what went wrong, stop and restart. Only cmd_scorer.c uses it. */
#ifndef HONE_REWARD_CMD_WORKER_H
#define HONE_REWARD_CMD_WORKER_H

#include "base/status.h"
#include "configs/config.h"
#include "reward/cmd_child.h"
#include "reward/cmd_queue.h"
#include "reward/cmd_scorer.h"

#include <stdint.h>

/* What all workers of a component share. */
struct cmd_team {
    const struct run_config *config;
    const struct reward_config *reward;
    const char **argv, **env;
    char *hello; /* line */
    size_t hello_bytes;
    size_t batch_max; /* of the configuration, or less if the scorer's hello says so */
    cmd_result *result;
    void *context; /* of result */
    struct cmd_queue queue;
    int64_t last_id; /* of a call */
};

enum cmd_worker_state {
    CMD_WORKER_OFF,
    CMD_WORKER_STARTING,
    CMD_WORKER_IDLE,
    CMD_WORKER_BUSY,
    CMD_WORKER_STOPPING /* SIGTERM is sent, SIGKILL follows */
};

struct cmd_worker {
    struct cmd_child child;
    enum cmd_worker_state state;
    int64_t deadline_us; /* of the start, the call or the stop */
    int64_t restart_us;  /* not before */
    int64_t backoff_us;
    struct cmd_job *batch;               /* (reward->batch_max) the call at hand */
    const struct score_sample **samples; /* (reward->batch_max) of the same */
    size_t n_batch;
    int64_t batch_id, sent_us;
    char failure[512]; /* why it was stopped last, with the last line of its stderr */
};

MUST_CHECK enum status cmd_worker_init(const struct reward_config *reward,
                                       struct cmd_worker *worker);
void cmd_worker_dispose(struct cmd_worker *worker); /* the child is gone afterwards */
/* Starts the child and queues hello for it. Errors: IO. */
MUST_CHECK enum status cmd_worker_start(struct cmd_team *team, struct cmd_worker *worker,
                                        int64_t now_us);
/* Asks the child to end; it is killed when it has not after 100 ms. */
void cmd_worker_stop(struct cmd_worker *worker, int64_t now_us);
/* Moves bytes and the state forward, and sends the next call. Errors: NO_MEMORY, IO (no child could
 * be started). */
MUST_CHECK enum status cmd_worker_tick(struct cmd_team *team, struct cmd_worker *worker,
                                       int64_t now_us);
/* When a tick is due at the latest. */
int64_t cmd_worker_due_us(const struct cmd_team *team, const struct cmd_worker *worker,
                          int64_t now_us);

#endif
