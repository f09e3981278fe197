#include "rollout/speculation.h"

#define PRIOR_SHARE                                                                                \
    0.85 /* of first drafts, until more is known; of later ones as of those before */
#define PRIOR_WEIGHT 16.0 /* drafts that this counts for */
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
