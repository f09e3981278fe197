/* The handshake and heartbeat of one connection as a state machine. */
#include "rollout/contact.h"

#define RETRY_US INT64_C(50000)           /* nobody listens yet */
#define REFUSALS_END_US INT64_C(10000000) /* refusals of older messages may still be under way */

void contact_init(struct contact *contact, int64_t silence_us, int64_t now_us)
{
    *contact = (struct contact){.silence_us = silence_us,
                                .calling_since_us = now_us,
                                .heard_us = now_us,
                                .hello_due_us = now_us,
                                .ping_due_us = now_us};
}

bool contact_wants_hello(const struct contact *contact, int64_t now_us)
{
    const bool is_silent = now_us - contact->heard_us >= contact->silence_us;

    return (!contact->is_up || is_silent) && now_us >= contact->hello_due_us;
}

void contact_said_hello(struct contact *contact, bool was_sent, int64_t now_us)
{
    const int64_t pause_us = contact->is_up ? contact->silence_us : CONTACT_BEAT_US;

    contact->hello_due_us = now_us + (was_sent ? pause_us : RETRY_US);
}

bool contact_wants_ping(const struct contact *contact, int64_t now_us)
{
    return contact->is_up && now_us >= contact->ping_due_us;
}

void contact_said_ping(struct contact *contact, int64_t now_us)
{
    contact->ping_due_us = now_us + CONTACT_BEAT_US;
}

void contact_heard(struct contact *contact, int64_t now_us)
{
    contact->heard_us = now_us;
}

enum contact_welcome contact_welcomed(struct contact *contact, int64_t inc, int64_t now_us)
{
    const bool is_changed = contact->was_up && inc != contact->inc;
    const bool is_first = !contact->is_up;

    contact->is_up = true;
    contact->was_up = true;
    contact->inc = inc;
    contact->heard_us = now_us;
    if (is_changed) {
        return CONTACT_CHANGED;
    }
    return is_first ? CONTACT_FIRST : CONTACT_SAME;
}

bool contact_refused(struct contact *contact, int64_t now_us)
{
    if (contact->is_up) {
        contact->is_up = false;
        contact->calling_since_us = now_us;
        contact->hello_due_us = now_us;
        return false;
    }
    return !contact->was_up || now_us - contact->calling_since_us >= REFUSALS_END_US;
}

int64_t contact_silence_us(const struct contact *contact, int64_t now_us)
{
    return now_us - (contact->is_up ? contact->heard_us : contact->calling_since_us);
}
