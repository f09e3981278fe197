/* Owns the arguments of the ops behind the last norm: log-probabilities of given tokens, their
 * gradients, and draws of new ones, all under one sampling distribution. */
#ifndef HONE_KERNELS_OP_HEAD_H
#define HONE_KERNELS_OP_HEAD_H

#include "kernels/op_packing.h"

#include <stddef.h>
#include <stdint.h>

/* The sampling distribution (grpo.md 2.1): softmax(logits / temperature), then top_k, top_p, min_p
 * in this order; 0, 1, 0 = off. temperature 0: the arg max (lower id on a tie), log-probability 0,
 * entropy 0. */
struct sampling_params {
    float temperature;
    int32_t top_k;
    float top_p, min_p;
};

/* logp[t] = log-probability of targets[t], which is always kept, under the sampling distribution,
 * entropy of softmax(z / temperature) over the whole vocabulary; by chunks of rows. */
struct lm_head_args {
    const float *x; /* (T, d) after the final norm */
    size_t x_stride;
    const float *w;           /* packed head */
    enum precision precision; /* of w */
    const int32_t *targets;
    float *logp, *entropy, *lse; /* (T); lse of the kept set's z / temperature; entropy or NULL */
    size_t n_rows, d, vocab;
    struct sampling_params sampling;
};
/* dz = (g ([v = y] - p_v) - h p_v (log p_v + H)) / temperature (grpo.md 2.5), logits recomputed by
 * blocks of the vocabulary, or with a truncated distribution by chunks of rows; p follows from the
 * lse of the forward pass. Rows with g = h = 0 are skipped. With a truncated distribution the kept
 * set is that of these logits. */
struct lm_head_backward_args {
    struct lm_head_args
        forward;          /* as it was called; lse, entropy filled (entropy may be NULL if h is) */
    const float *weights; /* (V, d) as they lie in memory; forward.w is made of them */
    enum precision precision, rounding; /* of the gradients' products, F32 or BF16; of weights */
    const float *g, *h;                 /* (T); h may be NULL */
    float *dx;                          /* (T, d) assigned */
    size_t dx_stride;
    float *dw; /* (V, d) added to, or NULL */
};

/* Draws one token a row by the exponential race argmax p_v / -log u_v (cpu.md 5.14), u keyed by
 * (seed; group, sample, position, v): the same draw in any batch. logp is what lm_head_logprob
 * gives for that token, bit for bit. */
struct sample_row {
    uint64_t seed, group;
    uint32_t sample, position;
    struct sampling_params sampling;
};
struct sample_args {
    const float *logits; /* (T, V) */
    size_t logits_stride;
    const struct sample_row *rows;
    int32_t *tokens;
    float *logp;
    size_t n_rows, vocab;
};

#endif
