#include "reward/cmd_child.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define LAST_GRACE_MS 100
#define READ_BYTES ((size_t)65536)
#define READS_A_TURN 16 /* then others get theirs */
#define SECOND_US INT64_C(1000000)

enum status cmd_child_start(struct cmd_child *child, const char *const *argv,
                            const char *const *env, const char *cwd)
{
    const struct process_options options = {
        .argv = argv, .env = env, .cwd = cwd, .wants_pipes = true, .oom_score_adj = 1000};
    child->n_stderr = 0;
    child->stderr_tail[0] = '\0';
    child->in_bytes = 0;
    child->in_taken = 0;
    child->out_bytes = 0;
    child->out_done = 0;
    TRY(process_start(&options, &child->process));
    child->is_running = true;
    child->has_stderr = true;
    return STATUS_OK;
}

void cmd_child_terminate(const struct cmd_child *child)
{
    if (child->is_running) {
        process_signal(&child->process, SIGTERM);
    }
}

bool cmd_child_is_gone(struct cmd_child *child)
{
    int exit_code = 0;
    return !child->is_running || process_has_ended(&child->process, &exit_code);
}

int cmd_child_exit_code(struct cmd_child *child, int wait_ms)
{
    int exit_code = -1;
    for (int i = 0; child->is_running && i <= wait_ms; i++) {
        if (process_has_ended(&child->process, &exit_code)) {
            return exit_code;
        }
        clock_sleep_us(1000);
    }
    return -1;
}

void cmd_child_stop(struct cmd_child *child, int grace_ms)
{
    if (child->is_running) {
        process_stop(&child->process, grace_ms);
        child->is_running = false;
    }
    child->in_bytes = 0;
    child->in_taken = 0;
    child->out_bytes = 0;
    child->out_done = 0;
}

void cmd_child_dispose(struct cmd_child *child)
{
    cmd_child_stop(child, LAST_GRACE_MS);
    memory_free(child->out);
    memory_free(child->in);
    child->out = NULL;
    child->in = NULL;
    child->in_room = 0;
}

enum status cmd_child_put(struct cmd_child *child, const char *line, size_t n)
{
    const size_t kept = child->out_bytes - child->out_done;
    if (kept > 0 && child->out_done > 0) {
        memmove(child->out, child->out + child->out_done, kept);
    }
    child->out_done = 0;
    child->out_bytes = kept;
    TRY(memory_resize(kept, kept + n + 1, 1, &child->out));
    memcpy(child->out + kept, line, n);
    child->out[kept + n] = '\n';
    child->out_bytes = kept + n + 1;
    return STATUS_OK;
}

void cmd_child_flush(struct cmd_child *child)
{
    while (child->out_done < child->out_bytes) {
        const ssize_t n = write(child->process.stdin_fd, child->out + child->out_done,
                                child->out_bytes - child->out_done);
        if (n <= 0) {
            return; /* full, or gone: its end is seen on stdout */
        }
        child->out_done += (size_t)n;
    }
}

/* Room for one read behind what is there; lines that were taken make room first. */
static enum status make_room(struct cmd_child *child)
{
    if (child->in_taken > 0) {
        child->in_bytes -= child->in_taken;
        memmove(child->in, child->in + child->in_taken, child->in_bytes);
        child->in_taken = 0;
    }
    if (child->in_room - child->in_bytes >= READ_BYTES) {
        return STATUS_OK;
    }
    const size_t room = child->in_room * 2 + READ_BYTES;
    TRY(memory_resize(child->in_bytes, room, 1, &child->in));
    child->in_room = room;
    return STATUS_OK;
}

/* One read; *has_more when there may be more to read, *is_closed when there never will. */
static enum status read_once(struct cmd_child *child, bool *has_more, bool *is_closed)
{
    *has_more = false;
    TRY(make_room(child));
    const ssize_t n = read(child->process.stdout_fd, child->in + child->in_bytes, READ_BYTES);
    if (n <= 0) {
        *is_closed = n == 0 || (errno != EAGAIN && errno != EINTR);
        return STATUS_OK;
    }
    child->in_bytes += (size_t)n;
    *has_more = true;
    return child->in_bytes > CHILD_LINE_MAX && memchr(child->in, '\n', child->in_bytes) == NULL
               ? status_set(STATUS_BAD_FORMAT, "a line of more than %zu bytes", CHILD_LINE_MAX)
               : STATUS_OK;
}

