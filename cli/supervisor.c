#include "cli/supervisor.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/run_paths.h"
#include "base/waits.h"
#include "cli/log_tail.h"
#include "cli/supervision.h"
#include "db/db.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define TICK_US 20000
#define FAREWELL_MS 3000                   /* others end by themselves once the trainer has */
#define FAREWELL_CUT_MS 500                /* after an interruption, maybe before they met */
#define STOP_GRACE_MS 2000                 /* from SIGTERM to SIGKILL */
#define CHECKPOINT_US ((int64_t)300000000) /* a trainer that was asked to stop writes one */

struct child {
    enum role role;
    size_t index; /* of a worker */
    char name[32];
    struct process process; /* pid 0: not running */
    struct log_tail tail;
};

struct supervisor {
    const struct supervisor_options *options;
    char *own_path, *log_dir;
    struct supervision state;
    struct child *children; /* reward, trainer, workers */
    size_t n_children;
    int64_t stop_deadline_us; /* 0: nobody asked to stop */
    bool clears_line;
};

#define TRAINER_INDEX 1u

/* --- One child --- */

/* path of NAME.log; caller frees. */
static enum status log_path(const struct supervisor *supervisor, const struct child *child,
                            char **out)
{
    char name[40];
    (void)snprintf(name, sizeof name, "%s.log", child->name);
    return path_join(supervisor->log_dir, name, out);
}

/* The command line of a child; every text is borrowed. */
static size_t fill_argv(const struct supervisor *supervisor, const struct child *child,
                        const char *log_file, const char **argv)
{
    static const char *const commands[] = {
        [ROLE_REWARD] = "reward", [ROLE_TRAINER] = "trainer", [ROLE_WORKER] = "rollout"};
    const struct supervisor_options *const options = supervisor->options;
    size_t n = 0;
    argv[n++] = supervisor->own_path;
    argv[n++] = commands[child->role];
    argv[n++] = options->config_path;
    argv[n++] = "--run-dir";
    argv[n++] = options->run_dir;
    argv[n++] = "--log";
    argv[n++] = log_file;
    if (child->role == ROLE_WORKER) {
        argv[n++] = "--name";
        argv[n++] = child->name;
    }
    if (child->role == ROLE_TRAINER && options->is_json) {
        argv[n++] = "--json";
    }
    for (size_t i = 0; i < options->sets->count; i++) {
        argv[n++] = "--set";
        argv[n++] = options->sets->items[i];
    }
    argv[n] = NULL;
    return n;
}

static enum status child_start(struct supervisor *supervisor, struct child *child)
{
    const char *argv[2 * CLI_SETS_MAX + 16];
    char *log_file = NULL;
    TRY(log_path(supervisor, child, &log_file));
    (void)fill_argv(supervisor, child, log_file, argv);
    const struct process_options options = {.argv = argv};
    log_tail_close(&child->tail);
    enum status status = log_tail_open(&child->tail, log_file);
    if (status == STATUS_OK) {
        status = process_start(&options, &child->process);
    }
    memory_free(log_file);
    return status;
}

static void child_stop(struct supervisor *supervisor, struct child *child, int grace_ms)
{
    if (child->process.pid > 0) {
        process_stop(&child->process, grace_ms);
    }
    log_tail_follow(&child->tail, supervisor->clears_line);
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
    for (size_t i = TRAINER_INDEX + 1; i < supervisor->n_children; i++) {
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

static const char *ending_text(int exit_code, char *out, size_t room)
{
    if (exit_code > 128) {
        (void)snprintf(out, room, "killed by signal %d (%s)", exit_code - 128,
                       strsignal(exit_code - 128));
    } else {
        (void)snprintf(out, room, "ended with code %d", exit_code);
    }
    return out;
}

static void tell_ending(const struct supervisor *supervisor, const struct child *child,
                        int exit_code, const char *consequence)
{
    char ending[96];
    const char *const last = exit_code > 128 ? "" : child->tail.last; /* it said nothing of it */
    (void)fprintf(stderr, "%shone run: %s %s; %s%s%s\n", supervisor->clears_line ? "\r\033[K" : "",
                  child->name, ending_text(exit_code, ending, sizeof ending), consequence,
                  *last != '\0' ? ": " : "", last);
}

static enum status restart_all(struct supervisor *supervisor, bool *is_over, int *exit_code)
{
    stop_all(supervisor, STOP_GRACE_MS);
    if (!supervision_may_restart(&supervisor->state, count_trained(supervisor))) {
        (void)fprintf(stderr, "hone run: no new step after %u restarts; giving up\n",
                      SUPERVISION_SET_RESTARTS_MAX);
        *is_over = true;
        *exit_code = status_exit_code(STATUS_TIMEOUT);
        return STATUS_OK;
    }
    supervision_begin_again(&supervisor->state, clock_now_us());
    return start_all(supervisor);
}

static enum status act(struct supervisor *supervisor, const struct child *child, int child_code,
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
        }
        *is_over = true;
        *exit_code = verdict.exit_code;
        return STATUS_OK;
    }
    return STATUS_OK;
}

