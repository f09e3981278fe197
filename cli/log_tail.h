/* Owns following a child's log file while it grows: shows its warnings and errors on our stderr and
 * remembers its last line, which says why it failed. */
#ifndef HONE_CLI_LOG_TAIL_H
#define HONE_CLI_LOG_TAIL_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

#define LOG_TAIL_LINE 1024u

struct log_tail {
    int fd;                   /* -1: closed */
    char line[LOG_TAIL_LINE]; /* the one that is being read, cut */
    size_t n;
    char last[LOG_TAIL_LINE]; /* the last whole line */
};
/* Begins at the end of path, which is created when it is missing. Errors: IO. */
MUST_CHECK enum status log_tail_open(struct log_tail *tail, const char *path);
/* Reads what was added; lines of level warn and error go to stderr, after clearing a progress line
 * when clears_line. */
void log_tail_follow(struct log_tail *tail, bool clears_line);
void log_tail_close(struct log_tail *tail);
/* "12:00:00 warn  trainer ..." or an error. */
bool log_tail_is_serious(const char *line);

#endif
