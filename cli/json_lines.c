#include "cli/json_lines.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text_buffer.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)4 << 30)
#define READ_BYTES ((size_t)1 << 16)
#define DEPTH_MAX 32u

static bool is_standard_input(const char *file)
{
    return strcmp(file, "-") == 0;
}

const char *json_lines_name(const char *file)
{
    return is_standard_input(file) ? "(standard input)" : file;
}

static enum status read_input(struct text_buffer *out)
{
    ssize_t n = 1;

    while (n > 0) {
        TRY(text_buffer_reserve(out, READ_BYTES));
        n = read(STDIN_FILENO, out->bytes + out->count, READ_BYTES);
        out->count += n > 0 ? (size_t)n : 0;
        if (out->count > FILE_BYTES_MAX) {
            return status_set(STATUS_BAD_FORMAT, "standard input: more than %zu bytes",
                              FILE_BYTES_MAX);
        }
    }
    if (n < 0) {
        return errno == EINTR ? status_set(STATUS_CANCELLED, "interrupted")
                              : status_set(STATUS_IO, "standard input: %s", strerror(errno));
    }
    return text_buffer_put(out, "", 0); /* the NUL behind it */
}

enum status json_lines_read(const char *file, char **text, size_t *n)
{
    struct text_buffer input = {.bytes = NULL};

    *text = NULL;
    *n = 0;
    if (!is_standard_input(file)) {
        if (!file_exists(file)) {
            return status_set(STATUS_BAD_ARGUMENT, "%s: there is no such file", file);
        }
        return file_read(file, FILE_BYTES_MAX, text, n);
    }
    const enum status status = read_input(&input);
    if (status != STATUS_OK) {
        text_buffer_dispose(&input);
        return status;
    }
    *text = input.bytes;
    *n = input.count;
    return STATUS_OK;
}

/* Where a line stands, for messages. */
struct place {
    const char *name;
    size_t line;
};

static enum status parse_line(const struct place *place, const char *line, size_t n,
                              struct json **out)
{
    const enum status status = json_parse_with_nul(line, n, DEPTH_MAX, out);

    if (status == STATUS_BAD_FORMAT) {
        /* the parser saw one line: "1:column: what" */
        const char *colon = strchr(status_message(), ':');

        return status_set(status, "%s:%zu:%s", place->name, place->line,
                          colon == NULL ? " broken JSON" : colon + 1);
    }
    return status;
}

/* line[n] is a line break or the text's NUL; a blank line is no row. */
static enum status take_line(const struct place *place, const char *line, size_t n,
                             json_line_action *act, void *context, size_t *n_rows)
{
    struct json *row = NULL;

    if (strspn(line, " \t\r") >= n) {
        return STATUS_OK;
    }
    ++*n_rows;
    TRY(parse_line(place, line, n, &row));
    const enum status status = act(context, row);
    json_destroy(row);
    return status == STATUS_OK ? status : status_wrap(status, "%s:%zu", place->name, place->line);
}

enum status json_lines_each(const char *name, const char *text, size_t n, json_line_action *act,
                            void *context, size_t *n_rows)
{
    static const char bom[] = "\xef\xbb\xbf";
    struct place place = {.name = name};
    size_t count = 0;

    for (const char *at = text + (n >= 3 && memcmp(text, bom, 3) == 0 ? 3 : 0); at < text + n;) {
        const char *end = memchr(at, '\n', (size_t)(text + n - at));

        end = end == NULL ? text + n : end;
        place.line++;
        TRY(take_line(&place, at, (size_t)(end - at), act, context, &count));
        at = end + 1;
    }
    if (n_rows != NULL) {
        *n_rows = count;
    }
    return STATUS_OK;
}
