/* Owns timing turns with and without drafts: at each batch some rounds, in each of which every
 * number of drafts has its turn, one after the other, so that what else runs disturbs all. Of a
 * number's turns the one that an eighth are quicker than counts: on a busy machine so many are
 * undisturbed, and the very quickest may have met fewer experts. A moment in which more is amiss is
 * not the last: the first versions of the weights time all again, briefly, and the quickest moment
 * counts. */
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "rollout/speculation.h"

#include <stdlib.h>

#define GOOD_SHARE 0.92 /* where drafts do not pay with this one they are not looked into */
#define MARGIN_LEAST 1.03
#define CONTEXT ((size_t)48)
#define ROUNDS_MAX ((size_t)128)
#define ROUNDS_MIN ((size_t)4)
/* A batch is not timed for longer, but for ROUNDS_MIN: the first time, and later. */
#define FIRST_US INT64_C(25000)
#define AGAIN_US INT64_C(1000)
#define MOMENTS_MAX ((size_t)6)
#define GIVE_UP 1e3 /* cost of what was not measured: never worth it */

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

/* Rows for each sequence, in each round others, tokens of all kinds so that experts are met as they
 * will be. */
static void fill_rows(struct trial *t, size_t n_drafts, size_t round)
{
    const size_t vocab = policy_config(t->policy)->vocab_size;
    const size_t n_new = 1 + n_drafts;

    for (size_t i = 0; i < t->n_seqs; i++) {
        t->spans[i] = (struct kv_span){.first_row = i * n_new,
                                       .n_rows = n_new,
                                       .n_cached = CONTEXT,
                                       .blocks = t->blocks + i * trial_pages(t->n_drafts)};
        t->n_wanted[i] = n_drafts;
        for (size_t j = 0; j < n_new; j++) {
            const size_t row = i * n_new + j;

            t->tokens[row] = (int32_t)((row * 31 + round * 13 + 7) % vocab);
            t->positions[row] = (int32_t)(CONTEXT + j);
            t->rows[row] = (int32_t)row;
            t->draws[row] = (struct sample_row){.sample = (uint32_t)(row + 977 * round),
                                                .sampling = {.temperature = 1.0F, .top_p = 1.0F}};
        }
    }
}

/* One turn; with drafts all rows stay, as when every draft comes true. */
static enum status turn(struct trial *t, size_t n_drafts)
{
    const size_t n_rows = t->n_seqs * (1 + n_drafts);
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
                                            .n_drafts = n_drafts > 0 ? t->n_wanted : NULL,
                                            .draws = t->draws,
                                            .drafts = t->drafts,
                                            .drafts_stride = t->n_drafts};

    TRY(policy_extend(t->policy, t->cache, &extend));
    return policy_draft(t->policy, t->cache, &draft);
}

/* Microseconds of turns with each number of drafts. */
struct samples {
    double us[DRAFTS_MAX + 1][ROUNDS_MAX];
    size_t n;
};

static enum status time_round(struct trial *t, struct samples *samples)
{
    for (size_t n = 0; n <= t->n_drafts; n++) {
        fill_rows(t, n, samples->n);
        const int64_t since_ns = clock_now_ns();
        TRY(turn(t, n));
        samples->us[n][samples->n] = (double)(clock_now_ns() - since_ns) / 1000;
    }
    samples->n++;
    return STATUS_OK;
}

static int compare_us(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Turns of t->n_seqs sequences, where they were quicker than *quickest_us (0: not timed yet). */
static enum status time_turns(struct trial *t, int64_t longest_us, double *quickest_us)
{
    const int64_t begin_us = clock_now_us();
    struct samples samples = {.n = 0};

    while (samples.n < ROUNDS_MIN ||
           (samples.n < ROUNDS_MAX && clock_now_us() - begin_us <= longest_us)) {
        TRY(time_round(t, &samples));
    }
    for (size_t n = 0; n <= t->n_drafts; n++) {
        qsort(samples.us[n], samples.n, sizeof(double), compare_us);
        const double us = samples.us[n][samples.n / 8];
        quickest_us[n] = quickest_us[n] > 0 && quickest_us[n] < us ? quickest_us[n] : us;
    }
    return STATUS_OK;
}

static bool could_pay(const struct speculation *s, const double *costs)
{
    double reached = 1, gain = 1;
    bool could = false;

    for (size_t n = 1; n <= s->n_drafts; n++) {
        reached *= GOOD_SHARE;
        gain += reached;
        could = could || gain > costs[n] * MARGIN_LEAST;
    }
    return could;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* What turns of level i cost. */
static void set_costs(struct speculation *s, size_t i)
{
    double us = s->quickest_us[i][s->n_drafts];
    double *cost = s->cost[i];

    for (size_t n = s->n_drafts + 1; n-- > 0;) { /* fewer drafts take no longer */
        us = s->quickest_us[i][n] < us ? s->quickest_us[i][n] : us;
        cost[n] = us;
    }
    for (size_t n = s->n_drafts + 1; n-- > 0;) {
        /* Rows are never cheaper in a larger batch: then a plain turn was disturbed. */
        cost[n] = larger(cost[n] / cost[0], i == 0 || n == 0 ? 1 : s->cost[i - 1][n]);
        log_debug("rollout", "speculation batch=%zu drafts=%zu cost=%.3f", (size_t)1 << i, n,
                  cost[n]);
    }
}

/* Batches of 1, 2, 4, ... up to n_max; behind the first where drafts do not pay none is tried. */
static enum status measure_levels(struct speculation *s, struct trial *t, size_t n_max)
{
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        for (size_t n = 0; n <= s->n_drafts; n++) {
            s->cost[i][n] = GIVE_UP;
        }
    }
    for (size_t i = 0; i < SPECULATION_LEVELS && ((size_t)1 << i) <= n_max; i++) {
        t->n_seqs = (size_t)1 << i;
        TRY(time_turns(t, s->n_moments == 0 ? FIRST_US : AGAIN_US, s->quickest_us[i]));
        set_costs(s, i);
        if (!could_pay(s, s->cost[i])) {
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

    if (s->n_drafts == 0 || s->max_batch > 0 || s->n_moments == MOMENTS_MAX ||
        CONTEXT + 2 * s->n_drafts >= policy_config(policy)->max_positions) {
        return STATUS_OK;
    }
    const size_t n_max =
        smaller(smaller(room->max_num_seqs, room->n_pages / trial_pages(s->n_drafts)),
                room->max_batch_tokens / (1 + s->n_drafts));
    enum status status = trial_create(&trial, n_max);
    if (status == STATUS_OK) {
        status = measure_levels(s, &trial, n_max);
        s->n_moments += status == STATUS_OK ? 1 : 0;
    }
    trial_dispose(&trial);
    return status;
}
