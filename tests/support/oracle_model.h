/* Owns the interface of the oracle: an independent evaluation of every architecture of the model
 * specification in double precision, written the naive way (un-absorbed attention, one sequence
 * after another, no cache of keys). It shares nothing with model/ or kernels/ but the table of
 * tensors: its configuration is its own, and it makes every selection (experts, groups, keys)
 * itself. Gradients come from it by finite differences of oracle_objective. */
#ifndef HONE_TESTS_SUPPORT_ORACLE_MODEL_H
#define HONE_TESTS_SUPPORT_ORACLE_MODEL_H

#include "model/weights.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORACLE_TOKENS_MAX ((size_t)20) /* of one sequence */
#define ORACLE_SEQUENCES_MAX ((size_t)6)
#define ORACLE_ROWS_MAX ((size_t)48)
#define ORACLE_LAYERS_MAX ((size_t)8) /* MTP modules included */
#define ORACLE_MODULES_MAX ((size_t)2)
#define ORACLE_EXPERTS_MAX ((size_t)16)
#define ORACLE_WIDTH_MAX ((size_t)160) /* any width of any matrix */
#define ORACLE_D_MAX ((size_t)32)

enum oracle_rope_kind {
    ORACLE_ROPE_NONE,
    ORACLE_ROPE_YARN,
    ORACLE_ROPE_LLAMA3,
    ORACLE_ROPE_LINEAR
};

struct oracle_rope {
    enum oracle_rope_kind kind;
    double theta, factor, original_length;
    double beta_fast, beta_slow, mscale, mscale_all_dim, attention_factor; /* 0: not given */
    bool truncate;
    double low_freq_factor, high_freq_factor;
};

/* V3: sigmoid, correction bias, normalised and scaled. V2: softmax, normalised or scaled.
 * STANDARD (Mixtral, Qwen3-MoE): softmax, normalised or not, never scaled. */
enum oracle_router { ORACLE_ROUTER_V3, ORACLE_ROUTER_V2, ORACLE_ROUTER_STANDARD };

struct oracle_config {
    size_t vocab, d, n_layers, n_modules, n_heads;
    bool is_moe[ORACLE_LAYERS_MAX]; /* MTP modules behind the layers */
    size_t ffn_width, expert_width, n_experts, n_shared, top_k, n_groups, top_groups;
    enum oracle_router router;
    bool normalise, has_mixtral_names;
    double routed_scale;
    bool is_mla;
    size_t q_rank, kv_rank, nope, rope_dim, v_dim; /* MLA; q_rank 0: one q_proj */
    bool has_mla_bias;
    size_t n_kv_heads, head_dim; /* GQA */
    bool has_qkv_bias, has_o_bias, has_qk_norm;
    size_t index_heads, index_dim, index_topk; /* DSA; 0: none */
    bool index_interleave;
    bool interleave; /* of the main rotary dims */
    bool has_tied_head, has_pre_norm_mtp;
    double eps, latent_eps;
    struct oracle_rope rope;
};

/* Packed sequences and what is asked of each row. */
struct oracle_batch {
    size_t n_sequences;
    size_t offsets[ORACLE_SEQUENCES_MAX + 1];
    int32_t tokens[ORACLE_ROWS_MAX];
    int32_t targets[ORACLE_ROWS_MAX];                         /* -1: the row predicts nothing */
    double g[ORACLE_ROWS_MAX], h[ORACLE_ROWS_MAX];            /* of log-probability and entropy */
    int32_t mtp_targets[ORACLE_MODULES_MAX][ORACLE_ROWS_MAX]; /* -1: none */
    double mtp_g[ORACLE_MODULES_MAX][ORACLE_ROWS_MAX];
    double temperature;
    bool is_detached; /* trunk, embedding and head are constants for the MTP modules */
    bool is_warmup;   /* DSA: attention stays dense, the KL loss is over every visible key */
    double indexer_coefficient; /* of the KL losses, for the caller; 0: none */
};

struct oracle_result {
    double logp[ORACLE_ROWS_MAX], entropy[ORACLE_ROWS_MAX];
    double mtp_logp[ORACLE_MODULES_MAX][ORACLE_ROWS_MAX];
    double indexer_loss[ORACLE_LAYERS_MAX]; /* KL by layer, over all rows (sparse: selected keys) */
    size_t expert_rows[ORACLE_LAYERS_MAX][ORACLE_EXPERTS_MAX]; /* tokens that each expert took */
    /* Smallest distance between what was selected and what was not (experts, groups, keys), and of
     * an indexer product from the kink of its ReLU. */
    double margin;
    size_t n_negative_routes; /* selected experts whose biased score is below zero */
    size_t n_dropped_keys;    /* that the indexer did not select */
};

struct oracle;

/* Resolves every tensor by its Hugging Face name; fails the test when one is absent, has another
 * shape, or when the table has one that nothing here reads. */
struct oracle *oracle_create(const struct oracle_config *config, const struct weight_table *table);
void oracle_destroy(struct oracle *oracle);

/* Evaluates everything on data (the table's layout; kept until the next call) and remembers it as
 * the point that oracle_objective starts from. */
void oracle_evaluate(struct oracle *oracle, const double *data, const struct oracle_batch *batch,
                     struct oracle_result *out);
/* sum g logp + h entropy over rows + the same of the MTP modules, with data differing from that of
 * oracle_evaluate in the tensor `row` only: what comes before that tensor is not computed again. */
double oracle_objective(struct oracle *oracle, const double *data, const struct weight_row *row);
/* Sum of the indexers' KL losses, likewise; every row but an indexer's is constant for it. */
double oracle_indexer_objective(struct oracle *oracle, const double *data,
                                const struct weight_row *row);

/* Pairs of the rotary dims, for tests of the branches: lower and upper end of YaRN's ramp before
 * the clamps. */
void oracle_yarn_bounds(const struct oracle_config *config, double *low, double *high);
/* cos/sin multiplier. */
double oracle_attention_factor(const struct oracle_rope *rope);

#endif
