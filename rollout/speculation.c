#include "rollout/speculation.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#define PRIOR_FED 16.0 /* drafts that a fresh model is credited with */
#define PRIOR_SHARE 0.85
#define MEMORY 512.0 /* drafts after which what came before counts half */
#define CONTEXT ((size_t)48)
#define REPEATS 5
#define GIVE_UP 8.0 /* cost of a batch that was not measured: never worth it */

void speculation_init(size_t n_drafts, size_t max_batch, struct speculation *out)
{
    *out = (struct speculation){.n_drafts = n_drafts, .max_batch = max_batch};
    speculation_forget(out);
}

void speculation_forget(struct speculation *s)
{
    s->fed = PRIOR_FED;
    s->right = PRIOR_FED * PRIOR_SHARE;
}

void speculation_note(struct speculation *s, size_t n_fed, size_t n_right)
{
    s->fed += (double)n_fed;
    s->right += (double)n_right;
    if (s->fed > 2 * MEMORY) {
        s->right *= MEMORY / s->fed;
        s->fed = MEMORY;
    }
}

/* Of the smallest batch of at least n sequences. */
static double cost_of(const struct speculation *s, size_t n)
{
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        if (n <= (size_t)1 << i) {
            return s->cost[i];
        }
    }
    return s->cost[0] > 0 ? GIVE_UP + (double)s->n_drafts : 0;
}

size_t speculation_choose(const struct speculation *s, size_t n_running)
{
    if (s->max_batch > 0) {
        return n_running <= s->max_batch ? s->n_drafts : 0;
    }
    const double gain = 1 + (double)s->n_drafts * s->right / s->fed; /* tokens a turn */

    return cost_of(s, n_running) < gain ? s->n_drafts : 0;
}

/* Rows of turns for a batch whose sequences all have the same length, on pages of their own. */
struct trial {
    struct policy *policy;
    struct policy_cache *cache;
    size_t n_seqs, n_drafts;
    int32_t *blocks;                    /* (n_seqs, pages of a sequence) */
    int32_t *tokens, *positions, *rows; /* (n_seqs, 1 + n_drafts) */
    int32_t *drawn, *drafts;
    float *logp;
    struct kv_span *spans;
    struct sample_row *draws;
    size_t *n_wanted;
};

static size_t trial_pages(size_t n_drafts)
{
    return (CONTEXT + 2 * n_drafts) / KV_BLOCK_TOKENS + 1;
}

static enum status trial_create(struct trial *t, size_t n_max)
{
    const size_t n_rows = n_max * (1 + t->n_drafts);
    const struct {
        void *out; /* the address of a pointer */
        size_t n, size;
    } arrays[] = {
        {&t->blocks, n_max * trial_pages(t->n_drafts), sizeof(int32_t)},
        {&t->tokens, n_rows, sizeof(int32_t)},
        {&t->positions, n_rows, sizeof(int32_t)},
        {&t->rows, n_rows, sizeof(int32_t)},
        {&t->drawn, n_rows, sizeof(int32_t)},
        {&t->drafts, n_rows, sizeof(int32_t)},
        {&t->logp, n_rows, sizeof(float)},
        {&t->spans, n_max, sizeof(struct kv_span)},
        {&t->draws, n_rows, sizeof(struct sample_row)},
        {&t->n_wanted, n_max, sizeof(size_t)},
    };

    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++) {
        TRY(memory_alloc(arrays[i].n, arrays[i].size, arrays[i].out));
    }
    for (size_t i = 0; i < n_max * trial_pages(t->n_drafts); i++) {
        t->blocks[i] = (int32_t)i;
    }
    return STATUS_OK;
}

static void trial_dispose(struct trial *t)
{
    memory_free(t->n_wanted);
    memory_free(t->draws);
    memory_free(t->spans);
    memory_free(t->logp);
    memory_free(t->drafts);
    memory_free(t->drawn);
    memory_free(t->rows);
    memory_free(t->positions);
    memory_free(t->tokens);
    memory_free(t->blocks);
}

