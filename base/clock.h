/* Owns time. Deadlines use the monotonic clock; wall time is for display and rows. Pure cores get
 * `now` as an argument and never call this. */
#ifndef HONE_BASE_CLOCK_H
#define HONE_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_now_us(void);  /* monotonic, microseconds */
int64_t clock_now_ns(void);  /* the same, for what takes a few of these */
int64_t clock_wall_ns(void); /* since 1970, nanoseconds */
void clock_sleep_us(int64_t us);

#endif
