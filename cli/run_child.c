#include "cli/run_child.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

void run_child_init(struct run_child *child, size_t place)
{
    *child = (struct run_child){.role = ROLE_REWARD, .tail = {.fd = -1}};
    if (place <= RUN_CHILD_TRAINER) {
        child->role = place == RUN_CHILD_TRAINER ? ROLE_TRAINER : ROLE_REWARD;
        (void)snprintf(child->name, sizeof child->name, "%s",
                       place == RUN_CHILD_TRAINER ? "trainer" : "reward");
        return;
    }
    child->role = ROLE_WORKER;
    child->index = place - RUN_CHILD_TRAINER - 1;
    (void)snprintf(child->name, sizeof child->name, "w%zu", child->index);
}

/* path of NAME.log; caller frees. */
static enum status log_path(const struct run_child *child, const char *log_dir, char **out)
{
    char name[40];
    (void)snprintf(name, sizeof name, "%s.log", child->name);
    return path_join(log_dir, name, out);
}

/* The command line of a child; every text is borrowed. */
static void fill_argv(const struct run_child *child, const struct supervisor_options *options,
                      const char *own_path, const char *log_file, const char **argv)
{
    static const char *const commands[] = {
        [ROLE_REWARD] = "reward", [ROLE_TRAINER] = "trainer", [ROLE_WORKER] = "rollout"};
    size_t n = 0;
    argv[n++] = own_path;
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
}

enum status run_child_start(struct run_child *child, const struct supervisor_options *options,
                            const struct run_child_files *files)
{
    const char *argv[2 * CLI_SETS_MAX + 16];
    char *log_file = NULL;
    TRY(log_path(child, files->log_dir, &log_file));
    fill_argv(child, options, files->own_path, log_file, argv);
    const struct process_options process = {.argv = argv};
    log_tail_close(&child->tail);
    enum status status = log_tail_open(&child->tail, log_file);
    if (status == STATUS_OK) {
        status = process_start(&process, &child->process);
    }
    memory_free(log_file);
    if (status == STATUS_OK) {
        log_info("supervisor", "%s started pid=%d", child->name, (int)child->process.pid);
    }
    return status;
}

void run_child_stop(struct run_child *child, int grace_ms, bool clears_line)
{
    if (child->process.pid > 0) {
        process_stop(&child->process, grace_ms);
    }
    log_tail_follow(&child->tail, clears_line);
}

const char *run_child_ending(const struct run_child *child, int exit_code, const char *consequence,
                             char *out, size_t room)
{
    const char *const last = exit_code > 128 ? "" : child->tail.last; /* it said nothing of it */
    char ending[96];
    if (exit_code > 128) {
        (void)snprintf(ending, sizeof ending, "killed by signal %d (%s)", exit_code - 128,
                       strsignal(exit_code - 128));
    } else {
        (void)snprintf(ending, sizeof ending, "ended with code %d", exit_code);
    }
    (void)snprintf(out, room, "%s %s; %s%s%s", child->name, ending, consequence,
                   *last != '\0' ? ": " : "", last);
    return out;
}
