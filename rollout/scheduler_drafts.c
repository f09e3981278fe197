/* Plans of drafts: which rows of the last schedule have a known token behind them, and how many
 * tokens may be guessed behind those. A plan covers every row that stays, so that the modules that
 * draft have an entry for every token of a sequence. */
#include "base/memory.h"
#include "rollout/scheduler_internal.h"

size_t scheduler_max_draws(const struct scheduler_limits *limits)
{
    return limits->max_num_seqs + (limits->n_drafts > 0 ? limits->max_batch_tokens : 0);
}

/* A plan has a row for each of the schedule at most, and one for each sequence that begins. */
enum status scheduler_create_plan(struct scheduler *s)
{
    struct draft_plan *plan = &s->plan;
    const size_t n = s->limits.max_num_seqs + s->limits.max_batch_tokens;

    if (s->limits.n_drafts == 0) {
        return STATUS_OK;
    }
    if (s->limits.n_drafts > DRAFTS_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "%zu drafts of a sequence, at most %zu",
                          s->limits.n_drafts, DRAFTS_MAX);
    }
    TRY(memory_alloc(n, sizeof(int32_t), &plan->rows));
    TRY(memory_alloc(n, sizeof(int32_t), &plan->tokens));
    TRY(memory_alloc(n, sizeof(int32_t), &plan->positions));
    TRY(memory_alloc(n, sizeof(struct kv_span), &plan->spans));
    TRY(memory_alloc(n, sizeof(size_t), &plan->n_drafts));
    TRY(memory_alloc(n, sizeof(struct sample_row), &plan->draws));
    TRY(memory_alloc(n, sizeof(size_t), &plan->slots));
    return memory_alloc(n, s->limits.n_drafts * sizeof(int32_t), &plan->drafts);
}

void scheduler_destroy_plan(struct scheduler *s)
{
    memory_free(s->plan.drafts);
    memory_free(s->plan.slots);
    memory_free(s->plan.draws);
    memory_free(s->plan.n_drafts);
    memory_free(s->plan.spans);
    memory_free(s->plan.positions);
    memory_free(s->plan.tokens);
    memory_free(s->plan.rows);
}

/* n_rows rows of the schedule from first_row on, at positions from n_cached on, of which the tokens
 * behind them follow. */
static void add_span(struct draft_plan *plan, const struct kv_span *rows)
{
    plan->spans[plan->n_spans] = (struct kv_span){.first_row = plan->n_rows,
                                                  .n_rows = rows->n_rows,
                                                  .n_cached = rows->n_cached,
                                                  .blocks = rows->blocks};
    plan->n_drafts[plan->n_spans] = 0;
    plan->n_spans++;
    for (size_t i = 0; i < rows->n_rows; i++) {
        plan->rows[plan->n_rows + i] = (int32_t)(rows->first_row + i);
        plan->positions[plan->n_rows + i] = (int32_t)(rows->n_cached + i);
    }
}

void scheduler_plan_refill(struct scheduler *s, const struct refill *refill, size_t first,
                           size_t n_rows)
{
    struct draft_plan *plan = &s->plan;
    const size_t n_left = refill->n_known - 1 - first; /* rows that a known token follows */
    const struct kv_span rows = {.first_row = s->schedule.n_rows - n_rows,
                                 .n_rows = n_rows < n_left ? n_rows : n_left,
                                 .n_cached = first,
                                 .blocks = refill->blocks};

    if (!refill->group->is_drafted || rows.n_rows == 0) {
        return;
    }
    add_span(plan, &rows);
    for (size_t i = 0; i < rows.n_rows; i++) {
        plan->tokens[plan->n_rows++] = group_token(refill->group, refill->drawn, first + i + 1);
    }
}

void scheduler_want_drafts(struct scheduler *s, bool wants_drafts)
{
    s->wants_drafts = wants_drafts && s->limits.n_drafts > 0;
}

const struct draft_plan *scheduler_prompt_plan(const struct scheduler *s)
{
    return &s->plan;
}

/* The rows that the sequence's new tokens were drawn from. */
static void plan_sequence(struct scheduler *s, struct sequence *sequence, size_t first_row,
                          size_t n_drafts)
{
    struct draft_plan *plan = &s->plan;
    const struct group *group = sequence->group;
    const size_t n_left = group->max_tokens - sequence->n_tokens - 1; /* behind the next token */
    const size_t length = sequence_length(sequence);
    const size_t n_new = sequence->n_new;
    const size_t i = plan->n_spans;
    size_t n_wanted = n_drafts < n_left ? n_drafts : n_left;

    while (!scheduler_hold_pages(s, sequence, length - 2 + n_wanted)) {
        n_wanted--; /* the pages up to length - 2 are there: they were fed */
    }
    add_span(plan, &(struct kv_span){.first_row = first_row,
                                     .n_rows = n_new,
                                     .n_cached = length - 1 - n_new,
                                     .blocks = sequence->blocks});
    for (size_t j = 0; j < n_new; j++) {
        plan->tokens[plan->n_rows++] = sequence->tokens[sequence->n_tokens - n_new + j];
    }
    plan->n_drafts[i] = n_wanted;
    plan->slots[i] = (size_t)(sequence - s->slots);
    plan->draws[i] = (struct sample_row){.seed = group->seed,
                                         .group = group->id,
                                         .sample = sequence->sample,
                                         .position = (uint32_t)length,
                                         .sampling = group->sampling};
}

const struct draft_plan *scheduler_draft_plan(struct scheduler *s, size_t n_drafts)
{
    const struct schedule *schedule = &s->schedule;
    size_t last = SIZE_MAX;

    s->plan.n_rows = 0;
    s->plan.n_spans = 0;
    for (size_t i = 0; i < schedule->n_draws; i++) {
        struct sequence *sequence = &s->slots[schedule->draw_slots[i]];

        if (schedule->draw_slots[i] != last && sequence->state == SEQUENCE_RUNNING &&
            sequence->group->is_drafted) {
            plan_sequence(s, sequence, (size_t)schedule->draw_rows[i], n_drafts);
        }
        last = schedule->draw_slots[i];
    }
    return &s->plan;
}

void scheduler_take_drafts(struct scheduler *s)
{
    const struct draft_plan *plan = &s->plan;

    for (size_t i = 0; i < plan->n_spans; i++) {
        struct sequence *sequence = &s->slots[plan->slots[i]];
        const int32_t *drafts = plan->drafts + i * s->limits.n_drafts;

        sequence->n_drafts = 0;
        while (sequence->n_drafts < plan->n_drafts[i] && drafts[sequence->n_drafts] >= 0) {
            sequence->drafts[sequence->n_drafts] = drafts[sequence->n_drafts];
            sequence->n_drafts++;
        }
    }
}
