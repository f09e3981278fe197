/* A scheduler over a model of paper, for tests: pages remember which token was written at which
 * position, a draw checks that its sequence's pages hold exactly its prefix, and the token drawn is
 * a function of its key. So any wrong page, copy, position or key shows. Of drafts, some are what
 * will be drawn and some are not; a second entry of each token, that of the modules which draft, is
 * the token behind it. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_ROLLOUT_SCHEDULER_PAPER_H
#define HONE_TESTS_UNIT_ROLLOUT_SCHEDULER_PAPER_H

#include "base/memory.h"
#include "base/random.h"
#include "kernels/backend.h"
#include "rollout/scheduler.h"

#include <string.h>

#define N_GROUPS 7u
#define N_SAMPLES 5u
#define MAX_TOKENS (5u * KV_BLOCK_TOKENS + 7u)
#define PROMPT_MAX (2u * KV_BLOCK_TOKENS + 8u)
#define SEQUENCE_MAX (PROMPT_MAX + MAX_TOKENS)
#define END_TOKEN 3
#define VOCAB (5u * KV_BLOCK_TOKENS)
#define PAGES_MAX 512u
/* What one sample of the longest prompt needs: the prompt's pages and its own. */
#define PAGES_MIN (3u + 6u)

struct paper {
    int32_t tokens[PAGES_MAX][KV_BLOCK_TOKENS];
    int32_t positions[PAGES_MAX][KV_BLOCK_TOKENS];
    int32_t behind[PAGES_MAX][KV_BLOCK_TOKENS];
    size_t n_drafts, n_turns;
    bool is_fickle; /* wants drafts of some groups only */
};

struct outcome {
    int32_t tokens[N_GROUPS][N_SAMPLES][MAX_TOKENS];
    size_t n_tokens[N_GROUPS][N_SAMPLES];
    enum finish finish[N_GROUPS][N_SAMPLES];
    size_t n_finished, n_rows, n_running_max, n_fed, n_right;
    struct scheduler_counts counts;
};

/* Prompt lengths around the page size. */
static inline size_t prompt_length(size_t group)
{
    static const size_t lengths[N_GROUPS] = {1,
                                             KV_BLOCK_TOKENS - 4,
                                             KV_BLOCK_TOKENS - 1,
                                             KV_BLOCK_TOKENS,
                                             KV_BLOCK_TOKENS + 1,
                                             2 * KV_BLOCK_TOKENS,
                                             PROMPT_MAX};

    return lengths[group];
}

/* Tokens that all prompts begin with. */
static size_t n_common;

static inline int forget_common(void **state)
{
    (void)state;
    n_common = 0;
    return 0;
}

static inline int32_t prompt_token(size_t group, size_t i)
{
    return (int32_t)(100 + (i < n_common ? 0 : group) * PROMPT_MAX + i);
}

/* What is drawn, by position. */
static int32_t draws[N_GROUPS][N_SAMPLES][SEQUENCE_MAX];

static inline int fill_draws(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(draws) / sizeof(draws[0][0][0]); i++) {
        const size_t sample = i / SEQUENCE_MAX;

        draws[sample / N_SAMPLES][sample % N_SAMPLES][i % SEQUENCE_MAX] =
            (int32_t)random_below(42, RANDOM_TEST, sample, i, VOCAB); /* now and then END_TOKEN */
    }
    return 0;
}

static inline int32_t draw_token(const struct sample_row *row)
{
    assert_int_equal(row->seed, 42);
    return draws[row->group][row->sample][row->position];
}

static inline enum status add_group(struct scheduler *scheduler, size_t group)
{
    static const int32_t samples[N_SAMPLES] = {0, 1, 2, 3, 4};
    int32_t prompt[PROMPT_MAX];

    for (size_t i = 0; i < prompt_length(group); i++) {
        prompt[i] = prompt_token(group, i);
    }
    const struct engine_request request = {.seed = 42,
                                           .group = group,
                                           .prompt = prompt,
                                           .n_prompt = prompt_length(group),
                                           .samples = samples,
                                           .n_samples = N_SAMPLES,
                                           .max_tokens = MAX_TOKENS,
                                           .sampling = {.temperature = 1.0F, .top_p = 1.0F}};
    return scheduler_add(scheduler, &request);
}

static inline void write_rows(struct paper *paper, const struct schedule *schedule)
{
    size_t n_covered = 0;

    for (size_t i = 0; i < schedule->n_spans; i++) {
        const struct kv_span *span = &schedule->spans[i];

        assert_int_equal(span->first_row, n_covered);
        n_covered += span->n_rows;
        for (size_t j = 0; j < span->n_rows; j++) {
            const size_t row = span->first_row + j;
            const size_t position = span->n_cached + j;
            const int32_t page = span->blocks[position / KV_BLOCK_TOKENS];

            assert_int_equal(schedule->positions[row], position);
            paper->tokens[page][position % KV_BLOCK_TOKENS] = schedule->tokens[row];
            paper->positions[page][position % KV_BLOCK_TOKENS] = (int32_t)position;
        }
    }
    assert_int_equal(n_covered, schedule->n_rows);
}

