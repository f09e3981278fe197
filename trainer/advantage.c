/* Group statistics are taken over the scorable members only; equality of rewards is decided
 * exactly, never by a threshold, so that rounding of the mean cannot invent a signal. */
#include "trainer/advantage.h"

#include <math.h>

struct statistics {
    size_t n;
    double mean, deviation;
    bool is_constant;
};

static struct statistics measure(const struct advantage_options *options,
                                 const struct sample *samples, size_t n)
{
    struct statistics s = {.is_constant = true};
    double first = 0.0;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (!samples[i].has_reward) {
            continue;
        }
        first = s.n == 0 ? samples[i].reward : first;
        s.is_constant = s.is_constant && (float)samples[i].reward == (float)first;
        sum += samples[i].reward;
        s.n++;
    }
    s.mean = s.n > 0 ? sum / (double)s.n : 0.0;
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double difference = samples[i].has_reward ? samples[i].reward - s.mean : 0.0;
        squares += difference * difference;
    }
    s.deviation = s.n > options->ddof ? sqrt(squares / (double)(s.n - options->ddof)) : 0.0;
    return s;
}

bool advantages_fill_group(const struct advantage_options *options, struct sample *samples,
                           size_t n)
{
    const struct statistics s = measure(options, samples, n);
    const bool has_signal = s.n >= 2 && !s.is_constant;
    const double divisor = options->scale == SCALE_GROUP ? s.deviation + options->eps : 1.0;
    for (size_t i = 0; i < n; i++) {
        const bool counts = has_signal && samples[i].has_reward;
        samples[i].advantage = counts ? (float)((samples[i].reward - s.mean) / divisor) : 0.0F;
    }
    return has_signal;
}

size_t advantages_fill(const struct advantage_options *options, struct step_batch *batch)
{
    size_t n_without_signal = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        struct sample_group *group = &batch->groups[g];
        if (!advantages_fill_group(options, group->samples, group->n_samples)) {
            n_without_signal++;
        }
    }
    return n_without_signal;
}

size_t step_batch_samples(const struct step_batch *batch)
{
    size_t n = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        n += batch->groups[g].n_samples;
    }
    return n;
}
