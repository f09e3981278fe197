/* Owns what the files of the policy share: shapes, packed weights, activations, scratch.
 *
 *   policy.c            create, destroy, accessors
 *   policy_sizes.c      widths and strides of rows, forms of entries
 *   policy_layout.c     where all buffers lie        policy_layout_gradients.c  on the way back
 *   policy_pack.c       packed weights
 *   policy_batch.c      rows, pages and prefixes     policy_forward.c    a packed batch
 *   policy_block.c      one layer, forward           policy_backward.c   its gradient
 *   policy_attention.c  kinds of attention, in policy_mla*.c, policy_expanded.c, policy_gqa*.c
 *   policy_project.c    what all of these begin with
 *   policy_indexer*.c   of sparse attention          policy_mtp*.c       the MTP modules
 *   policy_block_backward.c, policy_ffn_backward.c, policy_linear_backward.c  a layer, backward
 *   policy_balance.c    the routers' balance loss    policy_recompute.c  activations again
 *   policy_extend.c     prefill, decode              policy_cache.c      pages of entries
 *   policy_draft.c      drafts of modules            policy_tied.c       a tied head's gradient
 *   policy_part.c       a forward for each thread    policy_cut.c        where it is cut
 *   policy_receive.c    weights that come            policy_rehearse.c   memory of the ops
 *   policy_rest.c       memory given back            policy_share.c      where weights lie
 *   policy_trace.c      looking inside               policy_work.c       what rows cost
 *
 * Beside it: policy_attention_internal.h (the kinds of attention, the indexer),
 * policy_backward_internal.h, policy_layout_internal.h, policy_part_internal.h (cuts),
 * policy_plan_internal.h (packing).
 *
 * Letters: T rows, d hidden_size, rq q_lora_rank, rk kv_lora_rank, H heads. Row strides are padded
 * (policy_stride), so buffers are (T, stride). */
#ifndef HONE_MODEL_POLICY_INTERNAL_H
#define HONE_MODEL_POLICY_INTERNAL_H

#include "model/policy.h"

/* Widths (columns in use) and strides (columns allocated) of the activation rows. */
struct policy_sizes {
    size_t d, heads;
    size_t rope;    /* rotated columns of a query head, its last (GQA: all) */
    size_t q_head;  /* columns of a query head */
    size_t q_dim;   /* heads * q_head */
    size_t project; /* columns of the joint projection of the normed input */
    size_t kv_at;   /* where its keys' part begins: a panel border */
    bool has_own_q; /* queries have rows of q_columns; else they are the projection's first */
    size_t q_columns;
    size_t q_norms, kv_norms; /* norms a row has for queries and for keys */
    size_t value_dim;         /* columns that o_proj reads */
    bool has_o_bias;
    size_t entry_dim; /* values of a token's cache entry */
    size_t n_coded,
        coded_group; /* the first of them, which an FP8 cache holds as codes; kv_pages */
    /* MLA: projection [first | latent, rotary key], see policy_mla.c */
    size_t nope, v, q_rank, kv_rank;
    size_t first;      /* q_rank, or q_dim without q_lora */
    size_t kv_dim;     /* kv_rank + rope: latent and rotary key before the cache */
    size_t latent_dim; /* heads * kv_rank; expanded: what kv_b gives */
    /* The indexer of sparse attention, 0 without: projection [key | weights], policy_indexer.c */
    size_t index_heads, index_dim, n_selected;
    size_t index_w_at;     /* where the weights begin: a panel border */
    size_t index_columns;  /* of the projection */
    size_t index_entry_at; /* where its key begins in a cache entry */
    size_t index_stride, index_key_stride, index_q_stride;
    /* GQA: projection [q | k | v], see policy_gqa.c */
    size_t kv_heads, head;
    size_t kv_half; /* kv_heads * head: all keys, or all values, of a token */
    size_t v_at;    /* where v begins in the projection: a panel border */
    size_t n_experts, top_k, expert_width;
    size_t d_stride, project_stride, q_rank_stride, q_stride, kv_rank_stride, latent_stride,
        value_stride;
    size_t ffn_width[2]; /* of a dense layer; of the shared experts (0: none): index is_moe */
    size_t ffn_up_at[2]; /* where up begins beside gate: a panel border */
    size_t gate_up_stride[2];
    size_t page_stride, entry_stride; /* cache, in words of 4 bytes */
    size_t batch_entry_stride;        /* the pages of a batch */
    size_t d_entry_stride;            /* gradients of entries */
};

