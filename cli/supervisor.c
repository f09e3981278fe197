#include "cli/supervisor.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/run_paths.h"
#include "base/waits.h"
#include "cli/run_child.h"
#include "cli/supervision.h"
#include "db/db.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TICK_US 20000
#define FAREWELL_MS 3000                   /* others end by themselves once the trainer has */
#define FAREWELL_CUT_MS 500                /* after an interruption, maybe before they met */
#define STOP_GRACE_MS 2000                 /* from SIGTERM to SIGKILL */
#define CHECKPOINT_US ((int64_t)300000000) /* a trainer that was asked to stop writes one */

struct supervisor {
    const struct supervisor_options *options;
    char *own_path, *log_dir;
    int log_fd;
    struct run_memory *memory;
    struct supervision state;
    struct run_child *children; /* reward, trainer, workers */
    size_t n_children;
    int64_t stop_deadline_us; /* 0: nobody asked to stop */
    bool clears_line;
    bool has_told_end; /* what the others say while they are stopped explains nothing any more */
};

static enum status child_start(struct supervisor *supervisor, struct run_child *child)
{
    const struct run_child_files files = {.own_path = supervisor->own_path,
                                          .log_dir = supervisor->log_dir};
    return run_child_start(child, supervisor->options, &files);
}

static void child_stop(struct supervisor *supervisor, struct run_child *child, int grace_ms)
{
    if (supervisor->has_told_end) {
        log_tail_close(&child->tail);
    }
    run_child_stop(child, grace_ms, supervisor->clears_line);
}

/* --- All of them --- */

static void stop_all(struct supervisor *supervisor, int grace_ms)
{
    for (size_t i = 0; i < supervisor->n_children; i++) { /* all hear it at once */
        process_signal(&supervisor->children[i].process, SIGTERM);
    }
    for (size_t i = 0; i < supervisor->n_children; i++) {
        child_stop(supervisor, &supervisor->children[i], grace_ms);
    }
}

static enum status start_all(struct supervisor *supervisor)
{
    for (size_t i = 0; i < supervisor->n_children; i++) {
        TRY(child_start(supervisor, &supervisor->children[i]));
    }
    return STATUS_OK;
}

/* The trainer has ended well, and has told the others so: the reward service closes its files and
 * follows. The workers have left, except those that it never met. */
static void await_farewell(struct supervisor *supervisor, int farewell_ms)
{
    for (size_t i = RUN_CHILD_TRAINER + 1; i < supervisor->n_children; i++) {
        process_signal(&supervisor->children[i].process, SIGTERM);
    }
    const int64_t deadline_us = clock_now_us() + (int64_t)farewell_ms * 1000;
    bool is_anyone_left = true;
    while (is_anyone_left && clock_now_us() < deadline_us) {
        is_anyone_left = false;
        for (size_t i = 0; i < supervisor->n_children; i++) {
            int exit_code = 0;
            is_anyone_left |= !process_has_ended(&supervisor->children[i].process, &exit_code);
        }
        clock_sleep_us(TICK_US);
    }
}

/* Trained steps in the database, -1 when it cannot tell. */
static int64_t count_trained(const struct supervisor *supervisor)
{
    char *path = NULL;
    struct db *db = NULL;
    struct query *query = NULL;
    bool has_row = false;
    int64_t n = -1;
    enum status status = run_database_path(supervisor->options->run_dir, &path);
    if (status == STATUS_OK) {
        status = db_open_readonly(path, DB_TRUSTED, &db);
    }
    if (status == STATUS_OK) {
        status = query_open(db, "SELECT count(*) FROM steps WHERE status='trained'", &query);
    }
    if (status == STATUS_OK) {
        status = query_next(query, &has_row);
    }
    if (status == STATUS_OK && has_row) {
        n = query_int(query, 0);
    }
    query_close(query);
    db_close(db);
    memory_free(path);
    return n;
}

/* --- What happens --- */

/* To the user, and to RUN/log/run.log. */
static void tell_ending(const struct supervisor *supervisor, const struct run_child *child,
                        int exit_code, const char *consequence)
{
    char text[LOG_TAIL_LINE + 200];
    (void)run_child_ending(child, exit_code, consequence, text, sizeof text);
    (void)fprintf(stderr, "%shone run: %s\n", supervisor->clears_line ? "\r\033[K" : "", text);
    log_info("supervisor", "%s", text);
}

static enum status restart_all(struct supervisor *supervisor, bool *is_over, int *exit_code)
{
    stop_all(supervisor, STOP_GRACE_MS);
    if (!supervision_may_restart(&supervisor->state, count_trained(supervisor))) {
        (void)fprintf(stderr, "hone run: no new step after %u restarts; giving up\n",
                      SUPERVISION_SET_RESTARTS_MAX);
        log_info("supervisor", "no new step after %u restarts", SUPERVISION_SET_RESTARTS_MAX);
        *is_over = true;
        *exit_code = status_exit_code(STATUS_TIMEOUT);
        return STATUS_OK;
    }
    supervision_begin_again(&supervisor->state, clock_now_us());
    return start_all(supervisor);
}

