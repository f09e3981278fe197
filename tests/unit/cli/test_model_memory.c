/* The table of memory that a run prints before it starts, against what is then on the heap. */
#include "base/memory.h"
#include "cli/model_memory.h"
#include "configs/config.h"
#include "rollout/engine.h"
#include "rollout/rollout.h"
#include "trainer/grpo.h"
#include "trainer/learner.h"
#include "trainer/setup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define PROMPT ((size_t)20)
#define RESPONSE ((size_t)44)
#define LISTS_MAX ((size_t)320 << 10)
#define SEQUENCES ((size_t)9) /* a micro-batch and one more */

static void configure(struct run_config *run)
{
    static char device[] = "cpu";

    *run = (struct run_config){0};
    run->run.device = device;
    run->run.threads = 2;
    run->rollout.threads = 2;
    run->data.max_prompt_length = PROMPT;
    run->rollout.max_completion_length = RESPONSE;
    run->rollout.temperature = 1.0;
    run->rollout.top_p = 1.0;
    run->rollout.max_num_seqs = 16;
    run->rollout.max_batch_tokens = 256;
    run->grpo.prompts_per_step = 8;
    run->grpo.num_generations = 4;
    run->grpo.num_minibatches = 1;
    run->model.mtp_train = true;
    run->model.mtp_coef = 0.1;
    run->optim.adam_beta1 = 0.9;
    run->optim.adam_beta2 = 0.95;
    run->optim.adam_epsilon = 1e-8;
    run->optim.max_grad_norm = 1.0;
    run->optim.micro_batch_tokens = 512;
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
    for (size_t i = 0; i < 16; i++) {
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

/* Numbers as good as random here: drawing millions takes longer than the steps. */
static void fill_weights(struct policy *policy)
{
    const struct weight_table *table = policy_table(policy);
    uint32_t state = 1;

    for (size_t i = 0; i < table->n_rows; i++) {
        float *values = policy_weights(policy) + table->rows[i].offset;

        for (size_t j = 0; j < table->rows[i].count; j++) {
            state = state * 1664525U + 1013904223U;
            values[j] = table->rows[i].n_dims == 1 ? 1.0F : (float)(int32_t)state * 0x1p-36F;
        }
    }
}

static struct policy *open_policy(struct backend *backend, const struct model_config *model,
                                  const struct policy_options *options)
{
    struct policy *policy = NULL;

    assert_ok(policy_create(backend, model, options, &policy));
    fill_weights(policy);
    assert_ok(policy_refresh(policy));
    return policy;
}

/* Beside what is told there are lists on the host. */
static void check(const char *name, const char *role, size_t told, size_t used)
{
    if (used < told || used > told + LISTS_MAX) {
        fail_msg("%s, %s: the table has %zu bytes, %zu are used", name, role, told, used);
    }
}

static void trainer_uses(const char *name, const struct run_config *run,
                         const struct model_config *model, const struct model_memory *told)
{
    const struct learner_options options = grpo_learner_options(run);
    const size_t before = memory_live_bytes();
    struct backend *backend = NULL;
    struct learner *learner = NULL;
    struct policy_options sizes;

    assert_ok(setup_policy_options(run, model, &options, &sizes));
    assert_ok(backend_open("cpu", 2, &backend));
    assert_ok(setup_rehearse(backend, model, &options, &sizes, false));
    struct policy *policy = open_policy(backend, model, &sizes);

    assert_ok(learner_create(backend, policy, &options, &learner));
    learn(learner);
    assert_int_equal(backend_scratch_bytes(backend), told->bytes[MODEL_MEMORY_SCRATCH]);
    check(name, "trainer", told->total, memory_live_bytes() - before);
    learner_destroy(learner);
    policy_destroy(policy);
    backend_close(backend);
}

static void sampler_uses(const char *name, const struct run_config *run,
                         const struct model_config *model, const struct model_memory *told)
{
    const struct engine_options options = rollout_engine_options(run);
    const struct policy_options sizes = engine_policy_options(&options);
    const size_t before = memory_live_bytes();
    struct backend *backend = NULL;
    struct engine *engine = NULL;

    assert_ok(backend_open("cpu", 2, &backend));
    assert_ok(engine_rehearse(backend, model, &options));
    struct policy *policy = open_policy(backend, model, &sizes);
    const size_t given_back =
        policy_table(policy)->n_floats * sizeof(float) - policy_memory(policy).weights;

    assert_ok(engine_create(policy, &options, &engine));
    sample(engine, model->vocab_size);
    assert_int_equal(backend_scratch_bytes(backend), told->bytes[MODEL_MEMORY_SCRATCH]);
    check(name, "worker", told->total - told->bytes[MODEL_MEMORY_RECEIVED],
          memory_live_bytes() - before - given_back);
    engine_destroy(engine);
    policy_destroy(policy);
    backend_close(backend);
}

static void check_model(const char *name, const struct run_config *run,
                        const struct model_config *model)
{
    struct model_memory trainer, worker;

    assert_ok(model_memory_measure(run, model, &trainer, &worker));
    assert_true(trainer.bytes[MODEL_MEMORY_SCRATCH] > 0 && worker.bytes[MODEL_MEMORY_SCRATCH] > 0);
    trainer_uses(name, run, model, &trainer);
    sampler_uses(name, run, model, &worker);
}

static void the_table_holds_what_a_step_uses(void **state)
{
    static const char *const presets[] = {"demo", "small", "tiny", "v32", "llama", "qwen3-moe"};
    struct run_config run;

    (void)state;
    configure(&run);
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        struct model_config model;

        assert_ok(model_config_preset(presets[i], &model));
        check_model(presets[i], &run, &model);
    }
}

static void precisions_and_activations_made_again_are_told_apart(void **state)
{
    struct run_config run;
    struct model_config model;

    (void)state;
    configure(&run);
    assert_ok(model_config_preset("demo", &model));
    run.optim.activation_checkpointing = ACTIVATIONS_LAYER;
    for (size_t i = 0; i < 3; i++) {
        run.model.dtype = (enum model_dtype)i;
        check_model("demo, activations made again", &run, &model);
    }
}

/* SmolLM2's width with two layers and an eighth of its tied vocabulary. */
static void a_large_vocabulary_is_counted(void **state)
{
    struct run_config run;
    struct model_config model;

    (void)state;
    configure(&run);
    assert_ok(model_config_preset("llama", &model));
    model.hidden_size = 576;
    model.n_heads = 9;
    model.n_kv_heads = 3;
    model.head_dim = 64;
    model.intermediate_size = 1536;
    model.vocab_size = 6144;
    model.n_layers = 2;
    model.has_tied_head = true;
    check_model("576 wide", &run, &model);
}

/* What a rest would give back is told where it is given, and only there. */
static void waiting_processes_hold_less_where_they_are_large(void **state)
{
    struct model_memory trainer, worker;
    struct run_config run;
    struct model_config model;

    (void)state;
    configure(&run);
    assert_ok(model_config_preset("llama", &model));
    model.hidden_size = 1024; /* half a GiB of gradients */
    model.vocab_size = 131072;
    run.rollout.share_weights = true;
    run.rollout.kv_cache_bytes = 2 * MEMORY_HUGE_BYTES;
    assert_ok(model_memory_measure(&run, &model, &trainer, &worker));
    assert_true(trainer.waiting + trainer.bytes[MODEL_MEMORY_GRADIENTS] / 2 < trainer.total);
    assert_true(worker.bytes[MODEL_MEMORY_CACHE] >= MEMORY_HUGE_BYTES);
    assert_true(worker.waiting + worker.bytes[MODEL_MEMORY_CACHE] <= worker.total);
    assert_int_equal(worker.shared, worker.bytes[MODEL_MEMORY_WEIGHTS] +
                                        worker.bytes[MODEL_MEMORY_PACKED] +
                                        worker.bytes[MODEL_MEMORY_RECEIVED]);
    run.rollout.share_weights = false;
    run.rollout.kv_cache_bytes = 0;
    assert_ok(model_config_preset("tiny", &model));
    assert_ok(model_memory_measure(&run, &model, &trainer, &worker));
    assert_int_equal(trainer.waiting, trainer.total);
    assert_int_equal(worker.waiting, worker.total);
    assert_int_equal(worker.shared, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_holds_what_a_step_uses),
        cmocka_unit_test(precisions_and_activations_made_again_are_told_apart),
        cmocka_unit_test(a_large_vocabulary_is_counted),
        cmocka_unit_test(waiting_processes_hold_less_where_they_are_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
