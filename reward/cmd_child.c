#include "reward/cmd_child.h"

#include "base/log.h"
#include "base/memory.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define STOP_GRACE_MS 100
#define READ_BYTES ((size_t)65536)

enum status cmd_child_start(struct cmd_child *child, const char *const *argv,
                            const char *const *env, const char *cwd)
{
    const struct process_options options = {
        .argv = argv, .env = env, .cwd = cwd, .wants_pipes = true, .oom_score_adj = 1000};
    child->n_stderr = 0;
    child->stderr_tail[0] = '\0';
    child->in_bytes = 0;
    child->out_bytes = 0;
    child->out_done = 0;
    TRY(process_start(&options, &child->process));
    child->is_running = true;
    return STATUS_OK;
}

void cmd_child_stop(struct cmd_child *child)
{
    if (child->is_running) {
        process_stop(&child->process, STOP_GRACE_MS);
        child->is_running = false;
    }
    child->in_bytes = 0;
    child->out_bytes = 0;
    child->out_done = 0;
}

void cmd_child_dispose(struct cmd_child *child)
{
    cmd_child_stop(child);
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

static void write_some(struct cmd_child *child)
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

static enum status read_stdout(struct cmd_child *child, bool *is_closed)
{
    for (;;) {
        if (child->in_room - child->in_bytes < READ_BYTES) {
            const size_t room = child->in_room * 2 + READ_BYTES;
            TRY(memory_resize(child->in_bytes, room, 1, &child->in));
            child->in_room = room;
        }
        const ssize_t n = read(child->process.stdout_fd, child->in + child->in_bytes, READ_BYTES);
        if (n <= 0) {
            *is_closed = n == 0 || (errno != EAGAIN && errno != EINTR);
            return STATUS_OK;
        }
        child->in_bytes += (size_t)n;
        if (child->in_bytes > CHILD_LINE_MAX && memchr(child->in, '\n', child->in_bytes) == NULL) {
            return status_set(STATUS_BAD_FORMAT, "a line of more than %zu bytes", CHILD_LINE_MAX);
        }
    }
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

/* At most one read a turn: a child that floods stderr is slowed by its own pipe, not by us. */
static void read_stderr(struct cmd_child *child, const char *name)
{
    char data[4096];
    char shown[1024];
    const ssize_t n = read(child->process.stderr_fd, data, sizeof(data));
    if (n > 0) {
        keep_stderr(child, data, (size_t)n);
        log_info("scorer", "%s: %s", name, log_escape(data, (size_t)n, shown, sizeof(shown)));
    }
}

enum status cmd_child_pump(struct cmd_child *child, const char *name, bool *has_ended)
{
    *has_ended = false;
    if (!child->is_running) {
        return STATUS_OK;
    }
    write_some(child);
    read_stderr(child, name);
    TRY(read_stdout(child, has_ended));
    if (*has_ended) {
        read_stderr(child, name); /* its last words, written before stdout closed */
    }
    return STATUS_OK;
}

char *cmd_child_line(struct cmd_child *child, size_t *n, size_t *taken)
{
    char *end = child->in_bytes == 0 ? NULL : memchr(child->in, '\n', child->in_bytes);
    if (end == NULL) {
        return NULL;
    }
    *n = (size_t)(end - child->in);
    *taken = *n + 1;
    *end = '\0';
    return child->in;
}

void cmd_child_take(struct cmd_child *child, size_t taken)
{
    child->in_bytes -= taken;
    memmove(child->in, child->in + taken, child->in_bytes);
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
