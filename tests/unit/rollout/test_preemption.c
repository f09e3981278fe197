/* A cache so small that samples are put off and computed anew, and prompts that find their
 * beginning computed already: neither changes a token or a log-probability, in any precision, with
 * drafts or without, however the work is cut. */
#include "base/memory.h"
#include "base/random.h"
#include "model/precision.h"
#include "rollout/engine.h"
#include "rollout/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define N_GROUPS ((size_t)3)
#define N_SAMPLES ((size_t)5)
#define MAX_TOKENS (3 * KV_BLOCK_TOKENS - 5)
#define PROMPT_MAX (KV_BLOCK_TOKENS + 5)
#define SEQUENCE_MAX (PROMPT_MAX + MAX_TOKENS)
#define ROWS_MAX ((size_t)256)
#define DRAFTS ((size_t)3)

struct outcome {
    int32_t tokens[N_GROUPS][N_SAMPLES][MAX_TOKENS];
    float logprobs[N_GROUPS][N_SAMPLES][MAX_TOKENS];
    size_t n_tokens[N_GROUPS][N_SAMPLES];
};

struct setting {
    size_t n_drafts, max_num_seqs, max_batch_tokens;
    size_t n_extra; /* pages beside those of one sequence; SIZE_MAX: room for all */
};

static const struct setting roomy = {
    .max_num_seqs = 64, .max_batch_tokens = ROWS_MAX, .n_extra = SIZE_MAX};

static struct policy *make_policy(enum precision precision, enum kv_cache_dtype cache,
                                  size_t n_threads, size_t n_modules, struct backend **backend)
{
    const struct policy_options options = {.max_rows = ROWS_MAX,
                                           .max_draws = 64,
                                           .n_drafts = DRAFTS,
                                           .precision = precision,
                                           .cache = precision_cache(cache, precision)};
    struct model_config model;
    struct policy *policy = NULL;

    assert_ok(model_config_preset("tiny", &model));
    model.n_eos_ids = 0;
    model.n_mtp_modules = n_modules;
    assert_ok(backend_open("cpu", n_threads, backend));
    assert_ok(policy_create(*backend, &model, &options, &policy));
    weights_init(&model, policy_table(policy), 7, policy_weights(policy));
    assert_ok(policy_refresh(policy));
    return policy;
}

static size_t prompt_length(size_t group)
{
    static const size_t lengths[N_GROUPS] = {KV_BLOCK_TOKENS + 3, 1, PROMPT_MAX};

    return lengths[group];
}

/* n_common: tokens that all prompts begin with. */
static void submit(struct engine *engine, size_t vocab, size_t group, size_t n_common)
{
    static const int32_t samples[N_SAMPLES] = {0, 1, 2, 3, 4};
    int32_t prompt[PROMPT_MAX];

    for (size_t i = 0; i < prompt_length(group); i++) {
        prompt[i] = (int32_t)random_below(9, RANDOM_TEST, i < n_common ? 99 : group, i, vocab);
    }
    assert_ok(engine_submit(
        engine, &(struct engine_request){.seed = 42,
                                         .group = group,
                                         .prompt = prompt,
                                         .n_prompt = prompt_length(group),
                                         .samples = samples,
                                         .n_samples = N_SAMPLES,
                                         .max_tokens = MAX_TOKENS - group * 7,
                                         .sampling = {.temperature = 1.0F, .top_p = 1.0F}}));
}

static struct engine *make_engine(struct policy *policy, const struct setting *setting)
{
    const size_t n_pages = kv_cache_pages_for(SEQUENCE_MAX) + 1 + setting->n_extra;
    const struct engine_options options = {
        .max_num_seqs = setting->max_num_seqs,
        .max_batch_tokens = setting->max_batch_tokens,
        .max_sequence = SEQUENCE_MAX,
        .kv_cache_bytes =
            setting->n_extra == SIZE_MAX ? 0 : n_pages * policy_cache_page_bytes(policy),
        .n_drafts = setting->n_drafts};
    struct engine *engine = NULL;

    assert_ok(engine_create(policy, &options, &engine));
    return engine;
}

