/* The engine: scheduler, page bookkeeping and model joined. One tick is one forward. */
#include "rollout/engine.h"

#include "base/clock.h"
#include "base/memory.h"
#include "rollout/scheduler.h"

struct engine {
    struct policy *policy; /* borrowed */
    struct policy_cache *pages;
    struct kv_cache *cache;
    struct scheduler *scheduler;
    int32_t *drawn;
    float *logp;
    struct completion *completions; /* of the last tick */
    size_t cache_bytes;
    uint64_t n_drawn;
};

/* What was asked for, or enough that only slots limit how many sequences
 * run: each its full length and a prompt's last page beside its own copy. */
enum status engine_pages(const struct engine_options *options, size_t page_bytes, size_t *n_pages)
{
    const size_t n_per_sequence = kv_cache_pages_for(options->max_sequence) + 1;

    if (options->kv_cache_bytes != 0) {
        *n_pages = options->kv_cache_bytes / page_bytes;
        if (*n_pages < n_per_sequence) {
            return status_set(STATUS_BAD_CONFIG,
                              "rollout.kv_cache_bytes %zu holds %zu pages of %zu bytes, one "
                              "sequence needs %zu",
                              options->kv_cache_bytes, *n_pages, page_bytes, n_per_sequence);
        }
        return STATUS_OK;
    }
    if (!size_multiply(n_per_sequence, options->max_num_seqs, n_pages)) {
        return status_set(STATUS_BAD_ARGUMENT, "%zu sequences of %zu tokens are too many",
                          options->max_num_seqs, options->max_sequence);
    }
    return STATUS_OK;
}

static enum status build(struct engine *engine, const struct engine_options *options)
{
    const struct scheduler_limits limits = {.max_num_seqs = options->max_num_seqs,
                                            .max_batch_tokens = options->max_batch_tokens,
                                            .max_sequence = options->max_sequence};
    size_t n_pages = 0;

    TRY(engine_pages(options, policy_cache_page_bytes(engine->policy), &n_pages));
    TRY(kv_cache_create(n_pages, &engine->cache));
    TRY(scheduler_create(&limits, engine->cache, &engine->scheduler));
    TRY(memory_alloc(options->max_num_seqs, sizeof(*engine->drawn), &engine->drawn));
    TRY(memory_alloc(options->max_num_seqs, sizeof(*engine->logp), &engine->logp));
    TRY(memory_alloc(options->max_num_seqs, sizeof(*engine->completions), &engine->completions));
    engine->cache_bytes = n_pages * policy_cache_page_bytes(engine->policy);
    return policy_cache_create(engine->policy, n_pages, &engine->pages);
}

enum status engine_create(struct policy *policy, const struct engine_options *options,
                          struct engine **out)
{
    struct engine *engine = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*engine), &engine));
    engine->policy = policy;
    const enum status status = build(engine, options);
    if (status != STATUS_OK) {
        engine_destroy(engine);
        return status;
    }
    *out = engine;
    return STATUS_OK;
}

void engine_destroy(struct engine *engine)
{
    if (engine == NULL) {
        return;
    }
    policy_cache_destroy(engine->pages);
    memory_free(engine->completions);
    memory_free(engine->logp);
    memory_free(engine->drawn);
    scheduler_destroy(engine->scheduler);
    kv_cache_destroy(engine->cache);
    memory_free(engine);
}

enum status engine_submit(struct engine *engine, const struct engine_request *request)
{
    return scheduler_add(engine->scheduler, request);
}

/* Feeds the schedule to the model and hands the draws back to the scheduler. */
static enum status forward(struct engine *engine, const struct schedule *schedule,
                           struct schedule_result *result)
{
    const struct policy_extend_args args = {.tokens = schedule->tokens,
                                            .positions = schedule->positions,
                                            .n_rows = schedule->n_rows,
                                            .spans = schedule->spans,
                                            .n_spans = schedule->n_spans,
                                            .draw_rows = schedule->draw_rows,
                                            .draws = schedule->draws,
                                            .n_draws = schedule->n_draws,
                                            .drawn = engine->drawn,
                                            .logp = engine->logp};
    const struct model_config *config = policy_config(engine->policy);

    TRY(policy_extend(engine->policy, engine->pages, &args));
    engine->n_drawn += schedule->n_draws;
    scheduler_accept(engine->scheduler, engine->drawn, engine->logp, config->eos_ids,
                     config->n_eos_ids, result);
    for (size_t i = 0; i < result->n_copies; i++) {
        TRY(policy_cache_copy_page(engine->pages, result->copies[i].from, result->copies[i].to));
    }
    return STATUS_OK;
}

enum status engine_tick(struct engine *engine, const struct completion **completions, size_t *n)
{
    const struct schedule *schedule = scheduler_next(engine->scheduler, clock_now_us());
    struct schedule_result result = {.n_finished = 0};

    *completions = engine->completions;
    *n = 0;
    if (schedule->n_rows == 0) {
        return STATUS_OK;
    }
    TRY(forward(engine, schedule, &result));
    const int64_t now_us = result.n_finished > 0 ? clock_now_us() : 0;
    for (size_t i = 0; i < result.n_finished; i++) {
        const struct sequence *sequence = result.finished[i];

        engine->completions[i] = (struct completion){.group = sequence->group->id,
                                                     .sample = sequence->sample,
                                                     .tag = sequence->group->tag,
                                                     .tokens = sequence->tokens,
                                                     .logprobs = sequence->logprobs,
                                                     .n_tokens = sequence->n_tokens,
                                                     .finish = sequence->finish,
                                                     .gen_us = now_us - sequence->group->since_us};
    }
    *n = result.n_finished;
    return STATUS_OK;
}

size_t engine_drawn(const struct engine *engine, uint64_t group, uint32_t sample,
                    const int32_t **tokens)
{
    const struct sequence *sequence = scheduler_find(engine->scheduler, group, sample);

    *tokens = sequence == NULL ? NULL : sequence->tokens;
    return sequence == NULL ? 0 : sequence->n_tokens;
}

bool engine_is_idle(const struct engine *engine)
{
    return scheduler_queued(engine->scheduler) == 0;
}

void engine_cancel(struct engine *engine, uint64_t group)
{
    scheduler_cancel(engine->scheduler, group);
}

size_t engine_queued(const struct engine *engine)
{
    return scheduler_queued(engine->scheduler);
}

uint64_t engine_tokens_drawn(const struct engine *engine)
{
    return engine->n_drawn;
}

size_t engine_cache_bytes(const struct engine *engine)
{
    return engine->cache_bytes;
}
