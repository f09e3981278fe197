/* Owns what the two halves of the check share: everything one run of a model computed. */
#ifndef HONE_MODEL_MODEL_CHECK_INTERNAL_H
#define HONE_MODEL_MODEL_CHECK_INTERNAL_H

#include "base/arena.h"
#include "model/model_check.h"
#include "model/policy.h"
#include "model/safetensors.h"

/* B sequences of T tokens; rows = B T, rows of MTP module m = B (T - 1 - m). */
struct model_run {
    struct arena *arena; /* owns all arrays */
    struct policy *policy;
    size_t n_sequences, n_tokens, n_rows;
    const int32_t *tokens;
    float loss, mtp_loss, mtp_ce[MODEL_MTP_MAX];
    struct policy_trace trace; /* MTP values of each module packed to its rows, n_rows apart */
    float *gradients;          /* of loss (+ 0.3 mtp_loss), or NULL when nobody asks */
    float *gradients_detached; /* the same with the trunk constant in the MTP term, or NULL */
    /* Of the indexers' losses, (n_layers) each, or NULL: dense, sparse. */
    float *indexer_losses[2], *gradients_indexer[2];
    size_t n_selected; /* per row in the trace */
};
struct model_run_wants {
    bool gradients, gradients_detached, indexer_losses;
};

/* What was computed for one stored tensor. */
struct computed {
    const float *floats; /* one of the two */
    const int32_t *integers;
    size_t n;
};

/* One check: what is compared with what, and what came of it. */
struct model_comparison {
    struct backend *backend;
    const char *dir;
    const struct safetensors *io;
    struct arena *arena; /* owns what is computed, until the end */
    struct model_check *check;
    struct tensor *results; /* (tensors of io) computed, under the stored names and shapes */
    size_t n_results;
};
/* The kind of a stored tensor, which has a tolerance, and what follows its dot (""). False: none.
 */
bool model_check_kind(const char *name, const char **kind, const char **rest);
/* Compares a tensor of a known kind and adds it to the results. Errors: BAD_FORMAT (its size). */
MUST_CHECK enum status model_check_compare(struct model_comparison *comparison,
                                           const struct tensor *tensor,
                                           const struct computed *computed);
/* Loads the model with these options (rows and is_trainable are filled in) and runs it; *run has
 * a policy to destroy, on failure too. */
MUST_CHECK enum status model_check_run(const struct model_comparison *comparison,
                                       const struct policy_options *options,
                                       const struct model_run_wants *wants, struct model_run *run);

/* Results of W8A8 arithmetic (model_check_fp8.c): logits_w8a8_X, codes_w8a8_X.LINEAR and
 * scales_w8a8_X.LINEAR, each variant X that the file has with a run of its own. */
bool model_check_is_fp8(const char *name);
MUST_CHECK enum status model_check_fp8(struct model_comparison *comparison);

/* Rows of an MTP module. */
size_t model_run_mtp_rows(const struct model_run *run, size_t module);
/* Runs the policy on the tokens of io's input_ids and fills *run (arena and policy are set). */
MUST_CHECK enum status model_run_compute(const struct safetensors *io,
                                         const struct model_run_wants *wants,
                                         struct model_run *run);

#endif
