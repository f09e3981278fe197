/* Owns the kinds of attention as a layer sees them, and the indexer that some have: what each makes
 * of the sizes, which weights it reads and packs, and its passes. policy_attention.c has the table.
 */
#ifndef HONE_MODEL_POLICY_ATTENTION_INTERNAL_H
#define HONE_MODEL_POLICY_ATTENTION_INTERNAL_H

#include "model/policy_internal.h"

/* A kind of attention. Between it and the block lie normed_in (T, d) and values (T, value_dim),
 * their gradients, and the cache's pages; o_proj, norms and residual are the block's. */
struct policy_plan;
struct policy_attention {
    /* The attention's part of the sizes; d and heads are there. */
    void (*sizes)(const struct model_config *config, struct policy_sizes *s);
    /* Offsets of its rows in the flat buffer. */
    void (*find)(const struct policy *policy, size_t index, struct policy_layer *layer);
    /* Its packed copies. */
    void (*plan)(struct policy_plan *plan, struct policy_layer *layer);
    /* normed_in -> values; the rows' entries go to the pages. */
    enum status (*forward)(struct policy *policy, const struct policy_layer *layer,
                           const struct policy_activations *a,
                           const struct policy_block_rows *rows);
    /* normed_in -> the rows' entries alone. */
    enum status (*entries)(struct policy *policy, const struct policy_layer *layer,
                           const struct policy_activations *a,
                           const struct policy_block_rows *rows);
    /* d_values -> d_normed, and the gradients of its parameters; pages are filled again. */
    enum status (*backward)(struct policy *policy, const struct policy_layer *layer,
                            const struct policy_activations *a,
                            const struct policy_block_rows *rows);
};
const struct policy_attention *policy_attention_of(const struct policy *policy);
/* Columns `at` .. (a panel border) of the joint projection: normed_in -> project. next: as in
 * gemm_args. */
MUST_CHECK enum status policy_project(struct policy *policy, const struct policy_layer *layer,
                                      const struct policy_activations *a, size_t n_rows, size_t at,
                                      const float *next);

void policy_mla_sizes(const struct model_config *config, struct policy_sizes *s);
void policy_mla_find(const struct policy *policy, size_t index, struct policy_layer *layer);
void policy_mla_plan(struct policy_plan *plan, struct policy_layer *layer);
MUST_CHECK enum status policy_mla_forward(struct policy *policy, const struct policy_layer *layer,
                                          const struct policy_activations *a,
                                          const struct policy_block_rows *rows);
MUST_CHECK enum status policy_mla_entries(struct policy *policy, const struct policy_layer *layer,
                                          const struct policy_activations *a,
                                          const struct policy_block_rows *rows);
MUST_CHECK enum status policy_mla_backward(struct policy *policy, const struct policy_layer *layer,
                                           const struct policy_activations *a,
                                           const struct policy_block_rows *rows);
/* normed_in -> project, q (rotated), latent; the one rotary key of project is rotated. */
MUST_CHECK enum status policy_mla_project(struct policy *policy, const struct policy_layer *layer,
                                          const struct policy_activations *a,
                                          const struct policy_block_rows *rows);
/* The same without queries. */
MUST_CHECK enum status policy_mla_project_keys(struct policy *policy,
                                               const struct policy_layer *layer,
                                               const struct policy_activations *a,
                                               const struct policy_block_rows *rows);
/* Rotates queries (or none: NULL) and the one rotary key of rows of the projection, forth or back.
 */
MUST_CHECK enum status policy_mla_rotate(struct policy *policy, float *q, float *project,
                                         const struct policy_block_rows *rows, bool is_inverse);
/* Latents and the rotary keys of rows of the projection to entries of the pages, or from them. */
MUST_CHECK enum status policy_mla_copy(struct policy *policy, const struct policy_block_rows *rows,
                                       float *latent, float *project, struct kv_pages pages,
                                       bool to_pages);
/* The attention op's arguments, the same in both directions. */
struct attention_args policy_mla_args(const struct policy *policy,
                                      const struct policy_activations *a,
                                      const struct policy_block_rows *rows);

