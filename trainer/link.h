/* Owns the trainer's sockets: workers ask for work and weights, the reward service stores and
 * scores. It turns frames into events of dispatch and publisher, keeps heartbeats, and hands what
 * the reward service says to one listener. Every wait has a deadline and says for whom. */
#ifndef HONE_TRAINER_LINK_H
#define HONE_TRAINER_LINK_H

#include "base/message.h"
#include "base/status.h"
#include "configs/config.h"
#include "trainer/dispatch.h"
#include "trainer/publisher.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct link;

struct link_options {
    const struct run_config *config;
    const char *run_dir;
    const char *numerics_id;
    struct dispatch *dispatch;   /* borrowed, kept */
    struct publisher *publisher; /* borrowed, kept */
};

/* A message of the reward service other than heartbeats; borrowed for the call. */
typedef enum status link_listener(void *context, const struct message *message);

MUST_CHECK enum status link_open(const struct link_options *options, link_listener *listener,
                                 void *context, struct link **out);
void link_close(struct link *link); /* NULL is legal; messages sent before still go out (2 s) */

/* Says HELLO to the reward service and waits for its answer: the run's incarnation. Errors:
 * TIMEOUT, BUSY (another trainer holds the run). */
MUST_CHECK enum status link_hello(struct link *link);
int64_t link_incarnation(const struct link *link);

/* Sends to the reward service. Errors: TIMEOUT when its queue is full or it is gone. */
MUST_CHECK enum status link_tell(struct link *link, const struct message *message);
/* One turn: receives everything, answers workers, sends work that dispatch has, beats; waits
 * at most timeout_ms. phase is what PONG tells
 * ("sampling", "training" ...). Errors: those of the listener; TIMEOUT when the reward service is
 * silent for 30 s; CANCELLED when a signal was caught; SCORING when the reward service gives up the
 * run. */
MUST_CHECK enum status link_turn(struct link *link, const char *phase, int timeout_ms);
/* How a group becomes WORK: the caller fills everything but group, attempt, idx and version. */
typedef enum status link_work_filler(void *context, uint64_t group_id, struct message *work);
void link_set_work_filler(struct link *link, link_work_filler *filler, void *context);

/* Not ended by a signal: a step is either stored or not. Repeats `request` every 3 s and turns
 * until *is_answered. Errors: TIMEOUT after deadline_s naming `what`. */
MUST_CHECK enum status link_request(struct link *link, const struct message *request,
                                    const bool *is_answered, const char *what, int64_t deadline_s);
/* What the reward service owes from now on, for who asks (base/waits.h): `what` is borrowed until
 * the next call, NULL ends it. link_hello and link_request do this by themselves. */
void link_expect(struct link *link, const char *what, int64_t deadline_s);
/* The run is over: tells the workers, which hand over what they have finished (2 s at most), then
 * the reward service. */
void link_say_bye(struct link *link, const char *reason);

#endif
