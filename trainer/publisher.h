/* Owns publication of weights: a worker asks for a version's description and for chunks, and
 * verifies every byte (reliability.md 5.4). The version served is the one the trainer holds; in
 * synchronous training no other is ever needed. */
#ifndef HONE_TRAINER_PUBLISHER_H
#define HONE_TRAINER_PUBLISHER_H

#include "base/hash.h"
#include "base/message.h"
#include "base/socket.h"
#include "base/status.h"
#include "model/policy.h"

#include <stddef.h>

struct publisher;

/* weights: borrowed, kept; changes only from publisher_withdraw to publisher_offer. */
MUST_CHECK enum status publisher_create(const float *weights, size_t n_floats,
                                        struct publisher **out);
void publisher_destroy(struct publisher *publisher);
/* Workers of this host may map the weights, which are those of policy_share(policy), instead of
 * asking for chunks; a policy that does not share is none of their business. The policy is kept for
 * the publisher's life. Errors: NO_MEMORY. */
MUST_CHECK enum status publisher_share(struct publisher *publisher, const struct policy *policy);
/* The weights are about to change: what is read of them from here on is of no version. */
void publisher_withdraw(struct publisher *publisher);
/* The weights are now this version: digests of all chunks are computed. */
void publisher_offer(struct publisher *publisher, size_t version);
size_t publisher_version(const struct publisher *publisher);
struct digest128 publisher_digest(const struct publisher *publisher);
/* Answers one W_GET: W_INFO, or the chunks asked for; REFUSE when it wants a version that is not
 * the one held. Errors: those of socket_send. */
MUST_CHECK enum status publisher_answer(struct publisher *publisher, struct socket *socket,
                                        const struct peer_id *peer, const struct message *request);

#endif
