/* Owns the model as a function: tokens in, log-probabilities, draws and gradients out. One forward
 * serves training, prefill and decode
 * ("n new tokens of a sequence attending to what it has cached and themselves"), in the absorbed
 * form, so that sampler and trainer agree bit for bit (DESIGN section 3). */
#ifndef HONE_MODEL_POLICY_H
#define HONE_MODEL_POLICY_H

#include "base/hash.h"
#include "base/shared_memory.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "model/model_config.h"
#include "model/weights.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct policy;

struct policy_options {
    size_t max_rows;  /* most tokens in one forward */
    size_t max_draws; /* rows that policy_extend gives logits for at once */
    /* Rows for each thread from which on policy_extend lets every thread take its own sequences
     * through the whole step; 0: where that pays. The bits are the same. */
    size_t part_rows_min;
    bool parts_meet; /* with part_rows_min: but threads share the products of experts and head */
    /* Most tokens of the sequences of one policy_batch; a prefix counts for itself and in each
     * sequence that continues it. 0: max_rows, which is all that batches without prefixes need. */
    size_t max_entries;
    /* Trainable: most different tokens in the batches of one update, which ends with
     * policy_finish_gradients. A tied head's embedding has a gradient for so many. 0: any number.
     */
    size_t max_update_tokens;
    bool is_trainable; /* keep activations and gradients */
    size_t n_drafts;   /* tokens that policy_draft may draft behind a sequence: caches then hold
                          entries of the MTP modules too. 0, or no module: it drafts nothing */
    /* Of the forward products, in sampling and training alike. BF16: all but the routers'. FP8:
     * the linear layers' (W8A8). Gradients are of the rounded weights for the unrounded ones
     * (straight through), their products BF16 with fp32 sums in both. */
    enum precision precision;
    /* F32 or BF16: what FP8 computes head, eh_proj, an indexer's keys and the absorbed kv_b in,
     * whose weights are rounded to codes first (exact in BF16). The other precisions ignore it. */
    enum precision unquantised;
    enum precision cache; /* of keys and values, to which entries are rounded before attention reads
                             them, in sampling and training alike. FP8: latents, or GQA's keys and
                             values, as codes (struct kv_pages), what else an entry has as BF16 */
    /* Trainable: keep the rows between layers and one layer's activations; a layer's backward pass
     * makes its own again first. Less memory, more time, the same bits. */
    bool recomputes;
    /* For comparison with other arithmetic. FP8's scales of weights: amax / 448 as it comes, not
     * rounded up to a power of two. */
    bool has_float_scales;
    /* Latent attention as it is written down: kv_b a linear layer like the others, keys and values
     * of all heads in the cache. No backward pass. Other kinds of attention ignore it. */
    bool is_expanded;
    /* Not trainable: weights that are read packed alone are given back once they are packed;
     * policy_weights then holds zeros in their place until it is written again, as a whole. */
    bool drops_weights;
    /* Weights and packed copies lie in memory that other processes can map (policy_share), if there
     * is any and device memory is the host's; the bits are the same. */
    bool shares_weights;
};

/* Sizes everything at once; config is copied. Weights start as zeros: write policy_weights, then
 * policy_refresh. */
MUST_CHECK enum status policy_create(struct backend *backend, const struct model_config *config,
                                     const struct policy_options *options, struct policy **out);
/* weights_probe_mtp + policy_create + weights_load + policy_refresh from a Hugging Face folder. */
MUST_CHECK enum status policy_load(struct backend *backend, const char *dir,
                                   const struct policy_options *options, struct policy **out);
void policy_destroy(struct policy *policy);

const struct model_config *policy_config(const struct policy *policy);
const struct weight_table *policy_table(const struct policy *policy);
/* The backend's id for the policy's precision, and behind it what else changes bits ("/head-bf16":
 * FP8 with `unquantised` BF16; "/scales-f32", "/expanded", "/kv-bf16", "/kv-fp8"): equal ids give
 * equal bits. */
