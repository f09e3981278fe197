/* Owns what the tests of the policy share: the tiny model, and five packed sequences of random
 * tokens. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_MODEL_POLICY_FIXTURE_H
#define HONE_TESTS_UNIT_MODEL_POLICY_FIXTURE_H

#include "base/random.h"
#include "kernels/backend.h"
#include "model/policy.h"
#include "tests/support/support.h"

#include <string.h>

#define N_SEQUENCES ((size_t)5)
#define MAX_ROWS ((size_t)160)

/* What the tiny model may have instead of its defaults. */
enum variant_bit {
    VARIANT_SOFTMAX = 1, /* V2's router; groups as they are */
    VARIANT_BIASES = 2,
    VARIANT_TIED = 4,
    VARIANT_HALF_ROPE = 8,
    VARIANT_Q_PROJ = 16,
    VARIANT_NO_NORM = 32,
    VARIANT_TWO_MODULES = 64,
    VARIANT_PRE_NORM = 128,
    VARIANT_YARN = 256,
    /* Grouped attention: one of these, with biases, tied head, no norm and YaRN from above. */
    VARIANT_LLAMA = 512, /* with Llama 3's rope */
    VARIANT_QWEN3 = 1024,
    VARIANT_QWEN3_MOE = 2048, /* layer 0 dense */
    VARIANT_MIXTRAL = 4096,
    VARIANT_ONE_KV_HEAD = 8192,
    VARIANT_ALL_KV_HEADS = 16384,
    VARIANT_SPARSE = 32768 /* V3.2's indexers: 5 keys of each row */
};
#define VARIANT_GROUPED (VARIANT_LLAMA | VARIANT_QWEN3 | VARIANT_QWEN3_MOE | VARIANT_MIXTRAL)
static unsigned variant; /* of the models that make_policy makes */
static enum precision precision, unquantised, cache_precision;
static const unsigned variants[] = {
    0,
    VARIANT_SOFTMAX | VARIANT_NO_NORM | VARIANT_Q_PROJ | VARIANT_YARN,
    VARIANT_SOFTMAX | VARIANT_TWO_MODULES,
    VARIANT_BIASES | VARIANT_PRE_NORM,
    VARIANT_TIED | VARIANT_TWO_MODULES,
    VARIANT_HALF_ROPE | VARIANT_NO_NORM | VARIANT_YARN,
    VARIANT_BIASES | VARIANT_TIED | VARIANT_HALF_ROPE | VARIANT_Q_PROJ | VARIANT_NO_NORM |
        VARIANT_TWO_MODULES | VARIANT_PRE_NORM,
    VARIANT_SPARSE,
    VARIANT_SPARSE | VARIANT_TWO_MODULES | VARIANT_YARN | VARIANT_TIED,
    VARIANT_LLAMA,
    VARIANT_LLAMA | VARIANT_ONE_KV_HEAD | VARIANT_BIASES,
    VARIANT_LLAMA | VARIANT_ALL_KV_HEADS | VARIANT_TIED | VARIANT_YARN,
    VARIANT_QWEN3 | VARIANT_BIASES,
    VARIANT_QWEN3_MOE | VARIANT_NO_NORM,
    VARIANT_MIXTRAL | VARIANT_TIED,
};
#define N_VARIANTS (sizeof(variants) / sizeof(variants[0]))

/* A precision, what FP8 leaves unquantised, and the cache's. */
static const enum precision profiles[][3] = {
    {PRECISION_F32, PRECISION_F32, PRECISION_F32},  {PRECISION_BF16, PRECISION_F32, PRECISION_BF16},
    {PRECISION_FP8, PRECISION_F32, PRECISION_F32},  {PRECISION_FP8, PRECISION_BF16, PRECISION_BF16},
    {PRECISION_F32, PRECISION_F32, PRECISION_BF16}, {PRECISION_FP8, PRECISION_BF16, PRECISION_FP8}};
#define N_PROFILES (sizeof(profiles) / sizeof(profiles[0]))

static inline void set_profile(size_t index)
{
    precision = profiles[index][0];
    unquantised = profiles[index][1];
    cache_precision = profiles[index][2];
}

