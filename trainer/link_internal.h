/* What link.c and link_workers.c share. */
#ifndef HONE_TRAINER_LINK_INTERNAL_H
#define HONE_TRAINER_LINK_INTERNAL_H

#include "base/socket.h"
#include "trainer/link.h"

#define LINK_BUILD "0.1.0"

struct link {
    const struct run_config *config;
    const char *run_dir, *numerics_id;
    char config_sha[65];
    struct dispatch *dispatch;
    struct publisher *publisher;
    link_listener *listener;
    void *listener_context;
    link_work_filler *filler;
    void *filler_context;
    struct socket_context *context;
    struct socket *work, *weights, *scored;
    int64_t incarnation;
    bool is_welcome;
    int64_t last_beat_us, reward_seen_us, idle_since_us, idle_warned_us;
    int64_t turned_us;    /* end of the last turn; 0: none yet */
    const char *expected; /* link_expect; NULL: nothing */
    int64_t expected_since_us, expected_until_us;
};

#define LINK_IDLE_US INT64_C(600000000) /* without a worker */

/* If SIGUSR2 came: the list of waits (link_waits.c). */
void link_tell_waits(const struct link *link);

/* Everything workers have sent; then dead ones are given up (only when the queue is empty: frames
 * that waited while the trainer was busy count as life). */
MUST_CHECK enum status link_drain_work(struct link *link, const char *phase, int64_t now_us);
MUST_CHECK enum status link_drain_weights(struct link *link);
void link_send_work(struct link *link, int64_t now_us);
void link_tell_workers(struct link *link, const struct message *message);

#endif