/* n_new rows for each sequence, tokens of all kinds so that experts are met as they will be. */
static void fill_rows(struct trial *t, size_t n_new)
{
    const size_t vocab = policy_config(t->policy)->vocab_size;

    for (size_t i = 0; i < t->n_seqs; i++) {
        t->spans[i] = (struct kv_span){.first_row = i * n_new,
                                       .n_rows = n_new,
                                       .n_cached = CONTEXT,
                                       .blocks = t->blocks + i * trial_pages(t->n_drafts)};
        t->n_wanted[i] = t->n_drafts;
        for (size_t j = 0; j < n_new; j++) {
            const size_t row = i * n_new + j;

            t->tokens[row] = (int32_t)((row * 31 + 7) % vocab);
            t->positions[row] = (int32_t)(CONTEXT + j);
            t->rows[row] = (int32_t)row;
            t->draws[row] = (struct sample_row){.sample = (uint32_t)row,
                                                .sampling = {.temperature = 1.0F, .top_p = 1.0F}};
        }
    }
}

/* One turn; with drafts all rows stay, as when every draft comes true. */
static enum status turn(struct trial *t, bool with_drafts)
{
    const size_t n_rows = t->n_seqs * (with_drafts ? 1 + t->n_drafts : 1);
    const struct policy_extend_args extend = {.tokens = t->tokens,
                                              .positions = t->positions,
                                              .n_rows = n_rows,
                                              .spans = t->spans,
                                              .n_spans = t->n_seqs,
                                              .draw_rows = t->rows,
                                              .draws = t->draws,
                                              .n_draws = n_rows,
                                              .drawn = t->drawn,
                                              .logp = t->logp};
    const struct policy_draft_args draft = {.rows = t->rows,
                                            .tokens = t->tokens,
                                            .positions = t->positions,
                                            .n_rows = n_rows,
                                            .spans = t->spans,
                                            .n_spans = t->n_seqs,
                                            .n_drafts = with_drafts ? t->n_wanted : NULL,
                                            .draws = t->draws,
                                            .drafts = t->drafts,
                                            .drafts_stride = t->n_drafts};

    TRY(policy_extend(t->policy, t->cache, &extend));
    return policy_draft(t->policy, t->cache, &draft);
}

/* The quicker of two turns, with and without drafts in turn: what else runs disturbs both. */
static enum status time_turns(struct trial *t, double *cost)
{
    int64_t best_us[2] = {INT64_MAX, INT64_MAX};

    for (size_t i = 0; i < 2 * (size_t)REPEATS; i++) {
        const bool with_drafts = i % 2 == 1;

        fill_rows(t, with_drafts ? 1 + t->n_drafts : 1);
        TRY(turn(t, with_drafts)); /* warm */
        const int64_t since_us = clock_now_us();
        TRY(turn(t, with_drafts));
        const int64_t spent_us = clock_now_us() - since_us;
        best_us[i % 2] = spent_us < best_us[i % 2] ? spent_us : best_us[i % 2];
    }
    *cost = (double)best_us[1] / (double)(best_us[0] > 0 ? best_us[0] : 1);
    return STATUS_OK;
}

/* Batches of 1, 2, 4, ... up to n_max; behind the first that could not pay none is tried. */
static enum status measure_levels(struct speculation *s, struct trial *t, size_t n_max)
{
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        s->cost[i] = GIVE_UP + (double)s->n_drafts;
    }
    for (size_t i = 0; i < SPECULATION_LEVELS && ((size_t)1 << i) <= n_max; i++) {
        t->n_seqs = (size_t)1 << i;
        TRY(time_turns(t, &s->cost[i]));
        log_debug("rollout", "speculation drafts=%zu batch=%zu cost=%.3f", s->n_drafts, t->n_seqs,
                  s->cost[i]);
        if (s->cost[i] >= 1 + (double)s->n_drafts) {
            return STATUS_OK;
        }
    }
    return STATUS_OK;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

enum status speculation_measure(struct speculation *s, struct policy *policy,
                                struct policy_cache *cache, const struct speculation_room *room)
{
    struct trial trial = {.policy = policy, .cache = cache, .n_drafts = s->n_drafts};

    if (s->n_drafts == 0 || s->max_batch > 0 ||
        CONTEXT + 2 * s->n_drafts >= policy_config(policy)->max_positions) {
        return STATUS_OK;
    }
    const size_t n_max =
        smaller(smaller(room->max_num_seqs, room->n_pages / trial_pages(s->n_drafts)),
                room->max_batch_tokens / (1 + s->n_drafts));
    enum status status = trial_create(&trial, n_max);
    if (status == STATUS_OK) {
        status = measure_levels(s, &trial, n_max);
    }
    trial_dispose(&trial);
    return status;
}