/* Every kind of model in every profile. */
static inline void for_all(void (*check)(void))
{
    for (size_t i = 0; i < N_PROFILES * N_VARIANTS; i++) {
        variant = variants[i / N_PROFILES];
        set_profile(i % N_PROFILES);
        check();
    }
    variant = 0;
    set_profile(0);
}

static const struct rope_scaling variant_yarn = {.kind = ROPE_YARN,
                                                 .factor = 4,
                                                 .beta_fast = 8,
                                                 .beta_slow = 0.1,
                                                 .mscale = 0.8,
                                                 .mscale_all_dim = 1,
                                                 .original_max_positions = 64,
                                                 .truncate = true};
static const struct rope_scaling variant_llama3 = {.kind = ROPE_LLAMA3,
                                                   .factor = 8,
                                                   .low_freq_factor = 1,
                                                   .high_freq_factor = 4,
                                                   .original_max_positions = 64};

/* No more positions than any test has: the tables of their angles take longest to make. */
#define POSITIONS ((size_t)256)

static inline void grouped_config(struct model_config *config)
{
    const char *const name = (variant & VARIANT_LLAMA) != 0     ? "llama"
                             : (variant & VARIANT_QWEN3) != 0   ? "qwen3"
                             : (variant & VARIANT_MIXTRAL) != 0 ? "mixtral"
                                                                : "qwen3-moe";

    assert_ok(model_config_preset(name, config));
    config->max_positions = POSITIONS;
    config->n_kv_heads = (variant & VARIANT_ONE_KV_HEAD) != 0    ? 1
                         : (variant & VARIANT_ALL_KV_HEADS) != 0 ? config->n_heads
                                                                 : config->n_kv_heads;
    config->has_qkv_bias = (variant & VARIANT_BIASES) != 0;
    config->has_o_bias = config->has_qkv_bias;
    config->has_tied_head = (variant & VARIANT_TIED) != 0;
    config->norm_topk_prob = (variant & VARIANT_NO_NORM) == 0;
    config->dense_layers[0] = (variant & VARIANT_QWEN3_MOE) != 0 ? 1 : 0;
    config->rope = (variant & VARIANT_YARN) != 0    ? variant_yarn
                   : (variant & VARIANT_LLAMA) != 0 ? variant_llama3
                                                    : config->rope;
}

static inline void variant_config(struct model_config *config)
{
    if ((variant & VARIANT_GROUPED) != 0) {
        grouped_config(config);
        return;
    }
    assert_ok(model_config_preset("tiny", config));
    config->max_positions = POSITIONS;
    config->has_softmax_router = (variant & VARIANT_SOFTMAX) != 0;
    config->has_attention_bias = (variant & VARIANT_BIASES) != 0;
    config->has_tied_head = (variant & VARIANT_TIED) != 0;
    config->rope_interleave = (variant & VARIANT_HALF_ROPE) == 0;
    config->q_lora_rank = (variant & VARIANT_Q_PROJ) != 0 ? 0 : config->q_lora_rank;
    config->norm_topk_prob = (variant & VARIANT_NO_NORM) == 0;
    config->n_mtp_modules = (variant & VARIANT_TWO_MODULES) != 0 ? 2 : 1;
    config->has_pre_norm_mtp = (variant & VARIANT_PRE_NORM) != 0;
    if ((variant & VARIANT_YARN) != 0) {
        config->rope = variant_yarn;
    }
    if ((variant & VARIANT_SPARSE) != 0) {
        config->family = MODEL_DEEPSEEK_V32;
        config->index_n_heads = 3;
        config->index_head_dim = 12;
        config->index_topk = 5;
    }
}

/* Five sequences, packed; every row predicts a random token. */
struct batch {
    int32_t tokens[MAX_ROWS], targets[MAX_ROWS], rows[MAX_ROWS];
    int32_t mtp_targets[MAX_ROWS], mtp_rows[MAX_ROWS];
    float g[MAX_ROWS], h[MAX_ROWS], mtp_g[MAX_ROWS];
    size_t offsets[N_SEQUENCES + 1];
    size_t n_mtp;
};
static const size_t lengths[N_SEQUENCES] = {33, 1, 48, 17, 2};

