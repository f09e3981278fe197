/* Per token, with r = exp(l - l_old) and c = clamp(r, 1 - eps_low, 1 + eps_high):
 *   L = -min(r A, c A) + beta KL,   g = a (-A r [not clipped] + beta dKL/dl)
 * Values are single precision like everything that enters the gradient; sums for metrics are
 * double. */
#include "trainer/policy_loss.h"

#include <math.h>

#define LOG_RATIO_MAX 20.0

struct token_result {
    double loss, gradient, kl, ratio;
    bool is_clipped_low, is_clipped_high;
};

static bool is_active(const struct loss_sequence *sequence, size_t t)
{
    return sequence->mask == NULL || sequence->mask[t];
}

size_t loss_active_tokens(const struct loss_sequence *sequence)
{
    size_t n = 0;
    for (size_t t = 0; t < sequence->n; t++) {
        n += is_active(sequence, t) ? 1 : 0;
    }
    return n;
}

static double clamp_log(double x)
{
    return fmin(fmax(x, -LOG_RATIO_MAX), LOG_RATIO_MAX);
}

/* KL of grpo.md 5: k3 = e^D - D - 1 with D = l_ref - l; k3u = r k3 differentiated through r, whose
 * gradient is -r D. */
static void add_kl(const struct loss_options *options, double logp, double ref_logp,
                   struct token_result *token)
{
    const double delta = clamp_log(ref_logp - logp);
    const double k3 = exp(delta) - delta - 1.0;
    token->kl = k3;
    if (options->kl == KL_K3U) {
        token->loss += options->beta * token->ratio * k3;
        token->gradient -= options->beta * token->ratio * delta;
    } else {
        token->loss += options->beta * k3;
        token->gradient += options->beta * (1.0 - exp(delta));
    }
}

static struct token_result token_loss(const struct loss_options *options,
                                      const struct loss_sequence *sequence, size_t t)
{
    const double advantage = (double)sequence->advantage;
    const double logp = (double)sequence->logp[t];
    const double old_logp = sequence->old_logp != NULL ? (double)sequence->old_logp[t] : logp;
    struct token_result token = {.ratio = exp(clamp_log(logp - old_logp))};
    token.is_clipped_low = advantage < 0.0 && token.ratio < 1.0 - options->epsilon;
    token.is_clipped_high = advantage > 0.0 && token.ratio > 1.0 + options->epsilon_high;
    const double clipped =
        fmin(fmax(token.ratio, 1.0 - options->epsilon), 1.0 + options->epsilon_high);
    token.loss = -fmin(token.ratio * advantage, clipped * advantage);
    token.gradient = token.is_clipped_low || token.is_clipped_high ? 0.0 : -advantage * token.ratio;
    if (options->beta > 0.0 && sequence->ref_logp != NULL) {
        add_kl(options, logp, (double)sequence->ref_logp[t], &token);
    }
    return token;
}

/* The clamp of log-ratios would turn a NaN into a plausible number. */
static enum status check_token(const struct loss_options *options,
                               const struct loss_sequence *sequence, size_t t)
{
    const struct {
        const char *whose;
        const float *logp;
    } inputs[] = {{"the trainer", sequence->logp},
                  {"the sampler", sequence->old_logp},
                  {"the reference", options->beta > 0.0 ? sequence->ref_logp : NULL}};
    for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
        if (inputs[i].logp != NULL && !isfinite(inputs[i].logp[t])) {
            return status_set(STATUS_NUMERICS, "%s's log-probability of token %zu is %f",
                              inputs[i].whose, t, (double)inputs[i].logp[t]);
        }
    }
    return STATUS_OK;
}

/* a of grpo.md 6: the weight of a token of a sequence with n_active active tokens. */
static double token_weight(const struct loss_options *options, const struct loss_totals *totals,
                           size_t n_active)
{
    switch (options->type) {
    case LOSS_GRPO:
        return 1.0 / ((double)totals->n_active_sequences * (double)n_active);
    case LOSS_DR_GRPO:
        return 1.0 / ((double)totals->n_sequences * (double)options->max_completion_length);
    case LOSS_DAPO:
        break;
    }
    return 1.0 / (double)totals->n_tokens;
}

enum status loss_sequence_gradient(const struct loss_options *options,
                                   const struct loss_totals *totals,
                                   const struct loss_sequence *sequence, float *g,
                                   struct loss_stats *stats)
{
    *stats = (struct loss_stats){.n_active = loss_active_tokens(sequence)};
    const double weight =
        stats->n_active > 0 ? token_weight(options, totals, stats->n_active) : 0.0;
    for (size_t t = 0; t < sequence->n; t++) {
        g[t] = 0.0F;
        if (!is_active(sequence, t)) {
            continue;
        }
        const enum status status = check_token(options, sequence, t);
        if (status != STATUS_OK) {
            return status;
        }
        const struct token_result token = token_loss(options, sequence, t);
        g[t] = (float)(weight * token.gradient);
        stats->loss += weight * token.loss;
        stats->kl += token.kl;
        stats->ratio_max = fmax(stats->ratio_max, token.ratio);
        stats->n_clipped_low += token.is_clipped_low ? 1 : 0;
        stats->n_clipped_high += token.is_clipped_high ? 1 : 0;
    }
    return STATUS_OK;
}
