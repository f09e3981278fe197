/* Drafts change no token and no log-probability: the engine with them against the engine without,
 * for every kind of module, number of drafts, batch, chunk, thread count and distribution. */
#include "base/memory.h"
#include "base/random.h"
#include "model/precision.h"
#include "rollout/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define N_GROUPS ((size_t)5)
#define N_SAMPLES ((size_t)4)
#define MAX_TOKENS ((size_t)27)
#define PROMPT_MAX (2 * KV_BLOCK_TOKENS + 8)
#define ROWS_MAX ((size_t)256)
#define END_TOKEN 2

struct outcome {
    int32_t tokens[N_GROUPS][N_SAMPLES][MAX_TOKENS];
    float logprobs[N_GROUPS][N_SAMPLES][MAX_TOKENS];
    size_t n_tokens[N_GROUPS][N_SAMPLES];
    enum finish finish[N_GROUPS][N_SAMPLES];
};

enum module_kind { ONE_MODULE, TWO_MODULES, PRE_NORM, SPARSE, N_KINDS };

struct plan {
    size_t n_drafts, max_num_seqs, max_batch_tokens, n_threads, kv_pages, spec_max_batch;
    enum module_kind kind;
    struct sampling_params sampling;
    enum precision precision;
    enum kv_cache_dtype cache;
    bool is_measured;
};

#define PLAIN                                                                                      \
    {                                                                                              \
        .temperature = 1.0F, .top_p = 1.0F                                                         \
    }
#define GREEDY                                                                                     \
    {                                                                                              \
        .temperature = 0.0F, .top_p = 1.0F                                                         \
    }
#define CUT                                                                                        \
    {                                                                                              \
        .temperature = 0.7F, .top_p = 0.9F, .top_k = 12, .min_p = 0.02F                            \
    }

static size_t prompt_length(size_t group)
{
    static const size_t lengths[N_GROUPS] = {1, KV_BLOCK_TOKENS - 4, KV_BLOCK_TOKENS,
                                             KV_BLOCK_TOKENS + 1, PROMPT_MAX};

    return lengths[group];
}

static void make_config(enum module_kind kind, struct model_config *model)
{
    assert_int_equal(model_config_preset("tiny", model), STATUS_OK);
    model->eos_ids[0] = END_TOKEN;
    model->n_eos_ids = 1;
    model->n_mtp_modules = kind == TWO_MODULES ? 2 : 1;
    model->has_pre_norm_mtp = kind == PRE_NORM;
    if (kind == SPARSE) {
        model->family = MODEL_DEEPSEEK_V32;
        model->index_n_heads = 3;
        model->index_head_dim = 12;
        model->index_topk = 5;
    }
}

static struct policy *make_policy(const struct plan *plan, struct backend **backend)
{
    const struct policy_options options = {.max_rows = ROWS_MAX,
                                           .max_draws = 8,
                                           .n_drafts = plan->n_drafts,
                                           .precision = plan->precision,
                                           .cache = precision_cache(plan->cache, plan->precision)};
    struct model_config model;
    struct policy *policy = NULL;

    make_config(plan->kind, &model);
    assert_int_equal(backend_open("cpu", plan->n_threads, backend), STATUS_OK);
    assert_int_equal(policy_create(*backend, &model, &options, &policy), STATUS_OK);
    weights_init(&model, policy_table(policy), 7, policy_weights(policy));
    assert_int_equal(policy_refresh(policy), STATUS_OK);
    return policy;
}

static void submit(struct engine *engine, const struct model_config *model, size_t group,
                   const struct sampling_params *sampling)
{
    static const int32_t samples[N_SAMPLES] = {0, 1, 2, 3};
    int32_t prompt[PROMPT_MAX];

    for (size_t i = 0; i < prompt_length(group); i++) {
        prompt[i] = (int32_t)random_below(9, RANDOM_TEST, group, i, model->vocab_size);
    }
    const struct engine_request request = {.seed = 42,
                                           .group = group,
                                           .prompt = prompt,
                                           .n_prompt = prompt_length(group),
                                           .samples = samples,
                                           .n_samples = N_SAMPLES,
                                           .max_tokens = MAX_TOKENS - group,
                                           .sampling = *sampling};
    assert_int_equal(engine_submit(engine, &request), STATUS_OK);
}

static void take(struct outcome *outcome, const struct completion *completions, size_t n)
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
}

static struct engine *make_engine(struct policy *policy, const struct plan *plan)
{
    const struct engine_options options = {.max_num_seqs = plan->max_num_seqs,
                                           .max_batch_tokens = plan->max_batch_tokens,
                                           .max_sequence = PROMPT_MAX + MAX_TOKENS,
                                           .kv_cache_bytes =
                                               plan->kv_pages * policy_cache_page_bytes(policy),
                                           .n_drafts = plan->n_drafts,
                                           .spec_max_batch = plan->spec_max_batch};
    struct engine *engine = NULL;

    assert_int_equal(engine_create(policy, &options, &engine), STATUS_OK);
    if (plan->is_measured) {
        assert_int_equal(engine_measure(engine), STATUS_OK);
    }
    return engine;
}

