/* Owns the vocabulary of computation: a backend and its const table of operations on device memory.
 * Everything above kernels/ calls `backend->ops->OP(backend, &args)` and never knows which backend
 * it is. kernels/cpu/ implements the table for the host; a CUDA object would fill the same table
 * through backend_open.
 *
 * Exactness (DESIGN section 3). Each output row is computed in an order that depends on that row
 * and fixed constants only:
 *  - gemm: each output is a chain of fmaf over ascending k inside K blocks of GEMM_K_BLOCK, each
 *    block from zero, blocks added ascending (first block assigned), then bias, then (accumulate)
 *    y + that.
 *  - row reductions (norms, log-sum-exp): 16 virtual lanes, lane j takes elements j, j + 16, ...;
 *    then a fixed tree.
 *  - gradients of parameters: ONE chain over rows ascending that starts from the value already
 *    there, so a batch may be cut into micro-batches anywhere without changing a bit (products of
 *    BF16 take rows in pairs, so that a cut may be seen: gemm_dw_args, moe_ffn_backward_args).
 *  - exp, log, sigmoid: the functions of kernels/cpu/simd/ only (cpu.md 5.15), never libm, in any
 *    forward path. The CPU's instruction sets (avx512, avx2, portable) give the same bits, so they
 *    share one numerics id.
 *
 * Matrices are row-major, strides are in elements. Letters: T rows (tokens), d width, H heads, V
 * vocabulary, rk = kv_lora_rank, dr = qk_rope_head_dim, E experts, K a token's, F their width. */
#ifndef HONE_KERNELS_BACKEND_H
#define HONE_KERNELS_BACKEND_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GEMM_K_BLOCK ((size_t)64) /* short chains round less; 256 cost a quarter more error */
#define PANEL_COLUMNS ((size_t)32)
#define KV_BLOCK_TOKENS ((size_t)64) /* tokens in a page of the latent cache */
#define KV_STEP_TOKENS ((size_t)16)  /* of those, what is read together */

struct backend;

/* How a packed matrix holds its weights, and with it the arithmetic of the products that read it:
 *  F32   floats, as above.
 *  BF16  x and w rounded to bfloat16 (nearest even, subnormals to zero); each output one chain over
 *        ascending pairs of k, acc = fma(x_even, w_even, fma(x_odd, w_odd, acc)), results that are
 *        subnormal become zero (vdpbf16ps; cpu.md 5.8); then bias and y as with floats, flushed
 *        alike.
 *  FP8   E4M3 codes with power-of-two scales: blocks of 128 x 128 of a weight, tiles of 128 of a
 * row of x (model.md 10.2, 10.3). Blocks of 128 of k ascending: y = fma(chain, sx sw, y), the chain
 * over pairs as above, exact products; then bias and y as with floats. */
enum precision { PRECISION_F32, PRECISION_BF16, PRECISION_FP8 };
#define FP8_BLOCK ((size_t)128)

/* Floats of a matrix packed for gemm: panels of 32 columns, zero-padded: w[n / 32][k][n % 32]. */
size_t packed_floats(size_t n_in, size_t n_out);
/* The same for any precision, in words of 4 bytes, which all strides of packed matrices count.
 * BF16: w[n / 32][k / 2][n % 32][2]. FP8: each panel its scales, then the codes of 32 columns, pair
 * by pair of k. */
size_t packed_words(enum precision precision, size_t n_in, size_t n_out);

/* Copies an (n_out, n_in) weight into panels. transposed: src is (n_in, n_out) instead.
 * panel_stride: words from one panel of dst to the next, 0 = adjacent; twice that interleaves two
 * matrices (gate and up of an expert). */
struct pack_args {
    const float *src;
    size_t src_stride;
    size_t n_in, n_out;
    bool transposed;
    float *dst;
    size_t panel_stride;
    enum precision precision; /* of dst; a transposed matrix is F32 or BF16 */
    /* What the values are rounded to before: packed as F32 they are then those that a product of
     * that precision multiplies. FP8: blocks of the whole weight, of whose `whole_rows` rows src
     * begins at `row_at` (whole_rows 0: src is all of it). */
    enum precision rounding;
    size_t row_at, whole_rows;
    /* FP8: scales are amax / 448 as it comes, as in V3's checkpoints, not powers of two (which the
     * products do not ask for). */
    bool has_float_scales;
};

