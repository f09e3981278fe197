/* Runs one command of the demo as a process of its own, shown as a person would type it. */
#include "cli/demo.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/process.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 20
#define GRACE_MS 60000 /* a trainer that is interrupted writes a checkpoint */
#define CAPTURE_MAX ((size_t)16 << 20)

struct output {
    char *text; /* NULL: passed on to stderr */
    size_t n;
    bool is_kept;
};

static enum status keep(struct output *output, const char *bytes, size_t n)
{
    if (!output->is_kept) {
        (void)fwrite(bytes, 1, n, stderr);
        return STATUS_OK;
    }
    if (output->n + n > CAPTURE_MAX) {
        return status_set(STATUS_BAD_FORMAT, "a command wrote more than %zu bytes", CAPTURE_MAX);
    }
    TRY(memory_resize(output->n, output->n + n + 1, 1, &output->text));
    memcpy(output->text + output->n, bytes, n);
    output->n += n;
    return STATUS_OK;
}

/* Takes what a pipe holds; closes it at its end. */
static enum status drain(int *fd, struct output *output)
{
    char bytes[4096];
    ssize_t n = 0;
    while (*fd >= 0 && (n = read(*fd, bytes, sizeof bytes)) > 0) {
        TRY(keep(output, bytes, (size_t)n));
    }
    if (*fd >= 0 && n == 0) {
        (void)close(*fd);
        *fd = -1;
    }
    return STATUS_OK;
}

static void await_output(const struct process *process)
{
    struct pollfd items[] = {{process->stdout_fd, POLLIN, 0}, {process->stderr_fd, POLLIN, 0}};
    if (poll(items, 2, TICK_MS) < 0 && errno != EINTR) {
        clock_sleep_us((int64_t)TICK_MS * 1000);
    }
}

/* Until the process has ended and its pipes are empty. */
static enum status follow(struct process *process, struct output *output, int *exit_code)
{
    struct output errors = {0};
    bool has_ended = false;
    while (!has_ended) {
        has_ended = process_has_ended(process, exit_code);
        if (!has_ended) {
            await_output(process);
        }
        TRY(drain(&process->stdout_fd, output));
        TRY(drain(&process->stderr_fd, &errors));
        if (process_signal_caught() != 0) {
            return status_set(STATUS_CANCELLED, "interrupted");
        }
    }
    return STATUS_OK;
}

static void show(const struct demo *demo, const char *const *words)
{
    FILE *const stream = demo->is_json ? stderr : stdout;
    (void)fprintf(stream, "\n$ %s", demo->shown_path);
    for (size_t i = 0; words[i] != NULL; i++) {
        (void)fprintf(stream, " %s", words[i]);
    }
    (void)fprintf(stream, "\n");
    (void)fflush(stream);
}

enum status demo_command(struct demo *demo, const char *const *words, char **captured)
{
    const char *argv[DEMO_WORDS_MAX + 2] = {demo->own_path};
    struct process process = {0};
    struct output output = {.is_kept = captured != NULL};
    int exit_code = 0;
    for (size_t i = 0; words[i] != NULL && i < DEMO_WORDS_MAX; i++) {
        argv[i + 1] = words[i];
    }
    show(demo, words);
    const struct process_options options = {.argv = argv,
                                            .wants_pipes = captured != NULL || demo->is_json};
    TRY(process_start(&options, &process));
    enum status status = follow(&process, &output, &exit_code);
    process_stop(&process, status == STATUS_OK ? 0 : GRACE_MS);
    if (status == STATUS_CANCELLED) {
        demo->exit_code = 128 + process_signal_caught();
    } else if (status == STATUS_OK && exit_code != 0) {
        demo->exit_code = exit_code;
        status = status_set(STATUS_IO, "hone %s ended with code %d", words[0], exit_code);
    }
    if (status != STATUS_OK || captured == NULL) {
        memory_free(output.text);
        return status;
    }
    *captured = output.text;
    return STATUS_OK;
}