/* Looks after one child: its log, its end. */
static enum status child_tick(struct supervisor *supervisor, struct child *child, bool *is_over,
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
        TRY(child_start(supervisor, &supervisor->children[TRAINER_INDEX + 1 + i]));
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
        process_signal(&supervisor->children[TRAINER_INDEX].process, SIGTERM);
        if (supervisor->children[TRAINER_INDEX].process.pid == 0) {
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
    const struct child *trainer = &supervisor->children[TRAINER_INDEX];

    if (!waits_are_asked()) {
        return;
    }
    waits_tell(trainer->name, 0, supervisor->stop_deadline_us,
               supervisor->stop_deadline_us > 0 ? "its last checkpoint, process %d"
                                                : "the end of the run, process %d",
               (int)trainer->process.pid);
    for (size_t i = 0; i < supervisor->state.n_workers; i++) {
        if (supervisor->state.workers[i].retry_us != 0) {
            waits_tell(supervisor->children[TRAINER_INDEX + 1 + i].name, 0,
                       supervisor->state.workers[i].retry_us, "the time to start it again");
        }
    }
    for (size_t i = 0; i < supervisor->n_children; i++) {
        process_signal(&supervisor->children[i].process, SIGUSR2);
    }
}

static enum status supervisor_tick(struct supervisor *supervisor, bool *is_over, int *exit_code)
{
    hear_signals(supervisor, is_over, exit_code);
    tell_waits(supervisor);
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

static void name_children(struct supervisor *supervisor)
{
    for (size_t i = 0; i < supervisor->n_children; i++) {
        struct child *const child = &supervisor->children[i];
        child->tail.fd = -1;
        if (i <= TRAINER_INDEX) {
            child->role = i == TRAINER_INDEX ? ROLE_TRAINER : ROLE_REWARD;
            (void)snprintf(child->name, sizeof child->name, "%s",
                           i == TRAINER_INDEX ? "trainer" : "reward");
            continue;
        }
        child->role = ROLE_WORKER;
        child->index = i - TRAINER_INDEX - 1;
        (void)snprintf(child->name, sizeof child->name, "w%zu", child->index);
    }
}

static enum status prepare(struct supervisor *supervisor)
{
    const size_t n_workers = supervisor->options->n_workers;
    if (n_workers > SUPERVISION_WORKERS_MAX) {
        return status_set(STATUS_BAD_CONFIG, "rollout.workers: %zu is above %u", n_workers,
                          SUPERVISION_WORKERS_MAX);
    }
    supervisor->n_children = n_workers + TRAINER_INDEX + 1;
    supervisor->clears_line = !supervisor->options->is_json && cli_is_terminal(stdout);
    TRY(memory_alloc(supervisor->n_children, sizeof supervisor->children[0],
                     &supervisor->children));
    name_children(supervisor);
    TRY(cli_own_path(&supervisor->own_path));
    TRY(path_join(supervisor->options->run_dir, "log", &supervisor->log_dir));
    return folder_create(supervisor->log_dir);
}

enum status supervisor_run(const struct supervisor_options *options, int *exit_code)
{
    struct supervisor supervisor = {.options = options};
    *exit_code = 0;
    process_catch_signals();
    enum status status = prepare(&supervisor);
    if (status == STATUS_OK) {
        supervision_begin(&supervisor.state, options->n_workers, clock_now_us());
        status = watch(&supervisor, exit_code);
        stop_all(&supervisor, STOP_GRACE_MS);
    }
    for (size_t i = 0; supervisor.children != NULL && i < supervisor.n_children; i++) {
        log_tail_close(&supervisor.children[i].tail);
    }
    memory_free(supervisor.children);
    memory_free(supervisor.own_path);
    memory_free(supervisor.log_dir);
    return status;
}
