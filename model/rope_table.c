/* Owns the frequencies of each kind of scaling and the rotary tables. */
#include "model/rope_table.h"

#include <math.h>

/* The (fractional) pair that turns `turns` times within the original length. */
static double ramp_bound(const struct model_config *config, double turns)
{
    const double dim = (double)model_config_rope_dim(config);
    const double length = (double)config->rope.original_max_positions;

    return dim * log(length / (2 * M_PI * turns)) / (2 * log(config->rope_theta));
}

/* 0: keep the frequency (fast pairs); 1: divide it by the factor (slow pairs). */
static double ramp(const struct model_config *config, size_t i)
{
    double low = ramp_bound(config, config->rope.beta_fast);
    double high = ramp_bound(config, config->rope.beta_slow);

    if (config->rope.truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)model_config_rope_dim(config) - 1);
    if (low == high) {
        high += 0.001;
    }
    return fmin(fmax(((double)i - low) / (high - low), 0), 1);
}

/* Long waves are divided, short ones kept, those between blended (model.md 12.1). */
static double llama3_frequency(const struct rope_scaling *rope, double frequency)
{
    const double length = (double)rope->original_max_positions;
    const double turns = length * frequency / (2 * M_PI); /* length over wavelength */
    double kept;

    if (turns < rope->low_freq_factor) {
        return frequency / rope->factor;
    }
    if (turns > rope->high_freq_factor) {
        return frequency;
    }
    kept = (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - kept) * frequency / rope->factor + kept * frequency;
}

double rope_frequency(const struct model_config *config, size_t i)
{
    const struct rope_scaling *rope = &config->rope;
    const double frequency =
        pow(config->rope_theta, -2.0 * (double)i / (double)model_config_rope_dim(config));
    double slow;

    switch (rope->kind) {
    case ROPE_PLAIN:
        break;
    case ROPE_LINEAR:
        return frequency / rope->factor;
    case ROPE_LLAMA3:
        return llama3_frequency(rope, frequency);
    case ROPE_YARN:
        slow = ramp(config, i);
        return frequency / rope->factor * slow + frequency * (1 - slow);
    }
    return frequency;
}

/* m(S, a) of model.md 5.1. */
static double yarn_scale(double factor, double a)
{
    return factor <= 1 ? 1 : 0.1 * a * log(factor) + 1;
}

double rope_attention_factor(const struct model_config *config)
{
    const struct rope_scaling *rope = &config->rope;

    if (rope->kind != ROPE_YARN) {
        return 1;
    }
    if (rope->attention_factor != 0) {
        return rope->attention_factor;
    }
    if (rope->mscale != 0 && rope->mscale_all_dim != 0) {
        return yarn_scale(rope->factor, rope->mscale) /
               yarn_scale(rope->factor, rope->mscale_all_dim);
    }
    return yarn_scale(rope->factor, 1);
}

void rope_table_fill(const struct model_config *config, size_t n_positions, float *cos_table,
                     float *sin_table)
{
    const size_t n_pairs = model_config_rope_dim(config) / 2;
    const double factor = rope_attention_factor(config);

    for (size_t i = 0; i < n_pairs; i++) {
        const double frequency = rope_frequency(config, i);

        for (size_t p = 0; p < n_positions; p++) {
            cos_table[p * n_pairs + i] = (float)(factor * cos((double)p * frequency));
            sin_table[p * n_pairs + i] = (float)(factor * sin((double)p * frequency));
        }
    }
}
