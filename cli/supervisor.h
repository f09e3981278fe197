/* Owns the processes of a run on one machine: starts them, watches them, restarts what died,
 * forwards signals, and leaves none behind. What it does when is supervision.h's decision. */
#ifndef HONE_CLI_SUPERVISOR_H
#define HONE_CLI_SUPERVISOR_H

#include "cli/cli.h"
#include "cli/run_memory.h"

struct supervisor_options {
    const char *config_path;
    const struct cli_sets *sets; /* handed on to every process */
    const char *run_dir;         /* exists, and its lock is held by us */
    size_t n_workers;
    bool is_json; /* progress as JSON */
};
/* Runs until the trainer is done, a deliberate failure or a signal. *exit_code is that of `hone
 * run`; memory: what all processes took. Errors: IO when a process cannot be started, NO_MEMORY. */
MUST_CHECK enum status supervisor_run(const struct supervisor_options *options,
                                      struct run_memory *memory, int *exit_code);

#endif
