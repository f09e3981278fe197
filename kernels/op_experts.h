/* Owns the arguments of the ops of a mixture of experts: the router, its balance loss, and the
 * experts' feed-forward networks. */
#ifndef HONE_KERNELS_OP_EXPERTS_H
#define HONE_KERNELS_OP_EXPERTS_H

#include "kernels/op_packing.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv_span; /* kernels/op_attention.h */

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

/* The shared experts of a layer as one MLP of width f, packed as gemm reads it: y +=
 * down(silu(gate) up), bits of gemm, swiglu and gemm. */
struct moe_shared {
    const float *w_gate_up, *w_down;
    float *
        gate_up; /* (T, up_at + f) out: gate from column 0, up from column up_at, a panel's first */
    size_t gate_up_stride, f, up_at;
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
    enum precision precision; /* of all */
    /* Added to y first: of few rows threads then share these experts and the routed ones in one go.
     * NULL: none. */
    const struct moe_shared *shared;
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

#endif