/* y[b] (n_rows, n_out) = x[b] (n_rows, n_in) . w[b]^T (+ bias), for b < n_batch (heads);
 * accumulate: added to y instead. */
struct gemm_args {
    const float *x;
    size_t x_stride;
    const float *w;           /* packed, adjacent panels */
    enum precision precision; /* of w */
    const float *bias;        /* (n_out) or NULL */
    const float *next;        /* packed weights that will be read after these, a hint; or NULL */
    float *y;
    size_t y_stride;
    size_t n_rows, n_in, n_out;
    size_t n_batch;                   /* 0 counts as 1 */
    size_t x_batch, w_batch, y_batch; /* floats, of w words, from one batch to the next */
    bool accumulate;
};

/* Rows of a weight as they lie in memory, for products backward: w (n, n_in) meets columns at .. at
 * + n - 1 of dy. FP8 rounding: blocks of the whole weight, as in pack_args. */
struct gemm_dx_part {
    const float *w;
    size_t n, at;
    size_t row_at, whole_rows;
};
#define GEMM_DX_PARTS ((size_t)3)
/* dx[b] (n_rows, n_in) = dy[b] (n_rows, n_out) . w[b], w one behind the other the parts, ascending;
 * columns of dy that no part meets must be finite and count for nothing. Weights are packed inside,
 * piece by piece; the bits are those of gemm on a transposed copy that pack made whole.
 * is_transposed: the only part is (n_in, n_out), dx = dy . w^T. */
struct gemm_dx_args {
    const float *dy;
    size_t dy_stride;
    struct gemm_dx_part parts[GEMM_DX_PARTS];
    size_t n_parts;
    size_t w_stride;
    bool is_transposed, accumulate;     /* accumulate: added to dx instead */
    enum precision precision, rounding; /* of the product, F32 or BF16; of the values of w */
    float *dx;
    size_t dx_stride;
    size_t n_rows, n_in, n_out;
    size_t n_batch;                     /* 0 counts as 1; more: one part */
    size_t dy_batch, w_batch, dx_batch; /* a part's row_at grows by w_batch / w_stride */
};

/* dw[b] (n_out, n_in) += sum over rows ascending of dy[row]^T x[row]. BF16: dy and x rounded, rows
 * in pairs 2 i, 2 i + 1 of the call (a last one alone), each element the chain of such products
 * over pairs that starts from the value already there: a batch may be cut behind an even number of
 * rows without changing a bit. */
struct gemm_dw_args {
    const float *dy;
    size_t dy_stride;
    const float *x;
    size_t x_stride;
    float *dw;
    size_t dw_stride;
    size_t n_rows, n_in, n_out;
    size_t n_batch;
    size_t dy_batch, x_batch, dw_batch;
    enum precision precision; /* of the products: F32 or BF16 */
};

/* db (n) += sum over rows ascending of dy (n_rows, n). */
struct column_sums_args {
    const float *dy;
    size_t dy_stride;
    float *db;
    size_t n_rows, n;
};

/* out[row] = table[ids[row]]; ids are in range (the caller checks). */
struct embedding_args {
    const float *table; /* (V, d) */
    const int32_t *ids;
    float *out;
    size_t out_stride;
    size_t n_rows, d;
};
/* d_table[ids[row]] += d_out[row], rows ascending. */
struct embedding_backward_args {
    const int32_t *ids;
    const float *d_out;
    size_t d_out_stride;
    float *d_table;
    size_t n_rows, d;
};

/* y = w * x * rstd, rstd = (mean(x^2) + eps)^(-1/2) (model.md 4.1), for each of n_heads pieces of d
 * that lie side by side in a row. In place is legal. */
struct rms_norm_args {
    const float *x;
    size_t x_stride;
    const float *w; /* (d) */
    float *y;
    size_t y_stride;
    float *rstd; /* (n_rows, n_heads), or NULL */
    size_t n_rows, d;
    size_t n_heads; /* 0 counts as 1 */
    float eps;
};
/* dx = (or +=, accumulate) the gradient, dw += it, a row's heads ascending before the next row. */
struct rms_norm_backward_args {
    const float *x;
    size_t x_stride;
    const float *w;
    const float *rstd;
    const float *dy;
    size_t dy_stride;
    float *dx;
    size_t dx_stride;
    float *dw; /* NULL: not wanted */
    size_t n_rows, d;
    size_t n_heads; /* 0 counts as 1 */
    bool accumulate;
};

