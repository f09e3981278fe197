/* Owns one optimizer update over packed sequences: forward, the caller's gradient, backward, AdamW.
 * It knows neither GRPO nor SFT, no socket, clock or file: weights[k+1] is a function of
 * weights[k], moments[k] and the sequences. */
#ifndef HONE_TRAINER_LEARNER_H
#define HONE_TRAINER_LEARNER_H

#include "base/status.h"
#include "configs/config.h"
#include "kernels/backend.h"
#include "model/policy.h"
#include "trainer/micro_batch.h"
#include "trainer/optimizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct learner;

struct learner_options {
    struct optimizer_options optimizer;
    size_t micro_batch_tokens; /* rows of one forward */
    size_t max_sequence_rows;  /* longest sequence; sizes the policy's max_rows with
                                  micro_batch_tokens */
    /* Most tokens of an update, those of a group's prompt once: policy_options.max_update_tokens.
     */
    size_t max_update_tokens;
    struct sampling_params sampling;
    /* Sequences of one group and prompt compute it once. Not where the routers' balance loss is
     * that of a sequence, or indexers learn: then nothing is shared. */
    bool shares_prompts;
    bool trains_mtp;   /* run the MTP module and add its loss */
    bool detaches_mtp; /* its gradient stays inside the module (RL) */
    double mtp_coef;
    /* Balance loss of the routers; coefficient 0: none. The kinds that count over the whole update
     * cost a forward pass over its micro-batches before the first one learns, about a quarter
     * more, unless the update is one micro-batch. */
    enum policy_balance_kind balance;
    double balance_coef;
    /* The indexers' loss: dense trains nothing else. Its gradient is indexer_coef times that of the
     * mean over the update's rows, summed over layers. */
    enum policy_indexer_loss indexer;
    double indexer_coef;
};

/* Rows that policy_create must allow for these options. */
size_t learner_max_rows(const struct learner_options *options);
/* policy_options.max_entries for them. */
size_t learner_max_entries(const struct learner_options *options);
/* policy: trainable, borrowed, weights loaded. Errors: NO_MEMORY. */
MUST_CHECK enum status learner_create(struct backend *backend, struct policy *policy,
                                      const struct learner_options *options, struct learner **out);
void learner_destroy(struct learner *learner);
struct optimizer *learner_optimizer(struct learner *learner);
struct policy *learner_policy(struct learner *learner);
/* Flop of everything it has computed so far (model/model_cost.h): 1 of every forward pass, 3 where
 * a backward pass followed, by the rows that were computed. */
double learner_flops(const struct learner *learner);

/* Called for each sequence of the update in order, with the log-probabilities and entropies of its
 * response tokens; writes dLoss/dlogp to g (n). */
typedef enum status sequence_gradient(void *context, size_t sequence_index, const float *logp,
                                      const float *entropy, size_t n, float *g);

struct update_stats {
    double grad_norm, entropy_sum; /* entropy over response tokens */
    size_t n_rows;                 /* computed */
    size_t n_inputs; /* tokens of all sequences but the last of each; n_rows if nothing is shared */
    size_t n_targets;
    double mtp_loss; /* mean cross-entropy of the MTP module on response tokens, NaN without one */
    double balance_loss;          /* of the routers, without its coefficient; NaN without one */
    double indexer_loss;          /* mean over rows, summed over layers; NaN without one */
    size_t n_mtp_accepted, n_mtp; /* drafts that equal the sampled token under shared noise */
};

struct update_args {
    const struct train_sequence *sequences;
    size_t n;
    double learning_rate;
    sequence_gradient *gradient;
    void *context;           /* of gradient */
    uint32_t *expert_counts; /* (policy_moe_layers, n_experts) of all n_inputs, added to; may be
                                NULL */
};
/* One update from zeroed gradients. Errors: those of gradient, NUMERICS. */
MUST_CHECK enum status learner_update(struct learner *learner, const struct update_args *args,
                                      struct update_stats *stats);

/* Called for each sequence in order with the log-probabilities of its response tokens. */
typedef enum status sequence_visit(void *context, size_t sequence_index, const float *logp,
                                   size_t n);
/* Forward only, with any policy of the same shape (a reference model, or this learner's own). */
MUST_CHECK enum status learner_visit(struct learner *learner, struct policy *policy,
                                     const struct train_sequence *sequences, size_t n,
                                     sequence_visit *visit, void *context);

#endif
