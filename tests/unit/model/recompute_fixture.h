/* Owns what the tests of activations that are made again share: a policy that keeps all of them
 * beside one that makes them again, taught the same. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_MODEL_RECOMPUTE_FIXTURE_H
#define HONE_TESTS_UNIT_MODEL_RECOMPUTE_FIXTURE_H

#include "tests/unit/model/policy_fixture.h"

#include <string.h>

#define N_LAYERS_MAX ((size_t)5)
#define N_MODULES_MAX ((size_t)2)
#define N_EXPERTS_MAX ((size_t)16)
#define LONGEST ((size_t)48)

/* What is trained how, and whether someone looks inside before the backward pass. */
struct lesson {
    enum mtp_use use;
    enum policy_indexer_loss indexer;
    bool balances, looks;
};

/* What can be told of a policy by running it; looked at and gradients are blocks of bytes. */
struct outcome {
    float logp[MAX_ROWS], entropy[MAX_ROWS], mtp_logp[N_MODULES_MAX][MAX_ROWS];
    uint32_t counts[N_LAYERS_MAX * N_EXPERTS_MAX];
    double indexer_losses[N_LAYERS_MAX], balance_loss;
};
struct bytes {
    float *data;
    size_t n;
};

static inline struct policy *make(struct backend *backend, bool recomputes)
{
    const struct policy_options options = {.max_rows = MAX_ROWS,
                                           .max_draws = 1,
                                           .is_trainable = true,
                                           .precision = precision,
                                           .cache = cache_precision,
                                           .recomputes = recomputes};
    struct model_config config;

    variant_config(&config);
    config.n_layers++; /* so that one lies between the first and the last */
    return policy_of(backend, &config, &options);
}

static inline size_t modules_of(const struct policy *policy, const struct lesson *lesson)
{
    return lesson->use == WITHOUT_MTP ? 0 : policy_config(policy)->n_mtp_modules;
}

/* Of the batch's sequences from `first` on. */
static inline void run_forward(struct policy *policy, const struct batch *batch, size_t first,
                               const struct lesson *lesson, struct outcome *out)
{
    struct mtp_rows mtp;

    forward(policy, batch, first, N_SEQUENCES, plain, out->logp, out->entropy);
    for (size_t i = 0; i < modules_of(policy, lesson); i++) {
        list_mtp_rows(batch, first, N_SEQUENCES, i, &mtp);
        assert_ok(
            policy_mtp_forward(policy,
                               &(struct policy_mtp_args){.module = i,
                                                         .target_rows = mtp.rows,
                                                         .targets = mtp.targets,
                                                         .n_targets = mtp.n,
                                                         .detached = lesson->use == MTP_DETACHED},
                               out->mtp_logp[i]));
    }
    policy_expert_counts(policy, out->counts);
}

static inline void run_backward(struct policy *policy, const struct batch *batch, size_t first,
                                const struct lesson *lesson, struct outcome *out)
{
    const size_t begin = batch->offsets[first];
    struct mtp_rows mtp;

    for (size_t i = modules_of(policy, lesson); i-- > 0;) {
        list_mtp_rows(batch, first, N_SEQUENCES, i, &mtp);
        assert_ok(policy_mtp_backward(policy, mtp.g));
    }
    assert_ok(policy_backward(policy, batch->g + begin, batch->h + begin));
    policy_indexer_losses(policy, out->indexer_losses);
    out->balance_loss = policy_balance_loss(policy);
}

/* Room for n rows of width numbers, NULL without looking. */
static inline float *take(struct bytes *seen, size_t n, size_t width)
{
    float *at = seen->data + seen->n;

    seen->n += n * width;
    return at;
}

static inline struct policy_trace trace_of(const struct policy *policy, const struct lesson *lesson,
                                           struct bytes *seen)
{
    const struct model_config *config = policy_config(policy);
    const size_t rows = MAX_ROWS, modules = modules_of(policy, lesson);
    const int32_t *layers;
    const size_t routes = policy_moe_layers(policy, &layers) * config->experts_per_token;
    struct policy_trace trace = {
        .hidden = take(seen, rows * config->n_layers, config->hidden_size),
        .normed = take(seen, rows, config->hidden_size),
        .logits = take(seen, rows, config->vocab_size),
        .indices = (int32_t *)(void *)take(seen, rows, routes),
        .weights = take(seen, rows, routes),
    };