const char *policy_numerics(const struct policy *policy);
float *policy_weights(struct policy *policy);   /* flat, table->n_floats */
float *policy_gradients(struct policy *policy); /* same layout; NULL unless trainable */
/* Zeros before the first policy_backward of an update; free of cost behind a policy_rest. */
MUST_CHECK enum status policy_clear_gradients(struct policy *policy);
/* After the last policy_backward of an update, before its gradients are read: adds the embedding's
 * gradient to that of a tied head. Apart until then, so that each is one chain over rows and the
 * cut into micro-batches changes no bit; without a tied head nothing happens. */
MUST_CHECK enum status policy_finish_gradients(struct policy *policy);
/* Packs the weights for the kernels; call after every change of policy_weights. */
MUST_CHECK enum status policy_refresh(struct policy *policy);
/* The same piece by piece, for weights that come in order: between the two the policy computes
 * nothing of use. take: policy_weights [0, n_floats) are there, more from call to call, in the end
 * all of the table's. */
void policy_begin_weights(struct policy *policy);
MUST_CHECK enum status policy_take_weights(struct policy *policy, size_t n_floats);
/* --- Weights that several processes read: one policy has them in shared memory, those that sample
 * borrow them there --- */
struct policy_share {
    struct shared_memory *memory; /* borrowed; NULL: nobody else can read these weights */
    size_t weights_at, packed_at; /* in its data, in bytes */
};
struct policy_share policy_share(const struct policy *policy);
/* Of how packed copies lie, and the backend that packs and reads them: with an equal digest one
 * policy reads another's. Errors: NO_MEMORY. */
MUST_CHECK enum status policy_packing(const struct policy *policy, struct digest128 *out);
/* From here on the policy reads these weights and packed copies (64-byte aligned, kept by the
 * caller until they are returned) and never writes them; its own cost nothing meanwhile. Not a
 * policy that learns or shares. policy_return_weights, or policy_begin_weights: it reads its own
 * again, which hold nothing before they are taken anew. */
void policy_borrow_weights(struct policy *policy, float *weights, float *packed);
void policy_return_weights(struct policy *policy);
/* What module 0 reads: the trunk before its final norm, or (the default) after it. Starts as the
 * configuration has it. */
void policy_set_mtp_input(struct policy *policy, bool is_pre_norm);
/* Whether activations are made again (policy_options.recomputes). */
bool policy_recomputes(const struct policy *policy);
/* Bytes held, for the memory table: weights, packed copies, gradients, activations. */
struct policy_memory {
    size_t weights, packed, gradients, activations;
    size_t arriving;   /* of the largest weight that is dropped once it is packed */
    size_t cache_page; /* of one page over all layers; none is held */
    size_t resting;    /* of these, what policy_rest gives back */
};
struct policy_memory policy_memory(const struct policy *policy);
/* What such a policy would hold. Errors: NO_MEMORY (a size overflows). */
MUST_CHECK enum status policy_measure(const struct model_config *config,
                                      const struct policy_options *options,
                                      struct policy_memory *out);

/* Nothing is computed in the near future: what large buffers of rows and gradients
 * (MEMORY_HUGE_BYTES) and the backend's scratch occupy goes back, and is taken again by what comes
 * next, whose bits are the same. Weights and packed copies stay. Gradients are lost, and the last
 * forward pass with all that it left. */
void policy_rest(struct policy *policy);

/* --- Sampling: the latent cache's pages for every layer. Which page is whose is the caller's
 * business. --- */
struct policy_cache;
MUST_CHECK enum status policy_cache_create(struct policy *policy, size_t n_pages,
                                           struct policy_cache **out);
void policy_cache_destroy(struct policy_cache *cache);
size_t policy_cache_page_bytes(const struct policy *policy); /* one page over all layers */
/* All entries are needed no more: memory goes back, where it is large (policy_rest), and reads as
 * zeros then. False when it is not. */
bool policy_cache_rest(struct policy_cache *cache);
/* Copies the first n_tokens entries of page `from` to page `to` in every layer (a shared prompt
 * block that is about to be written). */
