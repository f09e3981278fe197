/* Owns the list of a user's mistakes: up to 20 lines, so that one look at a file finds them all. */
#include "base/memory.h"
#include "configs/config_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void report_add(struct config_report *report, const char *where, size_t line, size_t column,
                const char *format, ...)
{
    report->count++;
    if (report->count > CONFIG_ERRORS_MAX) {
        return;
    }
    char *const out = report->lines[report->count - 1];
    const size_t room = sizeof report->lines[0];
    const int n = line == 0 ? snprintf(out, room, "%.200s: ", where)
                            : snprintf(out, room, "%.200s:%zu:%zu: ", where, line, column);
    if (n < 0 || (size_t)n >= room) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(out + n, room - (size_t)n, format, arguments);
    va_end(arguments);
}

enum status report_text(const struct config_report *report, char **out)
{
    *out = NULL;
    if (report->count == 0) {
        return STATUS_OK;
    }
    const size_t n_kept = report->count < CONFIG_ERRORS_MAX ? report->count : CONFIG_ERRORS_MAX;
    const size_t room = n_kept * sizeof report->lines[0] + 64;
    char *text = NULL;
    TRY(memory_alloc(room, 1, &text));
    size_t n = 0;
    for (size_t i = 0; i < n_kept; i++) {
        const size_t line_bytes = strlen(report->lines[i]);
        memcpy(text + n, report->lines[i], line_bytes);
        n += line_bytes;
        text[n++] = '\n';
    }
    if (report->count > n_kept) {
        (void)snprintf(text + n, room - n, "... and %zu more\n", report->count - n_kept);
    }
    *out = text;
    return STATUS_OK;
}