    if (modules > 0) {
        trace.mtp_hidden = take(seen, rows * modules, config->hidden_size);
        trace.mtp_logits = take(seen, rows * modules, config->vocab_size);
    }
    if (config->index_n_heads > 0) {
        trace.index_scores = take(seen, rows * config->n_layers, LONGEST);
        trace.index_selected =
            (int32_t *)(void *)take(seen, rows * config->n_layers, config->index_topk);
    }
    return trace;
}

/* Everything that can be read, layers' inputs from the first to the last. */
static inline void look(struct policy *policy, const struct lesson *lesson, struct bytes *seen)
{
    static const enum policy_input inputs[] = {POLICY_INPUT_PROJECT, POLICY_INPUT_Q_B,
                                               POLICY_INPUT_O, POLICY_INPUT_GATE,
                                               POLICY_INPUT_DOWN};
    const struct policy_trace trace = trace_of(policy, lesson, seen);

    assert_ok(policy_read_trace(policy, &trace));
    for (size_t i = 0; i < policy_config(policy)->n_layers; i++) {
        for (size_t j = 0; j < sizeof(inputs) / sizeof(inputs[0]); j++) {
            const size_t width = policy_input_width(policy, i, inputs[j]);

            if (width > 0) {
                assert_ok(policy_read_input(policy, i, inputs[j], take(seen, MAX_ROWS, width)));
            }
        }
    }
}

static inline void begin(struct policy *policy, const struct lesson *lesson)
{
    const struct policy_balance balance = {.kind = POLICY_BALANCE_SEQUENCE,
                                           .coefficient = lesson->balances ? 0.5 : 0.0,
                                           .n_sequences = N_SEQUENCES};

    assert_ok(policy_set_balance(policy, &balance));
    if (lesson->indexer != POLICY_INDEXER_OFF) {
        assert_ok(policy_set_indexer_loss(policy, lesson->indexer, 0.3f));
    }
}

/* The gradients of two batches, four sequences and the last two of them; what was seen in *seen. */
static inline void run(struct policy *policy, const struct lesson *lesson, struct outcome *out,
                       struct bytes *seen)
{
    struct batch batch;

    memset(out, 0, sizeof(*out));
    memset(policy_gradients(policy), 0, policy_table(policy)->n_floats * sizeof(float));
    seen->n = 0;
    batch_fill(&batch);
    begin(policy, lesson);
    for (size_t first = 1; first <= 3; first += 2) {
        run_forward(policy, &batch, first, lesson, out);
        if (lesson->looks) {
            look(policy, lesson, seen);
        }
        run_backward(policy, &batch, first, lesson, out);
        if (lesson->looks) {
            look(policy, lesson, seen);
        }
    }
    assert_ok(policy_finish_gradients(policy));
}

#define SEEN_FLOATS ((size_t)1 << 20)
static float seen_floats[2][SEEN_FLOATS];

/* A policy that keeps all activations, and one that makes them again. */
struct pair {
    struct backend *backend;
    struct policy *policies[2];
};

static inline struct pair open_pair(size_t n_threads)
{
    struct pair pair = {.backend = open_backend("cpu", n_threads)};

    for (size_t i = 0; i < 2; i++) {
        pair.policies[i] = make(pair.backend, i == 1);
    }
    return pair;
}

static inline void close_pair(struct pair *pair)
{
    for (size_t i = 0; i < 2; i++) {
        policy_destroy(pair->policies[i]);
    }
    backend_close(pair->backend);
}

static inline void compare(const struct pair *pair, const struct lesson *lesson)
{
    struct outcome outcomes[2];
    struct bytes seen[2] = {{.data = seen_floats[0]}, {.data = seen_floats[1]}};

    for (size_t i = 0; i < 2; i++) {
        run(pair->policies[i], lesson, &outcomes[i], &seen[i]);
        assert_true(seen[i].n <= SEEN_FLOATS && (seen[i].n > 0) == lesson->looks);
    }
    assert_memory_equal(&outcomes[0], &outcomes[1], sizeof(outcomes[0]));
    assert_true(memcmp(policy_gradients(pair->policies[0]), policy_gradients(pair->policies[1]),
                       policy_table(pair->policies[0])->n_floats * sizeof(float)) == 0);
    assert_int_equal(seen[0].n, seen[1].n);
    assert_true(memcmp(seen[0].data, seen[1].data, seen[0].n * sizeof(float)) == 0);
}

#endif
