/* Owns one child of a cmd: component: the process, its pipes, the lines in both directions. It
 * knows nothing of scores. */
#ifndef HONE_REWARD_CMD_CHILD_H
#define HONE_REWARD_CMD_CHILD_H

#include "base/process.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHILD_LINE_MAX ((size_t)16 << 20)
#define CHILD_STDERR_TAIL 2048u
#define CHILD_STDERR_PER_S ((size_t)65536) /* more is dropped and counted */

struct cmd_child {
    struct process process;
    bool is_running;
    bool has_stderr; /* it has not closed it */
    char *out;       /* what is still to be written */
    size_t out_bytes, out_done;
    char *in; /* read and not yet taken */
    size_t in_bytes, in_taken, in_room;
    char stderr_tail[CHILD_STDERR_TAIL]; /* last bytes it wrote to fd 2, NUL-terminated */
    size_t n_stderr;
    int64_t stderr_since_us; /* begin of the second at hand */
    size_t stderr_bytes, stderr_dropped;
};

MUST_CHECK enum status cmd_child_start(struct cmd_child *child, const char *const *argv,
                                       const char *const *env, const char *cwd);
/* SIGTERM to the group; cmd_child_stop must follow. Legal when it does not run. */
void cmd_child_terminate(const struct cmd_child *child);
/* The process has ended (its group may live) or was never started. Does not block. */
bool cmd_child_is_gone(struct cmd_child *child);
/* Its exit code (128 + signal), waiting for at most wait_ms; -1 when it still runs. */
int cmd_child_exit_code(struct cmd_child *child, int wait_ms);
/* SIGTERM, grace_ms, SIGKILL to the group; buffers are dropped. Legal when it does not run. */
void cmd_child_stop(struct cmd_child *child, int grace_ms);
void cmd_child_dispose(struct cmd_child *child);
/* Queues one line (a newline is added). */
MUST_CHECK enum status cmd_child_put(struct cmd_child *child, const char *line, size_t n);
/* Writes what the pipe takes. */
void cmd_child_flush(struct cmd_child *child);
/* Moves bytes both ways without blocking, a bounded amount; stderr goes to the log under `name`.
 * *has_ended: stdout is closed and nothing more will come. Errors: BAD_FORMAT when a line is longer
 * than CHILD_LINE_MAX, NO_MEMORY. */
MUST_CHECK enum status cmd_child_pump(struct cmd_child *child, const char *name, bool *has_ended);
/* Takes the next whole line (n bytes without the newline), NULL if there is none; borrowed until
 * the next pump. */
const char *cmd_child_line(struct cmd_child *child, size_t *n);
/* Last non-empty line of stderr, for messages. */
void cmd_child_last_words(const struct cmd_child *child, char *out, size_t room);

#endif
