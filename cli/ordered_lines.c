#include "cli/ordered_lines.h"

#include "base/memory.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

struct ordered_lines {
    FILE *stream;
    char **texts; /* (n_lines) NULL: not ready, or written */
    size_t n_lines, n_written;
};

enum status ordered_lines_create(size_t n_lines, FILE *stream, struct ordered_lines **out)
{
    struct ordered_lines *lines = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*lines), &lines));
    const enum status status = memory_alloc(n_lines, sizeof(char *), &lines->texts);
    if (status != STATUS_OK) {
        memory_free(lines);
        return status;
    }
    lines->stream = stream;
    lines->n_lines = n_lines;
    *out = lines;
    return STATUS_OK;
}

void ordered_lines_destroy(struct ordered_lines *lines)
{
    if (lines == NULL) {
        return;
    }
    for (size_t i = 0; i < lines->n_lines; i++) {
        memory_free(lines->texts[i]);
    }
    memory_free(lines->texts);
    memory_free(lines);
}

/* Past the stream's buffer, which loses what a signal interrupts. A reader that stands still is
 * waited for: a line is written whole, or a second signal ends the process. */
static enum status write_all(int fd, const char *text, size_t n)
{
    while (n > 0) {
        const ssize_t n_written = write(fd, text, n);
        if (n_written < 0 && errno == EINTR) {
            continue;
        }
        if (n_written <= 0) {
            return status_set(errno == ENOSPC ? STATUS_NO_SPACE : STATUS_IO,
                              "the output cannot be written: %s", strerror(errno));
        }
        text += n_written;
        n -= (size_t)n_written;
    }
    return STATUS_OK;
}

static enum status write_line(struct ordered_lines *lines, size_t index)
{
    char *text = lines->texts[index];
    const size_t n = strlen(text);
    const int fd = fileno(lines->stream);

    text[n] = '\n'; /* in the place of its end: one call for a line */
    const enum status status = write_all(fd, text, n + 1);
    memory_free(text);
    lines->texts[index] = NULL;
    return status;
}

/* What others have put into the stream's buffer comes first. */
static enum status begin_writing(const struct ordered_lines *lines)
{
    if (fflush(lines->stream) != 0 || ferror(lines->stream) != 0) {
        return status_set(STATUS_IO, "the output cannot be written: %s", strerror(errno));
    }
    return STATUS_OK;
}

enum status ordered_lines_add(struct ordered_lines *lines, size_t index, char *text)
{
    assert(index < lines->n_lines);
    lines->texts[index] = text;
    if (index != lines->n_written) {
        return STATUS_OK;
    }
    TRY(begin_writing(lines));
    while (lines->n_written < lines->n_lines && lines->texts[lines->n_written] != NULL) {
        TRY(write_line(lines, lines->n_written++));
    }
    return STATUS_OK;
}

enum status ordered_lines_flush(struct ordered_lines *lines)
{
    TRY(begin_writing(lines));
    for (; lines->n_written < lines->n_lines; lines->n_written++) {
        if (lines->texts[lines->n_written] == NULL) {
            continue;
        }
        TRY(write_line(lines, lines->n_written));
    }
    return STATUS_OK;
}
