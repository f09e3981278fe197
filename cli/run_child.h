/* Owns one process of a run as its supervisor sees it: its command line, its log, its end. */
#ifndef HONE_CLI_RUN_CHILD_H
#define HONE_CLI_RUN_CHILD_H

#include "base/process.h"
#include "cli/log_tail.h"
#include "cli/supervision.h"
#include "cli/supervisor.h"

#include <stdbool.h>
#include <stddef.h>

struct run_child {
    enum role role;
    size_t index; /* of a worker */
    char name[32];
    struct process process; /* pid 0: not running */
    struct log_tail tail;
};
/* The files that children are started with; borrowed. */
struct run_child_files {
    const char *own_path; /* this program */
    const char *log_dir;
};
/* Places 0 and 1 are the reward service and the trainer, those behind are workers w0, w1 ... */
#define RUN_CHILD_TRAINER 1u
void run_child_init(struct run_child *child, size_t place);
MUST_CHECK enum status run_child_start(struct run_child *child,
                                       const struct supervisor_options *options,
                                       const struct run_child_files *files);
/* Also reaps a child that has ended by itself. clears_line: as for log_tail_follow. */
void run_child_stop(struct run_child *child, int grace_ms, bool clears_line);
/* "w0 killed by signal 9 (Killed); starting it again: last line of its log"; out is returned. */
const char *run_child_ending(const struct run_child *child, int exit_code, const char *consequence,
                             char *out, size_t room);

#endif
