/* Owns the samples of a cmd: component that wait for a child: first in, first out, and alone when a
 * call with them failed before. Only cmd_scorer.c and cmd_worker.c use it. */
#ifndef HONE_REWARD_CMD_QUEUE_H
#define HONE_REWARD_CMD_QUEUE_H

#include "base/status.h"
#include "reward/scoring.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cmd_job {
    const struct score_sample *sample; /* borrowed */
    size_t ticket;
    unsigned tries;  /* failed calls of its own so far */
    bool goes_alone; /* a call with it failed: find the guilty one */
    int64_t submit_us;
    int64_t expires_us;        /* goes_alone: it waits no longer */
    enum score_status verdict; /* goes_alone: how the call with it failed */
};

struct cmd_queue {
    struct cmd_job *jobs;
    size_t count, room;
};

MUST_CHECK enum status cmd_queue_put(struct cmd_queue *queue, const struct cmd_job *job);
/* Moves the jobs of the next call to out: at most `most`, one if it goes alone. Returns how many.
 */
size_t cmd_queue_take(struct cmd_queue *queue, size_t most, struct cmd_job *out);
/* Takes out a job that goes alone and has waited too long; false when there is none. */
bool cmd_queue_take_expired(struct cmd_queue *queue, int64_t now_us, struct cmd_job *out);
/* Takes out the first job if it was submitted before `before_us`. */
bool cmd_queue_take_older(struct cmd_queue *queue, int64_t before_us, struct cmd_job *out);
void cmd_queue_dispose(struct cmd_queue *queue);

#endif