static inline const struct kv_span *span_of_row(const struct schedule *schedule, int32_t row)
{
    size_t i = 0;

    while (i + 1 < schedule->n_spans && (size_t)row >= schedule->spans[i + 1].first_row) {
        i++;
    }
    return &schedule->spans[i];
}

static inline int32_t token_at(const struct sample_row *row, size_t position)
{
    return position < prompt_length(row->group) ? prompt_token(row->group, position)
                                                : draws[row->group][row->sample][position];
}

/* Whether the row and those before it in its span were fed what is drawn there. */
static inline bool was_fed_right(const struct schedule *schedule, size_t draw)
{
    const size_t row = (size_t)schedule->draw_rows[draw];
    const struct kv_span *span = span_of_row(schedule, schedule->draw_rows[draw]);

    for (size_t i = span->first_row; i <= row; i++) {
        const size_t position = span->n_cached + i - span->first_row;

        if (schedule->tokens[i] != token_at(&schedule->draws[draw], position)) {
            assert_true(i > span->first_row); /* only a draft may be wrong */
            return false;
        }
    }
    return true;
}

/* Everything before the drawn position must be in the pages, as it was drawn. */
static inline void check_prefix(const struct paper *paper, const struct schedule *schedule,
                                size_t draw)
{
    const struct sample_row row = schedule->draws[draw];
    const struct kv_span *span = span_of_row(schedule, schedule->draw_rows[draw]);
    size_t n_wrong = 0;

    assert_int_equal(schedule->positions[schedule->draw_rows[draw]] + 1, row.position);
    for (size_t i = 0; i < row.position; i++) {
        const int32_t page = span->blocks[i / KV_BLOCK_TOKENS];

        n_wrong += paper->positions[page][i % KV_BLOCK_TOKENS] != (int32_t)i ||
                   paper->tokens[page][i % KV_BLOCK_TOKENS] != token_at(&row, i);
    }
    assert_int_equal(n_wrong, 0);
}

/* The modules' entries of the plan's rows. */
static inline void write_plan(struct paper *paper, const struct schedule *schedule,
                              const struct draft_plan *plan)
{
    for (size_t i = 0; i < plan->n_spans; i++) {
        const struct kv_span *span = &plan->spans[i];

        for (size_t j = 0; j < span->n_rows; j++) {
            const size_t row = span->first_row + j;
            const size_t position = span->n_cached + j;

            assert_int_equal(plan->positions[row], position);
            assert_int_equal(schedule->positions[plan->rows[row]], position);
            paper->behind[span->blocks[position / KV_BLOCK_TOKENS]][position % KV_BLOCK_TOKENS] =
                plan->tokens[row];
        }
    }
}

/* Every token of the sequence but its last has an entry; then drafts, good and bad. */
static inline void fill_drafts(const struct paper *paper, const struct draft_plan *plan,
                               size_t index)
{
    const struct kv_span *span = &plan->spans[index];
    const struct sample_row *row = &plan->draws[index];
    size_t n_wrong = 0;

    assert_int_equal(span->n_cached + span->n_rows + 1, row->position);
    for (size_t i = 0; i + 1 < row->position; i++) {
        const int32_t page = span->blocks[i / KV_BLOCK_TOKENS];

        n_wrong += paper->behind[page][i % KV_BLOCK_TOKENS] != token_at(row, i + 1);
    }
    assert_int_equal(n_wrong, 0);
    for (size_t i = 0; i < plan->n_drafts[index]; i++) {
        const uint64_t kind = random_below(5, RANDOM_TEST, row->position, i + row->sample, 8);
        const int32_t right = token_at(row, row->position + i);

        plan->drafts[index * paper->n_drafts + i] = kind == 0  ? -1
                                                    : kind < 3 ? (right + 1) % (int32_t)VOCAB
                                                               : right;
    }
}

static inline void look_ahead(struct scheduler *scheduler, struct paper *paper,
                              const struct schedule *schedule)
{
    if (paper->n_drafts > 0) {
        const size_t n = scheduler_running(scheduler) % 5 == 4 ? 0 : paper->n_drafts;
        const struct draft_plan *plan = scheduler_draft_plan(scheduler, n);

        write_plan(paper, schedule, plan);
        for (size_t i = 0; i < plan->n_spans; i++) {
            fill_drafts(paper, plan, i);
        }
        scheduler_take_drafts(scheduler);
    }
}