MUST_CHECK enum status policy_cache_copy_page(struct policy_cache *cache, int32_t from, int32_t to,
                                              size_t n_tokens);

struct policy_extend_args {
    const int32_t *tokens, *positions; /* (n_rows) */
    size_t n_rows;
    const struct kv_span *spans; /* pages of `cache`; the rows' entries are written */
    size_t n_spans;
    const int32_t *draw_rows; /* rows whose next token is wanted */
    const struct sample_row *draws;
    size_t n_draws; /* any number; a row may be drawn from repeatedly */
    int32_t *drawn; /* (n_draws) out */
    float *logp;    /* (n_draws) out */
};
/* One forward over new tokens and one draw for each of draw_rows. Errors: BAD_ARGUMENT (more rows
 * than sized for, a token outside the vocabulary, a position past the tables), NUMERICS (a logit is
 * not finite: names the row). */
MUST_CHECK enum status policy_extend(struct policy *policy, struct policy_cache *cache,
                                     const struct policy_extend_args *args);

/* --- Drafts: what the MTP modules think comes next, drawn with the noise that the model's own
 * draw of that token will use, so that the two seldom differ. No draft changes what policy_extend
 * draws; a bad one only costs the row that refutes it. --- */

/* Drafts of one call for one sequence at most: what was asked for, or 0 without a module. */
size_t policy_max_drafts(const struct policy *policy);

/* Row j of a span is a token at position i, a row of the last policy_extend, and the token behind
 * it. Every row of it that stays must come once, in ascending order, with pages that hold the
 * span's rows and one position more for each draft behind the first. */
struct policy_draft_args {
    const int32_t *rows;      /* (n_rows) row of the last policy_extend */
    const int32_t *tokens;    /* (n_rows) token at i + 1 */
    const int32_t *positions; /* (n_rows) i */
    size_t n_rows;
    const struct kv_span *spans; /* pages of `cache`; the modules' entries are written */
    size_t n_spans;
    const size_t *n_drafts;         /* (n_spans) wanted behind each span, or NULL: none */
    const struct sample_row *draws; /* (n_spans) of the first draft; others are behind it */
    int32_t *drafts; /* (n_spans, drafts_stride) out: the first n_drafts of each row; -1 when there
                        is none: behind an end token, or because a logit is not finite */
    size_t drafts_stride; /* at least the largest of n_drafts */
};
/* Writes the modules' entries and drafts. With one module for several drafts, it goes on from its
 * own output; else module m makes draft m, and the last one goes on. Errors: BAD_ARGUMENT. */
MUST_CHECK enum status policy_draft(struct policy *policy, struct policy_cache *cache,
                                    const struct policy_draft_args *args);

/* --- Training: a micro-batch of whole sequences, packed. Sequences that begin alike may share the
 * rows of that beginning: a prefix, computed once, forward and backward. Log-probabilities are bit
 * for bit those of whole sequences, gradients are equal up to rounding. --- */
struct policy_batch {
    const int32_t *tokens; /* (n_rows) */
    size_t n_rows;
    const size_t *offsets; /* (n_sequences + 1) first row of each sequence */
    size_t n_sequences;
    /* (n_sequences) whether a sequence goes on where a prefix ends: the nearest one before it that
     * does not go on itself. NULL: none does. Not with an indexer's loss or a sequence's balance
     * loss. */
    const bool *continues;
    const int32_t *target_rows; /* rows that predict something, ascending */
    const int32_t *targets;     /* the token each predicts (usually tokens[row + 1]) */
    size_t n_targets;
    struct sampling_params sampling;
};
/* Forward with activations kept for policy_backward; logp, entropy (n_targets) out; entropy may be
 * NULL. */
MUST_CHECK enum status policy_forward(struct policy *policy, const struct policy_batch *batch,
                                      float *logp, float *entropy);
/* Adds to policy_gradients the gradient of sum_i g[i] logp[i] + h[i] entropy[i] for the batch of
 * the last policy_forward. h may be NULL. When policy_mtp_forward ran in between with detached
 * false, mtp_g must have been given to policy_mtp_backward before. */
