/* Owns how a process tells what it waits for when SIGUSR2 asks: a log line a wait, marked as a
 * warning, which `hone run` shows, and written at any log level. Each main loop looks once a turn
 * and lists its own; between turns a process computes and waits for nobody. Main thread only. */
#ifndef HONE_BASE_WAITS_H
#define HONE_BASE_WAITS_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* true once after each SIGUSR2 (process_catch_signals): begins a list. */
bool waits_are_asked(void);
/* "waits for WHOM: WHAT; SINCE s, DEADLINE s left". since_us: 0: not known; deadline_us: 0: none.
 */
void waits_tell(const char *whom, int64_t since_us, int64_t deadline_us, const char *format, ...)
    PRINTF_LIKE(4, 5);
/* Ends a list: says so when there was no line in it. */
void waits_end(void);

#endif
