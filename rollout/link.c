/* The handshake and heartbeat of one connection as a state machine. */
#include "rollout/link.h"

#define RETRY_US INT64_C(50000)           /* nobody listens yet */
#define REFUSALS_END_US INT64_C(10000000) /* refusals of older messages may still be under way */

void link_init(struct link *link, int64_t silence_us, int64_t now_us)
{
    *link = (struct link){.silence_us = silence_us,
                          .calling_since_us = now_us,
                          .heard_us = now_us,
                          .hello_due_us = now_us,
                          .ping_due_us = now_us};
}

bool link_wants_hello(const struct link *link, int64_t now_us)
{
    const bool is_silent = now_us - link->heard_us >= link->silence_us;

    return (!link->is_up || is_silent) && now_us >= link->hello_due_us;
}

void link_said_hello(struct link *link, bool was_sent, int64_t now_us)
{
    const int64_t pause_us = link->is_up ? link->silence_us : LINK_BEAT_US;

    link->hello_due_us = now_us + (was_sent ? pause_us : RETRY_US);
}

bool link_wants_ping(const struct link *link, int64_t now_us)
{
    return link->is_up && now_us >= link->ping_due_us;
}

void link_said_ping(struct link *link, int64_t now_us)
{
    link->ping_due_us = now_us + LINK_BEAT_US;
}

void link_heard(struct link *link, int64_t now_us)
{
    link->heard_us = now_us;
}

enum link_welcome link_welcomed(struct link *link, int64_t inc, int64_t now_us)
{
    const bool is_changed = link->was_up && inc != link->inc;
    const bool is_first = !link->is_up;

    link->is_up = true;
    link->was_up = true;
    link->inc = inc;
    link->heard_us = now_us;
    if (is_changed) {
        return LINK_CHANGED;
    }
    return is_first ? LINK_FIRST : LINK_SAME;
}

bool link_refused(struct link *link, int64_t now_us)
{
    if (link->is_up) {
        link->is_up = false;
        link->calling_since_us = now_us;
        link->hello_due_us = now_us;
        return false;
    }
    return !link->was_up || now_us - link->calling_since_us >= REFUSALS_END_US;
}

int64_t link_silence_us(const struct link *link, int64_t now_us)
{
    return now_us - (link->is_up ? link->heard_us : link->calling_since_us);
}
