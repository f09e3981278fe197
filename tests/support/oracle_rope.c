/* Owns the oracle's rotary embedding (model.md 5, 12.1): frequencies of every scaling kind, the
 * cos/sin multiplier, the softmax scale, and the rotation. */
#include "tests/support/oracle_internal.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

static size_t rotary_width(const struct oracle_config *c)
{
    return c->is_mla ? c->rope_dim : c->head_dim;
}

void oracle_yarn_bounds(const struct oracle_config *config, double *low, double *high)
{
    const struct oracle_rope *rope = &config->rope;
    const double width = (double)rotary_width(config), log_theta = 2 * log(rope->theta);
    const double fast = rope->beta_fast != 0 ? rope->beta_fast : 32;
    const double slow = rope->beta_slow != 0 ? rope->beta_slow : 1;

    *low = width * log(rope->original_length / (fast * TWO_PI)) / log_theta;
    *high = width * log(rope->original_length / (slow * TWO_PI)) / log_theta;
    if (rope->truncate) {
        *low = floor(*low);
        *high = ceil(*high);
    }
}

static double yarn_frequency(const struct oracle_config *config, size_t pair, double frequency)
{
    const double last = (double)rotary_width(config) - 1;
    double low, high, share;

    oracle_yarn_bounds(config, &low, &high);
    low = low < 0 ? 0 : low;
    high = high > last ? last : high;
    if (low == high) {
        high += 0.001;
    }
    share = ((double)pair - low) / (high - low);
    share = share < 0 ? 0 : share;
    share = share > 1 ? 1 : share;
    return frequency * (1 - share) + share * frequency / config->rope.factor;
}

static double llama3_frequency(const struct oracle_rope *rope, double frequency)
{
    const double wave = TWO_PI / frequency;
    double share;

    if (wave < rope->original_length / rope->high_freq_factor) {
        return frequency;
    }
    if (wave > rope->original_length / rope->low_freq_factor) {
        return frequency / rope->factor;
    }
    share = (rope->original_length / wave - rope->low_freq_factor) /
            (rope->high_freq_factor - rope->low_freq_factor);
    return share * frequency + (1 - share) * frequency / rope->factor;
}

static double frequency_of(const struct oracle_config *config, size_t pair)
{
    const double exponent = 2 * (double)pair / (double)rotary_width(config);
    const double frequency = 1 / pow(config->rope.theta, exponent);

    switch (config->rope.kind) {
    case ORACLE_ROPE_NONE:
        break;
    case ORACLE_ROPE_YARN:
        return yarn_frequency(config, pair, frequency);
    case ORACLE_ROPE_LLAMA3:
        return llama3_frequency(&config->rope, frequency);
    case ORACLE_ROPE_LINEAR:
        return frequency / config->rope.factor;
    }
    return frequency;
}

/* m(S, a) of model.md 5.1. */
static double m_of(double factor, double a)
{
    return factor > 1 ? 1 + 0.1 * a * log(factor) : 1;
}

double oracle_attention_factor(const struct oracle_rope *rope)
{
    if (rope->kind != ORACLE_ROPE_YARN) {
        return 1;
    }
    if (rope->attention_factor != 0) {
        return rope->attention_factor;
    }
    if (rope->mscale != 0 && rope->mscale_all_dim != 0) {
        return m_of(rope->factor, rope->mscale) / m_of(rope->factor, rope->mscale_all_dim);
    }
    return m_of(rope->factor, 1);
}

void oracle_rope_prepare(struct oracle *oracle)
{
    const struct oracle_config *c = &oracle->config;
    double m = 1;

    for (size_t i = 0; i < rotary_width(c) / 2; i++) {
        const double frequency = frequency_of(c, i);

        for (size_t t = 0; t < ORACLE_TOKENS_MAX; t++) {
            oracle->cosines[t][i] = oracle_attention_factor(&c->rope) * cos((double)t * frequency);
            oracle->sines[t][i] = oracle_attention_factor(&c->rope) * sin((double)t * frequency);
        }
    }
    if (c->is_mla && c->rope.kind != ORACLE_ROPE_NONE && c->rope.mscale_all_dim != 0) {
        m = m_of(c->rope.factor, c->rope.mscale_all_dim);
    }
    oracle->softmax_scale = m * m / sqrt((double)(c->is_mla ? c->nope + c->rope_dim : c->head_dim));
}

void oracle_rotate(const struct oracle *oracle, double *x, size_t position, bool is_interleaved)
{
    const size_t half = rotary_width(&oracle->config) / 2;
    double rotated[2 * ORACLE_D_MAX];

    for (size_t i = 0; i < half; i++) {
        const double c = oracle->cosines[position][i], s = oracle->sines[position][i];
        const double a = is_interleaved ? x[2 * i] : x[i];
        const double b = is_interleaved ? x[2 * i + 1] : x[half + i];

        rotated[i] = a * c - b * s;
        rotated[half + i] = b * c + a * s;
    }
    for (size_t i = 0; i < 2 * half; i++) {
        x[i] = rotated[i];
    }
}
