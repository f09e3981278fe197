#include "rollout/speculation.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#define PRIOR_SHARE                                                                                \
    0.85 /* of first drafts, until more is known; of later ones as of those before */
#define PRIOR_WEIGHT 16.0 /* drafts that this counts for */
#define GOOD_SHARE 0.92   /* where drafts do not pay with this one they are not looked into */
#define MEMORY 512.0      /* drafts after which what came before counts half */
/* What drafts must win by, since entries of prompts are not in their cost: 3 to 9 % of a large
 * batch; alone or in twos, sequences spend their time in turns that fetch the weights. */
#define MARGIN 1.1
#define MARGIN_FEW 1.03
#define FEW ((size_t)2)
#define FADE_TURNS                                                                                 \
    ((size_t)1024)             /* without drafts, after which what was learned no longer counts */
#define TRY_TURNS ((size_t)16) /* in a row, once in TRY_EVERY times so many */
#define TRY_EVERY ((size_t)8)
#define KNOWN_TURNS 32.0 /* after so many what turns gave is believed, and not the shares */
#define OPTIMISM 1.15    /* beside what is known, what is only hoped for counts more: it is tried */
#define TURNS_MAX 4096.0 /* after so many, older ones count half */
#define CONTEXT ((size_t)48)
#define REPEATS ((size_t)128)
#define REPEATS_MIN ((size_t)4)
#define LEVEL_US INT64_C(25000) /* a batch is not timed for longer, but for REPEATS_MIN */
#define GIVE_UP 1e3             /* cost of what was not measured: never worth it */

void speculation_init(size_t n_drafts, size_t max_batch, struct speculation *out)
{
    *out = (struct speculation){.n_drafts = n_drafts, .max_batch = max_batch};
    speculation_forget(out);
}

void speculation_forget(struct speculation *s)
{
    for (size_t i = 0; i < DRAFTS_MAX; i++) {
        s->judged[i] = 0;
        s->gained[i] = 0;
    }
    for (size_t i = 0; i <= DRAFTS_MAX; i++) {
        s->turns[i] = 0;
        s->tokens[i] = 0;
    }
}

void speculation_note(struct speculation *s, const size_t *n_judged, const size_t *n_gained)
{
    for (size_t i = 0; i < DRAFTS_MAX; i++) {
        s->judged[i] += (double)n_judged[i];
        s->gained[i] += (double)n_gained[i];
        if (s->judged[i] > 2 * MEMORY) {
            s->gained[i] *= MEMORY / s->judged[i];
            s->judged[i] = MEMORY;
        }
    }
}

void speculation_note_turns(struct speculation *s, size_t n_turns, size_t n_tokens)
{
    double *turns = &s->turns[s->n_now], *tokens = &s->tokens[s->n_now];

    *turns += (double)n_turns;
    *tokens += (double)n_tokens;
    if (*turns > TURNS_MAX) {
        *turns /= 2;
        *tokens /= 2;
    }
}

/* Of the smallest batch of at least n sequences; NULL for more than was looked at. */
static const double *costs_of(const struct speculation *s, size_t n)
{
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        if (n <= (size_t)1 << i) {
            return s->cost[i];
        }
    }
    return NULL;
}

/* What a number of drafts gives: the share of turns whose last one gives a token, and the tokens of
 * a turn. share: of the last draft, those before it being right. */
struct prospect {
    double share, reached, gain;
};
#define NO_DRAFTS ((struct prospect){.share = PRIOR_SHARE, .reached = 1, .gain = 1})

/* With one draft more, the n-th. */
static struct prospect with_draft(const struct speculation *s, struct prospect before, size_t n)
{
    struct prospect p = before;

    p.share = (s->gained[n - 1] + PRIOR_WEIGHT * p.share) / (s->judged[n - 1] + PRIOR_WEIGHT);
    p.reached *= p.share;
    p.gain += p.reached;
    return p;
}

static bool is_known(const struct speculation *s, size_t n)
{
    return s->turns[n] >= KNOWN_TURNS;
}

static bool is_any_known(const struct speculation *s)
{
    for (size_t n = 1; n <= s->n_drafts; n++) {
        if (is_known(s, n)) {
            return true;
        }
    }
    return false;
}

/* Tokens of a turn with n drafts: as it was, or, until that is known, as is hoped for. */
static double gain_of(const struct speculation *s, struct prospect hoped, size_t n)
{
    if (is_known(s, n)) {
        return s->tokens[n] / s->turns[n];
    }
    return is_any_known(s) ? OPTIMISM * hoped.gain : hoped.gain;
}

/* The number of drafts that gives most tokens for its cost. */
static size_t best_of(const struct speculation *s, const double *costs, double margin)
{
    struct prospect p = NO_DRAFTS;
    double best = margin;
    size_t n_best = 0;

    for (size_t n = 1; n <= s->n_drafts; n++) {
        p = with_draft(s, p, n);
        const double gain = gain_of(s, p, n);

        if (gain / costs[n] > best) {
            best = gain / costs[n];
            n_best = n;
        }
    }
    return n_best;
}

