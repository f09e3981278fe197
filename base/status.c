/* Owns the thread's one-line message and the names and exit codes of status values. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_ROOM 1024

static _Thread_local char thread_message[MESSAGE_ROOM];

struct status_row {
    const char *name;
    int exit_code;
};

/* Exit codes are a public contract: scripts and schedulers act on them. */
static const struct status_row rows[] = {
    [STATUS_OK] = {"ok", 0},
    [STATUS_NO_MEMORY] = {"out of memory", 6},
    [STATUS_NO_SPACE] = {"no space", 6},
    [STATUS_IO] = {"input/output", 1},
    [STATUS_BAD_CONFIG] = {"bad configuration", 2},
    [STATUS_BAD_ARGUMENT] = {"bad argument", 2},
    [STATUS_BAD_FORMAT] = {"bad format", 5},
    [STATUS_UNSUPPORTED] = {"unsupported", 5},
    [STATUS_DEVICE] = {"device", 1},
    [STATUS_TIMEOUT] = {"timeout", 7},
    [STATUS_CANCELLED] = {"cancelled", 75},
    [STATUS_BUSY] = {"busy", 8},
    [STATUS_PEER] = {"peer mismatch", 9},
    [STATUS_NUMERICS] = {"numerics", 4},
    [STATUS_INEXACT] = {"inexact", 10},
    [STATUS_SCORING] = {"scoring", 3},
};

static const struct status_row *row_of(enum status code)
{
    const size_t index = (size_t)code;
    return index < sizeof(rows) / sizeof(rows[0]) ? &rows[index] : &rows[STATUS_IO];
}

/* A message is one line without control characters (C0, DEL and C1, which is C2 80 to C2 9F in
 * UTF-8), whatever a peer or a file put into it: it may end on a terminal. */
static void keep_one_line(char *text)
{
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)text[0];
        const unsigned char next = (unsigned char)text[1];

        if (byte == '\n' || byte == '\r' || byte == '\t') {
            text[0] = ' ';
        } else if (byte < 0x20 || byte == 0x7F) {
            text[0] = '?';
        } else if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {
            text[0] = '?';
            text[1] = '?';
        }
    }
}

enum status status_set(enum status code, const char *format, ...)
{
    char text[MESSAGE_ROOM]; /* the arguments may point into thread_message */
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    keep_one_line(text);
    memcpy(thread_message, text, sizeof(text));
    return code;
}

enum status status_wrap(enum status code, const char *format, ...)
{
    char context[MESSAGE_ROOM];
    char text[2 * MESSAGE_ROOM + 2];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(context, sizeof(context), format, arguments);
    va_end(arguments);
    (void)snprintf(text, sizeof(text), "%s: %s", context, thread_message);
    keep_one_line(text);
    memcpy(thread_message, text, MESSAGE_ROOM - 1); /* the last byte stays NUL */
    return code;
}

const char *status_message(void)
{
    return thread_message;
}

const char *status_name(enum status code)
{
    return row_of(code)->name;
}

int status_exit_code(enum status code)
{
    return row_of(code)->exit_code;
}