static inline void take_finished(struct outcome *outcome, const struct schedule_result *result)
{
    for (size_t i = 0; i < result->n_finished; i++) {
        const struct sequence *sequence = result->finished[i];
        const size_t group = sequence->group->id;

        assert_int_equal(outcome->n_tokens[group][sequence->sample], 0); /* finishes once */
        memcpy(outcome->tokens[group][sequence->sample], sequence->tokens,
               sequence->n_tokens * sizeof(int32_t));
        outcome->n_tokens[group][sequence->sample] = sequence->n_tokens;
        outcome->finish[group][sequence->sample] = sequence->finish;
        outcome->n_finished++;
    }
}

/* One forward of the paper model; false when nothing was scheduled. */
static inline bool turn(struct scheduler *scheduler, struct paper *paper, struct outcome *outcome)
{
    static const int32_t end_token = END_TOKEN;
    static int32_t drawn[1024];
    static const float logp[1024];
    struct schedule_result result;

    paper->n_turns++;
    scheduler_want_drafts(scheduler, !paper->is_fickle || paper->n_turns % 3 == 0);
    const struct schedule *schedule = scheduler_next(scheduler, 1);

    if (schedule->n_rows == 0) {
        return false;
    }
    outcome->n_rows += schedule->n_rows;
    if (paper->n_drafts == 0 && schedule->n_draws > outcome->n_running_max) {
        outcome->n_running_max = schedule->n_draws;
    }
    write_rows(paper, schedule);
    write_plan(paper, schedule, scheduler_prompt_plan(scheduler));
    for (size_t i = 0; i < schedule->n_draws; i++) {
        const bool is_right = was_fed_right(schedule, i);

        if (is_right) {
            check_prefix(paper, schedule, i);
        }
        drawn[i] = is_right ? draw_token(&schedule->draws[i]) : END_TOKEN;
    }
    scheduler_accept(scheduler, drawn, logp, &end_token, 1, &result);
    for (size_t i = 0; i < result.n_copies; i++) {
        const int32_t from = result.copies[i].from;
        const int32_t to = result.copies[i].to;
        const size_t n_bytes = result.copies[i].n_tokens * sizeof(int32_t);

        assert_in_range(result.copies[i].n_tokens, 1, KV_BLOCK_TOKENS);
        memcpy(paper->tokens[to], paper->tokens[from], n_bytes);
        memcpy(paper->positions[to], paper->positions[from], n_bytes);
        memcpy(paper->behind[to], paper->behind[from], n_bytes);
    }
    look_ahead(scheduler, paper, schedule);
    outcome->n_fed += result.n_fed;
    outcome->n_right += result.n_right;
    take_finished(outcome, &result);
    return true;
}

static inline void run_paper(const struct scheduler_limits *limits, size_t n_pages,
                             bool is_reversed, bool is_fickle, struct outcome *outcome)
{
    struct kv_cache *cache = NULL;
    struct scheduler *scheduler = NULL;
    static struct paper paper;

    memset(outcome, 0, sizeof(*outcome));
    memset(&paper, 0xff, sizeof(paper));
    paper.n_drafts = limits->n_drafts;
    paper.n_turns = 0;
    paper.is_fickle = is_fickle;
    assert_int_equal(kv_cache_create(n_pages, &cache), STATUS_OK);
    assert_int_equal(scheduler_create(limits, cache, &scheduler), STATUS_OK);
    for (size_t i = 0; i < N_GROUPS; i++) {
        assert_int_equal(add_group(scheduler, is_reversed ? N_GROUPS - 1 - i : i), STATUS_OK);
    }
    const size_t n_blocks = memory_live_blocks();
    while (turn(scheduler, &paper, outcome)) {
        assert_true(memory_live_blocks() <= n_blocks); /* a turn allocates nothing */
    }
    assert_int_equal(outcome->n_finished, N_GROUPS * N_SAMPLES);
    assert_int_equal(scheduler_queued(scheduler), 0);
    assert_int_equal(kv_cache_n_used(cache), 0);
    outcome->counts = scheduler_counts(scheduler);
    assert_int_equal(kv_cache_n_available(cache), n_pages);
    scheduler_destroy(scheduler);
    kv_cache_destroy(cache);
}

static inline void run_all(const struct scheduler_limits *limits, size_t n_pages, bool is_reversed,
                           struct outcome *outcome)
{
    run_paper(limits, n_pages, is_reversed, false, outcome);
}

static inline void check_same(const struct outcome *outcome, const struct outcome *reference)
{
    assert_memory_equal(outcome->tokens, reference->tokens, sizeof(outcome->tokens));
    assert_memory_equal(outcome->n_tokens, reference->n_tokens, sizeof(outcome->n_tokens));
    assert_memory_equal(outcome->finish, reference->finish, sizeof(outcome->finish));
}

/* All pages that can be of use; the fewest; few, where samples are preempted. */
static const size_t n_pages_tried[] = {PAGES_MAX, PAGES_MIN, 13, 20};
#define N_PAGES_TRIED (sizeof(n_pages_tried) / sizeof(n_pages_tried[0]))

#endif