static inline float normal(uint64_t a, uint64_t b)
{
    return random_normal(11, RANDOM_TEST, a, b);
}

static inline void batch_fill(struct batch *out)
{
    size_t row = 0;

    memset(out, 0, sizeof(*out));
    for (size_t i = 0; i < N_SEQUENCES; i++) {
        out->offsets[i] = row;
        for (size_t j = 0; j < lengths[i]; j++) {
            out->tokens[row] = (int32_t)random_below(1, RANDOM_TEST, 0, row, 64);
            out->targets[row] = (int32_t)random_below(1, RANDOM_TEST, 1, row, 64);
            out->rows[row] = (int32_t)row;
            out->g[row] = normal(2, row);
            out->h[row] = 0.1f * normal(3, row);
            if (j + 2 < lengths[i]) {
                out->mtp_rows[out->n_mtp] = (int32_t)row;
                out->mtp_targets[out->n_mtp] = out->targets[row];
                out->mtp_g[out->n_mtp] = normal(4, row);
                out->n_mtp++;
            }
            row++;
        }
    }
    out->offsets[N_SEQUENCES] = row;
}

/* Biases start as zero, which would hide them. */
static inline void fill_biases(struct policy *policy)
{
    const struct weight_table *table = policy_table(policy);

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];

        for (size_t j = 0; j < row->count && row->is_bias; j++) {
            policy_weights(policy)[row->offset + j] = 0.3f * normal(50 + i, j);
        }
    }
}

#define DRAWN_FLOATS ((size_t)1 << 18)

/* Random weights, the same for the same model. Drawing them takes longer than most of what is done
 * with them, so the last model's are kept. */
static inline void fill_weights(struct policy *policy)
{
    static float drawn[DRAWN_FLOATS];
    static unsigned char of[sizeof(struct model_config)]; /* its bytes; padding may miss, no more */
    const struct model_config *config = policy_config(policy);
    const void *const bytes = config;
    const size_t n = policy_table(policy)->n_floats;

    assert_true(n <= DRAWN_FLOATS);
    if (memcmp(of, bytes, sizeof(of)) == 0) {
        memcpy(policy_weights(policy), drawn, n * sizeof(float));
        return;
    }
    weights_init(config, policy_table(policy), 7, policy_weights(policy));
    fill_biases(policy);
    memcpy(drawn, policy_weights(policy), n * sizeof(float));
    memcpy(of, bytes, sizeof(of));
}

/* A policy with such weights, ready to run. */
static inline struct policy *policy_of(struct backend *backend, const struct model_config *config,
                                       const struct policy_options *options)
{
    struct policy *policy;

    assert_ok(policy_create(backend, config, options, &policy));
    fill_weights(policy);
    assert_ok(policy_refresh(policy));
    return policy;
}

/* The same of the variant. */
static inline struct policy *variant_policy(struct backend *backend,
                                            const struct policy_options *options)
{
    struct model_config config;

    variant_config(&config);
    return policy_of(backend, &config, options);
}

static inline struct policy *make_policy(struct backend *backend, bool is_trainable)
{
    const struct policy_options options = {.max_rows = MAX_ROWS,
                                           .max_draws = MAX_ROWS,
                                           .is_trainable = is_trainable,
                                           .precision = precision,
                                           .unquantised = unquantised,
                                           .cache = cache_precision};

    return variant_policy(backend, &options);
}

/* For support_fail_allocations: what is created, and at once destroyed. */
struct creation {
    struct backend *backend;
    struct policy_options options;
};

static inline enum status create_variant(void *context)
{
    const struct creation *creation = context;
    struct model_config config;
    struct policy *policy = NULL;

    variant_config(&config);

    const enum status status =
        policy_create(creation->backend, &config, &creation->options, &policy);

    policy_destroy(policy);
    return status;
}

static inline struct backend *open_backend(const char *device, size_t n_threads)
{
    struct backend *backend;

    assert_ok(backend_open(device, n_threads, &backend));
    return backend;
}

