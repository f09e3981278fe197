/* The worker's parts, shared by worker.c (the turn), inbox.c (messages in) and rollout.c (start).
 */
#ifndef HONE_ROLLOUT_WORKER_INTERNAL_H
#define HONE_ROLLOUT_WORKER_INTERNAL_H

#include "base/socket.h"
#include "configs/config.h"
#include "model/tokenizer.h"
#include "rollout/contact.h"
#include "rollout/engine.h"
#include "rollout/outbox.h"
#include "rollout/weights_fetch.h"
#include "rollout/work_queue.h"

/* A peer that says nothing for so long is given up: a trainer may train for long. */
#define WORKER_SILENCE_US INT64_C(600000000)

struct worker {
    const struct run_config *config; /* borrowed, as is name */
    const char *name;
    char config_sha[65];

    struct backend *backend;
    struct policy *policy;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct weights_id held; /* what policy's weights are; version -1 before the first */

    struct socket_context *context;
    struct socket *trainer, *weights, *reward;
    struct contact trainer_contact, reward_contact;

    struct work_queue queue;
    struct weights_fetch *fetch;
    struct engine_stats stats; /* until these weights came */
    uint64_t n_tokens_told;    /* of those since, in what the reward service was told last */
    struct outbox *outbox;
    size_t credit;        /* groups held at once */
    size_t credit_to_ask; /* READY that the trainer has not had yet */
    size_t outbox_window; /* samples without an answer at which sampling pauses */
    int64_t rest_us;      /* when to rest unless there is work before; 0: it rests */
    int64_t leave_us;     /* when to leave at the latest */
    bool is_leaving;      /* the trainer said BYE */
};

/* Takes what has come on all sockets; waits up to timeout_ms for the first message. Errors: PEER
 * (refused), BAD_FORMAT (weights), NO_MEMORY. */
MUST_CHECK enum status inbox_drain(struct worker *worker, int timeout_ms);
/* Forgets all work: the trainer that gave it is gone or has forgotten us. What is finished stays in
 * the outbox. */
void worker_drop_work(struct worker *worker);

/* What the weights that go were good for, once: call before others are installed. */
void worker_log_stats(struct worker *worker);
/* SAMPLING, if something was sampled since the last one and the engine is idle. */
MUST_CHECK enum status worker_tell_stats(struct worker *worker);

/* Sends without blocking and destroys the message; *was_sent false when the peer is not there. */
MUST_CHECK enum status worker_send(struct socket *socket, struct message *message, bool *was_sent);
/* If SIGUSR2 came: the list of waits (worker_waits.c). */
void worker_tell_waits(const struct worker *worker);
/* Runs until the trainer says BYE (OK), a signal comes (CANCELLED) or something fails. */
MUST_CHECK enum status worker_run(struct worker *worker);

#endif
