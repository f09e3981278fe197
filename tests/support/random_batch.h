/* Owns random batches and weights for random configurations. */
#ifndef HONE_TESTS_SUPPORT_RANDOM_BATCH_H
#define HONE_TESTS_SUPPORT_RANDOM_BATCH_H

#include "tests/support/random_config.h"

enum batch_branch {
    BRANCH_SINGLE_TOKEN, /* a sequence of one */
    BRANCH_PACKED,       /* several sequences */
    BRANCH_LONGEST,      /* a sequence of 17 tokens or more: more than a page of the cache */
    BRANCH_MASKED,
    BRANCH_MEAN_LOSS,
    BRANCH_ENTROPY,
    BRANCH_TEMPERATURE,
    BRANCH_DETACHED,
    BRANCH_JOINT_MTP,      /* not detached */
    BRANCH_INDEXER_SPARSE, /* the KL loss beside the model's own */
    BRANCH_INDEXER_WARMUP, /* dense attention, the KL loss alone */
    N_BATCH_BRANCHES
};
extern const char *const random_batch_branch_names[N_BATCH_BRANCHES];

/* Sequences of 1 to 20 random tokens, ROWS_MAX rows at most; every row predicts a random token, or
 * the mask leaves some out. */
void random_batch_draw(struct random_draws *draws, const struct oracle_config *config,
                       struct oracle_batch *out, bool branches[N_BATCH_BRANCHES]);

/* Random values that hide nothing: norms around 1, biases that are not 0, and a correction bias
 * that may turn scores negative. */
void random_weights_fill(const struct weight_table *table, uint64_t seed, float *data);

#endif
