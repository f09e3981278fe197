/* Front doors of training: `hone trainer CONFIG` (GRPO, talks to workers and the reward service)
 * and `hone sft CONFIG`.
 */
#ifndef HONE_TRAINER_TRAINER_H
#define HONE_TRAINER_TRAINER_H

#include "base/status.h"
#include "configs/config.h"

/* What a step did, for whoever draws progress. */
struct step_report {
    size_t step, max_steps;
    double reward, length, kl, entropy, mismatch, loss, grad_norm, lr;
    double tokens_per_s,
        share_of_peak; /* of useful flop in what trainer and machine could do (trainer/speed.h) */
    double generate_s, train_s;
    double mtp_acceptance, max_violation; /* NaN when there is none */
    double eta_s;
};
typedef void step_listener(void *context, const struct step_report *report);

/* Trains run_dir until max_steps, a signal (CANCELLED after a checkpoint) or an error: INEXACT,
 * NUMERICS, SCORING, TIMEOUT ... Leaves the final model in the last checkpoint's folder, a Hugging
 * Face folder that loads elsewhere. */
MUST_CHECK enum status trainer_main(const struct run_config *config, const char *run_dir,
                                    step_listener *listener, void *context);
/* Checks what a run needs before any process starts: data rows, columns, prompt lengths, model,
 * tokenizer, tensors, arithmetic of the batch. The message is the one line to show. */
MUST_CHECK enum status trainer_check(const struct run_config *config);

struct sft_report {
    size_t step, max_steps;
    double loss, mtp_loss, grad_norm, lr, tokens_per_s, share_of_peak, max_violation, balance_loss,
        indexer_loss;
};
typedef void sft_listener(void *context, const struct sft_report *report);
MUST_CHECK enum status sft_main(const struct run_config *config, sft_listener *listener,
                                void *context, struct sft_report *last);

#endif