/* y = w (x - mean) rstd + b, rstd = (mean((x - mean)^2) + eps)^(-1/2) (model.md 4.2); or in place.
 */
struct layer_norm_args {
    const float *x;
    size_t x_stride;
    const float *w, *b;
    float *y;
    size_t y_stride;
    float *mean, *rstd; /* (n_rows), or both NULL */
    size_t n_rows, d;
    float eps;
};
/* dx is assigned, dw and db are added to. */
struct layer_norm_backward_args {
    const float *x;
    size_t x_stride;
    const float *w;
    const float *mean, *rstd;
    const float *dy;
    size_t dy_stride;
    float *dx; /* may be dy */
    size_t dx_stride;
    float *dw, *db;
    size_t n_rows, d;
};

/* Rotates x[row][head][0..dr) in place by the angles of positions[row] (model.md 5.3); the pair
 * layout is kept. cos and sin are (max_position, dr / 2), already times attention_factor. inverse:
 * the transpose, for the backward pass. */
struct rope_args {
    float *x;
    size_t row_stride, head_stride;
    const int32_t *positions;
    const float *cos_table, *sin_table;
    size_t n_rows, n_heads, dr;
    bool interleaved; /* pairs (2i, 2i+1); else (i, dr/2 + i) */
    bool inverse;
};

/* A paged cache of one layer: page p holds KV_BLOCK_TOKENS entries, one a token: [latent rk][rotary
 * key dr] (MLA) or [keys][values] of all KV heads (GQA), floats or bfloat16, two to a word; offsets
 * into an entry count values. Entries are read KV_STEP_TOKENS at a time, written or not. */
struct kv_pages {
    float *data;
    size_t entry_stride; /* words of 4 bytes from entry to entry */
    size_t page_stride;  /* words from page number to page number; pages may begin at any entry */
    enum precision precision; /* F32; BF16: kv_copy rounds. Of gradients always F32 */
};
/* New rows of one sequence: rows first_row .. first_row + n_rows - 1 of the batch are its tokens
 * n_cached, n_cached + 1, ... Entry of token t lies in page blocks[t / KV_BLOCK_TOKENS]. Row i
 * attends to tokens 0 .. n_cached + i. */
struct kv_span {
    size_t first_row, n_rows, n_cached;
    const int32_t *blocks;
};
/* Stores two parts of the entries of all rows, one behind the other (to_pages), or reads them back
 * (gradients of pages). GQA: latent is the keys, rope_key the values. Spans may share rows that are
 * read (to_pages), and rows that are added to (accumulate): spans in order. */
struct kv_copy_args {
    float *latent; /* (T, rk) */
    size_t latent_stride;
    float *rope_key; /* (T, dr) */
    size_t rope_key_stride;
    const struct kv_span *spans;
    size_t n_spans;
    struct kv_pages pages;
    size_t rk, dr;
    size_t entry_at; /* values into the entry where the first part begins */
    bool to_pages;
    bool accumulate; /* without to_pages: rows += entries */
};
/* Softmax attention over the paged cache: S = scale (q . key + q_rope . key's second part), out =
 * softmax(S) . values. Training, prefill and decode are this one op. Query head h reads KV head h /
 * (n_heads / n_kv_heads), whose key is entry[kv * kv_head_stride .. + key_dim + rope_dim) and whose
 * value is entry[value_at + kv * kv_head_stride .. + value_dim).
 *   absorbed MLA (model.md 6.2): one KV head, key [latent rk | rotary key dr], the value is the
 *     latent again (value_at 0);
 *   GQA: entry [keys of all KV heads | values of all KV heads], rope_dim 0.
 * With BF16 pages queries and exp(S - max) are rounded to bfloat16 too, and both products are
 * chains over pairs as of enum precision: pairs of dimensions, and of keys 2 j and 2 j + 1 (of the
 * selected ones), an odd last one paired with zero. Gradients pass straight through these. */