MUST_CHECK enum status policy_backward(struct policy *policy, const float *g, const float *h);

/* An MTP module on the batch of the last policy_forward (model.md 9): module m's row i of a
 * sequence predicts token i + m + 2 from hidden row i (of the trunk, or of module m - 1) and the
 * embedding of token i + m + 1. target_rows[j] = the batch row of i (ascending, with m + 1 tokens
 * behind it in its sequence) and targets[j] = the token at i + m + 2. Modules run in order, from 0;
 * detached is the same for all. Log-probabilities are of the batch's sampling distribution. The
 * sequences that continue a prefix must begin with the same m + 1 tokens: its last rows read them.
 */
struct policy_mtp_args {
    size_t module;
    const int32_t *target_rows, *targets;
    size_t n_targets;
    bool detached; /* trunk, embedding and head are constants */
    const struct sample_row
        *draws;     /* NULL, or noise to draw the draft token with (coupled acceptance) */
    int32_t *drawn; /* (n_targets) out when draws is set */
};
MUST_CHECK enum status policy_mtp_forward(struct policy *policy, const struct policy_mtp_args *args,
                                          float *logp);
/* Adds the gradient of sum_j g[j] logp[j] of the last module that ran, then of the one before it at
 * the next call, and so on; call for all before policy_backward, whose trunk gradient then includes
 * it unless detached. */
MUST_CHECK enum status policy_mtp_backward(struct policy *policy, const float *g);

/* Flop of the last policy_forward and of the modules that ran behind it (model/model_cost.h), by
 * the rows that it computed. */
double policy_forward_flops(const struct policy *policy);

/* Tokens each expert took in the last policy_forward (and policy_mtp_forward): (n_moe_layers,
 * n_experts), adding to counts; a prefix' tokens count in each sequence that continues it. The
 * layers' indices are policy_moe_layers: MTP's last. */
size_t policy_moe_layers(const struct policy *policy, const int32_t **layers);
void policy_expert_counts(const struct policy *policy, uint32_t *counts);
/* Aux-loss-free balancing (model.md 8): b += gamma sign(mean load - load) for each layer. Then
 * refresh is not needed. A softmax router has no bias: nothing happens. */
void policy_update_router_bias(struct policy *policy, const uint32_t *counts, float gamma);

/* --- The balance loss of the routers (model.md 8, 12.2), a term of an update's loss --- */
enum policy_balance_kind {
    /* Mean over sequences, sum over layers (the MTP modules' too) of sum_i f_i P_i: f_i = E / (K T)
     * times how often the T rows of the sequence have expert i among their K largest scores (V3's
     * report), P_i = mean of their scores over the row's sum. 1 a layer in perfect balance. */
    POLICY_BALANCE_SEQUENCE,
    /* The same, f counting the experts that were taken (V2's checkpoint code, seq_aux). */
    POLICY_BALANCE_SEQUENCE_ROUTED,
    /* Mixtral, Qwen3-MoE: E sum_i f_i P_i over all rows of all layers of the trunk as if they were
     * of one: f_i = slots that took expert i / rows, P_i = mean over rows; K in perfect balance. A
     * load that one layer has too much and another too little cancels. */
    POLICY_BALANCE_BATCH,
    /* The mean over layers of that sum for each layer alone: nothing cancels. */
    POLICY_BALANCE_LAYER,
};
struct policy_balance {
    enum policy_balance_kind kind;
    double coefficient;     /* 0: no loss */
    size_t n_sequences;     /* of the whole update, for the kinds of a sequence */
    const uint32_t *counts; /* (policy_moe_layers, n_experts) of the whole update, for the others */
};
/* From here on every policy_backward and policy_mtp_backward adds the gradient of coefficient times
 * the loss; f is a constant of it. NULL or coefficient 0: no loss. Call before each update. Errors:
 * BAD_ARGUMENT (not trainable, nothing known of the update), NO_MEMORY at the first call. */
MUST_CHECK enum status policy_set_balance(struct policy *policy,
                                          const struct policy_balance *balance);
