/* An engine that gives memory back while there is nothing to sample, and then samples on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "rollout/engine.h"
#include "tests/support/support.h"

#include <string.h>

#define N_PROMPT (2 * KV_BLOCK_TOKENS + 9)
#define N_SAMPLES ((size_t)4)
#define MAX_TOKENS ((size_t)12)
#define LARGE_CACHE ((size_t)48 << 20)
#define SMALL_CACHE ((size_t)1 << 20)
#define ROUNDS ((size_t)3)

struct outcome {
    int32_t tokens[N_SAMPLES][MAX_TOKENS];
    float logprobs[N_SAMPLES][MAX_TOKENS];
    size_t n_tokens[N_SAMPLES];
};

struct sampler {
    struct backend *backend;
    struct policy *policy;
    struct engine *engine;
};

static struct sampler open_sampler(size_t cache_bytes)
{
    const struct engine_options options = {.max_num_seqs = 8,
                                           .max_batch_tokens = 256,
                                           .max_sequence = N_PROMPT + MAX_TOKENS,
                                           .kv_cache_bytes = cache_bytes,
                                           .n_drafts = 2};
    const struct policy_options sizes = engine_policy_options(&options);
    struct sampler sampler;
    struct model_config model;

    assert_ok(model_config_preset("tiny", &model));
    assert_ok(backend_open("cpu", 2, &sampler.backend));
    assert_ok(policy_create(sampler.backend, &model, &sizes, &sampler.policy));
    weights_init(&model, policy_table(sampler.policy), 7, policy_weights(sampler.policy));
    assert_ok(policy_refresh(sampler.policy));
    assert_ok(engine_create(sampler.policy, &options, &sampler.engine));
    return sampler;
}

static void close_sampler(const struct sampler *sampler)
{
    engine_destroy(sampler->engine);
    policy_destroy(sampler->policy);
    backend_close(sampler->backend);
}

/* A group of the one prompt. */
static void sample(struct engine *engine, uint64_t group, struct outcome *out)
{
    static const int32_t samples[N_SAMPLES] = {0, 1, 2, 3};
    int32_t prompt[N_PROMPT];

    for (size_t i = 0; i < N_PROMPT; i++) {
        prompt[i] = (int32_t)random_below(5, RANDOM_TEST, 0, i, 64);
    }
    memset(out, 0, sizeof(*out));
    assert_ok(engine_submit(engine,
                            &(struct engine_request){.seed = 42,
                                                     .group = group,
                                                     .prompt = prompt,
                                                     .n_prompt = N_PROMPT,
                                                     .samples = samples,
                                                     .n_samples = N_SAMPLES,
                                                     .max_tokens = MAX_TOKENS,
                                                     .sampling = {.temperature = 1, .top_p = 1}}));
    while (!engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        size_t n = 0;

        assert_ok(engine_tick(engine, &completions, &n));
        for (size_t i = 0; i < n; i++) {
            const struct completion *c = &completions[i];

            out->n_tokens[c->sample] = c->n_tokens;
            memcpy(out->tokens[c->sample], c->tokens, c->n_tokens * sizeof(int32_t));
            memcpy(out->logprobs[c->sample], c->logprobs, c->n_tokens * sizeof(float));
        }
    }
}

static void samples_behind_a_rest_are_those_without(void **state)
{
    const struct sampler awake = open_sampler(LARGE_CACHE), resting = open_sampler(LARGE_CACHE);

    (void)state;
    for (uint64_t group = 0; group < ROUNDS; group++) {
        struct outcome want, got;

        sample(awake.engine, group, &want);
        sample(resting.engine, group, &got);
        assert_memory_equal(&want, &got, sizeof(want));
        engine_rest(resting.engine);
        engine_rest(resting.engine); /* again: nothing more to give */
    }
    /* Of the prompt that comes again nothing is found where its pages are gone. */
    assert_true(engine_stats(awake.engine).n_prefix_tokens > 0);
    assert_int_equal(engine_stats(resting.engine).n_prefix_tokens, 0);
    close_sampler(&resting);
    close_sampler(&awake);
}

static void a_small_cache_stays_and_its_prompts_are_found(void **state)
{
    const struct sampler sampler = open_sampler(SMALL_CACHE);
    struct outcome first, second;

    (void)state;
    sample(sampler.engine, 0, &first);
    engine_rest(sampler.engine);
    sample(sampler.engine, 0, &second);
    assert_memory_equal(&first, &second, sizeof(first));
    assert_true(engine_stats(sampler.engine).n_prefix_tokens > 0);
    close_sampler(&sampler);
}

static void a_rest_allocates_nothing(void **state)
{
    const struct sampler sampler = open_sampler(LARGE_CACHE);
    struct outcome outcome;
    size_t n_total = 0;

    (void)state;
    for (uint64_t group = 0; group < ROUNDS; group++) {
        sample(sampler.engine, 0, &outcome);
        n_total = group == 0 ? memory_total_blocks() : n_total;
        engine_rest(sampler.engine);
    }
    /* Each group is submitted: a copy of its request and a sequence for each sample. */
    const size_t n_submitted = memory_total_blocks() - n_total;

    sample(sampler.engine, 0, &outcome);
    assert_true(2 * (memory_total_blocks() - n_total - n_submitted) == n_submitted);
    close_sampler(&sampler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_behind_a_rest_are_those_without),
        cmocka_unit_test(a_small_cache_stays_and_its_prompts_are_found),
        cmocka_unit_test(a_rest_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
