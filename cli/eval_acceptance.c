#include "cli/eval_acceptance.h"

#include "base/memory.h"

#include <string.h>

struct eval_acceptance {
    struct policy *policy;
    size_t max_rows, n_rows, n_sequences, n_targets;
    int32_t *tokens, *target_rows, *targets, *drawn; /* (max_rows) */
    size_t *offsets;                                 /* (max_rows + 1) */
    struct sample_row *draws;                        /* (max_rows) */
    float *logp;                                     /* (max_rows) */
    struct sampling_params sampling;                 /* of the packed samples */
    size_t n_drafted, n_accepted;
};

static enum status allocate(struct eval_acceptance *a)
{
    TRY(memory_alloc(a->max_rows, sizeof(*a->tokens), &a->tokens));
    TRY(memory_alloc(a->max_rows, sizeof(*a->target_rows), &a->target_rows));
    TRY(memory_alloc(a->max_rows, sizeof(*a->targets), &a->targets));
    TRY(memory_alloc(a->max_rows, sizeof(*a->drawn), &a->drawn));
    TRY(memory_alloc(a->max_rows + 1, sizeof(*a->offsets), &a->offsets));
    TRY(memory_alloc(a->max_rows, sizeof(*a->draws), &a->draws));
    return memory_alloc(a->max_rows, sizeof(*a->logp), &a->logp);
}

enum status eval_acceptance_create(struct policy *policy, size_t max_rows,
                                   struct eval_acceptance **out)
{
    struct eval_acceptance *a = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*a), &a));
    a->policy = policy;
    a->max_rows = max_rows;
    const enum status status = allocate(a);
    if (status != STATUS_OK) {
        eval_acceptance_destroy(a);
        return status;
    }
    *out = a;
    return STATUS_OK;
}

void eval_acceptance_destroy(struct eval_acceptance *a)
{
    if (a == NULL) {
        return;
    }
    memory_free(a->logp);
    memory_free(a->draws);
    memory_free(a->offsets);
    memory_free(a->drawn);
    memory_free(a->targets);
    memory_free(a->target_rows);
    memory_free(a->tokens);
    memory_free(a);
}

/* The trunk over all packed samples, then the drafts. */
static enum status flush(struct eval_acceptance *a)
{
    const struct policy_batch batch = {.tokens = a->tokens,
                                       .n_rows = a->n_rows,
                                       .offsets = a->offsets,
                                       .n_sequences = a->n_sequences,
                                       .target_rows = a->target_rows,
                                       .targets = a->targets,
                                       .n_targets = a->n_targets,
                                       .sampling = a->sampling};
    const struct policy_mtp_args drafts = {.target_rows = a->target_rows,
                                           .targets = a->targets,
                                           .n_targets = a->n_targets,
                                           .detached = true,
                                           .draws = a->draws,
                                           .drawn = a->drawn};

    if (a->n_targets > 0) {
        TRY(policy_forward(a->policy, &batch, a->logp, NULL));
        TRY(policy_mtp_forward(a->policy, &drafts, a->logp));
    }
    for (size_t i = 0; i < a->n_targets; i++) {
        a->n_accepted += a->drawn[i] == a->targets[i] ? 1 : 0;
    }
    a->n_drafted += a->n_targets;
    a->n_rows = 0;
    a->n_sequences = 0;
    a->n_targets = 0;
    return STATUS_OK;
}

enum status eval_acceptance_add(struct eval_acceptance *a, const struct accepted_sample *sample)
{
    const size_t n = sample->n_prompt + sample->n_completion;

    if (n > a->max_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "a sample of %zu tokens, room for %zu", n,
                          a->max_rows);
    }
    if (a->n_rows + n > a->max_rows) {
        TRY(flush(a));
    }
    const size_t first = a->n_rows;
    memcpy(a->tokens + first, sample->prompt, sample->n_prompt * sizeof(int32_t));
    memcpy(a->tokens + first + sample->n_prompt, sample->completion,
           sample->n_completion * sizeof(int32_t));
    a->sampling = sample->draw.sampling;
    a->n_rows += n;
    a->offsets[++a->n_sequences] = a->n_rows;
    /* Row p - 2 has seen what precedes token p - 1, and drafts token p. */
    for (size_t p = sample->n_prompt + 1; p < n; p++) {
        a->target_rows[a->n_targets] = (int32_t)(first + p - 2);
        a->targets[a->n_targets] = a->tokens[first + p];
        a->draws[a->n_targets] = sample->draw;
        a->draws[a->n_targets].position = (uint32_t)p;
        a->n_targets++;
    }
    return STATUS_OK;
}

enum status eval_acceptance_finish(struct eval_acceptance *a, size_t *n_drafted, size_t *n_accepted)
{
    TRY(flush(a));
    *n_drafted = a->n_drafted;
    *n_accepted = a->n_accepted;
    return STATUS_OK;
}