/* One layer's parameters: offsets of its rows in the flat buffer, and packed copies (see
 * policy_pack.c for what each holds). */
struct policy_layer {
    bool is_moe;
    size_t input_norm, o, o_bias, post_norm;
    size_t first, q_a_norm, q_b, kv_a, kv_a_norm, kv_b; /* MLA; first: q_a or q_proj */
    size_t q_a_bias, kv_a_bias; /* with attention biases; q_a_bias with q_lora too */
    size_t index_q, index_k, index_norm, index_norm_bias, index_w; /* the indexer */
    size_t q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm;        /* GQA */
    size_t gate, up, down;                                         /* dense MLP or shared experts */
    size_t router, router_bias, expert_gate, expert_up, expert_down, expert_stride;
    float *project_bias; /* (project) beside w_project, or NULL */
    float *w_project, *w_q_b, *w_uk, *w_uv, *w_kv_b, *w_o, *w_gate_up, *w_down, *w_router;
    float *w_expert_gate_up, *w_expert_down, *w_index, *w_index_q;
};

/* What one layer leaves for its backward pass; policy_part.c moves every one of these to a part's
 * rows. Without training all layers share one set and the residual stream is updated in place (h_in
 * == h_mid == h_out); when activations are made again they share all but h_in and h_out. */
struct policy_activations {
    float *h_in, *h_mid, *h_out;   /* (T, d) residual stream before, between, after */
    float *normed_in, *normed_mid; /* (T, d) */
    float *rstd_in, *rstd_mid;     /* (T) */
    float *rstd_q, *rstd_kv;       /* (T, q_norms), (T, kv_norms) */
    float *project; /* (T, project): MLA [q_a or q | latent, rotary key (rotated)], GQA [q | k | v];
                       before norms */
    float *q;       /* queries as they meet keys (rotated); with GQA's norms [q | k] */
    float *lse;     /* (T, H) */
    float *values;  /* (T, value_dim) that o_proj reads */
    float *q_latent;                /* MLA: (T, rq) normed; unused without q_lora */
    float *latent;                  /* MLA: (T, rk) normed */
    float *q_absorbed;              /* MLA: (T, H, rk); expanded: (T, H, nope | v) of kv_b */
    float *attended;                /* MLA: (T, H, rk) */
    float *index_project;           /* indexer: (T, key before its norm | weights) */
    float *index_mean, *index_rstd; /* (T) of the key's norm */
    float *index_key;               /* (T, index_dim) normed and rotated */
    float *index_q;                 /* (T, index_heads, index_dim) rotated */
    int32_t *selected;              /* (T, n_selected) */
    float *gate_up;                 /* (T, gate | up) of the dense MLP or the shared experts */
    float *scores;                  /* (T, E) */
    float *route_weights;           /* (T, K) */
    int32_t *indices;               /* (T, K) */
    float *expert_gate_up;          /* (T K, 2 F) */
};

/* Gradients on the way, shared by all layers. Those of a layer's feed-forward half lie where those
 * of its attention do; what modules alone need is NULL without them. */