/* MLA as it is written down, kv_b a linear layer; find is MLA's. */
void policy_expanded_sizes(const struct model_config *config, struct policy_sizes *s);
MUST_CHECK enum status policy_expanded_forward(struct policy *policy,
                                               const struct policy_layer *layer,
                                               const struct policy_activations *a,
                                               const struct policy_block_rows *rows);
MUST_CHECK enum status policy_expanded_entries(struct policy *policy,
                                               const struct policy_layer *layer,
                                               const struct policy_activations *a,
                                               const struct policy_block_rows *rows);
/* UNSUPPORTED. */
MUST_CHECK enum status policy_expanded_backward(struct policy *policy,
                                                const struct policy_layer *layer,
                                                const struct policy_activations *a,
                                                const struct policy_block_rows *rows);

void policy_gqa_sizes(const struct model_config *config, struct policy_sizes *s);
void policy_gqa_find(const struct policy *policy, size_t index, struct policy_layer *layer);
void policy_gqa_plan(struct policy_plan *plan, struct policy_layer *layer);
MUST_CHECK enum status policy_gqa_forward(struct policy *policy, const struct policy_layer *layer,
                                          const struct policy_activations *a,
                                          const struct policy_block_rows *rows);
MUST_CHECK enum status policy_gqa_entries(struct policy *policy, const struct policy_layer *layer,
                                          const struct policy_activations *a,
                                          const struct policy_block_rows *rows);
MUST_CHECK enum status policy_gqa_backward(struct policy *policy, const struct policy_layer *layer,
                                           const struct policy_activations *a,
                                           const struct policy_block_rows *rows);
/* Rotates queries and keys of rows [q | k], forth or back. */
MUST_CHECK enum status policy_gqa_rotate(struct policy *policy, float *q,
                                         const struct policy_block_rows *rows, bool is_inverse);
/* Keys of rows [q | k] and values of rows [q | k | v] to entries of the pages, or from them. */
MUST_CHECK enum status policy_gqa_copy(struct policy *policy, const struct policy_block_rows *rows,
                                       float *q, float *project, struct kv_pages pages,
                                       bool to_pages);
struct attention_args policy_gqa_args(const struct policy *policy,
                                      const struct policy_activations *a,
                                      const struct policy_block_rows *rows);

/* The indexer (policy_indexer.c): its part of sizes, offsets and packed copies, with MLA's. */
void policy_indexer_sizes(const struct model_config *config, struct policy_sizes *s);
void policy_indexer_find(const struct policy *policy, size_t index, struct policy_layer *layer);
void policy_indexer_plan(struct policy_plan *plan, struct policy_layer *layer);
/* normed_in, q_latent -> keys in the pages, and the selection of every row unless rows is dense. */
MUST_CHECK enum status policy_indexer_forward(struct policy *policy,
                                              const struct policy_layer *layer,
                                              const struct policy_activations *a,
                                              const struct policy_block_rows *rows);
/* normed_in -> keys in the pages alone. */
MUST_CHECK enum status policy_indexer_entries(struct policy *policy,
                                              const struct policy_layer *layer,
                                              const struct policy_activations *a,
                                              const struct policy_block_rows *rows);
/* The loss of a layer's indexer and the gradients of its parameters; pages are filled again. */
MUST_CHECK enum status policy_indexer_backward(struct policy *policy,
                                               const struct policy_layer *layer,
                                               const struct policy_activations *a,
                                               const struct policy_block_rows *rows);
/* The selection op's arguments. */
struct index_args policy_index_args(const struct policy *policy, const struct policy_activations *a,
                                    const struct policy_block_rows *rows);
/* Index keys of rows to the pages, or (their gradients) from them. */
MUST_CHECK enum status policy_indexer_copy(struct policy *policy,
                                           const struct policy_block_rows *rows, float *keys,
                                           size_t stride, struct kv_pages pages, bool to_pages);
/* Rotates queries and keys (key_stride apart), forth or back. */
MUST_CHECK enum status policy_indexer_rotate(struct policy *policy, float *q, float *keys,
                                             size_t key_stride,
                                             const struct policy_block_rows *rows, bool is_inverse);

#endif
