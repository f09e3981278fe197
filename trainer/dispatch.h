/* Owns who samples what: workers, their credit, leases on groups, and which samples are still
 * missing. Pure: events and `now` in, decisions out; sockets and clocks are around it
 * (reliability.md 5.5). A group that loses its worker is leased again with attempt + 1 for the
 * missing samples only; the RNG key has no attempt in it, so a re-issued sample is the same sample.
 */
#ifndef HONE_TRAINER_DISPATCH_H
#define HONE_TRAINER_DISPATCH_H

#include "base/socket.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISPATCH_WORKERS_MAX 1024u

struct dispatch;

struct dispatch_limits {
    size_t max_groups;  /* groups open at once */
    size_t group_size;  /* samples of a group */
    int64_t silence_us; /* a worker without a frame for so long is dead: 3 s; twice its longest
                           false alarm after one */
    int64_t lease_us;   /* a group that takes longer is leased again */
};

MUST_CHECK enum status dispatch_create(const struct dispatch_limits *limits, struct dispatch **out);
void dispatch_destroy(struct dispatch *dispatch);

/* --- Workers. A name that comes back on another connection is a restarted worker: its leases end
 * at once. --- */
MUST_CHECK enum status dispatch_hello(struct dispatch *dispatch, const struct peer_id *peer,
                                      const char *name, int64_t now_us);
/* More groups this worker will take. Unknown peers are ignored. */
void dispatch_ready(struct dispatch *dispatch, const struct peer_id *peer, size_t credit);
/* Any frame is a sign of life; false: the peer has never said HELLO. */
bool dispatch_seen(struct dispatch *dispatch, const struct peer_id *peer, int64_t now_us);
/* The worker left: its leases and its credit end. */
void dispatch_bye(struct dispatch *dispatch, const struct peer_id *peer);
/* The last assignment could not be sent: the worker's leases end, its credit stays, and it gets
 * nothing until it is seen again. */
void dispatch_undelivered(struct dispatch *dispatch, const struct peer_id *peer);
size_t dispatch_workers_alive(const struct dispatch *dispatch);
/* Connection of the index-th worker ever seen; false past the last. */
bool dispatch_peer(const struct dispatch *dispatch, size_t index, struct peer_id *out);

/* --- Groups --- */
MUST_CHECK enum status dispatch_open(struct dispatch *dispatch, uint64_t group_id);
enum dispatch_verdict { DISPATCH_TAKEN, DISPATCH_DUPLICATE, DISPATCH_UNKNOWN };
/* A scored sample arrived. */
enum dispatch_verdict dispatch_sample(struct dispatch *dispatch, uint64_t group_id, size_t idx);
bool dispatch_is_complete(const struct dispatch *dispatch); /* no open group misses a sample */
size_t dispatch_missing(const struct dispatch *dispatch);   /* samples */
void dispatch_close_all(struct dispatch *dispatch);         /* the step is over */

/* What a worker owes: groups leased to it, the samples that they miss, and the end of the lease
 * that ends first (0: none). */
struct dispatch_debt {
    const char *worker; /* name, borrowed */
    size_t n_groups, n_missing;
    int64_t seen_us; /* its last frame */
    int64_t lease_end_us;
    bool is_alive;
};
/* Of the index-th worker ever seen; false past the last. */
bool dispatch_debt_of(const struct dispatch *dispatch, size_t index, struct dispatch_debt *out);

/* Ends the leases of dead workers and of groups that took too long; returns how many groups will be
 * issued again. *who names one of the workers that were given up ("" if none; borrowed). */
size_t dispatch_expire(struct dispatch *dispatch, int64_t now_us, const char **who);

struct assignment {
    struct peer_id peer;
    const char *worker; /* name, borrowed */
    uint64_t group_id;
    size_t attempt;
    const int32_t *idx; /* missing samples, ascending; borrowed until the next call */
    size_t n_idx;
};
/* The next group to send, lowest group first, to the worker with most credit; its lease begins.
 * false when nothing can be sent. */
bool dispatch_next(struct dispatch *dispatch, int64_t now_us, struct assignment *out);

#endif
