/* Owns when to say HELLO and PING to one peer, and whether it is there (reliability.md I2, I3).
 * Pure: time comes in, nothing is sent from here. */
#ifndef HONE_ROLLOUT_LINK_H
#define HONE_ROLLOUT_LINK_H

#include <stdbool.h>
#include <stdint.h>

#define LINK_BEAT_US INT64_C(1000000)

struct link {
    bool is_up;         /* welcomed, and not refused since */
    bool was_up;        /* welcomed once at least */
    int64_t inc;        /* of the last welcome */
    int64_t silence_us; /* without a word for so long: HELLO again */
    int64_t calling_since_us, heard_us, hello_due_us, ping_due_us;
};

/* silence_us: after how much silence a peer that is up is called again. */
void link_init(struct link *link, int64_t silence_us, int64_t now_us);
/* HELLO is to be sent. */
bool link_wants_hello(const struct link *link, int64_t now_us);
void link_said_hello(struct link *link, bool was_sent, int64_t now_us);
/* PING is to be sent. */
bool link_wants_ping(const struct link *link, int64_t now_us);
void link_said_ping(struct link *link, int64_t now_us);
/* Any message came from the peer. */
void link_heard(struct link *link, int64_t now_us);

enum link_welcome {
    LINK_FIRST,  /* the first welcome, or the first after a refusal */
    LINK_SAME,   /* it was there all the time */
    LINK_CHANGED /* another incarnation: whatever was agreed with the old one is void */
};
enum link_welcome link_welcomed(struct link *link, int64_t inc, int64_t now_us);
/* true when the refusal is final: the first HELLO was refused, or later ones for 10 s. Otherwise
 * the peer has forgotten us, and HELLO is due at once. */
bool link_refused(struct link *link, int64_t now_us);
/* How long we have been without an answer: since the first call, or the last word. */
int64_t link_silence_us(const struct link *link, int64_t now_us);

#endif
