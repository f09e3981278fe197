/* Owns finished samples until the reward service says that they are in the database
 * (reliability.md I1). At-least-once: a sample is sent again when no answer came for a while or the
 * connection is new. Pure: says what to send, never sends. */
#ifndef HONE_ROLLOUT_OUTBOX_H
#define HONE_ROLLOUT_OUTBOX_H

#include "base/message.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTBOX_RESEND_US INT64_C(5000000)

struct outbox;

struct outbox_key {
    uint64_t group;
    uint32_t sample, attempt;
};

MUST_CHECK enum status outbox_create(size_t capacity, struct outbox **out);
/* Destroys the messages too. NULL is legal. */
void outbox_destroy(struct outbox *outbox);

size_t outbox_count(const struct outbox *outbox);
/* Takes a message over. A key that is there already keeps its old message (the same sample), and
 * the new one is destroyed. Errors: BAD_ARGUMENT when full, the message then stays the caller's. */
MUST_CHECK enum status outbox_adopt(struct outbox *outbox, struct outbox_key key,
                                    struct message *message);
/* The oldest message that was never sent or waits too long; NULL when none. Valid until the next
 * adopt or settle. */
const struct message *outbox_due(struct outbox *outbox, int64_t now_us);
/* What outbox_due gave has been sent. */
void outbox_sent(struct outbox *outbox, int64_t now_us);
/* Answered for good; false when there is no such key (an answer that came twice). */
bool outbox_settle(struct outbox *outbox, struct outbox_key key);
/* The connection is new: everything is due again. */
void outbox_resend_all(struct outbox *outbox);

#endif
