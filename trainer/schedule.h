/* Owns learning-rate schedules (grpo.md 14): lr(t) for update t = 1 .. n_steps. */
#ifndef HONE_TRAINER_SCHEDULE_H
#define HONE_TRAINER_SCHEDULE_H

#include "configs/config.h"

#include <stddef.h>

struct schedule {
    enum lr_schedule kind;
    double learning_rate;
    size_t n_steps, warmup_steps;
    size_t decay_steps; /* wsd: the last ones */
    double final_ratio; /* f: lr at the end / learning_rate */
};

/* From optim.* for a run of n_steps updates. */
struct schedule schedule_from_config(const struct run_config *config, size_t n_steps);
/* Learning rate at t in [0, n_steps]; the first update uses t = 1. */
double schedule_rate(const struct schedule *schedule, size_t t);

#endif