static enum status act(struct supervisor *supervisor, const struct run_child *child, int child_code,
                       struct supervision_verdict verdict, bool *is_over, int *exit_code)
{
    switch (verdict.action) {
    case SUPERVISION_GO_ON:
        return STATUS_OK;
    case SUPERVISION_RESTART_WORKER:
        if (child_code != 0) { /* 0: it was told that the run is over */
            tell_ending(supervisor, child, child_code, "starting it again");
        }
        return STATUS_OK;
    case SUPERVISION_RESTART_ALL:
        tell_ending(supervisor, child, child_code, "starting all again from the last state");
        return restart_all(supervisor, is_over, exit_code);
    case SUPERVISION_END:
        if (verdict.exit_code != 0 && verdict.exit_code != status_exit_code(STATUS_CANCELLED)) {
            tell_ending(supervisor, child, child_code, "the run ends");
            supervisor->has_told_end = true;
        }
        *is_over = true;
        *exit_code = verdict.exit_code;
        return STATUS_OK;
    }
    return STATUS_OK;
}

/* Looks after one child: its log, its end. */
static enum status child_tick(struct supervisor *supervisor, struct run_child *child, bool *is_over,
                              int *exit_code)
{
    int child_code = 0;
    log_tail_follow(&child->tail, supervisor->clears_line);
    if (child->process.pid <= 0 || !process_has_ended(&child->process, &child_code)) {
        return STATUS_OK;
    }
    child_stop(supervisor, child, 0); /* reaps it, and what it left */
    const struct supervision_verdict verdict =
        supervision_exit(&supervisor->state, child->role, child->index, child_code, clock_now_us());
    return act(supervisor, child, child_code, verdict, is_over, exit_code);
}

static enum status start_due_workers(struct supervisor *supervisor)
{
    const int64_t now_us = clock_now_us();
    for (size_t i = 0; i < supervisor->state.n_workers; i++) {
        const int64_t retry_us = supervisor->state.workers[i].retry_us;
        if (retry_us == 0 || retry_us > now_us || supervisor->state.is_stopping) {
            continue;
        }
        TRY(child_start(supervisor, &supervisor->children[RUN_CHILD_TRAINER + 1 + i]));
        supervision_worker_started(&supervisor->state, i, now_us);
    }
    return STATUS_OK;
}

/* The first signal asks the trainer for a checkpoint; a second one ends this process at once, and
 * the children die with it. */
static void hear_signals(struct supervisor *supervisor, bool *is_over, int *exit_code)
{
    const int64_t now_us = clock_now_us();
    if (process_signal_caught() != 0 && supervisor->stop_deadline_us == 0) {
        supervisor->state.is_stopping = true;
        supervisor->stop_deadline_us = now_us + CHECKPOINT_US;
        process_signal(&supervisor->children[RUN_CHILD_TRAINER].process, SIGTERM);
        log_info("supervisor", "asked to stop by signal %d", process_signal_caught());
        if (supervisor->children[RUN_CHILD_TRAINER].process.pid == 0) {
            *is_over = true;
            *exit_code = 128 + process_signal_caught();
        }
    }
    if (supervisor->stop_deadline_us > 0 && now_us > supervisor->stop_deadline_us) {
        (void)fprintf(stderr, "hone run: the trainer wrote no checkpoint in %d s\n",
                      (int)(CHECKPOINT_US / 1000000));
        *is_over = true;
        *exit_code = status_exit_code(STATUS_TIMEOUT);
    }
}

/* Its own waits, and each child is asked for its own: their lines come through their logs. */
static void tell_waits(const struct supervisor *supervisor)
{
    const struct run_child *trainer = &supervisor->children[RUN_CHILD_TRAINER];

    if (!waits_are_asked()) {
        return;
    }
    waits_tell(trainer->name, 0, supervisor->stop_deadline_us,
               supervisor->stop_deadline_us > 0 ? "its last checkpoint, process %d"
                                                : "the end of the run, process %d",
               (int)trainer->process.pid);
    for (size_t i = 0; i < supervisor->state.n_workers; i++) {
        if (supervisor->state.workers[i].retry_us != 0) {
            waits_tell(supervisor->children[RUN_CHILD_TRAINER + 1 + i].name, 0,
                       supervisor->state.workers[i].retry_us, "the time to start it again");
        }
    }
    for (size_t i = 0; i < supervisor->n_children; i++) {
        process_signal(&supervisor->children[i].process, SIGUSR2);
    }
}

