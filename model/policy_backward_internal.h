/* Owns the steps that backward passes of the policy share: a linear layer and a residual norm.
 * Gradients of parameters are added to policy->gradients. */
#ifndef HONE_MODEL_POLICY_BACKWARD_INTERNAL_H
#define HONE_MODEL_POLICY_BACKWARD_INTERNAL_H

#include "model/policy_internal.h"

/* What the rest of a product backward is made in: as the linear layers; as what FP8 leaves
 * unquantised; floats as they are (routers, indexers). */
enum policy_arithmetic { POLICY_AS_LINEAR, POLICY_AS_UNQUANTISED, POLICY_EXACT };

/* A weight (n, n_in) and its bias by their offsets in the flat buffer (bias 0: none), and where its
 * columns begin in dy. */
struct policy_linear_part {
    size_t weight, bias;
    size_t n, at;
};
/* A linear layer whose weights, ascending in dy, read the same rows. */
struct policy_linear_gradient {
    struct policy_linear_part parts[GEMM_DX_PARTS];
    size_t n_parts, n_in;
    const float *dy; /* (n_rows, n_out) */
    size_t dy_stride;
    const float *x; /* (n_rows, n_in) as it was read */
    size_t x_stride;
    float *dx; /* (n_rows, n_in) assigned, or (accumulates) added to */
    size_t dx_stride;
    size_t n_rows;
    enum policy_arithmetic arithmetic;
    bool accumulates;
};
/* The gradients of weights and biases; dx is not read. */
MUST_CHECK enum status policy_weights_backward(struct policy *policy,
                                               const struct policy_linear_gradient *linear);
/* dx alone; x is not read. */
MUST_CHECK enum status policy_inputs_backward(struct policy *policy,
                                              const struct policy_linear_gradient *linear);
/* Both. */
MUST_CHECK enum status policy_linear_backward(struct policy *policy,
                                              const struct policy_linear_gradient *linear);

/* d_project -> d_normed, with the gradients of the joint projection's weights (policy_project.c).
 */
MUST_CHECK enum status policy_project_backward(struct policy *policy,
                                               const struct policy_activations *a,
                                               const struct policy_linear_part *parts,
                                               size_t n_parts, size_t n_rows);

/* Through a norm (its weight at offset `norm`, rstd of its rows x (n_rows, d)) that a half of a
 * layer begins with: d_normed is added to d_h. */
MUST_CHECK enum status policy_residual_backward(struct policy *policy, size_t norm, const float *x,
                                                const float *rstd, size_t n_rows, float *d_h);
/* The feed-forward half of policy_block_backward. */
MUST_CHECK enum status policy_ffn_backward(struct policy *policy, const struct policy_layer *layer,
                                           const struct policy_activations *a, size_t n_rows,
                                           float *d_h);
/* embedding_backward of a tied head's policy: args without ids and table, of these tokens (n_rows,
 * on the host, not in the front half of staging). Errors: BAD_ARGUMENT (more different tokens in an
 * update than max_update_tokens). */
MUST_CHECK enum status policy_tied_backward(struct policy *policy, const int32_t *tokens,
                                            struct embedding_backward_args *args);
/* The balance loss of a layer: *d_scores (n_rows, E), or NULL without one. */
MUST_CHECK enum status policy_balance_backward(struct policy *policy,
                                               const struct policy_layer *layer,
                                               const struct policy_activations *a, size_t n_rows,
                                               const float **d_scores);

#endif
