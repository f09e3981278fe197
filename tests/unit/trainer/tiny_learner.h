/* Owns what tests of learning share: a learner on the "tiny" preset, and a step of random groups
 * whose log-probabilities are the policy's own. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_TRAINER_TINY_LEARNER_H
#define HONE_TESTS_UNIT_TRAINER_TINY_LEARNER_H

#include "base/random.h"
#include "configs/config.h"
#include "kernels/backend.h"
#include "model/policy.h"
#include "tests/support/support.h"
#include "trainer/grpo.h"
#include "trainer/learner.h"

#include <string.h>

#define TINY_GROUPS ((size_t)3)
#define TINY_GROUP_SIZE ((size_t)4)
#define TINY_SAMPLES (TINY_GROUPS * TINY_GROUP_SIZE)
#define TINY_PROMPT_MAX ((size_t)8)
#define TINY_RESPONSE_MAX ((size_t)12)

struct tiny {
    struct run_config config;
    struct backend *backend;
    struct policy *policy;
    struct learner *learner;
};

static inline void tiny_configure(struct run_config *config, size_t micro_batch_tokens)
{
    *config = (struct run_config){0};
    config->data.max_prompt_length = TINY_PROMPT_MAX;
    config->rollout.max_completion_length = TINY_RESPONSE_MAX;
    config->rollout.temperature = 1.0;
    config->rollout.top_p = 1.0;
    config->model.mtp_train = true;
    config->model.mtp_coef = 0.3;
    config->grpo.num_generations = TINY_GROUP_SIZE;
    config->grpo.prompts_per_step = TINY_GROUPS;
    config->grpo.num_iterations = 1;
    config->grpo.num_minibatches = 1;
    config->grpo.epsilon = 0.2;
    config->grpo.epsilon_high = 0.28;
    config->grpo.loss_type = LOSS_DAPO;
    config->optim.learning_rate = 1e-3;
    config->optim.lr_scheduler_type = LR_CONSTANT;
    config->optim.adam_beta1 = 0.9;
    config->optim.adam_beta2 = 0.95;
    config->optim.adam_epsilon = 1e-8;
    config->optim.weight_decay = 0.01;
    config->optim.max_grad_norm = 1.0;
    config->optim.micro_batch_tokens = micro_batch_tokens;
}

static inline void tiny_policy(struct backend *backend, size_t max_rows, uint64_t seed,
                               bool is_trainable, struct policy **out)
{
    struct model_config model;
    const struct policy_options options = {.max_rows = max_rows,
                                           .max_entries = 16 * max_rows,
                                           .max_draws = 1,
                                           .is_trainable = is_trainable};
    assert_ok(model_config_preset("tiny", &model));
    assert_ok(policy_create(backend, &model, &options, out));
    weights_init(&model, policy_table(*out), seed, policy_weights(*out));
    assert_ok(policy_refresh(*out));
}

/* Every learner that is opened with the same seed begins with the same bits. */
static inline void tiny_open(struct tiny *tiny, size_t n_threads, size_t micro_batch_tokens,
                             uint64_t seed)
{
    tiny_configure(&tiny->config, micro_batch_tokens);
    const struct learner_options options = grpo_learner_options(&tiny->config);
    assert_ok(backend_open("cpu", n_threads, &tiny->backend));
    tiny_policy(tiny->backend, learner_max_rows(&options), seed, true, &tiny->policy);
    assert_ok(learner_create(tiny->backend, tiny->policy, &options, &tiny->learner));
}

static inline void tiny_close(struct tiny *tiny)
{
    learner_destroy(tiny->learner);
    policy_destroy(tiny->policy);
    backend_close(tiny->backend);
}

/* One more learner on tiny's policy, made and destroyed: for allocations that fail. */
static inline enum status tiny_attempt_learner(void *context)
{
    struct tiny *tiny = context;
    const struct learner_options options = grpo_learner_options(&tiny->config);
    struct learner *learner = NULL;
    const enum status status = learner_create(tiny->backend, tiny->policy, &options, &learner);

    assert_true(status == STATUS_OK || learner == NULL);
    learner_destroy(learner);
    return status;
}

