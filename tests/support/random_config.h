/* Owns random small configurations: the config.json as a checkpoint of the family would have it,
 * and the same thing as the oracle's configuration, drawn side by side so that reading of the file
 * is tested too. */
#ifndef HONE_TESTS_SUPPORT_RANDOM_CONFIG_H
#define HONE_TESTS_SUPPORT_RANDOM_CONFIG_H

#include "base/json.h"
#include "tests/support/oracle_model.h"

enum random_family {
    RANDOM_V3,
    RANDOM_V2,
    RANDOM_V32,
    RANDOM_LLAMA,
    RANDOM_QWEN2,
    RANDOM_QWEN3,
    RANDOM_QWEN3_MOE,
    RANDOM_MIXTRAL,
    N_RANDOM_FAMILIES
};

/* What a configuration can reach; names in random_branch_names. */
enum random_branch {
    BRANCH_Q_LORA,
    BRANCH_Q_PROJ,
    BRANCH_GROUPS_V3,
    BRANCH_GROUPS_V2,
    BRANCH_GREEDY_IGNORES_GROUPS,
    BRANCH_SIGMOID,
    BRANCH_SOFTMAX,
    BRANCH_NORM_TOPK,
    BRANCH_NO_NORM_TOPK,
    BRANCH_V2_NORM_TOPK, /* no golden file has it */
    BRANCH_TOP_ONE,
    BRANCH_SHARED_NONE,
    BRANCH_SHARED_ONE,
    BRANCH_SHARED_TWO,
    BRANCH_DENSE_MODEL,
    BRANCH_DENSE_FIRST,
    BRANCH_MOE_EVERY_OTHER, /* moe_layer_freq or decoder_sparse_step */
    BRANCH_LAYER_TYPES,     /* mlp_layer_types or mlp_only_layers */
    BRANCH_BIASES,
    BRANCH_QKV_BIASES_ONLY,
    BRANCH_QK_NORM,
    BRANCH_TIED_HEAD,
    BRANCH_INTERLEAVED,
    BRANCH_HALF_SPLIT,
    BRANCH_LATENT_EPS,
    BRANCH_ROPE_NONE,
    BRANCH_YARN,
    BRANCH_YARN_NO_TRUNCATE,
    BRANCH_YARN_ATTENTION_FACTOR,
    BRANCH_YARN_CLAMP, /* at dr - 1 */
    BRANCH_YARN_DEGENERATE,
    BRANCH_YARN_MSCALES,
    BRANCH_YARN_RATIO, /* no factor: the ratio of the lengths */
    BRANCH_LLAMA3,
    BRANCH_LINEAR,
    BRANCH_ROPE_PARAMETERS,
    BRANCH_MODULE_ONE,
    BRANCH_MODULE_TWO,
    BRANCH_PRE_NORM,
    BRANCH_MHA,
    BRANCH_GQA,
    BRANCH_MQA,
    BRANCH_INDEXER,
    BRANCH_INDEXER_INTERLEAVED,
    BRANCH_ODD_D,
    BRANCH_ONE_WIDE, /* some width is 1 */
    N_CONFIG_BRANCHES
};
extern const char *const random_branch_names[N_CONFIG_BRANCHES];
extern const char *const random_family_names[N_RANDOM_FAMILIES];

struct random_config {
    enum random_family family;
    struct oracle_config oracle;
    struct json *json; /* the caller's: json_destroy */
    bool branches[N_CONFIG_BRANCHES];
};

/* A stream of draws: a function of (seed, index) and of how many were taken. */
struct random_draws {
    uint64_t seed, index, n;
};
size_t random_draw(struct random_draws *draws, size_t n); /* 0 .. n - 1 */
bool random_chance(struct random_draws *draws, size_t percent);
/* One of a list of sizes or numbers. */
#define RANDOM_PICK(draws, ...)                                                                    \
    random_pick_of((draws), (const double[]){__VA_ARGS__},                                         \
                   sizeof((const double[]){__VA_ARGS__}) / sizeof(double))
double random_pick_of(struct random_draws *draws, const double *list, size_t n);

void random_config_draw(enum random_family family, struct random_draws *draws,
                        struct random_config *out);

/* random_rope.c */
void random_rope_draw(struct random_draws *draws, struct random_config *config);
/* random_experts.c: n_experts and all that belongs to them, by family. */
void random_experts_draw(struct random_draws *draws, struct random_config *config);

/* Puts a member into the configuration's JSON. */
void random_put_int(struct random_config *config, const char *key, size_t value);
void random_put_number(struct random_config *config, const char *key, double value);
void random_put_bool(struct random_config *config, const char *key, bool value);
void random_put_text(struct random_config *config, const char *key, const char *value);
void random_put_null(struct random_config *config, const char *key);

#endif