static void run(struct engine *engine, struct outcome *outcome)
{
    while (!engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        size_t n = 0;

        assert_ok(engine_tick(engine, &completions, &n));
        for (size_t i = 0; i < n; i++) {
            const struct completion *c = &completions[i];
            const size_t group = c->group;

            assert_int_equal(outcome->n_tokens[group][c->sample], 0);
            outcome->n_tokens[group][c->sample] = c->n_tokens;
            memcpy(outcome->tokens[group][c->sample], c->tokens, c->n_tokens * sizeof(int32_t));
            memcpy(outcome->logprobs[group][c->sample], c->logprobs, c->n_tokens * sizeof(float));
        }
    }
}

static struct engine_stats run_setting(struct policy *policy, const struct setting *setting,
                                       struct outcome *outcome)
{
    struct engine *engine = make_engine(policy, setting);

    memset(outcome, 0, sizeof(*outcome));
    for (size_t i = 0; i < N_GROUPS; i++) {
        submit(engine, policy_config(policy)->vocab_size, i, 0);
    }
    run(engine, outcome);
    const struct engine_stats stats = engine_stats(engine);
    engine_destroy(engine);
    return stats;
}

static void check_settings(enum precision precision, enum kv_cache_dtype cache, size_t n_threads,
                           const struct setting *settings, size_t n)
{
    static struct outcome reference;
    static struct outcome outcome;
    struct backend *backend = NULL;
    struct policy *policy = make_policy(precision, cache, n_threads, n_threads, &backend);

    assert_int_equal(run_setting(policy, &roomy, &reference).n_preempted, 0);
    for (size_t i = 0; i < n; i++) {
        const struct engine_stats stats = run_setting(policy, &settings[i], &outcome);

        assert_memory_equal(&outcome, &reference, sizeof(outcome));
        if (settings[i].max_num_seqs > 1) {
            assert_true(stats.n_preempted > 0);
            assert_true(stats.n_resumed_tokens > stats.n_preempted);
        }
        assert_true(settings[i].n_drafts == 0 || stats.n_right > 0);
    }
    policy_destroy(policy);
    backend_close(backend);
}

/* Drafts, sequences, rows of a forward, pages. */
static const struct setting some[] = {{0, 64, 64, 2}, {3, 17, 7, 3}, {2, 3, 64, 0}};
static const struct setting others[] = {{0, 17, 7, 1}, {1, 64, 64, 4}, {3, 3, 7, 1}};
/* Room for about half of the samples: fewer and larger forwards, that threads share. */
static const struct setting wide[] = {{0, 64, 64, 20}, {3, 17, 64, 16}};

static void preemption_changes_no_bit(void **state)
{
    static const struct setting settings[] = {
        {0, 1, 64, 0}, {0, 3, 1, 0},  {0, 17, 7, 2},  {0, 64, 64, 1},
        {3, 1, 7, 0},  {3, 3, 64, 0}, {1, 17, 64, 2}, {2, 64, 7, 5},
    };

    (void)state;
    check_settings(PRECISION_F32, KV_CACHE_AUTO, 1, settings,
                   sizeof(settings) / sizeof(settings[0]));
}

static void preemption_changes_no_bit_with_two_threads_and_modules(void **state)
{
    static const struct setting narrow[] = {{3, 17, 7, 3}};

    (void)state;
    check_settings(PRECISION_F32, KV_CACHE_AUTO, 2, narrow, sizeof(narrow) / sizeof(narrow[0]));
    check_settings(PRECISION_F32, KV_CACHE_AUTO, 2, wide, sizeof(wide) / sizeof(wide[0]));
}

static void preemption_changes_no_bit_in_bf16(void **state)
{
    (void)state;
    check_settings(PRECISION_BF16, KV_CACHE_AUTO, 1, some, sizeof(some) / sizeof(some[0]));
    check_settings(PRECISION_BF16, KV_CACHE_AUTO, 2, wide, sizeof(wide) / sizeof(wide[0]));
}

static void preemption_changes_no_bit_in_fp8(void **state)
{
    (void)state;
    check_settings(PRECISION_FP8, KV_CACHE_AUTO, 1, others, sizeof(others) / sizeof(others[0]));
    check_settings(PRECISION_FP8, KV_CACHE_AUTO, 2, wide, sizeof(wide) / sizeof(wide[0]));
}