struct attention_args {
    const float *q; /* (T, H, key_dim) */
    size_t q_stride, q_head_stride;
    const float *q_rope; /* (T, H, rope_dim), or NULL with rope_dim 0 */
    size_t q_rope_stride, q_rope_head_stride;
    struct kv_pages pages;
    const struct kv_span *spans;
    size_t n_spans;
    float *out; /* (T, H, value_dim), heads adjacent */
    size_t out_stride;
    float *lse;                 /* (T, H), or NULL */
    size_t n_heads, n_kv_heads; /* n_heads is a multiple of n_kv_heads */
    size_t key_dim, rope_dim;
    size_t kv_head_stride; /* values from one KV head to the next inside an entry */
    size_t value_at, value_dim;
    float scale;
    /* (T, n_selected): the only keys of each row, positions ascending, as index_select gives them.
     * NULL: every row sees all. */
    const int32_t *selected;
    size_t n_selected;
};
/* d_pages (same layout as pages) is added to, by keys and by values: those of cached tokens too, so
 * no two spans may share a block. dq and dq_rope are assigned for the rows of spans. */
struct attention_backward_args {
    struct attention_args forward; /* as it was called, out and lse filled */
    const float *d_out;            /* (T, H, value_dim), out_stride */
    float *dq;                     /* strides of q */
    float *dq_rope;                /* strides of q_rope, or NULL with rope_dim 0 */
    struct kv_pages d_pages;
};

/* The indexer of sparse attention (model.md 11.1): I[t][s] = scale sum over heads of w[t][h]
 * ReLU(q[t][h] . key[s]), one key a token at key_at of its entry (widened to a float where entries
 * are bfloat16). selected: the n_selected largest of each row, ties to the lower position, as
 * positions ascending; where a row sees no more than n_selected keys, all of them and -1 behind. */
struct index_args {
    const float *q; /* (T, H, dim), heads adjacent */
    size_t q_stride;
    const float *w; /* (T, H) */
    size_t w_stride;
    struct kv_pages pages;
    size_t key_at;
    const struct kv_span *spans;
    size_t n_spans;
    size_t n_heads, dim;
    float scale;
    int32_t *selected; /* (T, n_selected) out */
    size_t n_selected;
    float *scores; /* (T, scores_stride) out: I of every key that a row sees; or NULL */
    size_t scores_stride;
};
/* How far the indexer is from attention (model.md 11.2): loss[t] = KL(p[t] || softmax(I[t])), p the
 * head sum of attention's probabilities, normalised; over the keys that attention saw (selected or
 * all). Gradients are those of coefficient times the sum of the losses; p is a constant. Needs
 * n_cached == 0 in every span. */
struct index_loss_args {
    struct attention_args attention; /* as it was called, lse filled */
    struct index_args index;         /* as it was called; spans, selected are attention's */
    float coefficient;
    float *loss;             /* (T) out */
    float *dq;               /* q_stride, assigned */
    float *dw;               /* w_stride, assigned */
    struct kv_pages d_pages; /* the index keys' parts are added to */
};

/* How logits become scores, and groups are ranked: V3's sigmoid with the sum of a group's two best,
 * or V2's softmax over all experts with the best of a group. */
enum router_scoring { ROUTER_SIGMOID, ROUTER_SOFTMAX };

/* The router (model.md 7.1, 7.2) on logits (T, E); dropped groups are -inf; ties: lower index. */
struct router_args {
    const float *logits;
    size_t logits_stride;
    const float *bias;     /* (E) e_score_correction_bias, or NULL */
    const int32_t *replay; /* (T, K) experts to use instead of selecting, or NULL */
    float *scores;         /* (T, E) out: sigmoid or softmax of the logits */
    int32_t *indices;      /* (T, K) out, by descending biased score */
    float *weights;        /* (T, K) out, normalised and scaled */
    size_t n_rows, n_experts, top_k, n_groups, top_groups;
    enum router_scoring scoring;
    bool normalise;
    float scaling;
};
struct router_backward_args {
    const float *scores;
    const int32_t *indices;
    const float *d_weights; /* (T, K) */
    const float *d_scores;  /* (T, E) what the scores get from elsewhere (balance_loss), or NULL */
    float *d_logits;        /* (T, E) out */
    size_t d_logits_stride;
    size_t n_rows, n_experts, top_k;
    enum router_scoring scoring;
    bool normalise;
    float scaling;
};

/* Load balance (model.md 8) over the scores of a router: *loss += sum over rows t ascending of
 * weight_t v_t, v_t = sum over experts ascending of f_i s_ti / S_t, S_t the sum of row t's scores;
 * d_scores is the gradient with f held: weight_t / S_t (f_i - v_t). Sums are in double.
 *  - load given: f = load and weight_t = uses_t times weight; spans is not read.
 *  - load NULL: each span is a sequence of n rows with f_i = E / (K n) times how often its rows
 * took expert i, weight_t = weight / n. Spans cover the rows in order. What a row took: its
 * indices, or, where indices is NULL, the K largest of its scores, which is what V3's report counts
 * (no bias, no groups; ties: lower index). */
