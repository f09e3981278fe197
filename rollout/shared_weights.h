/* Owns the view of weights that the trainer of this host has in shared memory (reliability.md 5.4):
 * whether it can be mapped, and which version it is just now. The trainer writes the next version
 * in the same place, at any time: what is computed from it counts only if its version is the wanted
 * one before and after. */
#ifndef HONE_ROLLOUT_SHARED_WEIGHTS_H
#define HONE_ROLLOUT_SHARED_WEIGHTS_H

#include "base/message.h"
#include "base/shared_memory.h"
#include "base/status.h"
#include "model/policy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shared_weights {
    struct shared_memory *memory; /* NULL: nothing is mapped */
    size_t weights_at, packed_at;
    /* What could not be mapped, and is not tried again. */
    unsigned char refused[SHARED_MEMORY_NONCE];
    bool has_refused;
};

/* Maps what W_INFO names, if it is there and `policy` can read it; what was mapped before and is
 * something else goes. false: the weights have to be fetched. Errors: NO_MEMORY. */
MUST_CHECK enum status shared_weights_map(struct shared_weights *shared, const struct message *info,
                                          const struct policy *policy, bool *is_mapped);
/* What is mapped goes, if anything; nobody may read it any more. */
void shared_weights_unmap(struct shared_weights *shared);
/* The version that is mapped; -1: none, or it is being written. */
int64_t shared_weights_version(const struct shared_weights *shared);
/* Something is mapped, and the process that had it is gone. */
bool shared_weights_is_orphan(const struct shared_weights *shared);
/* The policy reads what is mapped. */
void shared_weights_lend(const struct shared_weights *shared, struct policy *policy);

#endif
