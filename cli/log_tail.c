#include "cli/log_tail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LEVEL_COLUMN 9u /* after "HH:MM:SS " */

enum status log_tail_open(struct log_tail *tail, const char *path)
{
    *tail = (struct log_tail){.fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600)};
    if (tail->fd < 0 || lseek(tail->fd, 0, SEEK_END) < 0) {
        return status_set(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    return STATUS_OK;
}

bool log_tail_is_serious(const char *line)
{
    if (strlen(line) < LEVEL_COLUMN || line[2] != ':' || line[5] != ':') {
        return false;
    }
    const char *const level = line + LEVEL_COLUMN;
    return strncmp(level, "warn ", 5) == 0 || strncmp(level, "error ", 6) == 0;
}

static void end_line(struct log_tail *tail, bool clears_line)
{
    tail->line[tail->n] = '\0';
    tail->n = 0;
    if (tail->line[0] == '\0') {
        return;
    }
    memcpy(tail->last, tail->line, sizeof tail->last);
    if (log_tail_is_serious(tail->line)) {
        (void)fprintf(stderr, "%s%s\n", clears_line ? "\r\033[K" : "", tail->line);
    }
}

void log_tail_follow(struct log_tail *tail, bool clears_line)
{
    char bytes[4096];
    ssize_t n = 0;
    if (tail->fd < 0) {
        return;
    }
    while ((n = read(tail->fd, bytes, sizeof bytes)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            if (bytes[i] == '\n') {
                end_line(tail, clears_line);
            } else if (tail->n + 1 < sizeof tail->line) {
                tail->line[tail->n++] = bytes[i];
            }
        }
    }
}

void log_tail_close(struct log_tail *tail)
{
    if (tail->fd >= 0) {
        (void)close(tail->fd); /* only read from: nothing to lose */
        tail->fd = -1;
    }
}
