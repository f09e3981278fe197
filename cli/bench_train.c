/* Training and the log-probability pass through the learner that the trainer runs. */
#include "base/memory.h"
#include "cli/bench_model.h"
#include "model/model_cost.h"
#include "model/precision.h"
#include "trainer/learner.h"

#define SEQUENCES ((size_t)16)
#define SEQUENCE_ROWS ((size_t)128)
#define REPEATS_MIN ((size_t)4)
/* A parameter in a step: read forward, read for dX, its gradient read and written; AdamW reads
 * weight, gradient and two moments and writes three of them. */
#define STEP_VALUES 11.0

/* Sequences whose every row has a target: one token of prompt. */
struct lesson {
    int32_t *tokens; /* (SEQUENCES, SEQUENCE_ROWS + 1) */
    struct train_sequence sequences[SEQUENCES];
};

static enum status lesson_init(size_t vocab, struct lesson *lesson)
{
    TRY(memory_alloc(SEQUENCES * (SEQUENCE_ROWS + 1), sizeof(int32_t), &lesson->tokens));
    for (size_t i = 0; i < SEQUENCES; i++) {
        int32_t *tokens = lesson->tokens + i * (SEQUENCE_ROWS + 1);
        for (size_t j = 0; j <= SEQUENCE_ROWS; j++) {
            tokens[j] = (int32_t)((i * 31 + j * 17) % vocab);
        }
        lesson->sequences[i] = (struct train_sequence){.prompt = tokens,
                                                       .n_prompt = 1,
                                                       .response = tokens + 1,
                                                       .n_response = SEQUENCE_ROWS,
                                                       .group = i};
    }
    return STATUS_OK;
}

static enum status unit_gradient(void *context, size_t sequence_index, const float *logp,
                                 const float *entropy, size_t n, float *g)
{
    const float *const scale = context;
    (void)sequence_index, (void)logp, (void)entropy; /* the same gradient for every token */
    for (size_t i = 0; i < n; i++) {
        g[i] = *scale;
    }
    return STATUS_OK;
}

static enum status visit_nothing(void *context, size_t sequence_index, const float *logp, size_t n)
{
    (void)context, (void)sequence_index, (void)logp, (void)n; /* only the time counts */
    return STATUS_OK;
}

static enum status train_once(struct learner *learner, const struct lesson *lesson)
{
    float scale = 1e-4F;
    struct update_stats stats;
    const struct update_args update = {.sequences = lesson->sequences,
                                       .n = SEQUENCES,
                                       .learning_rate = 1e-5,
                                       .gradient = unit_gradient,
                                       .context = &scale};

    return learner_update(learner, &update, &stats);
}

static enum status logprob_once(struct learner *learner, const struct lesson *lesson)
{
    return learner_visit(learner, learner_policy(learner), lesson->sequences, SEQUENCES,
                         visit_nothing, NULL);
}

typedef enum status once(struct learner *learner, const struct lesson *lesson);

/* The flop of a token goes to *flop, as step lines count them. */
static enum status measure(const struct bench_subject *subject, struct learner *learner,
                           const struct lesson *lesson, once *work, struct bench_times *times,
                           double *flop)
{
    const double n_tokens = (double)(SEQUENCES * SEQUENCE_ROWS);
    const double deadline = bench_now() + subject->seconds;

    for (size_t i = 0; i < REPEATS_MIN || bench_now() < deadline; i++) {
        bench_wait_quiet(subject->meter);
        const double flops_before = learner_flops(learner);
        const double begin = bench_now();
        TRY(work(learner, lesson));
        *flop = (learner_flops(learner) - flops_before) / n_tokens;
        if (i > 0) { /* the first one warms up */
            bench_times_add(times, (bench_now() - begin) / n_tokens);
        }
    }
    return STATUS_OK;
}

static enum status report(const struct bench_subject *subject, struct learner *learner,
                          const struct lesson *lesson, bool is_training)
{
    const double n_tokens = (double)(SEQUENCES * SEQUENCE_ROWS);
    struct bench_times times = {.count = 0};
    struct bench_rate rate = {
        .bench = is_training ? "train" : "logprob", .batch = SEQUENCES, .context = SEQUENCE_ROWS};
    const double parameters = (double)model_config_parameters(&subject->config);

    TRY(measure(subject, learner, lesson, is_training ? train_once : logprob_once, &times,
                &rate.flop_per_token));
    rate.byte_per_token = (is_training ? STEP_VALUES * sizeof(float) * parameters
                                       : bench_weight_bytes(subject, SEQUENCES * SEQUENCE_ROWS)) /
                          n_tokens;
    bench_times_rate(&times, subject, &rate);
    return bench_report_rate(&rate, subject->is_json);
}

static enum status train_cases(const struct bench_subject *subject, struct learner *learner)
{
    struct lesson lesson = {.tokens = NULL};

    TRY(lesson_init(subject->config.vocab_size, &lesson));
    enum status status = report(subject, learner, &lesson, true);
    if (status == STATUS_OK) {
        status = report(subject, learner, &lesson, false);
    }
    memory_free(lesson.tokens);
    return status;
}

enum status bench_train(const struct bench_subject *subject)
{
    const struct learner_options options = {
        .optimizer = {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .max_grad_norm = 1},
        .micro_batch_tokens = SEQUENCES * SEQUENCE_ROWS,
        .max_sequence_rows = SEQUENCE_ROWS + 1,
        .max_update_tokens = SEQUENCES * (SEQUENCE_ROWS + 1),
        .sampling = {.temperature = 1, .top_p = 1}};
    const struct policy_options policy_options = {.max_rows = learner_max_rows(&options),
                                                  .max_entries = learner_max_entries(&options),
                                                  .max_draws = 1,
                                                  .max_update_tokens = options.max_update_tokens,
                                                  .is_trainable = true,
                                                  .recomputes = subject->recomputes,
                                                  .precision = subject->precision,
                                                  .unquantised =
                                                      precision_unquantised(subject->precision),
                                                  .cache = subject->cache};
    struct policy *policy = NULL;
    struct learner *learner = NULL;

    TRY(bench_open_policy(subject, &policy_options, &policy));
    enum status status = learner_create(subject->backend, policy, &options, &learner);
    if (status == STATUS_OK) {
        status = train_cases(subject, learner);
    }
    learner_destroy(learner);
    policy_destroy(policy);
    return status;
}
