/* Owns opening and closing what training needs: data, tokenizer, model, backend; and every check of
 * them that can be made before a process starts. */
#ifndef HONE_TRAINER_SETUP_H
#define HONE_TRAINER_SETUP_H

#include "base/status.h"
#include "configs/config.h"
#include "kernels/backend.h"
#include "model/policy.h"
#include "model/tokenizer.h"
#include "trainer/dataset.h"
#include "trainer/learner.h"

struct learner_options;

struct setup_data {
    struct model_config model; /* of model.path */
    struct tokenizer *tokenizer;
    enum chat_template chat;
    struct dataset *dataset;
    struct dataset_counts counts;
};
/* Reads model.path's config.json and tokenizer and data.train, and checks that they fit each other:
 * vocabulary, lengths, columns. the answer column is required when some reward compares with it.
 * Caller closes *out, also after a failure. */
MUST_CHECK enum status setup_data_open(const struct run_config *config, enum dataset_use use,
                                       struct setup_data *out);
void setup_data_close(struct setup_data *data);

/* The tensors of dir are those of the model, in name, shape and type; with_values: all of them are
 * finite too, unless there are so many that looking takes more than a second or so. */
MUST_CHECK enum status setup_check_weights(const char *dir, const struct model_config *model,
                                           bool with_values);

/* What the policy of a learner with these options is made for: rows, precision, and which
 * activations it keeps (optim.activation_checkpointing). Errors: NO_MEMORY (a size overflows). */
MUST_CHECK enum status setup_policy_options(const struct run_config *config,
                                            const struct model_config *model,
                                            const struct learner_options *learner,
                                            struct policy_options *out);
/* The same for the frozen policy of grpo.beta. */
struct policy_options setup_reference_options(const struct policy_options *trained);

/* Whether a trainer whose policy has such memory lets it rest while workers sample: giving it back
 * and taking it again takes milliseconds, which is much of a small model's step. */
bool setup_rests(const struct policy_memory *memory);

/* The backend takes what its ops need to learn with such a policy, and to run its reference, if
 * there is one, before the first step does. */
MUST_CHECK enum status setup_rehearse(struct backend *backend, const struct model_config *model,
                                      const struct learner_options *options,
                                      const struct policy_options *trained, bool has_reference);

/* A policy with the weights of weights_dir (NULL: left at zero for the caller to fill). */
MUST_CHECK enum status setup_policy(const struct model_config *model, struct backend *backend,
                                    const char *weights_dir, const struct policy_options *options,
                                    struct policy **out);

/* Writes DIR: config.json, model.safetensors and the tokenizer files of tokenizer_dir: a folder
 * that loads elsewhere. */
MUST_CHECK enum status setup_save_model(const char *dir, struct policy *policy,
                                        const char *tokenizer_dir);

#endif
