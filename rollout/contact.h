/* Owns when to say HELLO and PING to one peer, and whether it is there (reliability.md I2, I3).
 * Pure: time comes in, nothing is sent from here. */
#ifndef HONE_ROLLOUT_CONTACT_H
#define HONE_ROLLOUT_CONTACT_H

#include <stdbool.h>
#include <stdint.h>

#define CONTACT_BEAT_US INT64_C(1000000)

struct contact {
    bool is_up;         /* welcomed, and not refused since */
    bool was_up;        /* welcomed once at least */
    int64_t inc;        /* of the last welcome */
    int64_t silence_us; /* without a word for so long: HELLO again */
    int64_t calling_since_us, heard_us, hello_due_us, ping_due_us;
};

/* silence_us: after how much silence a peer that is up is called again. */
void contact_init(struct contact *contact, int64_t silence_us, int64_t now_us);
/* HELLO is to be sent. */
bool contact_wants_hello(const struct contact *contact, int64_t now_us);
void contact_said_hello(struct contact *contact, bool was_sent, int64_t now_us);
/* PING is to be sent. */
bool contact_wants_ping(const struct contact *contact, int64_t now_us);
void contact_said_ping(struct contact *contact, int64_t now_us);
/* Any message came from the peer. */
void contact_heard(struct contact *contact, int64_t now_us);

enum contact_welcome {
    CONTACT_FIRST,  /* the first welcome, or the first after a refusal */
    CONTACT_SAME,   /* it was there all the time */
    CONTACT_CHANGED /* another incarnation: whatever was agreed with the old one is void */
};
enum contact_welcome contact_welcomed(struct contact *contact, int64_t inc, int64_t now_us);
/* true when the refusal is final: the first HELLO was refused, or later ones for 10 s. Otherwise
 * the peer has forgotten us, and HELLO is due at once. */
bool contact_refused(struct contact *contact, int64_t now_us);
/* How long we have been without an answer: since the first call, or the last word. */
int64_t contact_silence_us(const struct contact *contact, int64_t now_us);

#endif
