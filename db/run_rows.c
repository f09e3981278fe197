/* Owns the names of the closed sets. */
#include "db/run_rows.h"

#include <string.h>

static const char *const status_names[] = {"waiting", "ok", "masked", "late", "stale", "aborted"};

const char *row_status_name(enum row_status status)
{
    return status_names[status];
}

bool row_status_parse(const char *text, enum row_status *out)
{
    for (size_t i = 0; i < sizeof(status_names) / sizeof(status_names[0]); i++) {
        if (strcmp(text, status_names[i]) == 0) {
            *out = (enum row_status)i;
            return true;
        }
    }
    return false;
}

bool row_finish_is_valid(const char *finish)
{
    static const char *const names[] = {"stop", "length", "stop_string", "abort", "timeout"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(finish, names[i]) == 0) {
            return true;
        }
    }
    return false;
}
