/* A step of decoding takes nothing from the heap, whatever the model. */
#include "base/memory.h"
#include "rollout/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define N_STEPS ((size_t)100)
#define N_PROMPT ((size_t)30)
#define N_SEQUENCES ((size_t)9)
#define MAX_TOKENS (N_STEPS + 8)

static void submit_all(struct engine *engine, size_t vocab)
{
    static const int32_t samples[] = {0, 1, 2};
    int32_t prompt[N_PROMPT];

    for (size_t group = 0; group < N_SEQUENCES / 3; group++) {
        for (size_t i = 0; i < N_PROMPT; i++) {
            prompt[i] = (int32_t)((group * 31 + i * 17) % vocab);
        }
        assert_ok(engine_submit(
            engine, &(struct engine_request){.group = group,
                                             .prompt = prompt,
                                             .n_prompt = N_PROMPT - group,
                                             .samples = samples,
                                             .n_samples = 3,
                                             .max_tokens = MAX_TOKENS,
                                             .sampling = {.temperature = 1, .top_p = 0.9F}}));
    }
}

static void tick(struct engine *engine)
{
    const struct completion *completions = NULL;
    size_t n = 0;

    assert_ok(engine_tick(engine, &completions, &n));
}

static void decode(struct policy *policy, const char *name)
{
    struct engine *engine = NULL;

    assert_ok(engine_create(policy,
                            &(struct engine_options){.max_num_seqs = N_SEQUENCES,
                                                     .max_batch_tokens = 64,
                                                     .max_sequence = N_PROMPT + MAX_TOKENS},
                            &engine));
    submit_all(engine, policy_config(policy)->vocab_size);
    for (size_t i = 0; i < 6; i++) { /* prompts; the backend's scratch grows to its size */
        tick(engine);
    }
    const size_t n_blocks = memory_total_blocks();
    const uint64_t n_drawn = engine_tokens_drawn(engine);
    for (size_t i = 0; i < N_STEPS; i++) {
        tick(engine);
    }
    assert_int_equal(engine_tokens_drawn(engine) - n_drawn, N_STEPS * N_SEQUENCES);
    if (memory_total_blocks() != n_blocks) {
        fail_msg("%s: %zu blocks", name, memory_total_blocks() - n_blocks);
    }
    engine_destroy(engine);
}

static void check_preset(const char *name, enum precision cache)
{
    struct model_config config;
    struct backend *backend = NULL;
    struct policy *policy = NULL;

    assert_ok(model_config_preset(name, &config));
    config.n_eos_ids = 0;
    assert_ok(backend_open("cpu", 2, &backend));
    assert_ok(policy_create(
        backend, &config,
        &(struct policy_options){.max_rows = 64, .max_draws = N_SEQUENCES, .cache = cache},
        &policy));
    weights_init(&config, policy_table(policy), 1, policy_weights(policy));
    assert_ok(policy_refresh(policy));
    decode(policy, name);
    policy_destroy(policy);
    backend_close(backend);
}

static void a_hundred_steps_allocate_nothing(void **state)
{
    static const char *const presets[] = {"tiny", "v2", "v32", "llama", "qwen3-moe", "demo"};

    (void)state;
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        check_preset(presets[i], PRECISION_F32);
        check_preset(presets[i], PRECISION_FP8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hundred_steps_allocate_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
