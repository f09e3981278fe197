/* The table of memory that a run prints before it starts, against what is then on the heap. */
#include "base/memory.h"
#include "cli/model_memory.h"
#include "configs/config.h"
#include "rollout/engine.h"
#include "rollout/rollout.h"
#include "trainer/grpo.h"
#include "trainer/learner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define PROMPT ((size_t)20)
#define RESPONSE ((size_t)44)
#define SEQUENCES ((size_t)64)

static void configure(struct run_config *run)
{
    *run = (struct run_config){0};
    run->data.max_prompt_length = PROMPT;
    run->rollout.max_completion_length = RESPONSE;
    run->rollout.temperature = 1.0;
    run->rollout.top_p = 1.0;
    run->rollout.max_num_seqs = 32;
    run->rollout.max_batch_tokens = 512;
    run->grpo.prompts_per_step = 8;
    run->grpo.num_generations = 4;
    run->model.mtp_train = true;
    run->model.mtp_coef = 0.1;
    run->optim.adam_beta1 = 0.9;
    run->optim.adam_beta2 = 0.95;
    run->optim.adam_epsilon = 1e-8;
    run->optim.max_grad_norm = 1.0;
    run->optim.micro_batch_tokens = 2048;
}

static enum status a_gradient(void *context, size_t sequence_index, const float *logp,
                              const float *entropy, size_t n, float *g)
{
    (void)context, (void)sequence_index, (void)logp, (void)entropy;
    for (size_t i = 0; i < n; i++) {
        g[i] = 1e-3F;
    }
    return STATUS_OK;
}

static void learn(struct learner *learner)
{
    static int32_t tokens[PROMPT + RESPONSE];
    struct train_sequence sequences[SEQUENCES];
    struct update_stats stats;
    const size_t vocab = policy_config(learner_policy(learner))->vocab_size;

    for (size_t i = 0; i < PROMPT + RESPONSE; i++) {
        tokens[i] = (int32_t)(i * 17 % vocab);
    }
    for (size_t i = 0; i < SEQUENCES; i++) {
        sequences[i] = (struct train_sequence){.prompt = tokens,
                                               .n_prompt = PROMPT,
                                               .response = tokens + PROMPT,
                                               .n_response = RESPONSE,
                                               .group = i};
    }
    assert_ok(learner_update(
        learner,
        &(struct update_args){
            .sequences = sequences, .n = SEQUENCES, .learning_rate = 1e-4, .gradient = a_gradient},
        &stats));
}

static void sample(struct engine *engine, size_t vocab)
{
    static const int32_t samples[] = {0};
    int32_t prompt[PROMPT];

    for (size_t i = 0; i < PROMPT; i++) {
        prompt[i] = (int32_t)(i * 17 % vocab);
    }
    for (size_t i = 0; i < 32; i++) {
        assert_ok(engine_submit(
            engine, &(struct engine_request){.group = i,
                                             .prompt = prompt,
                                             .n_prompt = PROMPT,
                                             .samples = samples,
                                             .n_samples = 1,
                                             .max_tokens = RESPONSE,
                                             .sampling = {.temperature = 1, .top_p = 1}}));
    }
    while (!engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        size_t n = 0;
        assert_ok(engine_tick(engine, &completions, &n));
    }
}

static struct policy *open_policy(struct backend *backend, const struct model_config *model,
                                  const struct policy_options *options)
{
    struct policy *policy = NULL;

    assert_ok(policy_create(backend, model, options, &policy));
    weights_init(model, policy_table(policy), 1, policy_weights(policy));
    assert_ok(policy_refresh(policy));
    return policy;
}

/* Kernels take scratch beside what is told, and host arrays are small. */
static void check(const char *name, const char *role, size_t told, size_t used)
{
    const size_t scratch = told / 16 + ((size_t)3 << 19);

    if (used < told || used > told + scratch) {
        fail_msg("%s, %s: the table has %zu bytes, %zu are used", name, role, told, used);
    }
}

static void trainer_uses(const char *name, const struct run_config *run,
                         const struct model_config *model, size_t told)
{
    const struct learner_options options = grpo_learner_options(run);
    const size_t before = memory_live_bytes();
    struct backend *backend = NULL;
    struct learner *learner = NULL;
    assert_ok(backend_open("cpu", 2, &backend));
    struct policy *policy =
        open_policy(backend, model,
                    &(struct policy_options){.max_rows = learner_max_rows(&options),
                                             .max_entries = learner_max_entries(&options),
                                             .max_draws = 1,
                                             .is_trainable = true});

    assert_ok(learner_create(backend, policy, &options, &learner));
    learn(learner);
    check(name, "trainer", told, memory_live_bytes() - before);
    learner_destroy(learner);
    policy_destroy(policy);
    backend_close(backend);
}

static void sampler_uses(const char *name, const struct run_config *run,
                         const struct model_config *model, size_t told)
{
    const struct engine_options options = rollout_engine_options(run);
    const size_t before = memory_live_bytes();
    struct backend *backend = NULL;
    struct engine *engine = NULL;
    assert_ok(backend_open("cpu", 2, &backend));
    const struct policy_options policy_options = engine_policy_options(&options);
    struct policy *policy = open_policy(backend, model, &policy_options);
    const size_t given_back =
        policy_table(policy)->n_floats * sizeof(float) - policy_memory(policy).weights;

    assert_ok(engine_create(policy, &options, &engine));
    sample(engine, model->vocab_size);
    check(name, "worker", told, memory_live_bytes() - before - given_back);
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

static void the_table_holds_what_a_step_uses(void **state)
{
    static const char *const presets[] = {"demo", "small", "tiny", "v32", "llama", "qwen3-moe"};
    struct run_config run;

    (void)state;
    configure(&run);
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        struct model_config model;
        struct model_memory trainer, worker;
        assert_ok(model_config_preset(presets[i], &model));
        assert_ok(model_memory_measure(&run, &model, &trainer, &worker));
        trainer_uses(presets[i], &run, &model, trainer.total);
        sampler_uses(presets[i], &run, &model, worker.total - worker.bytes[MODEL_MEMORY_RECEIVED]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_holds_what_a_step_uses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
