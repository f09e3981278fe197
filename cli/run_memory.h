/* Owns what the processes of a run take together: the most at one moment, and who had how much of
 * it. Sums of Pss: memory that several map counts once. The processes are read as often as costs
 * half a percent of a core, every 50 ms to 1 s; what comes and goes between two looks is not seen.
 */
#ifndef HONE_CLI_RUN_MEMORY_H
#define HONE_CLI_RUN_MEMORY_H

#include "base/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum memory_part {
    MEMORY_TRAINER,
    MEMORY_WORKERS,
    MEMORY_REWARD,
    MEMORY_SCORERS, /* what the reward service has started, and what these have */
    MEMORY_RUN,     /* hone run itself */
    MEMORY_PARTS
};
struct memory_moment {
    uint64_t bytes[MEMORY_PARTS];
    size_t n_workers; /* that were running */
    int64_t since_begin_us;
};
struct run_memory {
    struct memory_moment now;  /* being added up */
    struct memory_moment peak; /* the largest so far */
    int64_t begin_us, looked_us, due_us;
    bool counts_twice; /* some process told only its resident set */
};
void run_memory_begin(struct run_memory *memory, int64_t now_us);
/* A look is due: run_memory_look begins one, each process is added, run_memory_looked ends it. */
bool run_memory_is_due(const struct run_memory *memory, int64_t now_us);
void run_memory_look(struct run_memory *memory, int64_t now_us);
void run_memory_add(struct run_memory *memory, enum memory_part part, uint64_t bytes,
                    bool is_proportional);
void run_memory_looked(struct run_memory *memory, int64_t now_us);
/* Asks the kernel and adds; a process that is gone adds nothing. */
void run_memory_add_process(struct run_memory *memory, enum memory_part part, pid_t pid);
/* All that pid has started, and what that has started. */
void run_memory_add_descendants(struct run_memory *memory, enum memory_part part, pid_t pid);

uint64_t memory_moment_bytes(const struct memory_moment *moment);
/* "at most 2712 MiB at once: trainer 2103, 2 workers 590, reward 12, run 7 (after 35s)"; out is
 * returned. Without a look: "". */
const char *run_memory_text(const struct run_memory *memory, char *out, size_t room);
/* The same as numbers; NULL without a look, or without memory for it. */
struct json *run_memory_json(const struct run_memory *memory);

#endif
