#include "base/waits.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#define TEXT_ROOM 256
#define TIME_ROOM 64

static size_t n_told; /* of the list at hand; lists are the main thread's alone */

bool waits_are_asked(void)
{
    const bool is_asked = process_waits_asked();

    n_told = is_asked ? 0 : n_told;
    return is_asked;
}

static double seconds(int64_t us)
{
    return (double)(us > 0 ? us : 0) * 1e-6;
}

void waits_tell(const char *whom, int64_t since_us, int64_t deadline_us, const char *format, ...)
{
    const int64_t now_us = clock_now_us();
    char what[TEXT_ROOM];
    char since[TIME_ROOM] = "";
    char left[TIME_ROOM] = "";
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    if (since_us != 0) {
        (void)snprintf(since, sizeof(since), ", for %.1f s", seconds(now_us - since_us));
    }
    if (deadline_us != 0) {
        (void)snprintf(left, sizeof(left), ", %.1f s left", seconds(deadline_us - now_us));
    }
    n_told++;
    log_answer("waits", "for %s: %s%s%s", whom, what, since, left);
}

void waits_end(void)
{
    if (n_told == 0) {
        log_answer("waits", "for nobody");
    }
}
