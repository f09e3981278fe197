/* Owns what the kernel tells of other processes (/proc): the memory they hold and their children.
 */
#ifndef HONE_BASE_PROCESS_INFO_H
#define HONE_BASE_PROCESS_INFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process_memory {
    uint64_t bytes;
    bool is_proportional; /* of a page that n processes map, a n-th: sums count it once */
};
/* What pid holds in memory: Pss of /proc/PID/smaps_rollup, or VmRSS, which counts shared pages
 * whole, where that is not to be had. false, and 0 bytes: there is no such process, it has ended,
 * or its memory is nobody's business. Takes about 3 ms a GiB of small pages, 0.1 of huge ones. */
bool process_info_memory(pid_t pid, struct process_memory *out);
/* The same from texts: of smaps_rollup and of status, each NULL when it could not be read. Pure. */
bool process_info_parse_memory(const char *rollup, const char *status, struct process_memory *out);
/* Children of all threads of pid, at most room; returns how many. 0 too where the kernel does not
 * list them. */
size_t process_info_children(pid_t pid, pid_t *out, size_t room);

#endif
