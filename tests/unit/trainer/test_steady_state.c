/* A training step takes nothing from the heap, whatever the model and however rows are packed. */
#include "base/memory.h"
#include "trainer/learner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define N_STEPS 10
#define N_SEQUENCES ((size_t)6)
#define LENGTH_MAX ((size_t)24)

static enum status a_gradient(void *context, size_t sequence_index, const float *logp,
                              const float *entropy, size_t n, float *g)
{
    (void)context, (void)sequence_index, (void)logp, (void)entropy;
    for (size_t i = 0; i < n; i++) {
        g[i] = 1e-3F;
    }
    return STATUS_OK;
}

/* Sequences of all lengths, three a prompt, so that every step packs them anew. */
static void fill_sequences(int32_t tokens[N_SEQUENCES][LENGTH_MAX], size_t vocab, size_t step,
                           struct train_sequence *sequences)
{
    for (size_t i = 0; i < N_SEQUENCES; i++) {
        const size_t n = 4 + (step * 7 + i * 5) % (LENGTH_MAX - 4);
        for (size_t j = 0; j < LENGTH_MAX; j++) {
            tokens[i][j] = (int32_t)((step + i * 31 + j * 17) % vocab);
        }
        sequences[i] = (struct train_sequence){.prompt = tokens[i / 3],
                                               .n_prompt = 3,
                                               .response = tokens[i] + 3,
                                               .n_response = n - 3,
                                               .group = i / 3};
    }
}

static void learn(struct learner *learner, size_t step)
{
    static int32_t tokens[N_SEQUENCES][LENGTH_MAX];
    struct train_sequence sequences[N_SEQUENCES];
    struct update_stats stats;
    const struct update_args args = {
        .sequences = sequences, .n = N_SEQUENCES, .learning_rate = 1e-4, .gradient = a_gradient};

    fill_sequences(tokens, policy_config(learner_policy(learner))->vocab_size, step, sequences);
    assert_ok(learner_update(learner, &args, &stats));
}

static struct learner_options options_for(const struct model_config *config)
{
    return (struct learner_options){
        .optimizer = {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .max_grad_norm = 1},
        .micro_batch_tokens = 48,
        .max_sequence_rows = LENGTH_MAX,
        .sampling = {.temperature = 1, .top_p = 0.9F},
        .shares_prompts = true,
        .trains_mtp = config->n_mtp_modules > 0,
        .mtp_coef = 0.1,
        .balance = POLICY_BALANCE_BATCH,
        .balance_coef = config->n_experts > 0 ? 0.01 : 0,
        .indexer = config->index_n_heads > 0 ? POLICY_INDEXER_SPARSE : POLICY_INDEXER_OFF,
        .indexer_coef = 1};
}

static const char *const presets[] = {"tiny",  "v2",    "v32",       "tied",
                                      "llama", "qwen3", "qwen3-moe", "demo"};

static void ten_updates_allocate_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        struct model_config config;
        struct backend *backend = NULL;
        struct policy *policy = NULL;
        struct learner *learner = NULL;
        assert_ok(model_config_preset(presets[i], &config));
        const struct learner_options options = options_for(&config);
        assert_ok(backend_open("cpu", 2, &backend));
        assert_ok(
            policy_create(backend, &config,
                          &(struct policy_options){.max_rows = learner_max_rows(&options),
                                                   .max_entries = learner_max_entries(&options),
                                                   .max_draws = 1,
                                                   .is_trainable = true},
                          &policy));
        weights_init(&config, policy_table(policy), 1, policy_weights(policy));
        assert_ok(policy_refresh(policy));
        assert_ok(learner_create(backend, policy, &options, &learner));
        learn(learner, 0); /* the backend's scratch grows to its size */
        learn(learner, 1);
        const size_t n_blocks = memory_total_blocks();
        for (size_t step = 0; step < N_STEPS; step++) {
            learn(learner, step);
        }
        if (memory_total_blocks() != n_blocks) {
            fail_msg("%s: %zu blocks", presets[i], memory_total_blocks() - n_blocks);
        }
        learner_destroy(learner);
        policy_destroy(policy);
        backend_close(backend);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_updates_allocate_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