/* The loss, without its coefficient, of the rows that went back since policy_set_balance. */
double policy_balance_loss(const struct policy *policy);

/* --- The indexer of sparse attention (model.md 11.2) --- */
enum policy_indexer_loss {
    POLICY_INDEXER_OFF,    /* the indexer stays as it is */
    POLICY_INDEXER_DENSE,  /* warm-up: policy_forward attends to all keys, and the backward passes
                              give gradients to the indexers alone (g and h are not read) */
    POLICY_INDEXER_SPARSE, /* beside the model's own gradient, over the selected keys */
};
/* From now on the backward passes add coefficient times the gradient of the indexers' losses, the
 * KL divergence of the head sum of attention from their scores, summed over layers and rows. Inputs
 * of an indexer are constants, and nothing but it gets this gradient. A forward pass before this is
 * forgotten; losses start from 0. Errors: BAD_ARGUMENT (no indexer, not trainable). */
MUST_CHECK enum status policy_set_indexer_loss(struct policy *policy, enum policy_indexer_loss loss,
                                               float coefficient);
/* The losses, without the coefficient, of the rows that went back since they were set:
 * (n_layers + n_mtp_modules). */
void policy_indexer_losses(const struct policy *policy, double *losses);

/* --- What the backend's ops need beside the policy --- */
struct policy_rehearsal {
    size_t longest; /* tokens of a sequence at most */
    bool samples;   /* policy_extend and policy_draft; else policy_forward, and, if the policy is
                       trainable, the MTP modules and backward passes */
    enum policy_indexer_loss indexer_loss; /* that is trained */
    struct sampling_params sampling;
};
/* The backend takes the memory that its ops need for the largest such passes of a policy of these
 * options; backend_scratch_bytes tells how much. Nothing is computed, and no weights are needed. */
MUST_CHECK enum status policy_rehearse(struct backend *backend, const struct model_config *config,
                                       const struct policy_options *options,
                                       const struct policy_rehearsal *rehearsal);

/* --- Looking inside (hone model check, tests) --- */
/* What MTP computed stands at the batch row of i; rows without it hold zeros, and index -1. */
struct policy_trace {
    float *hidden;       /* (n_layers, n_rows, d) residual stream after each layer, or NULL */
    float *normed;       /* (n_rows, d) after the final norm, or NULL */
    float *logits;       /* (n_rows, V), or NULL */
    int32_t *indices;    /* (n_moe_layers, n_rows, K), or NULL */
    float *weights;      /* (n_moe_layers, n_rows, K), or NULL */
    float *index_scores; /* (n_layers, n_rows, longest sequence) of the keys a row sees, or NULL */
    int32_t *index_selected; /* (n_layers, n_rows, the smaller of index_topk and max_positions), -1
                                behind, or NULL */
    float *mtp_hidden;       /* (modules that ran, n_rows, d) residual stream after each, or NULL */
    float *mtp_logits;       /* (modules that ran, n_rows, V), or NULL */
};
/* Fills what is not NULL from the last policy_forward / policy_mtp_forward of a trainable policy.
 */
MUST_CHECK enum status policy_read_trace(struct policy *policy, const struct policy_trace *trace);

/* What a layer's linear layers read: the joint projection of attention, q_b_proj, kv_b_proj,
 * o_proj, gate and up of the dense MLP or the shared experts, and their down_proj. */
enum policy_input {
    POLICY_INPUT_PROJECT,
    POLICY_INPUT_Q_B,
    POLICY_INPUT_KV_B, /* what the absorbed form does not quantise */
    POLICY_INPUT_O,
    POLICY_INPUT_GATE,
    POLICY_INPUT_DOWN,
};
/* Columns of such rows, 0 where the layer has none. */
size_t policy_input_width(const struct policy *policy, size_t layer, enum policy_input input);
/* The rows (n_rows, width) of the last policy_forward of a trainable policy, before any rounding to
 * its precision. */
MUST_CHECK enum status policy_read_input(struct policy *policy, size_t layer,
                                         enum policy_input input, float *out);

#endif
