/* A prompt as long as the model has positions for, in small chunks among sequences that decode: the
 * same bits as at once, and nobody waits for it. */
#include "base/random.h"
#include "rollout/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define N_POSITIONS (6 * KV_BLOCK_TOKENS)
#define N_SHORT ((size_t)5)
#define N_SAMPLES ((size_t)3)
#define MAX_TOKENS ((size_t)40)
#define LONG_GROUP ((uint64_t)1)

struct outcome {
    int32_t tokens[2][N_SAMPLES][MAX_TOKENS];
    float logprobs[2][N_SAMPLES][MAX_TOKENS];
    size_t n_tokens[2][N_SAMPLES];
    size_t n_drawn_before; /* tokens of the others when the long prompt was through */
};

struct setting {
    size_t n_drafts, max_batch_tokens;
    bool is_tight; /* pages of one sequence of full length */
};

static void make_config(struct model_config *model, bool is_sparse)
{
    assert_ok(model_config_preset(is_sparse ? "v32" : "tiny", model));
    model->max_positions = N_POSITIONS;
    model->n_eos_ids = 0;
    model->n_mtp_modules = 1;
}

static void submit(struct engine *engine, size_t vocab, uint64_t group, size_t n_prompt,
                   size_t max_tokens)
{
    static const int32_t samples[N_SAMPLES] = {0, 1, 2};
    int32_t prompt[N_POSITIONS];

    for (size_t i = 0; i < n_prompt; i++) {
        prompt[i] = (int32_t)random_below(3, RANDOM_TEST, group, i, vocab);
    }
    assert_ok(engine_submit(
        engine, &(struct engine_request){.seed = 5,
                                         .group = group,
                                         .prompt = prompt,
                                         .n_prompt = n_prompt,
                                         .samples = samples,
                                         .n_samples = N_SAMPLES,
                                         .max_tokens = max_tokens,
                                         .sampling = {.temperature = 1.0F, .top_p = 1.0F}}));
}

static void take(struct outcome *outcome, const struct completion *completions, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct completion *c = &completions[i];

        if (c->group == LONG_GROUP && outcome->n_drawn_before == 0) {
            outcome->n_drawn_before = SIZE_MAX; /* to be filled by the caller */
        }
        outcome->n_tokens[c->group][c->sample] = c->n_tokens;
        memcpy(outcome->tokens[c->group][c->sample], c->tokens, c->n_tokens * sizeof(int32_t));
        memcpy(outcome->logprobs[c->group][c->sample], c->logprobs, c->n_tokens * sizeof(float));
    }
}

static void run(struct policy *policy, const struct setting *setting, struct outcome *outcome)
{
    const size_t n_pages = N_POSITIONS / KV_BLOCK_TOKENS + 1;
    const struct engine_options options = {
        .max_num_seqs = 2 * N_SAMPLES,
        .max_batch_tokens = setting->max_batch_tokens,
        .max_sequence = N_POSITIONS,
        .kv_cache_bytes = setting->is_tight ? n_pages * policy_cache_page_bytes(policy) : 0,
        .n_drafts = setting->n_drafts};
    const size_t vocab = policy_config(policy)->vocab_size;
    struct engine *engine = NULL;

    memset(outcome, 0, sizeof(*outcome));
    assert_ok(engine_create(policy, &options, &engine));
    submit(engine, vocab, 0, N_SHORT, MAX_TOKENS);
    submit(engine, vocab, LONG_GROUP, N_POSITIONS - 1, 1);
    while (!engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        const uint64_t n_drawn = engine_tokens_drawn(engine);
        size_t n = 0;

        assert_ok(engine_tick(engine, &completions, &n));
        take(outcome, completions, n);
        if (outcome->n_drawn_before == SIZE_MAX) {
            outcome->n_drawn_before = n_drawn;
        }
    }
    engine_destroy(engine);
}

static void check(bool is_sparse, enum precision precision, enum precision cache)
{
    static const struct setting at_once = {0, N_POSITIONS + 64, false};
    static const struct setting settings[] = {
        {0, 16, false}, {0, 7, false}, {2, 31, false}, {0, 16, true}, {1, 64, true},
    };
    static struct outcome reference;
    static struct outcome outcome;
    struct model_config model;
    struct backend *backend = NULL;
    struct policy *policy = NULL;

    make_config(&model, is_sparse);
    assert_ok(backend_open("cpu", 2, &backend));
    assert_ok(policy_create(backend, &model,
                            &(struct policy_options){.max_rows = N_POSITIONS + 64,
                                                     .max_draws = 2 * N_SAMPLES,
                                                     .n_drafts = 2,
                                                     .precision = precision,
                                                     .cache = cache},
                            &policy));
    weights_init(&model, policy_table(policy), 7, policy_weights(policy));
    assert_ok(policy_refresh(policy));
    run(policy, &at_once, &reference);
    assert_true(reference.n_drawn_before < MAX_TOKENS);
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        run(policy, &settings[i], &outcome);
        assert_memory_equal(outcome.tokens, reference.tokens, sizeof(outcome.tokens));
        assert_memory_equal(outcome.logprobs, reference.logprobs, sizeof(outcome.logprobs));
        assert_memory_equal(outcome.n_tokens, reference.n_tokens, sizeof(outcome.n_tokens));
        /* The others went on while its chunks came. */
        assert_true(outcome.n_drawn_before >= N_SAMPLES * (N_POSITIONS / 64 - 1));
    }
    policy_destroy(policy);
    backend_close(backend);
}

static void a_prompt_of_all_positions_in_chunks_changes_no_bit(void **state)
{
    (void)state;
    check(false, PRECISION_F32, PRECISION_F32);
    check(false, PRECISION_FP8, PRECISION_F32);
    check(false, PRECISION_BF16, PRECISION_FP8);
}

static void neither_does_it_with_sparse_attention(void **state)
{
    (void)state;
    check(true, PRECISION_F32, PRECISION_F32);
    check(true, PRECISION_F32, PRECISION_FP8);
}

static void a_longer_one_is_refused(void **state)
{
    static const int32_t sample = 0;
    static const int32_t prompt[N_POSITIONS] = {0};
    struct model_config model;
    struct backend *backend = NULL;
    struct policy *policy = NULL;
    struct engine *engine = NULL;
    (void)state;

    make_config(&model, false);
    assert_ok(backend_open("cpu", 1, &backend));
    assert_ok(policy_create(backend, &model,
                            &(struct policy_options){.max_rows = 16, .max_draws = 1}, &policy));
    assert_ok(engine_create(policy,
                            &(struct engine_options){.max_num_seqs = 1,
                                                     .max_batch_tokens = 16,
                                                     .max_sequence = N_POSITIONS},
                            &engine));
    assert_status(engine_submit(engine, &(struct engine_request){.prompt = prompt,
                                                                 .n_prompt = N_POSITIONS,
                                                                 .samples = &sample,
                                                                 .n_samples = 1,
                                                                 .max_tokens = 1}),
                  STATUS_BAD_ARGUMENT, "do not fit");
    assert_true(engine_is_idle(engine));
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_of_all_positions_in_chunks_changes_no_bit),
        cmocka_unit_test(neither_does_it_with_sparse_attention),
        cmocka_unit_test(a_longer_one_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