/* The reward service's own children are its scorers. */
static void look_at_memory(const struct supervisor *supervisor)
{
    static const enum memory_part parts[] = {[ROLE_REWARD] = MEMORY_REWARD,
                                             [ROLE_TRAINER] = MEMORY_TRAINER,
                                             [ROLE_WORKER] = MEMORY_WORKERS};
    struct run_memory *const memory = supervisor->memory;

    if (!run_memory_is_due(memory, clock_now_us())) {
        return;
    }
    run_memory_look(memory, clock_now_us());
    run_memory_add_process(memory, MEMORY_RUN, getpid());
    for (size_t i = 0; i < supervisor->n_children; i++) {
        const struct run_child *const child = &supervisor->children[i];
        run_memory_add_process(memory, parts[child->role], child->process.pid);
        if (child->role == ROLE_REWARD) {
            run_memory_add_descendants(memory, MEMORY_SCORERS, child->process.pid);
        }
    }
    run_memory_looked(memory, clock_now_us());
}

static void tell_end(const struct supervisor *supervisor, int exit_code)
{
    char text[256];
    if (*run_memory_text(supervisor->memory, text, sizeof text) != '\0') {
        log_info("supervisor", "memory %s", text);
    }
    log_info("supervisor", "the run ended with code %d", exit_code);
}

static enum status supervisor_tick(struct supervisor *supervisor, bool *is_over, int *exit_code)
{
    hear_signals(supervisor, is_over, exit_code);
    tell_waits(supervisor);
    look_at_memory(supervisor);
    for (size_t i = 0; i < supervisor->n_children && !*is_over; i++) {
        TRY(child_tick(supervisor, &supervisor->children[i], is_over, exit_code));
    }
    if (*is_over) {
        return STATUS_OK;
    }
    const struct supervision_verdict verdict = supervision_tick(&supervisor->state, clock_now_us());
    if (verdict.action == SUPERVISION_RESTART_ALL) {
        return act(supervisor, &supervisor->children[0], 0, verdict, is_over, exit_code);
    }
    return start_due_workers(supervisor);
}

static enum status watch(struct supervisor *supervisor, int *exit_code)
{
    bool is_over = false;
    TRY(start_all(supervisor));
    while (!is_over) {
        clock_sleep_us(TICK_US);
        TRY(supervisor_tick(supervisor, &is_over, exit_code));
    }
    if (*exit_code == 0 || *exit_code == status_exit_code(STATUS_CANCELLED)) {
        await_farewell(supervisor, *exit_code == 0 ? FAREWELL_MS : FAREWELL_CUT_MS);
    }
    return STATUS_OK;
}

/* RUN/log/run.log: what was started, what ended, and what was done about it. */
static enum status open_log(struct supervisor *supervisor)
{
    char *path = NULL;
    TRY(path_join(supervisor->log_dir, "run.log", &path));
    supervisor->log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    const enum status status =
        supervisor->log_fd >= 0
            ? STATUS_OK
            : status_set(STATUS_IO, "%s: cannot write the log: %s", path, strerror(errno));
    log_copy_to(supervisor->log_fd, LOG_INFO);
    memory_free(path);
    return status;
}

static enum status prepare(struct supervisor *supervisor)
{
    const size_t n_workers = supervisor->options->n_workers;
    if (n_workers > SUPERVISION_WORKERS_MAX) {
        return status_set(STATUS_BAD_CONFIG, "rollout.workers: %zu is above %u", n_workers,
                          SUPERVISION_WORKERS_MAX);
    }
    supervisor->n_children = n_workers + RUN_CHILD_TRAINER + 1;
    supervisor->clears_line = !supervisor->options->is_json && cli_is_terminal(stdout);
    TRY(memory_alloc(supervisor->n_children, sizeof supervisor->children[0],
                     &supervisor->children));
    for (size_t i = 0; i < supervisor->n_children; i++) {
        run_child_init(&supervisor->children[i], i);
    }
    TRY(cli_own_path(&supervisor->own_path));
    TRY(path_join(supervisor->options->run_dir, "log", &supervisor->log_dir));
    TRY(folder_create(supervisor->log_dir));
    return open_log(supervisor);
}

static void dispose(struct supervisor *supervisor)
{
    for (size_t i = 0; supervisor->children != NULL && i < supervisor->n_children; i++) {
        log_tail_close(&supervisor->children[i].tail);
    }
    memory_free(supervisor->children);
    memory_free(supervisor->own_path);
    memory_free(supervisor->log_dir);
    log_copy_to(-1, LOG_INFO);
    if (supervisor->log_fd >= 0) {
        (void)close(supervisor->log_fd); /* each line was written at once */
    }
}

enum status supervisor_run(const struct supervisor_options *options, struct run_memory *memory,
                           int *exit_code)
{
    struct supervisor supervisor = {.options = options, .memory = memory, .log_fd = -1};
    *exit_code = 0;
    process_catch_signals();
    run_memory_begin(memory, clock_now_us());
    enum status status = prepare(&supervisor);
    if (status == STATUS_OK) {
        supervision_begin(&supervisor.state, options->n_workers, clock_now_us());
        status = watch(&supervisor, exit_code);
        stop_all(&supervisor, STOP_GRACE_MS);
        tell_end(&supervisor, *exit_code);
    }
    dispose(&supervisor);
    return status;
}