/* A sequence_gradient: of -0.01 times the sum of log-probabilities. */
static inline enum status tiny_likelihood(void *context, size_t sequence_index, const float *logp,
                                          const float *entropy, size_t n, float *g)
{
    (void)context, (void)sequence_index, (void)logp, (void)entropy;
    for (size_t t = 0; t < n; t++) {
        g[t] = -0.01F;
    }
    return STATUS_OK;
}

static inline size_t tiny_bytes(const struct tiny *tiny)
{
    return policy_table(tiny->policy)->n_floats * sizeof(float);
}

/* Weights and both moments are the same bits. */
static inline bool tiny_is_equal(const struct tiny *a, const struct tiny *b)
{
    const size_t n = tiny_bytes(a);
    struct optimizer *x = learner_optimizer(a->learner);
    struct optimizer *y = learner_optimizer(b->learner);
    return memcmp(policy_weights(a->policy), policy_weights(b->policy), n) == 0 &&
           memcmp(optimizer_first_moment(x), optimizer_first_moment(y), n) == 0 &&
           memcmp(optimizer_second_moment(x), optimizer_second_moment(y), n) == 0 &&
           optimizer_updates(x) == optimizer_updates(y);
}

/* A step with everything it points to. */
struct tiny_step {
    int32_t prompts[TINY_GROUPS][TINY_PROMPT_MAX];
    int32_t tokens[TINY_SAMPLES][TINY_RESPONSE_MAX];
    float logprobs[TINY_SAMPLES][TINY_RESPONSE_MAX];
    struct sample samples[TINY_SAMPLES];
    struct sample_group groups[TINY_GROUPS];
    struct train_sequence sequences[TINY_SAMPLES];
    struct step_batch batch;
};

static inline void tiny_fill_tokens(int32_t *tokens, size_t n, uint64_t stream)
{
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)random_below(3, RANDOM_TEST, stream, i, 64);
    }
}

static inline void tiny_fill_sample(struct tiny_step *step, size_t g, size_t s)
{
    const size_t i = g * TINY_GROUP_SIZE + s;
    const size_t n = 1 + (5 * i) % TINY_RESPONSE_MAX;
    tiny_fill_tokens(step->tokens[i], n, 100 + i);
    step->samples[i] = (struct sample){.sample_id = 1000 + (int64_t)i,
                                       .seed = 77,
                                       .idx = (int32_t)s,
                                       .tokens = step->tokens[i],
                                       .logprobs = step->logprobs[i],
                                       .n_tokens = n,
                                       .has_reward = true,
                                       .reward = s == 0 ? 1.0 : 0.0,
                                       .advantage = s == 0 ? 1.5F : -0.5F};
    step->sequences[i] = (struct train_sequence){.prompt = step->prompts[g],
                                                 .n_prompt = step->groups[g].n_prompt,
                                                 .response = step->tokens[i],
                                                 .n_response = n,
                                                 .seed = 77,
                                                 .group = step->groups[g].group_id,
                                                 .sample = (uint32_t)s};
}

static inline enum status tiny_copy_logp(void *context, size_t index, const float *logp, size_t n)
{
    struct tiny_step *step = context;
    memcpy(step->logprobs[index], logp, n * sizeof(float));
    return STATUS_OK;
}

/* Groups of different lengths, scored, as the policy of `tiny` would have sampled them. */
static inline void tiny_step_make(struct tiny *tiny, struct tiny_step *step)
{
    memset(step, 0, sizeof(*step));
    for (size_t g = 0; g < TINY_GROUPS; g++) {
        step->groups[g] = (struct sample_group){.group_id = 40 + g,
                                                .prompt = step->prompts[g],
                                                .n_prompt = 1 + 3 * g,
                                                .samples = step->samples + g * TINY_GROUP_SIZE,
                                                .n_samples = TINY_GROUP_SIZE};
        tiny_fill_tokens(step->prompts[g], step->groups[g].n_prompt, g);
        for (size_t s = 0; s < TINY_GROUP_SIZE; s++) {
            tiny_fill_sample(step, g, s);
        }
    }
    step->batch = (struct step_batch){.step = 1, .groups = step->groups, .n_groups = TINY_GROUPS};
    assert_ok(learner_visit(tiny->learner, tiny->policy, step->sequences, TINY_SAMPLES,
                            tiny_copy_logp, step));
}

#endif