struct balance_loss_args {
    const float *scores;         /* (T, E), not negative */
    const int32_t *indices;      /* (T, K) or NULL */
    const struct kv_span *spans; /* host; first_row and n_rows count */
    size_t n_spans;
    const double *load;   /* (E), or NULL */
    const uint32_t *uses; /* (T) host, with load: rows of several sequences; NULL: 1 each */
    double weight;
    size_t n_rows, n_experts, top_k;
    float *d_scores; /* (T, E) out */
    double *loss;    /* host */
};

/* Routed experts: y[t] += sum over slots k ascending of weights[t][k] *
 * Expert_{indices[t][k]}(x[t]), the sum formed from zero first. Packed weights: expert e's gate and
 * up panels interleaved at w_gate_up + e * 2 * packed_words(precision, d, F); down
 * at w_down + e * packed_words(precision, F, d). */
struct moe_ffn_args {
    const float *x;
    size_t x_stride;
    const int32_t *indices;
    const float *weights;
    const float *w_gate_up, *w_down;
    const float *next;        /* packed weights that will be read after these, a hint; or NULL */
    enum precision precision; /* of both */
    float *y;
    size_t y_stride;
    float *saved_gate_up; /* (T * K, 2 F): gate then up of a slot, for backward; or NULL */
    size_t n_rows, d, f, n_experts, top_k;
};
/* w_gate, w_up (F, d) and w_down (d, F) are weights as they lie in memory, expert e at e *
 * w_stride, packed inside. Parameter gradients have the same shapes, expert e at e * grad_stride,
 * added to: rows of an expert ascending (BF16: pairs of the expert's rows of each 512 rows of the
 * call). */
struct moe_ffn_backward_args {
    const float *dy;
    size_t dy_stride;
    const float *x;
    size_t x_stride;
    const int32_t *indices;
    const float *weights;
    const float *saved_gate_up;
    const float *w_gate, *w_up, *w_down;
    size_t w_stride;
    enum precision precision, rounding; /* of the products, F32 or BF16; of the values of weights */
    float *dx;                          /* added to, slots ascending */
    size_t dx_stride;
    float *d_weights; /* (T, K) out */
    float *d_gate, *d_up, *d_down;
    size_t grad_stride;
    size_t n_rows, d, f, n_experts, top_k;
};

/* h = silu(gate) * up. */
struct swiglu_args {
    const float *gate, *up;
    size_t in_stride; /* of both */
    float *h;
    size_t h_stride;
    size_t n_rows, f;
};
struct swiglu_backward_args {
    const float *gate, *up;
    size_t in_stride;
    const float *dh;
    size_t dh_stride;
    float *d_gate, *d_up;
    size_t d_stride;
    size_t n_rows, f;
};

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

/* dst[i] = src[rows[i]], or (scatter_add) dst[rows[i]] += src[i], i ascending. */
struct rows_args {
    const float *src;
    size_t src_stride;
    const int32_t *rows;
    float *dst;
    size_t dst_stride;
    size_t n_rows, d;
};

/* AdamW (grpo.md 14); gradients are multiplied by grad_scale first. correction1 = 1 - beta1^t. */
struct adamw_args {
    float *w, *m, *v;
    const float *g;
    size_t n;
    float lr, beta1, beta2, eps, weight_decay, grad_scale, correction1, correction2;
};

/* One of the parts of run_parts. `part` is a backend for what this part does alone: ops called with
 * it never wait for another part. It is lent for the call. */
typedef enum status backend_part(void *context, size_t index, struct backend *part);