/* Whether a draft behind the n-th would be worth its cost if it always gave a token. */
static bool could_win(const struct speculation *s, const double *costs, size_t n)
{
    struct prospect p = NO_DRAFTS;

    for (size_t i = 1; i <= n; i++) {
        p = with_draft(s, p, i);
    }
    const double gain = gain_of(s, p, n);

    return (gain + 1) / costs[n + 1] > gain / costs[n];
}

static bool is_trying(const struct speculation *s)
{
    return s->n_turns / TRY_TURNS % TRY_EVERY == TRY_EVERY - 1;
}

size_t speculation_choose(const struct speculation *s, size_t n_running)
{
    const double *costs = costs_of(s, n_running);

    if (s->max_batch > 0) {
        return n_running <= s->max_batch ? s->n_drafts : 0;
    }
    if (s->cost[0][0] <= 0) {
        return s->n_drafts; /* nothing is known yet */
    }
    return costs == NULL ? 0 : best_of(s, costs, n_running <= FEW ? MARGIN_FEW : MARGIN);
}

size_t speculation_next(struct speculation *s, size_t n_running)
{
    const size_t n = speculation_choose(s, n_running);

    s->n_idle = n == 0 ? s->n_idle + 1 : 0;
    if (s->n_idle >= FADE_TURNS) {
        s->n_idle = 0;
        speculation_forget(s); /* drafts are tried again where they are hoped to pay */
    }
    s->n_now = n;
    if (s->max_batch > 0 || n == 0 || n == s->n_drafts) {
        return n;
    }
    s->n_turns++;
    if (is_trying(s) && could_win(s, costs_of(s, n_running), n)) {
        s->n_now = n + 1;
    }
    return s->n_now;
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

/* Rows for each sequence, tokens of all kinds so that experts are met as they will be. */
static void fill_rows(struct trial *t, size_t n_drafts)
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

            t->tokens[row] = (int32_t)((row * 31 + 7) % vocab);
            t->positions[row] = (int32_t)(CONTEXT + j);
            t->rows[row] = (int32_t)row;
            t->draws[row] = (struct sample_row){.sample = (uint32_t)row,
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

/* Each number of drafts once, one after the other: what else runs disturbs all. Keeps the quickest.
 */
static enum status time_round(struct trial *t, int64_t *best_us)
{
    for (size_t n = 0; n <= t->n_drafts; n++) {
        fill_rows(t, n);
        const int64_t since_us = clock_now_us();
        TRY(turn(t, n));
        const int64_t spent_us = clock_now_us() - since_us;
        best_us[n] = spent_us < best_us[n] ? spent_us : best_us[n];
    }
    return STATUS_OK;
}

static enum status time_turns(struct trial *t, double *costs)
{
    const int64_t begin_us = clock_now_us();
    int64_t best_us[DRAFTS_MAX + 1];

    for (size_t n = 0; n <= DRAFTS_MAX; n++) {
        best_us[n] = INT64_MAX;
    }
    for (size_t i = 0; i < REPEATS; i++) {
        TRY(time_round(t, best_us));
        if (i + 1 >= REPEATS_MIN && clock_now_us() - begin_us > LEVEL_US) {
            break;
        }
    }
    for (size_t n = t->n_drafts; n > 0;
         n--) { /* fewer drafts cost no more: that was a disturbance */
        best_us[n - 1] = best_us[n] < best_us[n - 1] ? best_us[n] : best_us[n - 1];
    }
    for (size_t n = 0; n <= t->n_drafts; n++) {
        costs[n] = (double)best_us[n] / (double)(best_us[0] > 0 ? best_us[0] : 1);
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
        could = could || gain > costs[n] * MARGIN_FEW;
    }
    return could;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Batches of 1, 2, 4, ... up to n_max; behind the first where drafts do not pay none is
 * tried. */
static enum status measure_levels(struct speculation *s, struct trial *t, size_t n_max)
{
    for (size_t i = 0; i < SPECULATION_LEVELS; i++) {
        for (size_t n = 0; n <= s->n_drafts; n++) {
            s->cost[i][n] = GIVE_UP;
        }
    }
    for (size_t i = 0; i < SPECULATION_LEVELS && ((size_t)1 << i) <= n_max; i++) {
        t->n_seqs = (size_t)1 << i;
        TRY(time_turns(t, s->cost[i]));
        for (size_t n = 1; n <= s->n_drafts; n++) {
            /* Rows are never cheaper in a larger batch: a smaller ratio is a disturbed plain turn.
             */
            s->cost[i][n] = larger(s->cost[i][n], i == 0 ? 1 : s->cost[i - 1][n]);
            log_debug("rollout", "speculation batch=%zu drafts=%zu cost=%.3f", t->n_seqs, n,
                      s->cost[i][n]);
        }
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
