/* Owns what `hone run` decides when one of its processes ends: a pure function of state, event and
 * time. The processes themselves are supervisor.h's.
 *
 *   trainer ends 0            the run is over
 *   trainer or reward ends deliberately (2 3 4 5 6 8 9 10, trainer also 1 and 75)
 *                             the run ends with that code
 *   trainer or reward ends otherwise (a signal, 7)
 *                             everything is stopped and started again; 5 times without a new step
 *   reward ends 0 or 75       it was told to, by the trainer, which must follow within 10 s
 *   worker ends               it is started again after 0.1 s, 0.2 s ... 5 s; 20 times in a row
 *   worker ends 0             it was told to; started again if the trainer is there after 10 s
 *   worker ends with 2 5 9 10 no other would fare better: the run ends with that code */
#ifndef HONE_CLI_SUPERVISION_H
#define HONE_CLI_SUPERVISION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SUPERVISION_WORKERS_MAX 256u
#define SUPERVISION_DEATHS_MAX 20u      /* of a worker in a row */
#define SUPERVISION_SET_RESTARTS_MAX 5u /* without a new step */
#define SUPERVISION_LONG_LIFE_US ((int64_t)30000000)
#define SUPERVISION_FAREWELL_US ((int64_t)10000000) /* others gone, trainer still there */

enum role { ROLE_REWARD, ROLE_TRAINER, ROLE_WORKER };

enum supervision_action {
    SUPERVISION_GO_ON,
    SUPERVISION_RESTART_WORKER, /* at its workers[].retry_us */
    SUPERVISION_RESTART_ALL,    /* if supervision_may_restart */
    SUPERVISION_END,            /* with exit_code */
};
struct supervision_verdict {
    enum supervision_action action;
    int exit_code;
};

struct supervision {
    size_t n_workers;
    struct {
        int64_t started_us, retry_us; /* retry_us 0: it runs */
        unsigned n_deaths;            /* in a row */
    } workers[SUPERVISION_WORKERS_MAX];
    int64_t reward_gone_us; /* 0: it is there */
    bool is_stopping;       /* the user asked; the trainer writes its checkpoint */
    unsigned n_restarts;    /* of all, since the last new step */
    int64_t steps_seen;
};

/* All processes are about to be started. */
void supervision_begin(struct supervision *state, size_t n_workers, int64_t now_us);
/* They are started once more: keeps what limits that. */
void supervision_begin_again(struct supervision *state, int64_t now_us);
void supervision_worker_started(struct supervision *state, size_t worker, int64_t now_us);
/* A process ended; exit_code is 128 + n after signal n. worker: index, for ROLE_WORKER. */
struct supervision_verdict supervision_exit(struct supervision *state, enum role role,
                                            size_t worker, int exit_code, int64_t now_us);
/* Nothing ended; asks what time alone decides. */
struct supervision_verdict supervision_tick(const struct supervision *state, int64_t now_us);
/* Counts a restart of everything; steps: trained ones in the database, -1 if unknown. false: it has
 * been tried often enough. */
bool supervision_may_restart(struct supervision *state, int64_t steps);

#endif