struct policy_gradients_scratch {
    float *d_h;      /* (N T, d): residual gradient; then each module's gradient of embeddings */
    float *d_h_mtp;  /* (T, d) residual gradient inside an MTP module */
    float *d_normed; /* (T, d) */
    float *d_project, *d_q, *d_q_latent, *d_latent, *d_absorbed, *d_attended, *d_values;
    float *d_gate_up[2];
    float *d_hidden; /* (T, ffn) */
    float *d_route_weights, *d_logits;
    float *d_pages;
    float *d_index, *d_index_q; /* of index_project and index_q */
    float *index_loss;          /* (T) of one layer */
    float *d_final;  /* (T + 1, d) after the final norm; the last row takes what nobody wants */
    float *d_head;   /* (N T, d) of the head's inputs; N: one, and one a module */
    float *g, *h;    /* (N T) upstream gradients of targets */
    float *merged_x; /* (N T, d), and per-row values beside it */
    float *merged_g, *merged_h, *merged_lse, *merged_entropy, *merged_logp;
    int32_t *merged_rows, *merged_targets, *merged_scatter;
    float *d_eh;         /* (T, 2 d) */
    float *d_mtp_hidden; /* (T, d) gradient of the hidden rows that the last module read */
};

/* The gradient of a tied head's embedding until policy_finish_gradients (policy_tied.c). */
struct policy_tied {
    float *rows;     /* (slots, d); NULL unless the head is tied and learns */
    int32_t *slots;  /* (V) host: where a token's row is, or -1 */
    int32_t *tokens; /* (slots) host: whose row it is */
    size_t n;        /* slots in use */
};

/* One MTP module beside its layer: offsets of its rows, packed copies, activations, and the rows
 * and targets of its last forward pass. */
struct policy_mtp_module {
    size_t enorm, hnorm, eh, norm;
    float *w_eh;
    float *embedded, *hidden, *rstd_e, *rstd_h, *input; /* (T, d), (T, d), (T), (T), (T, 2 d) */
    float *normed, *rstd;                               /* (T, d), (T) behind the layer */
    int32_t *tokens, *positions, *target_rows, *targets;
    int32_t *rows; /* (T) rows that it reads: of the batch, or of the module before */
    /* Host side. */
    struct kv_span *spans; /* (2 T), as the policy's */
    uint32_t *uses;        /* (T) as the policy's */
    int32_t *of_row;       /* (T) row here of a batch row, or -1 */
    int32_t *host_targets; /* (T) batch rows, then (T) targets */
    size_t n_rows, n_spans, n_copies, n_targets;
};

/* A run of a forward's spans that one thread takes through the whole step (policy_part.c). */
struct policy_part;

/* How far policy_take_weights is. */
struct policy_taking {
    size_t n_rows, n_packs;
    size_t dropped_from; /* where the rows begin that are dropped up to here, in floats */
};

struct policy {
    struct backend *backend; /* borrowed; of a part: its own */
    struct model_config config;
    struct policy_options options;
    struct policy_sizes sizes;
    char numerics[64]; /* policy_numerics */
    struct weight_table *table;
    bool is_hollow;  /* policy_create_hollow */
    bool is_cleared; /* gradients are zeros */
    float *weights, *gradients;
    float *packed;
    struct shared_memory *shared;    /* where both lie, or NULL: memory of their own */
    float *own_weights, *own_packed; /* while others' are borrowed, else NULL */
    void *buffers;                   /* one block: all activations and scratch */
    size_t packed_words, buffer_bytes;
    size_t lasting_bytes;    /* of buffers, the first: what is filled once */
    struct pack_args *packs; /* by src */
    size_t n_packs;
    struct policy_taking taking;

    size_t embedding, final_norm, head; /* offsets of rows */
    float *w_head;
    struct policy_layer *layers;            /* n_layers + n_mtp_modules */
    struct policy_activations *activations; /* as many when trainable, else 1 */
    size_t held_layer; /* whose activations the shared set has when they are made again */
    struct policy_mtp_module *modules; /* n_mtp_modules */
    struct policy_gradients_scratch grad;
    struct policy_tied tied;

