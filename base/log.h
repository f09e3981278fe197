/* Owns logging: "level module: key=value ..." lines on stderr. Text that a model or peer wrote must
 * go through log_escape first. Nothing here is called per token. */
#ifndef HONE_BASE_LOG_H
#define HONE_BASE_LOG_H

#include "base/status.h"

#include <stddef.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Sets the process's name in front of each line ("trainer", "rollout-0", ...; copied, cut at 31)
 * and the most verbose level printed. Default "" and LOG_INFO. */
void log_setup(const char *process_name, enum log_level level);
/* Lines up to level go to fd too, whatever the level of stderr; -1: nowhere. fd stays the caller's.
 */
void log_copy_to(int fd, enum log_level level);
/* error | warn | info | debug. Errors: BAD_ARGUMENT. */
MUST_CHECK enum status log_level_parse(const char *text, enum log_level *out);
/* Writes one line: "HH:MM:SS level process module: message". One write(2) per line. */
void log_write(enum log_level level, const char *module, const char *format, ...) PRINTF_LIKE(3, 4);

/* One line at the level of warnings that no level hides: who asks gets an answer. */
void log_answer(const char *module, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(module, ...) log_write(LOG_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...) log_write(LOG_WARN, module, __VA_ARGS__)
#define log_info(module, ...) log_write(LOG_INFO, module, __VA_ARGS__)
#define log_debug(module, ...) log_write(LOG_DEBUG, module, __VA_ARGS__)

/* Copies text[0..n) to out (room bytes, always NUL-terminated, cut with "..."), control characters,
 * escapes and broken UTF-8 made visible (\n, \x1b, ...). Returns out. */
const char *log_escape(const char *text, size_t n, char *out, size_t room);

#endif