/* Forward over sequences [first, last) of the batch; logp (rows of these sequences). */
static inline void forward(struct policy *policy, const struct batch *batch, size_t first,
                           size_t last, struct sampling_params sampling, float *logp,
                           float *entropy)
{
    const size_t begin = batch->offsets[first];
    size_t offsets[N_SEQUENCES + 1];

    for (size_t i = first; i <= last; i++) {
        offsets[i - first] = batch->offsets[i] - begin;
    }
    assert_ok(policy_forward(policy,
                             &(struct policy_batch){.tokens = batch->tokens + begin,
                                                    .n_rows = offsets[last - first],
                                                    .offsets = offsets,
                                                    .n_sequences = last - first,
                                                    .target_rows = batch->rows,
                                                    .targets = batch->targets + begin,
                                                    .n_targets = offsets[last - first],
                                                    .sampling = sampling},
                             logp, entropy));
}

static const struct sampling_params plain = {.temperature = 1, .top_p = 1};

/* The rows of sequences [first, last) that a module predicts something for, from row 0. */
struct mtp_rows {
    int32_t rows[MAX_ROWS], targets[MAX_ROWS];
    float g[MAX_ROWS];
    size_t n;
};

static inline void list_mtp_rows(const struct batch *batch, size_t first, size_t last,
                                 size_t module, struct mtp_rows *out)
{
    const size_t begin = batch->offsets[first];

    out->n = 0;
    for (size_t i = first; i < last; i++) {
        for (size_t row = batch->offsets[i]; row + module + 2 < batch->offsets[i + 1]; row++) {
            out->rows[out->n] = (int32_t)(row - begin);
            out->targets[out->n] = batch->targets[row];
            out->g[out->n++] = normal(4 + module, row);
        }
    }
}

enum mtp_use { WITHOUT_MTP, MTP_DETACHED, MTP_ATTACHED };

/* Forward and backward of sequences [first, last), gradients added. */
static inline void learn_sequences(struct policy *policy, const struct batch *batch, size_t first,
                                   size_t last, enum mtp_use use)
{
    const size_t begin = batch->offsets[first];
    const size_t n_modules = use == WITHOUT_MTP ? 0 : policy_config(policy)->n_mtp_modules;
    struct mtp_rows mtp;
    float logp[MAX_ROWS], entropy[MAX_ROWS];

    forward(policy, batch, first, last, plain, logp, entropy);
    for (size_t i = 0; i < n_modules; i++) {
        list_mtp_rows(batch, first, last, i, &mtp);
        assert_ok(policy_mtp_forward(policy,
                                     &(struct policy_mtp_args){.module = i,
                                                               .target_rows = mtp.rows,
                                                               .targets = mtp.targets,
                                                               .n_targets = mtp.n,
                                                               .detached = use == MTP_DETACHED},
                                     logp));
    }
    for (size_t i = n_modules; i-- > 0;) {
        list_mtp_rows(batch, first, last, i, &mtp);
        assert_ok(policy_mtp_backward(policy, mtp.g));
    }
    assert_ok(policy_backward(policy, batch->g + begin, batch->h + begin));
}

/* The gradients of the whole batch, from zero, learnt in pieces that end before these sequences. */
static inline void learn_pieces(struct policy *policy, const size_t *cuts, size_t n_cuts,
                                enum mtp_use use)
{
    struct batch batch;
    size_t first = 0;

    batch_fill(&batch);
    memset(policy_gradients(policy), 0, policy_table(policy)->n_floats * sizeof(float));
    for (size_t i = 0; i <= n_cuts; i++) {
        const size_t last = i < n_cuts ? cuts[i] : N_SEQUENCES;

        learn_sequences(policy, &batch, first, last, use);
        first = last;
    }
    assert_ok(policy_finish_gradients(policy));
}

/* The same in one piece. */
static inline void learn_whole(struct policy *policy, enum mtp_use use)
{
    const size_t none = 0;

    learn_pieces(policy, &none, 0, use);
}

#endif
