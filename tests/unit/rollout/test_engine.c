/* The engine over the tiny model: the same samples however they are batched, and the trainer's
 * log-probabilities bit for bit. */
#include "base/memory.h"
#include "base/random.h"
#include "rollout/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define N_GROUPS ((size_t)5)
#define N_SAMPLES ((size_t)4)
#define MAX_TOKENS ((size_t)21)
#define PROMPT_MAX (2 * KV_BLOCK_TOKENS + 8)
#define ROWS_MAX ((size_t)512)
#define DRAWS_MAX ((size_t)64)

struct outcome {
    int32_t tokens[N_GROUPS][N_SAMPLES][MAX_TOKENS];
    float logprobs[N_GROUPS][N_SAMPLES][MAX_TOKENS];
    size_t n_tokens[N_GROUPS][N_SAMPLES];
    enum finish finish[N_GROUPS][N_SAMPLES];
};

struct plan {
    size_t max_num_seqs, max_batch_tokens, n_threads;
    bool is_reversed;
};

static const struct sampling_params sampling = {.temperature = 1.0F, .top_p = 1.0F};

static size_t prompt_length(size_t group)
{
    static const size_t lengths[N_GROUPS] = {1, KV_BLOCK_TOKENS - 4, KV_BLOCK_TOKENS,
                                             KV_BLOCK_TOKENS + 1, PROMPT_MAX};

    return lengths[group];
}

static void fill_prompt(const struct model_config *model, size_t group, int32_t *prompt)
{
    for (size_t i = 0; i < prompt_length(group); i++) {
        prompt[i] = (int32_t)random_below(9, RANDOM_TEST, group, i, model->vocab_size);
    }
}

static struct policy *make_policy(size_t n_threads, struct backend **backend)
{
    const struct policy_options options = {.max_rows = ROWS_MAX, .max_draws = DRAWS_MAX};
    struct model_config model;
    struct policy *policy = NULL;

    assert_int_equal(model_config_preset("tiny", &model), STATUS_OK);
    if (model.vocab_size == 0) {
        model.vocab_size = 64;
    }
    model.eos_ids[0] = 2;
    model.n_eos_ids = 1;
    assert_int_equal(backend_open("cpu", n_threads, backend), STATUS_OK);
    assert_int_equal(policy_create(*backend, &model, &options, &policy), STATUS_OK);
    weights_init(&model, policy_table(policy), 7, policy_weights(policy));
    assert_int_equal(policy_refresh(policy), STATUS_OK);
    return policy;
}

static void submit(struct engine *engine, const struct model_config *model, size_t group)
{
    static const int32_t samples[N_SAMPLES] = {0, 1, 2, 3};
    int32_t prompt[PROMPT_MAX];

    fill_prompt(model, group, prompt);
    const struct engine_request request = {.seed = 42,
                                           .group = group,
                                           .prompt = prompt,
                                           .n_prompt = prompt_length(group),
                                           .samples = samples,
                                           .n_samples = N_SAMPLES,
                                           .max_tokens = MAX_TOKENS,
                                           .sampling = sampling};
    assert_int_equal(engine_submit(engine, &request), STATUS_OK);
}

static size_t take(struct outcome *outcome, const struct completion *completions, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct completion *completion = &completions[i];
        const size_t group = completion->group;
        const size_t idx = completion->sample;

        assert_int_equal(outcome->n_tokens[group][idx], 0);
        outcome->n_tokens[group][idx] = completion->n_tokens;
        outcome->finish[group][idx] = completion->finish;
        memcpy(outcome->tokens[group][idx], completion->tokens,
               completion->n_tokens * sizeof(int32_t));
        memcpy(outcome->logprobs[group][idx], completion->logprobs,
               completion->n_tokens * sizeof(float));
    }
    return n;
}

