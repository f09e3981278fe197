/* Owns what the parts of the oracle share: where each tensor lies, and the parts' entry points. */
#ifndef HONE_TESTS_SUPPORT_ORACLE_INTERNAL_H
#define HONE_TESTS_SUPPORT_ORACLE_INTERNAL_H

#include "tests/support/oracle_model.h"

#define ORACLE_ABSENT SIZE_MAX
#define ORACLE_HEADS_MAX ((size_t)8)

/* Offsets into the data; ORACLE_ABSENT where the architecture has no such tensor. */
struct oracle_mlp {
    size_t gate, up, down, width;
};
struct oracle_layer {
    size_t input_norm, post_norm;
    size_t q, q_bias, q_a, q_a_bias, q_a_norm, q_b; /* q: MLA without q_lora, or GQA */
    size_t kv_a, kv_a_bias, kv_a_norm, kv_b;        /* MLA */
    size_t k, k_bias, v, v_bias, q_norm, k_norm;    /* GQA */
    size_t o, o_bias;
    size_t index_q, index_k, index_norm, index_norm_bias, index_weights; /* DSA */
    struct oracle_mlp mlp; /* dense, or shared; width 0: none */
    struct oracle_mlp experts[ORACLE_EXPERTS_MAX];
    size_t router, router_bias;
    size_t e_norm, h_norm, eh_proj, head_norm; /* MTP */
};

/* The residual stream of one sequence. */
typedef double oracle_stream[ORACLE_TOKENS_MAX][ORACLE_D_MAX];
typedef double oracle_wide[ORACLE_TOKENS_MAX][ORACLE_WIDTH_MAX];
typedef double oracle_square[ORACLE_TOKENS_MAX][ORACLE_TOKENS_MAX];

/* Entry of layer i at [i], end of the trunk at [n_layers], end of module m behind it. */
#define ORACLE_STAGES ((size_t)(ORACLE_LAYERS_MAX + 1))

struct oracle {
    struct oracle_config config;
    struct oracle_layer layers[ORACLE_LAYERS_MAX];
    size_t embedding, final_norm, head;
    /* By position and pair, times the multiplier. */
    double cosines[ORACLE_TOKENS_MAX][ORACLE_D_MAX], sines[ORACLE_TOKENS_MAX][ORACLE_D_MAX];
    double softmax_scale;

    struct oracle_batch batch;
    const double *data; /* of this evaluation */
    const double *base; /* of oracle_evaluate: what is detached is read from it */
    bool is_base;       /* this evaluation is oracle_evaluate's: remember and report */
    struct oracle_result result;
    oracle_stream streams[ORACLE_SEQUENCES_MAX][ORACLE_STAGES];
    double main_term, module_terms[ORACLE_MODULES_MAX];
    size_t sequence; /* being evaluated */
    double indexer_term;
};

/* oracle_names.c */
void oracle_resolve(struct oracle *oracle, const struct weight_table *table);

/* y[o] = sum_i w[o][i] x[i] (+ b[o]); b may be ORACLE_ABSENT. */
void oracle_linear(const struct oracle *oracle, size_t w, size_t b, const double *x, size_t n_in,
                   size_t n_out, double *y);
/* y = w x / sqrt(mean(x^2) + eps); y may be x. */
void oracle_rms_norm(const double *w, const double *x, size_t n, double eps, double *y);
double oracle_dot(const double *a, const double *b, size_t n);
/* Softmax of x[0..n) in place; -HUGE_VAL counts as absent. */
void oracle_softmax(double *x, size_t n);
/* Notes a distance that decided something. */
void oracle_note_margin(struct oracle *oracle, double distance);

/* oracle_rope.c: cosines, sines and softmax scale; rotation of x[0..n) at a position, pairs
 * (2i, 2i + 1) or (i, n / 2 + i). */
void oracle_rope_prepare(struct oracle *oracle);
void oracle_rotate(const struct oracle *oracle, double *x, size_t position, bool is_interleaved);

/* oracle_attention.c: out[t] = attention of x (normed) through o_proj. */
void oracle_attention(struct oracle *oracle, const struct oracle_layer *layer, size_t layer_index,
                      size_t n, oracle_stream x, oracle_stream out);
/* oracle_indexer.c: scores[t][s] of the indexer for s <= t, from its inputs. */
void oracle_index_scores(struct oracle *oracle, const struct oracle_layer *layer, size_t n,
                         oracle_stream x, oracle_wide q_latent, oracle_square scores);
/* selected[t][s]: 1 where query t may see key s; all of s <= t without an indexer. */
void oracle_select_keys(struct oracle *oracle, size_t n, oracle_square scores,
                        oracle_square selected);
/* KL(p_t || softmax over the selected of I_t) summed over t; p is normalised here. */
double oracle_indexer_kl(size_t n, oracle_square probabilities, oracle_square selected,
                         oracle_square scores);

/* oracle_ffn.c: out[t] += MLP or shared plus routed experts of x (normed). */
void oracle_ffn(struct oracle *oracle, const struct oracle_layer *layer, size_t layer_index,
                const double *x, double *out);

#endif
