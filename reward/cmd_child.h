/* Owns one child of a cmd: component: the process, its pipes, the lines in both directions. It
 * knows nothing of scores. */
#ifndef HONE_REWARD_CMD_CHILD_H
#define HONE_REWARD_CMD_CHILD_H

#include "base/process.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

#define CHILD_LINE_MAX ((size_t)16 << 20)
#define CHILD_STDERR_TAIL 2048u

struct cmd_child {
    struct process process;
    bool is_running;
    char *out; /* what is still to be written */
    size_t out_bytes, out_done;
    char *in; /* read and not yet taken */
    size_t in_bytes, in_room;
    char stderr_tail[CHILD_STDERR_TAIL]; /* last bytes it wrote to fd 2, NUL-terminated */
    size_t n_stderr;
};

MUST_CHECK enum status cmd_child_start(struct cmd_child *child, const char *const *argv,
                                       const char *const *env, const char *cwd);
/* SIGTERM, 100 ms, SIGKILL to the group; buffers are dropped. Legal when it does not run. */
void cmd_child_stop(struct cmd_child *child);
void cmd_child_dispose(struct cmd_child *child);
/* Queues one line (a newline is added). */
MUST_CHECK enum status cmd_child_put(struct cmd_child *child, const char *line, size_t n);
/* Moves bytes both ways without blocking; stderr goes to the log under `name`. *has_ended: both
 * ends are done and nothing more will come. Errors: BAD_FORMAT when a line is longer than
 * CHILD_LINE_MAX. */
MUST_CHECK enum status cmd_child_pump(struct cmd_child *child, const char *name, bool *has_ended);
/* The next whole line (without newline), NULL if there is none; borrowed until the next cmd_child
 * call. */
char *cmd_child_line(struct cmd_child *child, size_t *n, size_t *taken);
/* Drops `taken` bytes that cmd_child_line gave. */
void cmd_child_take(struct cmd_child *child, size_t taken);
/* Last non-empty line of stderr, for messages. */
void cmd_child_last_words(const struct cmd_child *child, char *out, size_t room);

#endif
