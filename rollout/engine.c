/* The engine: scheduler, page bookkeeping and model joined. One tick is one forward. */
#include "rollout/engine.h"

#include "base/clock.h"
#include "base/memory.h"
#include "model/precision.h"
#include "rollout/scheduler.h"
#include "rollout/speculation.h"

struct engine {
    struct policy *policy; /* borrowed */
    struct policy_cache *pages;
    struct kv_cache *cache;
    struct scheduler *scheduler;
    int32_t *drawn;
    float *logp;
    struct completion *completions; /* of the last tick */
    struct speculation_room room;
    struct speculation speculation;
    size_t cache_bytes;
    struct engine_stats stats; /* but for what the scheduler counts */
};

struct policy_options engine_policy_options(const struct engine_options *options)
{
    return (struct policy_options){.max_rows = options->max_batch_tokens,
                                   .max_draws = options->max_num_seqs,
                                   .n_drafts = options->n_drafts,
                                   .precision = options->precision,
                                   .unquantised = precision_unquantised(options->precision),
                                   .cache = options->cache,
                                   .drops_weights = true};
}

/* What was asked for, or enough that only slots limit how many sequences
 * run: each its full length and a prompt's last page beside its own copy. */
enum status engine_rehearse(struct backend *backend, const struct model_config *model,
                            const struct engine_options *options)
{
    const struct policy_options policy = engine_policy_options(options);
    const size_t longest =
        options->max_sequence < model->max_positions ? options->max_sequence : model->max_positions;
    const struct policy_rehearsal rehearsal = {
        .longest = longest, .samples = true, .sampling = {.temperature = 1, .top_p = 1}};

    return policy_rehearse(backend, model, &policy, &rehearsal);
}

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
    const size_t n_most = policy_max_drafts(engine->policy);
    const struct scheduler_limits limits = {
        .max_num_seqs = options->max_num_seqs,
        .max_batch_tokens = options->max_batch_tokens,
        .max_sequence = options->max_sequence,
        .n_drafts = options->n_drafts < n_most ? options->n_drafts : n_most};
    const size_t n_draws = scheduler_max_draws(&limits);
    size_t n_pages = 0;

    TRY(engine_pages(options, policy_cache_page_bytes(engine->policy), &n_pages));
    TRY(kv_cache_create(n_pages, &engine->cache));
    TRY(scheduler_create(&limits, engine->cache, &engine->scheduler));
    TRY(memory_alloc(n_draws, sizeof(*engine->drawn), &engine->drawn));
    TRY(memory_alloc(n_draws, sizeof(*engine->logp), &engine->logp));
    TRY(memory_alloc(options->max_num_seqs, sizeof(*engine->completions), &engine->completions));
    engine->room = (struct speculation_room){.n_pages = n_pages,
                                             .max_num_seqs = options->max_num_seqs,
                                             .max_batch_tokens = options->max_batch_tokens};
    speculation_init(limits.n_drafts, options->spec_max_batch, &engine->speculation);
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

/* The modules over the plan's rows. */
static enum status draft(struct engine *engine, const struct draft_plan *plan, bool wants_drafts)
{
    const struct policy_draft_args args = {.rows = plan->rows,
                                           .tokens = plan->tokens,
                                           .positions = plan->positions,
                                           .n_rows = plan->n_rows,
                                           .spans = plan->spans,
                                           .n_spans = plan->n_spans,
                                           .n_drafts = wants_drafts ? plan->n_drafts : NULL,
                                           .draws = plan->draws,
                                           .drafts = plan->drafts,
                                           .drafts_stride = engine->speculation.n_drafts};

    return plan->n_rows == 0 ? STATUS_OK : policy_draft(engine->policy, engine->pages, &args);
}

/* Entries of the rows that stay, and drafts of what comes next. */
static enum status look_ahead(struct engine *engine)
{
    const size_t n_drafts =
        speculation_next(&engine->speculation, scheduler_running(engine->scheduler));
    const struct draft_plan *plan = scheduler_draft_plan(engine->scheduler, n_drafts);

    TRY(draft(engine, plan, n_drafts > 0));
    scheduler_take_drafts(engine->scheduler);
    return STATUS_OK;
}

static void count_draws(struct engine *engine, const struct schedule_result *result)
{
    engine->stats.n_tokens += result->n_tokens;
    engine->stats.n_turns += result->n_turns;
    engine->stats.n_turn_tokens += result->n_turn_tokens;
    engine->stats.n_fed += result->n_fed;
    engine->stats.n_right += result->n_right;
    speculation_note_turns(&engine->speculation, result->n_turns, result->n_turn_tokens);
    speculation_note(&engine->speculation, result->n_judged_at, result->n_gained_at);
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
    const bool has_drafts = engine->speculation.n_drafts > 0;

    TRY(policy_extend(engine->policy, engine->pages, &args));
    if (has_drafts) { /* before a prompt's last page is copied */
        TRY(draft(engine, scheduler_prompt_plan(engine->scheduler), false));
    }
    scheduler_accept(engine->scheduler, engine->drawn, engine->logp, config->eos_ids,
                     config->n_eos_ids, result);
    for (size_t i = 0; i < result->n_copies; i++) {
        const struct page_copy *copy = &result->copies[i];
        TRY(policy_cache_copy_page(engine->pages, copy->from, copy->to, copy->n_tokens));
    }
    count_draws(engine, result);
    return has_drafts ? look_ahead(engine) : STATUS_OK;
}

/* Entries for drafts cost something at every row, so that groups which begin among too many
 * sequences go without. */
static void want_drafts(struct engine *engine)
{
    const size_t n_queued = scheduler_queued(engine->scheduler);
    const size_t n_most = engine->room.max_num_seqs;
    const size_t n_running = n_queued < n_most ? n_queued : n_most;

    scheduler_want_drafts(engine->scheduler,
                          speculation_choose(&engine->speculation, n_running) > 0);
}

enum status engine_tick(struct engine *engine, const struct completion **completions, size_t *n)
{
    want_drafts(engine);
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

void engine_forget_prompts(struct engine *engine)
{
    kv_cache_forget(engine->cache);
}

void engine_rest(struct engine *engine)
{
    if (policy_cache_rest(engine->pages)) {
        engine_forget_prompts(engine);
    }
    policy_rest(engine->policy);
}

size_t engine_resting_bytes(size_t cache_bytes)
{
    return cache_bytes >= MEMORY_HUGE_BYTES ? cache_bytes : 0;
}

enum status engine_measure(struct engine *engine)
{
    speculation_forget(&engine->speculation);
    engine_forget_prompts(engine);
    return speculation_measure(&engine->speculation, engine->policy, engine->pages, &engine->room);
}

struct engine_stats engine_stats(const struct engine *engine)
{
    const struct scheduler_counts counts = scheduler_counts(engine->scheduler);
    struct engine_stats stats = engine->stats;

    stats.n_preempted = counts.n_preempted;
    stats.n_prompt_tokens = counts.n_prompt_tokens;
    stats.n_prefix_tokens = counts.n_prefix_tokens;
    stats.n_resumed_tokens = counts.n_resumed_tokens;
    return stats;
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
    return engine->stats.n_tokens;
}

size_t engine_cache_bytes(const struct engine *engine)
{
    return engine->cache_bytes;
}