static enum status read_stdout(struct cmd_child *child, bool *is_closed)
{
    bool has_more = true;
    for (int i = 0; has_more && i < READS_A_TURN; i++) {
        const enum status status = read_once(child, &has_more, is_closed);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static void keep_stderr(struct cmd_child *child, const char *data, size_t n)
{
    const size_t room = sizeof(child->stderr_tail) - 1;
    if (n > room) {
        data += n - room;
        n = room;
    }
    if (child->n_stderr + n > room) {
        const size_t drop = child->n_stderr + n - room;
        memmove(child->stderr_tail, child->stderr_tail + drop, child->n_stderr - drop);
        child->n_stderr -= drop;
    }
    memcpy(child->stderr_tail + child->n_stderr, data, n);
    child->n_stderr += n;
    child->stderr_tail[child->n_stderr] = '\0';
}

static void log_lines(const char *data, size_t n, const char *name)
{
    char shown[1024];
    for (size_t begin = 0; begin < n;) {
        const char *end = memchr(data + begin, '\n', n - begin);
        const size_t length = end == NULL ? n - begin : (size_t)(end - data) - begin;
        if (length > 0) {
            log_info("scorer", "%s: %s", name,
                     log_escape(data + begin, length, shown, sizeof(shown)));
        }
        begin += length + 1;
    }
}

/* How much of n bytes the log may still have in this second. */
static size_t allowance(struct cmd_child *child, size_t n, const char *name)
{
    const int64_t now_us = clock_now_us();
    if (now_us - child->stderr_since_us > SECOND_US) {
        if (child->stderr_dropped > 0) {
            log_warn("scorer", "%s: %zu bytes of its stderr were dropped", name,
                     child->stderr_dropped);
        }
        child->stderr_since_us = now_us;
        child->stderr_bytes = 0;
        child->stderr_dropped = 0;
    }
    const size_t left = CHILD_STDERR_PER_S - child->stderr_bytes;
    const size_t taken = n < left ? n : left;
    child->stderr_bytes += taken;
    child->stderr_dropped += n - taken;
    return taken;
}

/* At most one read a turn: a child that floods stderr is slowed by its own pipe, not by us. */
static bool read_stderr(struct cmd_child *child, const char *name)
{
    char data[16384];
    const ssize_t n = read(child->process.stderr_fd, data, sizeof(data));
    if (n <= 0) {
        child->has_stderr = n < 0 && (errno == EAGAIN || errno == EINTR);
        return false;
    }
    keep_stderr(child, data, (size_t)n);
    log_lines(data, allowance(child, (size_t)n, name), name);
    return true;
}

enum status cmd_child_pump(struct cmd_child *child, const char *name, bool *has_ended)
{
    *has_ended = false;
    if (!child->is_running) {
        return STATUS_OK;
    }
    cmd_child_flush(child);
    (void)read_stderr(child, name);
    TRY(read_stdout(child, has_ended));
    for (int i = 0; *has_ended && i < READS_A_TURN && read_stderr(child, name); i++) {
        /* its last words, written before stdout closed */
    }
    return STATUS_OK;
}

const char *cmd_child_line(struct cmd_child *child, size_t *n)
{
    const size_t left = child->in_bytes - child->in_taken;
    const char *begin = child->in + child->in_taken;
    const char *end = left == 0 ? NULL : memchr(begin, '\n', left);
    if (end == NULL) {
        return NULL;
    }
    *n = (size_t)(end - begin);
    child->in_taken += *n + 1;
    return begin;
}

void cmd_child_last_words(const struct cmd_child *child, char *out, size_t room)
{
    size_t end = child->n_stderr;
    while (end > 0 && (child->stderr_tail[end - 1] == '\n' || child->stderr_tail[end - 1] == ' ')) {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && child->stderr_tail[begin - 1] != '\n') {
        begin--;
    }
    (void)log_escape(child->stderr_tail + begin, end - begin, out, room);
}
