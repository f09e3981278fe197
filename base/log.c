/* Owns the log's lines. */
#include "base/log.h"

#include "base/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NAME_ROOM 32
#define LINE_ROOM 4096

static char process_label[NAME_ROOM + 1]; /* "name " or ""; set before threads start */
static atomic_int level_max = LOG_INFO;
static atomic_int copy_fd = -1;
static atomic_int copy_level_max = LOG_INFO;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_setup(const char *process_name, enum log_level level)
{
    (void)snprintf(process_label, sizeof(process_label), "%.31s%s", process_name,
                   process_name[0] == '\0' ? "" : " ");
    atomic_store(&level_max, (int)level);
}

void log_copy_to(int fd, enum log_level level)
{
    atomic_store(&copy_level_max, (int)level);
    atomic_store(&copy_fd, fd);
}

enum status log_level_parse(const char *text, enum log_level *out)
{
    for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *out = (enum log_level)i;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_BAD_ARGUMENT, "log level \"%.32s\": want error, warn, info or debug",
                      text);
}

/* A line stays a line, and a terminal is not commanded, whatever the message holds. */
static void hide_controls(char *text)
{
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;
        if (byte < 0x20 || byte == 0x7f) {
            *text = byte == '\t' || byte == '\n' ? ' ' : '?';
        }
    }
}

/* Writes "HH:MM:SS level process module: " and returns its length. */
static size_t print_head(char *line, size_t room, enum log_level level, const char *module)
{
    const time_t now = time(NULL);
    struct tm parts;

    if (localtime_r(&now, &parts) == NULL) {
        memset(&parts, 0, sizeof(parts));
    }
    const int n = snprintf(line, room, "%02d:%02d:%02d %-5s %s%.32s: ", parts.tm_hour, parts.tm_min,
                           parts.tm_sec, level_names[level], process_label, module);
    return n < 0 ? 0 : (size_t)n;
}

/* stderr may be a full pipe or gone; there is nowhere to report that, so the line is dropped. */
static void write_line(int fd, const char *line, size_t n)
{
    while (n > 0) {
        const ssize_t n_written = write(fd, line, n);
        if (n_written < 0 && errno == EINTR) {
            continue;
        }
        if (n_written <= 0) {
            return;
        }
        line += n_written;
        n -= (size_t)n_written;
    }
}

static bool shows(const atomic_int *max, enum log_level level)
{
    return (int)level <= atomic_load_explicit(max, memory_order_relaxed);
}

/* is_forced: to stderr at any level. */
static void PRINTF_LIKE(4, 0) write_record(enum log_level level, bool is_forced, const char *module,
                                           const char *format, va_list arguments)
{
    const int saved_errno = errno;
    const int fd = atomic_load_explicit(&copy_fd, memory_order_relaxed);
    const bool is_copied = fd >= 0 && shows(&copy_level_max, level);
    const bool is_shown = is_forced || shows(&level_max, level);
    char line[LINE_ROOM];

    if (!is_shown && !is_copied) {
        return;
    }
    const size_t n_head = print_head(line, sizeof(line) / 2, level, module);
    const int n_wanted = vsnprintf(line + n_head, sizeof(line) - n_head - 1, format, arguments);
    if (n_wanted >= (int)(sizeof(line) - n_head - 1)) {
        memcpy(line + sizeof(line) - 5, "...", 4);
    }
    hide_controls(line + n_head);
    size_t n = strlen(line);
    line[n++] = '\n';
    if (is_shown) {
        write_line(STDERR_FILENO, line, n);
    }
    if (is_copied) {
        write_line(fd, line, n);
    }
    errno = saved_errno;
}

void log_write(enum log_level level, const char *module, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    write_record(level, false, module, format, arguments);
    va_end(arguments);
}

void log_answer(const char *module, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    write_record(LOG_WARN, true, module, format, arguments);
    va_end(arguments);
}

/* Code points that would let text command a terminal or pose as something else: controls,
 * zero-width and bidi marks, the byte-order mark. */
static bool is_deceptive(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) ||
           code == 0xfeff;
}

#define PIECE_ROOM 17 /* four bytes as \xNN, and NUL */

/* Prints what stands for the bytes at text and returns how many bytes it stands for. */
static size_t escape_one(const char *text, size_t n, char piece[PIECE_ROOM])
{
    static const char letters[] = "abtnvfr"; /* from 0x07 on */
    uint32_t code = 0;
    const size_t length = utf8_sequence(text, n, &code);

    if (text[0] >= 0x07 && text[0] <= 0x0d) {
        (void)snprintf(piece, PIECE_ROOM, "\\%c", letters[text[0] - 0x07]);
        return 1;
    }
    if (text[0] == '\\') {
        (void)snprintf(piece, PIECE_ROOM, "\\\\");
        return 1;
    }
    if (length > 0 && !is_deceptive(code)) {
        memcpy(piece, text, length);
        piece[length] = '\0';
        return length;
    }
    const size_t n_shown = length == 0 ? 1 : length;
    for (size_t i = 0; i < n_shown; i++) {
        (void)snprintf(piece + 4 * i, PIECE_ROOM - 4 * i, "\\x%02x", (unsigned char)text[i]);
    }
    return n_shown;
}

const char *log_escape(const char *text, size_t n, char *out, size_t room)
{
    size_t used = 0;
    size_t cut = 0; /* where "..." goes if what follows does not fit */

    for (size_t i = 0; i < n;) {
        char piece[PIECE_ROOM];
        i += escape_one(text + i, n - i, piece);
        const size_t n_piece = strlen(piece);
        if (used + n_piece + 1 > room) {
            used = cut;
            (void)snprintf(out + used, room - used, "...");
            return out;
        }
        memcpy(out + used, piece, n_piece);
        used += n_piece;
        if (used + 4 <= room) {
            cut = used;
        }
    }
    if (room > 0) {
        out[used] = '\0';
    }
    return out;
}