struct backend_ops {
    enum status (*pack)(struct backend *, const struct pack_args *);
    enum status (*gemm)(struct backend *, const struct gemm_args *);
    enum status (*gemm_dx)(struct backend *, const struct gemm_dx_args *);
    enum status (*gemm_dw)(struct backend *, const struct gemm_dw_args *);
    enum status (*column_sums)(struct backend *, const struct column_sums_args *);
    enum status (*embedding)(struct backend *, const struct embedding_args *);
    enum status (*embedding_backward)(struct backend *, const struct embedding_backward_args *);
    enum status (*rms_norm)(struct backend *, const struct rms_norm_args *);
    enum status (*rms_norm_backward)(struct backend *, const struct rms_norm_backward_args *);
    enum status (*layer_norm)(struct backend *, const struct layer_norm_args *);
    enum status (*layer_norm_backward)(struct backend *, const struct layer_norm_backward_args *);
    enum status (*rope)(struct backend *, const struct rope_args *);
    enum status (*kv_copy)(struct backend *, const struct kv_copy_args *);
    enum status (*attention)(struct backend *, const struct attention_args *);
    enum status (*attention_backward)(struct backend *, const struct attention_backward_args *);
    enum status (*index_select)(struct backend *, const struct index_args *);
    enum status (*index_loss)(struct backend *, const struct index_loss_args *);
    enum status (*router)(struct backend *, const struct router_args *);
    enum status (*router_backward)(struct backend *, const struct router_backward_args *);
    enum status (*balance_loss)(struct backend *, const struct balance_loss_args *);
    enum status (*moe_ffn)(struct backend *, const struct moe_ffn_args *);
    enum status (*moe_ffn_backward)(struct backend *, const struct moe_ffn_backward_args *);
    enum status (*swiglu)(struct backend *, const struct swiglu_args *);
    enum status (*swiglu_backward)(struct backend *, const struct swiglu_backward_args *);
    enum status (*lm_head_logprob)(struct backend *, const struct lm_head_args *);
    enum status (*lm_head_backward)(struct backend *, const struct lm_head_backward_args *);
    enum status (*sample)(struct backend *, const struct sample_args *);
    enum status (*gather_rows)(struct backend *, const struct rows_args *);
    enum status (*scatter_add_rows)(struct backend *, const struct rows_args *);
    enum status (*adamw)(struct backend *, const struct adamw_args *);
    /* *out = sum of x[i]^2 in double: blocks of 4096 elements, block sums added ascending. */
    enum status (*sum_squares)(struct backend *, const float *x, size_t n, double *out);
    enum status (*fill)(struct backend *, float *x, size_t n, float value);
    /* Device memory. alloc: zeroed, 64-byte aligned. upload/download: host <-> device, n bytes. */
    enum status (*alloc)(struct backend *, size_t n, size_t size, void *out_pointer);
    void (*release)(struct backend *, void *block);
    /* n bytes in a block are needed no more: their whole pages go back, and read as zeros. */
    void (*forget)(struct backend *, void *device, size_t n);
    enum status (*upload)(struct backend *, void *device, const void *host, size_t n);
    enum status (*download)(struct backend *, void *host, const void *device, size_t n);
    /* function(context, i, part) for every i < n_parts, backend->n_parts of them at a time, and
     * returns when all are done: with the status and message of the first part, by index, that
     * failed. Parts may read what others read, and nothing that another one writes; every write
     * before the call is seen by all, and theirs after it. Not from inside a part. */
    enum status (*run_parts)(struct backend *, size_t n_parts, backend_part *function,
                             void *context);
};

struct backend {
    const struct backend_ops *ops;
    const char *name; /* "cpu-avx512" */
    /* By enum precision: equal ids give equal bits: "cpu-f32-1", "cpu-bf16-2", "cpu-fp8-2" */
    const char *numerics_ids[3];
    size_t n_threads;
    size_t n_parts; /* that run side by side: the CPU's threads. 1: cutting work gains nothing */
};

/* device: "cpu", or "cpu-avx512bf16", "cpu-avx512", "cpu-avx2", "cpu-portable" to force an
 * instruction set; "auto" is the best there is. n_threads 0: all online cores. Errors: UNSUPPORTED
 * (no such device here, names what there is), NO_MEMORY. */
MUST_CHECK enum status backend_open(const char *device, size_t n_threads, struct backend **out);
void backend_close(struct backend *backend); /* NULL is legal */

/* Ops need memory of their own beside what they are given; it grows with the largest call and
 * stays. While a backend rehearses, an op plans its call, takes what it needs of that memory and
 * computes nothing (of what it is given only ids, rows' lists and upstream gradients are read), and
 * parts run one after the other: calls of these sizes then take no more. */
void backend_rehearse(struct backend *backend, bool is_rehearsing);
size_t backend_scratch_bytes(const struct backend *backend);

#endif
