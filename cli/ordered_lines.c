#include "cli/ordered_lines.h"

#include "base/memory.h"

#include <assert.h>

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

static enum status check_stream(FILE *stream)
{
    if (fflush(stream) != 0 || ferror(stream) != 0) {
        return status_set(STATUS_IO, "the output cannot be written");
    }
    return STATUS_OK;
}

static void write_line(struct ordered_lines *lines, size_t index)
{
    (void)fputs(lines->texts[index], lines->stream);
    (void)fputc('\n', lines->stream);
    memory_free(lines->texts[index]);
    lines->texts[index] = NULL;
}

enum status ordered_lines_add(struct ordered_lines *lines, size_t index, char *text)
{
    assert(index < lines->n_lines);
    lines->texts[index] = text;
    if (index != lines->n_written) {
        return STATUS_OK;
    }
    while (lines->n_written < lines->n_lines && lines->texts[lines->n_written] != NULL) {
        write_line(lines, lines->n_written++);
    }
    return check_stream(lines->stream);
}

enum status ordered_lines_flush(struct ordered_lines *lines)
{
    for (; lines->n_written < lines->n_lines; lines->n_written++) {
        if (lines->texts[lines->n_written] != NULL) {
            write_line(lines, lines->n_written);
        }
    }
    return check_stream(lines->stream);
}