    float *cos_table, *sin_table;
    struct kv_pages pages; /* one layer's, for whole sequences */
    size_t n_entries;
    float *ffn_hidden, *router_logits;
    float *normed, *rstd_final;  /* (T, d) after the final norm */
    float *head_x;               /* (N T or draws, d) inputs of the head: main, then each module */
    float *logp, *entropy, *lse; /* (N T) */
    float *logits;               /* (logit_rows, V) */
    size_t logit_rows, head_rows;
    int32_t *tokens, *positions, *identity, *target_rows, *targets; /* (T) on the device */
    struct sample_row *draws;
    int32_t *drawn;
    float *trunk_out;  /* (T, d) before the final norm: kept for MTP where layers share buffers */
    size_t n_extended; /* rows that the last policy_extend left for policy_draft */

    /* Host side. */
    struct kv_span *spans; /* (2 T) of the last batch, then the copies of prefixes */
    uint32_t *uses;        /* (T) sequences that have a row of the last batch as theirs */
    int32_t *blocks;       /* (T and one more for each page of entries) of the spans */
    int32_t *staging;      /* (2 N T, at least 4 T) for what is uploaded */
    int32_t *host_tokens;  /* (T) tokens of the last batch */
    int32_t *host_targets; /* (T) rows that were targets, then (T) the targets */
    int32_t *moe_layers;
    size_t n_moe_layers;
    int32_t *host_merge; /* (N T) */
    uint32_t *counts;    /* (n_moe_layers, E) */
    float *host_values;
    struct sample_row *host_draws; /* (T) of drafts; NULL when there are none */

    /* Cutting a forward; a part's policy is a copy whose row buffers begin at its first row. */
    struct policy_part *parts;  /* (n_parts), NULL with one thread */
    struct kv_span *part_spans; /* (2 T) */
    size_t n_parts;
    bool parts_meet;                      /* those of the last cut, for the experts and the head */
    size_t first_row, first_draw;         /* of the batch, where the row and draw buffers begin */
    double row_work, key_work, draw_work; /* flop of a row, of a key that it sees, of a draw */

    struct policy_balance_state *balance; /* policy_balance.c; NULL until there is a loss */

    enum policy_indexer_loss indexer_loss;
    float indexer_coefficient;
    double *indexer_losses;   /* (layers, modules' too) since the loss was set */
    float *host_index_losses; /* (T) */

    /* The last policy_forward. */
    size_t n_rows, n_spans, n_copies, n_targets, n_entries_used;
    struct sampling_params sampling;
    size_t n_mtp_run;  /* modules that ran since */
    size_t n_mtp_left; /* of those, modules whose gradient has not been given yet */
    bool mtp_detached;
    bool mtp_reaches_trunk; /* module 0's gradient waits in d_mtp_hidden */
};

/* The latent cache; the MTP modules that draft have layers behind the model's. */
struct policy_cache {
    struct policy *policy; /* borrowed */
    float *data;           /* (layers, n_pages, page) */
    size_t n_pages;
    /* (n_pages) host: writer_base + the part of the last cut that wrote to a page, or less. */
    uint64_t *writers;
    uint64_t writer_base;
};
/* How the pages of a cache hold values, and those of a batch (codes are read many times there, so
 * they stand expanded), without memory behind them. */
struct kv_pages policy_cache_form(const struct policy *policy);
struct kv_pages policy_batch_form(const struct policy *policy);
/* The gradients of the training batch's pages: floats, numbered like these. */
struct kv_pages policy_gradient_pages(const struct policy *policy);
struct kv_pages policy_cache_layer(const struct policy_cache *cache, size_t layer);
/* Spans that cover n_rows rows in order, on pages that exist. */
MUST_CHECK enum status policy_check_spans(const struct policy_cache *cache,
                                          const struct kv_span *spans, size_t n_spans,
                                          size_t n_rows);
/* MTP modules that draft. */
size_t policy_draft_modules(const struct policy *policy);

/* What the linear layers' products are made in, and those of head, eh_proj and the absorbed kv_b,
 * whose inputs FP8 does not quantise. */