static void run_policy(struct policy *policy, const struct plan *plan, struct outcome *outcome)
{
    const struct engine_options options = {.max_num_seqs = plan->max_num_seqs,
                                           .max_batch_tokens = plan->max_batch_tokens,
                                           .max_sequence = PROMPT_MAX + MAX_TOKENS};
    struct engine *engine = NULL;
    size_t n_finished = 0;

    memset(outcome, 0, sizeof(*outcome));
    assert_int_equal(engine_create(policy, &options, &engine), STATUS_OK);
    for (size_t i = 0; i < N_GROUPS; i++) {
        submit(engine, policy_config(policy), plan->is_reversed ? N_GROUPS - 1 - i : i);
    }
    assert_int_equal(engine_queued(engine), N_GROUPS * N_SAMPLES);
    while (!engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        size_t n = 0;

        assert_int_equal(engine_tick(engine, &completions, &n), STATUS_OK);
        n_finished += take(outcome, completions, n);
    }
    assert_int_equal(n_finished, N_GROUPS * N_SAMPLES);
    engine_destroy(engine);
}

static void run_plan(const struct plan *plan, struct outcome *outcome)
{
    struct backend *backend = NULL;
    const size_t n_live = memory_live_blocks();
    struct policy *policy = make_policy(plan->n_threads, &backend);

    run_policy(policy, plan, outcome);
    policy_destroy(policy);
    backend_close(backend);
    assert_int_equal(memory_live_blocks(), n_live);
}

static void samples_do_not_depend_on_batching_threads_or_order(void **state)
{
    static const struct plan plans[] = {
        {1, 8, 1, false},  {3, 8, 1, true},    {64, 8, 2, false}, {1, 512, 2, true},
        {3, 512, 1, true}, {64, 512, 2, true}, {5, 33, 1, false},
    };
    static const struct plan reference_plan = {64, 512, 1, false};
    static struct outcome reference;
    static struct outcome outcome;
    (void)state;

    run_plan(&reference_plan, &reference);
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        run_plan(&plans[i], &outcome);
        assert_memory_equal(&outcome, &reference, sizeof(outcome));
    }
}

/* Logs of what was sampled against the training forward over whole sequences. */
static void check_sequence(struct policy *policy, const struct outcome *outcome, size_t group,
                           size_t idx)
{
    const size_t n_prompt = prompt_length(group);
    const size_t n = outcome->n_tokens[group][idx];
    const size_t offsets[2] = {0, n_prompt + n};
    int32_t tokens[PROMPT_MAX + MAX_TOKENS];
    int32_t rows[MAX_TOKENS];
    float logp[MAX_TOKENS];

    fill_prompt(policy_config(policy), group, tokens);
    memcpy(tokens + n_prompt, outcome->tokens[group][idx], n * sizeof(int32_t));
    for (size_t i = 0; i < n; i++) {
        rows[i] = (int32_t)(n_prompt + i - 1);
    }
    const struct policy_batch batch = {.tokens = tokens,
                                       .n_rows = n_prompt + n,
                                       .offsets = offsets,
                                       .n_sequences = 1,
                                       .target_rows = rows,
                                       .targets = tokens + n_prompt,
                                       .n_targets = n,
                                       .sampling = sampling};
    assert_int_equal(policy_forward(policy, &batch, logp, NULL), STATUS_OK);
    assert_memory_equal(logp, outcome->logprobs[group][idx], n * sizeof(float));
}

static void sampled_logprobs_are_the_trainers_bit_for_bit(void **state)
{
    static const struct plan plan = {3, 8, 1, false};
    static struct outcome outcome;
    struct backend *backend = NULL;
    struct policy *policy = make_policy(1, &backend);
    (void)state;

    run_policy(policy, &plan, &outcome);
    for (size_t i = 0; i < N_GROUPS * N_SAMPLES; i++) {
        check_sequence(policy, &outcome, i / N_SAMPLES, i % N_SAMPLES);
    }
    policy_destroy(policy);
    backend_close(backend);
}

static void sequences_end_at_the_models_end_token_or_at_max_tokens(void **state)
{
    static const struct plan plan = {64, 512, 1, false};
    static struct outcome outcome;
    (void)state;

    run_plan(&plan, &outcome);
    for (size_t i = 0; i < N_GROUPS * N_SAMPLES; i++) {
        const size_t n = outcome.n_tokens[i / N_SAMPLES][i % N_SAMPLES];
        const int32_t last = outcome.tokens[i / N_SAMPLES][i % N_SAMPLES][n - 1];

        if (outcome.finish[i / N_SAMPLES][i % N_SAMPLES] == FINISH_STOP) {
            assert_int_equal(last, 2);
        } else {
            assert_int_equal(n, MAX_TOKENS);
            assert_int_not_equal(last, 2);
        }
    }
}