static void preemption_changes_no_bit_with_a_cache_in_fp8(void **state)
{
    (void)state;
    check_settings(PRECISION_F32, KV_CACHE_FP8, 1, others, sizeof(others) / sizeof(others[0]));
    check_settings(PRECISION_BF16, KV_CACHE_FP8, 2, wide, sizeof(wide) / sizeof(wide[0]));
}

/* All prompts at once, then each again under the same weights, then under others. */
static void a_known_beginning_changes_no_bit(void **state)
{
    static const struct setting settings[] = {
        {0, 64, 64, SIZE_MAX}, {2, 64, 7, SIZE_MAX}, {2, 3, 64, 3}, {0, 64, ROWS_MAX, 12}};
    static struct outcome reference;
    static struct outcome outcome;
    struct backend *backend = NULL;
    struct policy *policy = make_policy(PRECISION_F32, KV_CACHE_AUTO, 1, 1, &backend);
    const size_t vocab = policy_config(policy)->vocab_size;
    (void)state;

    memset(&reference, 0, sizeof(reference));
    for (size_t i = 0; i < N_GROUPS; i++) {
        struct engine *engine = make_engine(policy, &roomy); /* which knows nothing */

        submit(engine, vocab, i, KV_BLOCK_TOKENS + 1);
        run(engine, &reference);
        assert_int_equal(engine_stats(engine).n_prefix_tokens, 0);
        engine_destroy(engine);
    }
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        struct engine *engine = make_engine(policy, &settings[i]);
        uint64_t n_prefix_tokens = 0;

        for (size_t round = 0; round < 2; round++) {
            memset(&outcome, 0, sizeof(outcome));
            for (size_t j = 0; j < N_GROUPS; j++) {
                submit(engine, vocab, j, KV_BLOCK_TOKENS + 1);
            }
            run(engine, &outcome);
            assert_memory_equal(&outcome, &reference, sizeof(outcome));
            assert_true(engine_stats(engine).n_prefix_tokens > n_prefix_tokens);
            n_prefix_tokens = engine_stats(engine).n_prefix_tokens;
        }
        assert_ok(engine_measure(engine)); /* as when other weights have come */
        submit(engine, vocab, 2, KV_BLOCK_TOKENS + 1);
        memset(&outcome, 0, sizeof(outcome));
        run(engine, &outcome);
        assert_true(engine_stats(engine).n_prefix_tokens == n_prefix_tokens ||
                    engine_stats(engine).n_preempted > 0);
        engine_destroy(engine);
    }
    policy_destroy(policy);
    backend_close(backend);
}

static void a_tick_allocates_nothing_when_samples_are_put_off(void **state)
{
    static const struct setting setting = {2, 17, 64, 12};
    static struct outcome outcome;
    struct backend *backend = NULL;
    struct policy *policy = make_policy(PRECISION_F32, KV_CACHE_AUTO, 2, 1, &backend);
    (void)state;

    (void)run_setting(policy, &setting, &outcome); /* warm */
    struct engine *engine = make_engine(policy, &setting);
    for (size_t i = 0; i < N_GROUPS; i++) {
        submit(engine, policy_config(policy)->vocab_size, i, 0);
    }
    const size_t n_blocks = memory_total_blocks();
    memset(&outcome, 0, sizeof(outcome));
    run(engine, &outcome);
    assert_int_equal(memory_total_blocks(), n_blocks);
    assert_true(engine_stats(engine).n_preempted > 0);
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preemption_changes_no_bit),
        cmocka_unit_test(preemption_changes_no_bit_with_two_threads_and_modules),
        cmocka_unit_test(preemption_changes_no_bit_in_bf16),
        cmocka_unit_test(preemption_changes_no_bit_in_fp8),
        cmocka_unit_test(preemption_changes_no_bit_with_a_cache_in_fp8),
        cmocka_unit_test(a_known_beginning_changes_no_bit),
        cmocka_unit_test(a_tick_allocates_nothing_when_samples_are_put_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
