/* Owns AdamW over the flat parameter buffer: moments, clipping by the global norm, and the refusal
 * to step on a gradient that is not finite (grpo.md 14). */
#ifndef HONE_TRAINER_OPTIMIZER_H
#define HONE_TRAINER_OPTIMIZER_H

#include "base/status.h"
#include "kernels/backend.h"
#include "model/weights.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct optimizer;

/* Rows of indexers: untouched, the only ones that move, or beside the others. Beside them they are
 * clipped by a norm of their own, so that neither loss weighs on the other's steps. */
enum optimizer_indexers { INDEXERS_FROZEN, INDEXERS_ALONE, INDEXERS_BESIDE };

struct optimizer_options {
    double beta1, beta2, epsilon, weight_decay;
    double max_grad_norm; /* 0: no clipping */
    bool freezes_mtp;     /* rows of MTP modules stay as they are */
    enum optimizer_indexers indexers;
};

/* table: borrowed, kept. Errors: NO_MEMORY. */
MUST_CHECK enum status optimizer_create(struct backend *backend, const struct weight_table *table,
                                        const struct optimizer_options *options,
                                        struct optimizer **out);
void optimizer_destroy(struct optimizer *optimizer);

/* One update: grad_norm (before clipping; with INDEXERS_BESIDE that of all other rows) out, weights
 * changed in place, update count + 1. Errors: NUMERICS when the norm is not finite; then nothing
 * changed. */
MUST_CHECK enum status optimizer_step(struct optimizer *optimizer, float *weights,
                                      const float *gradients, double learning_rate,
                                      double *grad_norm);
uint64_t optimizer_updates(const struct optimizer *optimizer);

/* The state for a checkpoint: moments m then v (each table->n_floats) and the number of updates. */
float *optimizer_first_moment(struct optimizer *optimizer);
float *optimizer_second_moment(struct optimizer *optimizer);
void optimizer_set_updates(struct optimizer *optimizer, uint64_t updates);

#endif