enum precision policy_linear(const struct policy *policy);
enum precision policy_unquantised(const struct policy *policy);
/* What the gradients' products are made in, but the routers' and the indexers' (floats). */
enum precision policy_backward_products(const struct policy *policy);
/* Those of attention's: FP8, whose forward pass rounds most, leaves them floats. */
enum precision policy_attention_products(const struct policy *policy);

/* Columns allocated for rows of n: whole cache lines, and no multiple of 4 KiB (cpu.md 5.1). */
size_t policy_stride(size_t n);

/* First column at or behind n where a panel of packed weights may begin. */
size_t policy_next_panel(size_t n);

/* policy.c: a policy without weights and packed copies, for rehearsals. */
MUST_CHECK enum status policy_create_hollow(struct backend *backend,
                                            const struct model_config *config,
                                            const struct policy_options *options,
                                            struct policy **out);
/* policy_sizes.c: sizes from the configuration. */
void policy_sizes_fill(struct policy *policy);
/* policy_layout.c: all buffers in one block, measured first; host arrays. */
MUST_CHECK enum status policy_layout_measure(struct policy *policy);
MUST_CHECK enum status policy_layout_create(struct policy *policy);
/* policy_share.c: weights and packed copies have a place. */
MUST_CHECK enum status policy_weights_create(struct policy *policy);
void policy_weights_destroy(struct policy *policy);
/* policy_pack.c: offsets and sizes of packed copies; then where the copies are and the list of
 * packs. */
/* policy_receive.c: bytes of floats that stay, and of the largest row that does not. */
size_t policy_float_bytes(const struct policy *policy, size_t *largest_dropped);
void policy_packs_measure(struct policy *policy);
MUST_CHECK enum status policy_packs_create(struct policy *policy);
/* Gives the copies their places from base on. */
void policy_packs_place(struct policy *policy, float *base);

/* policy_tied.c: the rows that policy->tied has, 0 unless the head is tied and learns. */
size_t policy_tied_slots(const struct policy *policy);
MUST_CHECK enum status policy_tied_create(struct policy *policy);
void policy_tied_destroy(struct policy *policy);

/* Rows up to which shared experts are computed beside the routed ones. */
#define POLICY_FEW_ROWS ((size_t)8)

/* policy_rest.c: what policy_rest gives back beside scratch. */
size_t policy_resting_bytes(const struct policy *policy);

/* One layer over n_rows rows whose entries go to spans' pages. */
struct policy_block_rows {
    size_t n_rows;
    const int32_t *positions; /* device */
    const struct kv_span *spans;
    size_t n_spans;
    size_t n_copies;      /* spans behind those: rows of a prefix, to pages of what continues it */
    const uint32_t *uses; /* (n_rows) host: sequences that have the row; of a batch alone */
    struct kv_pages pages;
    bool is_dense; /* attention to all keys, whatever an indexer would select */
};
/* h_in of `a` -> h_out of `a`. */
MUST_CHECK enum status policy_block_forward(struct policy *policy, const struct policy_layer *layer,
                                            const struct policy_activations *a,
                                            const struct policy_block_rows *rows);
/* The same in two: all but the routed experts, and those, added to h_out. */
MUST_CHECK enum status policy_block_to_experts(struct policy *policy,
                                               const struct policy_layer *layer,
                                               const struct policy_activations *a,
                                               const struct policy_block_rows *rows);
MUST_CHECK enum status policy_block_experts(struct policy *policy, const struct policy_layer *layer,
                                            const struct policy_activations *a, size_t n_rows);
/* h_in of `a` -> the rows' entries in the pages alone; h_in stays. */
MUST_CHECK enum status policy_block_entries(struct policy *policy, const struct policy_layer *layer,
                                            const struct policy_activations *a,
                                            const struct policy_block_rows *rows);
/* The same again for all of `a` but h_out, which must still hold what it was or is written again.
 */
