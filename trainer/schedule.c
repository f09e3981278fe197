/* Linear warm-up from 0 to t = W, then the named shape; every shape starts at learning_rate. */
#include "trainer/schedule.h"

#include <math.h>

#define PI 3.14159265358979323846

struct schedule schedule_from_config(const struct run_config *config, size_t n_steps)
{
    struct schedule schedule = {
        .kind = config->optim.lr_scheduler_type,
        .learning_rate = config->optim.learning_rate,
        .n_steps = n_steps,
        .warmup_steps = config->optim.warmup_steps,
        .decay_steps = (size_t)(config->optim.decay_ratio * (double)n_steps + 0.5),
        .final_ratio = config->optim.min_lr_ratio,
    };
    if (schedule.kind == LR_CONSTANT) {
        schedule.warmup_steps = 0;
    }
    return schedule;
}

/* (t - begin) / length, within [0, 1]. */
static double progress(size_t t, size_t begin, size_t length)
{
    if (length == 0 || t <= begin) {
        return t > begin ? 1.0 : 0.0;
    }
    return fmin(1.0, (double)(t - begin) / (double)length);
}

double schedule_rate(const struct schedule *schedule, size_t t)
{
    const size_t warmup = schedule->warmup_steps;
    const size_t n = schedule->n_steps;
    const double f = schedule->final_ratio;
    if (t < warmup) {
        return schedule->learning_rate * (double)t / (double)warmup;
    }
    const double after_warmup = progress(t, warmup, n > warmup ? n - warmup : 0);
    switch (schedule->kind) {
    case LR_LINEAR:
        return schedule->learning_rate * (1.0 - (1.0 - f) * after_warmup);
    case LR_COSINE:
        return schedule->learning_rate * (f + (1.0 - f) * 0.5 * (1.0 + cos(PI * after_warmup)));
    case LR_WSD: {
        const size_t decay = schedule->decay_steps < n ? schedule->decay_steps : n;
        return schedule->learning_rate * (1.0 - (1.0 - f) * progress(t, n - decay, decay));
    }
    case LR_CONSTANT:
    case LR_CONSTANT_WITH_WARMUP:
        break;
    }
    return schedule->learning_rate;
}