static void a_tick_allocates_nothing_once_the_backend_is_warm(void **state)
{
    static const struct plan plan = {64, 512, 2, false};
    static struct outcome outcome;
    const struct engine_options options = {
        .max_num_seqs = 64, .max_batch_tokens = 512, .max_sequence = PROMPT_MAX + MAX_TOKENS};
    struct backend *backend = NULL;
    struct policy *policy = make_policy(2, &backend);
    struct engine *engine = NULL;
    (void)state;

    run_policy(policy, &plan, &outcome);
    run_policy(policy, &plan, &outcome); /* scratch that grew in pieces is joined by now */
    assert_int_equal(engine_create(policy, &options, &engine), STATUS_OK);
    for (size_t i = 0; i < N_GROUPS; i++) {
        submit(engine, policy_config(policy), i);
    }
    const size_t n_blocks = memory_total_blocks();
    while (!engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        size_t n = 0;

        assert_int_equal(engine_tick(engine, &completions, &n), STATUS_OK);
    }
    assert_int_equal(memory_total_blocks(), n_blocks);
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

static void an_engine_without_work_does_nothing(void **state)
{
    const struct engine_options options = {
        .max_num_seqs = 2, .max_batch_tokens = 8, .max_sequence = PROMPT_MAX + MAX_TOKENS};
    struct backend *backend = NULL;
    struct policy *policy = make_policy(1, &backend);
    struct engine *engine = NULL;
    const struct completion *completions = NULL;
    size_t n = 1;
    (void)state;

    assert_int_equal(engine_create(policy, &options, &engine), STATUS_OK);
    assert_true(engine_is_idle(engine));
    assert_int_equal(engine_tick(engine, &completions, &n), STATUS_OK);
    assert_int_equal(n, 0);
    submit(engine, policy_config(policy), 1);
    assert_int_equal(engine_tick(engine, &completions, &n), STATUS_OK);
    engine_cancel(engine, 1);
    assert_true(engine_is_idle(engine));
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

static void create_fails_cleanly_at_every_allocation(void **state)
{
    const struct engine_options options = {
        .max_num_seqs = 2, .max_batch_tokens = 8, .max_sequence = PROMPT_MAX + MAX_TOKENS};
    struct backend *backend = NULL;
    struct policy *policy = make_policy(1, &backend);
    struct engine *engine = NULL;
    const size_t n_live = memory_live_blocks();
    enum status status = STATUS_NO_MEMORY;
    (void)state;

    for (long n = 0; status != STATUS_OK; n++) {
        memory_fail_after(n);
        status = engine_create(policy, &options, &engine);
        memory_fail_after(-1);
        if (status != STATUS_OK) {
            assert_int_equal(status, STATUS_NO_MEMORY);
            assert_null(engine);
            assert_int_equal(memory_live_blocks(), n_live);
        }
    }
    engine_destroy(engine);
    engine_destroy(NULL);
    assert_int_equal(memory_live_blocks(), n_live);
    policy_destroy(policy);
    backend_close(backend);
}

static void a_cache_too_small_for_one_sequence_is_refused(void **state)
{
    struct backend *backend = NULL;
    struct policy *policy = make_policy(1, &backend);
    const struct engine_options options = {.max_num_seqs = 2,
                                           .max_batch_tokens = 8,
                                           .max_sequence = 64,
                                           .kv_cache_bytes = policy_cache_page_bytes(policy)};
    struct engine *engine = NULL;
    (void)state;

    assert_int_equal(engine_create(policy, &options, &engine), STATUS_BAD_CONFIG);
    assert_null(engine);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_do_not_depend_on_batching_threads_or_order),
        cmocka_unit_test(sampled_logprobs_are_the_trainers_bit_for_bit),
        cmocka_unit_test(sequences_end_at_the_models_end_token_or_at_max_tokens),
        cmocka_unit_test(a_tick_allocates_nothing_once_the_backend_is_warm),
        cmocka_unit_test(an_engine_without_work_does_nothing),
        cmocka_unit_test(create_fails_cleanly_at_every_allocation),
        cmocka_unit_test(a_cache_too_small_for_one_sequence_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