static struct engine_stats run_engine(struct engine *engine, const struct model_config *model,
                                      const struct plan *plan, struct outcome *outcome)
{
    size_t n_tokens = 0;
    const uint64_t n_before = engine_tokens_drawn(engine);

    memset(outcome, 0, sizeof(*outcome));
    for (size_t i = 0; i < N_GROUPS; i++) {
        submit(engine, model, i, &plan->sampling);
    }
    while (!engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        size_t n = 0;

        assert_int_equal(engine_tick(engine, &completions, &n), STATUS_OK);
        take(outcome, completions, n);
    }
    for (size_t i = 0; i < N_GROUPS * N_SAMPLES; i++) {
        assert_int_not_equal(outcome->n_tokens[i / N_SAMPLES][i % N_SAMPLES], 0);
        n_tokens += outcome->n_tokens[i / N_SAMPLES][i % N_SAMPLES];
    }
    assert_int_equal(engine_tokens_drawn(engine) - n_before, n_tokens);
    return engine_stats(engine);
}

static struct engine_stats run_plan(const struct plan *plan, struct outcome *outcome)
{
    struct backend *backend = NULL;
    const size_t n_live = memory_live_blocks();
    struct policy *policy = make_policy(plan, &backend);
    struct engine *engine = make_engine(policy, plan);
    const struct engine_stats stats = run_engine(engine, policy_config(policy), plan, outcome);

    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
    assert_int_equal(memory_live_blocks(), n_live);
    return stats;
}

