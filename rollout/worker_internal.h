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
#include "rollout/shared_weights.h"
#include "rollout/weights_fetch.h"
#include "rollout/work_queue.h"

/* A peer that says nothing for so long is given up: a trainer may train for long. */
#define WORKER_SILENCE_US INT64_C(600000000)
/* Without work, before memory goes back: small models learn faster. */
#define WORKER_REST_US INT64_C(200000)

struct worker {
    const struct run_config *config; /* borrowed, as is name */
    const char *name;
    char config_sha[65];

    struct backend *backend;
    struct policy *policy;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct weights_id held; /* what policy's weights are; version -1: of no version */
    struct shared_weights shared;
    bool is_mapped;    /* the weights that are being fetched: chunks are not needed */
    bool reads_shared; /* the policy reads them: those held, or the trainer has gone on */

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

/* Gets the weights that the next work item names in the place of the present ones, once nothing
 * samples with those: a step's weights exist when its samples are done, so nobody waits, and a
 * worker holds one version (worker_weights.c). */
MUST_CHECK enum status worker_advance_weights(struct worker *worker);
/* Nothing has been asked for that the next work item needs, and now it could. */
bool worker_wants_weights(const struct worker *worker);
/* W_INFO of the weights that are being fetched: on this host they are mapped. */
MUST_CHECK enum status worker_map_weights(struct worker *worker, const struct message *info);
/* The trainer that had them is gone; nothing may be sampling. */
void worker_unmap_weights(struct worker *worker);
/* The trainer has no more what is being fetched. */
void worker_weights_gone(struct worker *worker);
/* The policy reads memory that is no more of the version held, or not for sure. */
bool worker_is_overtaken(const struct worker *worker);
/* Then: all that is sampled with that version is dropped, its credit given back. */
void worker_lose_weights(struct worker *worker);

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