MUST_CHECK enum status policy_block_again(struct policy *policy, const struct policy_layer *layer,
                                          const struct policy_activations *a,
                                          const struct policy_block_rows *rows);
/* d_h: gradient of h_out in, of h_in out. rows as in the forward; pages are filled again. */
MUST_CHECK enum status policy_block_backward(struct policy *policy,
                                             const struct policy_layer *layer,
                                             const struct policy_activations *a,
                                             const struct policy_block_rows *rows, float *d_h);

/* What policy_balance.c keeps. */
void policy_balance_destroy(struct policy *policy);

/* policy_batch.c: checks a batch, and lists and uploads where its rows go. */
MUST_CHECK enum status policy_batch_place(struct policy *policy, const struct policy_batch *batch);
/* Entries of the rows to their pages, a prefix' also to those of what continues it; or gradients of
 * entries from them, a prefix' summed: its own, then in order those of what continues it. args is
 * without spans. */
MUST_CHECK enum status policy_copy_entries(struct policy *policy,
                                           const struct policy_block_rows *rows,
                                           const struct kv_copy_args *args);

/* Small shared steps. */
/* Offset of "model.layers.LAYER.REST", 0 where the table has no such row. */
size_t policy_offset_of(const struct policy *policy, size_t layer, const char *rest);
/* Sets of activations that there are. */
size_t policy_n_activations(const struct policy *policy);
struct policy_activations *policy_activations_of(struct policy *policy, size_t layer);
/* The rows of the last policy_forward (or policy_mtp_forward: a module's layer) in a layer. */
struct policy_block_rows policy_rows_of(const struct policy *policy, size_t layer);
/* policy_block_forward of a layer of such a pass. */
MUST_CHECK enum status policy_layer_forward(struct policy *policy, size_t layer,
                                            const struct policy_block_rows *rows);
/* Before a layer's activations are read: makes them again unless they are there. */
MUST_CHECK enum status policy_hold(struct policy *policy, size_t layer);
MUST_CHECK enum status policy_copy_rows(struct policy *policy, const float *src, float *dst,
                                        size_t n_rows);
MUST_CHECK enum status policy_upload_rows(struct policy *policy, int32_t *device,
                                          const int32_t *host, size_t n);
MUST_CHECK enum status policy_check_tokens(const struct policy *policy, const char *what,
                                           const int32_t *tokens, size_t n);
/* Adds what the experts of MoE layer `moe_index` took to policy->counts: every row as often as
 * sequences use it. */
MUST_CHECK enum status policy_count_experts(struct policy *policy, size_t moe_index,
                                            const struct policy_activations *a,
                                            const struct policy_block_rows *rows);
/* Log-probabilities of n targets whose head inputs begin at row `at` of head_x; logp, entropy to
 * the host (entropy may be NULL). */
MUST_CHECK enum status policy_head_forward(struct policy *policy, size_t at, const int32_t *targets,
                                           size_t n, float *logp, float *entropy);
/* Where the hidden rows come from that module `index` reads. */
const float *policy_mtp_source(struct policy *policy, size_t index);
/* The module's n_rows rows of tokens and of `source` -> h_in. */
MUST_CHECK enum status policy_mtp_input(struct policy *policy, size_t index, const float *source,
                                        float *h_in);
/* Logits of n <= logit_rows head inputs x (n, d) and a draw for each; drawn, logp on the host.
 * Errors: NUMERICS when a logit is not finite. */
MUST_CHECK enum status policy_draw(struct policy *policy, const float *x,
                                   const struct sample_row *draws, size_t n, int32_t *drawn,
                                   float *logp);
/* logits (n, V) of head inputs x (n, d), n <= logit_rows, in policy->logits. */
MUST_CHECK enum status policy_logits(struct policy *policy, const float *x, size_t n);
/* The head's arguments for rows from `at` on. */
struct lm_head_args policy_head_args(const struct policy *policy, size_t at, const int32_t *targets,
                                     size_t n);

#endif
