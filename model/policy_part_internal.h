/* Owns the cuts of a forward: parts of about equal work that need nothing of each other, each run
 * by one thread from the first layer to the last. */
#ifndef HONE_MODEL_POLICY_PART_INTERNAL_H
#define HONE_MODEL_POLICY_PART_INTERNAL_H

#include "model/policy_internal.h"

/* Rows, spans and draws of a forward that belong together, and the policy that runs them: it owns
 * nothing, and lives until the next cut. */
struct policy_part {
    struct policy_part_buffers *buffers;
    struct kv_span *spans; /* then copies; rows counted from first_row */
    /* Of the forward's. In training what draws are targets. */
    size_t first_row, n_rows, first_span, n_spans, first_copy, n_copies, first_draw, n_draws;
    size_t logit_at, logit_rows; /* its rows of the buffers of draws */
    double work;                 /* flop */
};

/* policy_part.c. */
MUST_CHECK enum status policy_parts_create(struct policy *policy);
void policy_parts_destroy(struct policy *policy);
/* policy_cut.c. Cuts a forward into policy->parts of about equal work that need nothing of each
 * other; returns how many, 1 when it is better run as a whole. */
size_t policy_cut_extend(struct policy *policy, struct policy_cache *cache,
                         const struct policy_extend_args *args);
/* The same for a batch that is placed. */
size_t policy_cut_batch(struct policy *policy, size_t n_rows);
/* The policy that runs a part on `backend`, the row buffers moved to it; it owns nothing, and lives
 * until the next cut. */
struct policy *policy_part_of_draws(const struct policy *policy, struct backend *backend,
                                    const struct policy_part *part);
struct policy *policy_part_of_batch(const struct policy *policy, struct backend *backend,
                                    const struct policy_part *part);
/* What n parts of a batch have counted, and which layer's activations are there. */
void policy_parts_join(struct policy *policy, size_t n);

#endif
