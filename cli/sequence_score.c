#include "cli/sequence_score.h"

#include "base/memory.h"

#include <string.h>

struct sequence_score {
    struct policy *policy;
    size_t max_rows;
    int32_t *tokens, *target_rows; /* (max_rows) */
    float *logp;                   /* (max_rows) */
};

static enum status allocate(struct sequence_score *score)
{
    TRY(memory_alloc(score->max_rows, sizeof(*score->tokens), &score->tokens));
    TRY(memory_alloc(score->max_rows, sizeof(*score->target_rows), &score->target_rows));
    return memory_alloc(score->max_rows, sizeof(*score->logp), &score->logp);
}

enum status sequence_score_create(struct policy *policy, size_t max_rows,
                                  struct sequence_score **out)
{
    struct sequence_score *score = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*score), &score));
    score->policy = policy;
    score->max_rows = max_rows;
    const enum status status = allocate(score);
    if (status != STATUS_OK) {
        sequence_score_destroy(score);
        return status;
    }
    *out = score;
    return STATUS_OK;
}

void sequence_score_destroy(struct sequence_score *score)
{
    if (score == NULL) {
        return;
    }
    memory_free(score->tokens);
    memory_free(score->target_rows);
    memory_free(score->logp);
    memory_free(score);
}

enum status sequence_score_run(struct sequence_score *score, const int32_t *prompt, size_t n_prompt,
                               const int32_t *completion, size_t n_completion, const float **logp)
{
    const size_t offsets[] = {0, n_prompt + n_completion - 1}; /* the last token predicts nothing */

    if (offsets[1] > score->max_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "a sequence of %zu tokens, room for %zu", offsets[1],
                          score->max_rows);
    }
    memcpy(score->tokens, prompt, n_prompt * sizeof(int32_t));
    memcpy(score->tokens + n_prompt, completion, (n_completion - 1) * sizeof(int32_t));
    for (size_t i = 0; i < n_completion; i++) {
        score->target_rows[i] = (int32_t)(n_prompt - 1 + i);
    }
    const struct policy_batch batch = {.tokens = score->tokens,
                                       .n_rows = offsets[1],
                                       .offsets = offsets,
                                       .n_sequences = 1,
                                       .target_rows = score->target_rows,
                                       .targets = completion,
                                       .n_targets = n_completion,
                                       .sampling = {.temperature = 1.0F, .top_p = 1.0F}};

    *logp = score->logp;
    return policy_forward(score->policy, &batch, score->logp, NULL);
}
