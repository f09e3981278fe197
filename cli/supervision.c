#include "cli/supervision.h"

#define BACKOFF_US ((int64_t)100000)
#define BACKOFF_MAX_US ((int64_t)5000000)
#define EXIT_LOST 7     /* a peer is gone for good */
#define EXIT_REQUEUE 75 /* interrupted after a checkpoint */

void supervision_begin(struct supervision *state, size_t n_workers, int64_t now_us)
{
    *state = (struct supervision){.n_workers = n_workers, .steps_seen = -1};
    supervision_begin_again(state, now_us);
}

void supervision_begin_again(struct supervision *state, int64_t now_us)
{
    state->reward_gone_us = 0;
    for (size_t i = 0; i < state->n_workers; i++) {
        supervision_worker_started(state, i, now_us);
    }
}

void supervision_worker_started(struct supervision *state, size_t worker, int64_t now_us)
{
    state->workers[worker].started_us = now_us;
    state->workers[worker].retry_us = 0;
}

static struct supervision_verdict go_on(void)
{
    return (struct supervision_verdict){SUPERVISION_GO_ON, 0};
}

static struct supervision_verdict end_with(int exit_code)
{
    return (struct supervision_verdict){SUPERVISION_END, exit_code};
}

/* Codes with which a process says that starting it again is of no use (data-and-ui.md 6). */
static bool is_deliberate(int exit_code)
{
    return (exit_code >= 2 && exit_code <= 6) || (exit_code >= 8 && exit_code <= 10);
}

static struct supervision_verdict trainer_exit(const struct supervision *state, int exit_code)
{
    const bool is_final = exit_code <= 1 || exit_code == EXIT_REQUEUE || is_deliberate(exit_code);
    if (is_final || state->is_stopping) {
        return end_with(exit_code);
    }
    return (struct supervision_verdict){SUPERVISION_RESTART_ALL, exit_code};
}

static struct supervision_verdict reward_exit(struct supervision *state, int exit_code,
                                              int64_t now_us)
{
    const bool was_told = exit_code == 0 || exit_code == EXIT_REQUEUE;
    if (is_deliberate(exit_code)) {
        return end_with(exit_code);
    }
    if (was_told || state->is_stopping) {
        state->reward_gone_us = now_us;
        return go_on();
    }
    return (struct supervision_verdict){SUPERVISION_RESTART_ALL, exit_code};
}

static int64_t backoff_us(unsigned n_deaths)
{
    int64_t wait_us = BACKOFF_US;
    for (unsigned i = 1; i < n_deaths && wait_us < BACKOFF_MAX_US; i++) {
        wait_us *= 2;
    }
    return wait_us < BACKOFF_MAX_US ? wait_us : BACKOFF_MAX_US;
}

static struct supervision_verdict worker_exit(struct supervision *state, size_t worker,
                                              int exit_code, int64_t now_us)
{
    const int64_t lived_us = now_us - state->workers[worker].started_us;
    const bool is_hopeless = exit_code == 2 || exit_code == 5 || exit_code == 9 || exit_code == 10;
    if (state->is_stopping) {
        return go_on();
    }
    if (is_hopeless) {
        return end_with(exit_code);
    }
    if (exit_code == 0) { /* told to, by a trainer that is about to end */
        state->workers[worker].retry_us = now_us + SUPERVISION_FAREWELL_US;
        return (struct supervision_verdict){SUPERVISION_RESTART_WORKER, 0};
    }
    if (lived_us >= SUPERVISION_LONG_LIFE_US) {
        state->workers[worker].n_deaths = 0;
    }
    state->workers[worker].n_deaths++;
    if (state->workers[worker].n_deaths > SUPERVISION_DEATHS_MAX) {
        return end_with(EXIT_LOST);
    }
    state->workers[worker].retry_us = now_us + backoff_us(state->workers[worker].n_deaths);
    return (struct supervision_verdict){SUPERVISION_RESTART_WORKER, exit_code};
}

struct supervision_verdict supervision_exit(struct supervision *state, enum role role,
                                            size_t worker, int exit_code, int64_t now_us)
{
    switch (role) {
    case ROLE_TRAINER:
        return trainer_exit(state, exit_code);
    case ROLE_REWARD:
        return reward_exit(state, exit_code, now_us);
    case ROLE_WORKER:
        return worker_exit(state, worker, exit_code, now_us);
    }
    return go_on();
}

struct supervision_verdict supervision_tick(const struct supervision *state, int64_t now_us)
{
    const bool is_late =
        state->reward_gone_us > 0 && now_us - state->reward_gone_us > SUPERVISION_FAREWELL_US;
    if (is_late && !state->is_stopping) {
        return (struct supervision_verdict){SUPERVISION_RESTART_ALL, 0};
    }
    return go_on();
}

bool supervision_may_restart(struct supervision *state, int64_t steps)
{
    if (steps > state->steps_seen) {
        state->steps_seen = steps;
        state->n_restarts = 0;
    }
    state->n_restarts++;
    return state->n_restarts <= SUPERVISION_SET_RESTARTS_MAX;
}