/* Those that must give the same samples stand together. */
static const struct plan plans[] = {
    {1, 64, 256, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {1, 1, 8, 2, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {2, 3, 8, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {3, 17, 33, 2, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {8, 64, 17, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {3, 64, 256, 1, 7, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {2, 64, 2, 1, 12, 3, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {2, 64, 256, 2, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, true},
    {1, 3, 64, 1, 0, 0, ONE_MODULE, GREEDY, PRECISION_F32, KV_CACHE_AUTO, false},
    {3, 64, 256, 2, 0, 4, ONE_MODULE, GREEDY, PRECISION_F32, KV_CACHE_AUTO, false},
    {1, 17, 64, 1, 0, 0, ONE_MODULE, CUT, PRECISION_F32, KV_CACHE_AUTO, false},
    {3, 1, 16, 1, 0, 0, ONE_MODULE, CUT, PRECISION_F32, KV_CACHE_AUTO, false},
    {1, 3, 64, 1, 0, 0, TWO_MODULES, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {2, 64, 256, 2, 0, 0, TWO_MODULES, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {3, 5, 9, 1, 9, 0, TWO_MODULES, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {1, 3, 64, 1, 0, 0, PRE_NORM, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {3, 64, 256, 1, 0, 0, PRE_NORM, CUT, PRECISION_F32, KV_CACHE_AUTO, false},
    {1, 3, 64, 1, 0, 0, SPARSE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {3, 64, 33, 2, 0, 0, SPARSE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false},
    {2, 3, 64, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_BF16, KV_CACHE_AUTO, false},
    {3, 64, 33, 2, 0, 0, ONE_MODULE, PLAIN, PRECISION_BF16, KV_CACHE_AUTO, false},
    {2, 3, 64, 1, 0, 0, TWO_MODULES, CUT, PRECISION_FP8, KV_CACHE_AUTO, false},
    {3, 64, 33, 2, 0, 0, TWO_MODULES, CUT, PRECISION_FP8, KV_CACHE_AUTO, false},
    {2, 64, 256, 1, 0, 0, SPARSE, PLAIN, PRECISION_FP8, KV_CACHE_AUTO, false},
    {2, 5, 9, 1, 9, 0, TWO_MODULES, PLAIN, PRECISION_F32, KV_CACHE_FP8, false},
    {3, 64, 33, 2, 0, 0, TWO_MODULES, PLAIN, PRECISION_F32, KV_CACHE_FP8, false},
    {2, 64, 256, 1, 0, 0, SPARSE, PLAIN, PRECISION_BF16, KV_CACHE_FP8, false},
};

/* Whether two plans must give the same samples. */
static bool draws_the_same(const struct plan *a, const struct plan *b)
{
    return a->kind == b->kind && a->precision == b->precision && a->cache == b->cache &&
           a->sampling.top_k == b->sampling.top_k && /* one of PLAIN, GREEDY, CUT */
           (a->sampling.temperature > 0.0F) == (b->sampling.temperature > 0.0F);
}

static void samples_do_not_depend_on_drafts(void **state)
{
    static struct outcome reference;
    static struct outcome outcome;
    struct plan last = {.kind = N_KINDS};
    (void)state;

    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        const struct plan *plan = &plans[i];

        if (!draws_the_same(plan, &last)) {
            last = (struct plan){.kind = plan->kind,
                                 .max_num_seqs = 64,
                                 .max_batch_tokens = 256,
                                 .n_threads = 1,
                                 .sampling = plan->sampling,
                                 .precision = plan->precision,
                                 .cache = plan->cache};
            assert_int_equal(run_plan(&last, &reference).n_fed, 0);
        }
        const struct engine_stats stats = run_plan(plan, &outcome);

        assert_memory_equal(&outcome, &reference, sizeof(outcome));
        if (!plan->is_measured && plan->spec_max_batch == 0) {
            assert_true(stats.n_right > 0);
            assert_true(stats.n_fed > stats.n_right); /* and wrong ones were rolled back */
            assert_true(stats.n_turn_tokens > stats.n_turns);
            assert_true(stats.n_turn_tokens <= stats.n_turns + stats.n_right);
        }
    }
}

static void drafts_save_turns(void **state)
{
    static const struct plan plan = {
        1, 1, 64, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false};
    static struct outcome outcome;
    (void)state;

    const struct engine_stats stats = run_plan(&plan, &outcome);
    assert_true(stats.n_turns < stats.n_turn_tokens);
    assert_true(stats.n_fed <= stats.n_turns);
}

static void an_engine_draws_the_same_after_other_weights_and_measuring(void **state)
{
    static const struct plan plan = {
        2, 3, 64, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, true};
    static struct outcome first;
    static struct outcome second;
    struct backend *backend = NULL;
    struct policy *policy = make_policy(&plan, &backend);
    struct engine *engine = make_engine(policy, &plan);
    (void)state;

    (void)run_engine(engine, policy_config(policy), &plan, &first);
    assert_int_equal(engine_measure(engine), STATUS_OK);
    const size_t n_blocks = memory_total_blocks();
    engine_cancel(engine, 99);
    submit(engine, policy_config(policy), 3, &plan.sampling);
    for (size_t i = 0; i < 4; i++) {
        const struct completion *completions = NULL;
        size_t n = 0;

        assert_int_equal(engine_tick(engine, &completions, &n), STATUS_OK);
    }
    engine_cancel(engine, 3); /* with drafts and pages in hand */
    assert_true(engine_is_idle(engine));
    assert_int_equal(memory_total_blocks(), n_blocks + 1); /* the group */
    (void)run_engine(engine, policy_config(policy), &plan, &second);
    assert_memory_equal(&first, &second, sizeof(first));
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

/* The first versions of the weights time turns again, later ones find that settled. */
static void what_drafts_cost_is_timed_a_few_times(void **state)
{
    static const struct plan plan = {
        2, 3, 64, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, true};
    struct backend *backend = NULL;
    struct policy *policy = make_policy(&plan, &backend);
    struct engine *engine = make_engine(policy, &plan);
    size_t n_times = 1, n_blocks = 0;
    (void)state;

    do {
        n_blocks = memory_total_blocks();
        assert_int_equal(engine_measure(engine), STATUS_OK);
        n_times++;
    } while (memory_total_blocks() > n_blocks && n_times < 100);
    assert_true(n_times > 3 && n_times < 12);
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

/* A module of nonsense: its logits are not finite, so that nothing is drafted. */
static void a_broken_module_costs_no_token(void **state)
{
    static const struct plan plan = {
        2, 3, 64, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false};
    static struct outcome want;
    static struct outcome outcome;
    struct backend *backend = NULL;
    struct policy *policy = make_policy(&plan, &backend);
    const struct weight_table *table = policy_table(policy);
    (void)state;

    (void)run_plan(&plan, &want);
    for (size_t i = 0; i < table->n_rows; i++) {
        for (size_t j = 0; table->rows[i].is_mtp && j < table->rows[i].count; j++) {
            policy_weights(policy)[table->rows[i].offset + j] = 3e30F;
        }
    }
    assert_int_equal(policy_refresh(policy), STATUS_OK);
    struct engine *engine = make_engine(policy, &plan);
    const struct engine_stats stats = run_engine(engine, policy_config(policy), &plan, &outcome);
    assert_memory_equal(&outcome, &want, sizeof(want));
    assert_int_equal(stats.n_right, 0);
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

static void create_fails_cleanly_at_every_allocation(void **state)
{
    static const struct plan plan = {
        2, 3, 64, 1, 0, 0, ONE_MODULE, PLAIN, PRECISION_F32, KV_CACHE_AUTO, false};
    const struct engine_options options = {
        .max_num_seqs = 2, .max_batch_tokens = 8, .max_sequence = 64, .n_drafts = 2};
    struct backend *backend = NULL;
    struct policy *policy = make_policy(&plan, &backend);
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
    const size_t n_live_engine = memory_live_blocks();
    status = STATUS_NO_MEMORY;
    for (long n = 0; status != STATUS_OK; n++) {
        memory_fail_after(n);
        status = engine_measure(engine);
        memory_fail_after(-1);
        assert_true(status == STATUS_OK || status == STATUS_NO_MEMORY);
        assert_true(memory_live_blocks() >= n_live_engine); /* the backend keeps its scratch */
    }
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_do_not_depend_on_drafts),
        cmocka_unit_test(drafts_save_turns),
        cmocka_unit_test(an_engine_draws_the_same_after_other_weights_and_measuring),
        cmocka_unit_test(what_drafts_cost_is_timed_a_few_times),
        cmocka_unit_test(a_broken_module_costs_no_token),
        cmocka_unit_test(create_fails_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
