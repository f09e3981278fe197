#include "cli/run_memory.h"

#include "base/process_info.h"
#include "cli/cli.h"

#include <inttypes.h>
#include <stdio.h>

#define WAIT_MIN_US ((int64_t)50000)
#define WAIT_MAX_US ((int64_t)1000000)
#define WAIT_PER_COST 200 /* one half of a percent */
#define DESCENDANTS_MAX 256u
#define MIB ((uint64_t)1 << 20)

static const struct {
    const char *name, *key;
} parts[MEMORY_PARTS] = {
    [MEMORY_TRAINER] = {"trainer", "trainer_bytes"},
    [MEMORY_WORKERS] = {"worker", "workers_bytes"},
    [MEMORY_REWARD] = {"reward", "reward_bytes"},
    [MEMORY_SCORERS] = {"scorers", "scorers_bytes"},
    [MEMORY_RUN] = {"run", "run_bytes"},
};

/* --- Looking --- */

void run_memory_begin(struct run_memory *memory, int64_t now_us)
{
    *memory = (struct run_memory){.begin_us = now_us, .due_us = now_us};
}

bool run_memory_is_due(const struct run_memory *memory, int64_t now_us)
{
    return now_us >= memory->due_us;
}

void run_memory_look(struct run_memory *memory, int64_t now_us)
{
    memory->looked_us = now_us;
    memory->now = (struct memory_moment){.since_begin_us = now_us - memory->begin_us};
}

void run_memory_add(struct run_memory *memory, enum memory_part part, uint64_t bytes,
                    bool is_proportional)
{
    memory->now.bytes[part] += bytes;
    memory->now.n_workers += part == MEMORY_WORKERS;
    memory->counts_twice |= !is_proportional;
}

void run_memory_looked(struct run_memory *memory, int64_t now_us)
{
    const int64_t wait_us = WAIT_PER_COST * (now_us - memory->looked_us);
    memory->due_us = now_us + (wait_us < WAIT_MIN_US   ? WAIT_MIN_US
                               : wait_us > WAIT_MAX_US ? WAIT_MAX_US
                                                       : wait_us);
    if (memory_moment_bytes(&memory->now) > memory_moment_bytes(&memory->peak)) {
        memory->peak = memory->now;
    }
}

void run_memory_add_process(struct run_memory *memory, enum memory_part part, pid_t pid)
{
    struct process_memory held;
    if (pid > 0 && process_info_memory(pid, &held)) {
        run_memory_add(memory, part, held.bytes, held.is_proportional);
    }
}

void run_memory_add_descendants(struct run_memory *memory, enum memory_part part, pid_t pid)
{
    pid_t pids[DESCENDANTS_MAX];
    size_t n = pid > 0 ? process_info_children(pid, pids, DESCENDANTS_MAX) : 0;
    for (size_t i = 0; i < n; i++) { /* n grows while the list is walked */
        n += process_info_children(pids[i], pids + n, DESCENDANTS_MAX - n);
        run_memory_add_process(memory, part, pids[i]);
    }
}

/* --- Telling --- */

uint64_t memory_moment_bytes(const struct memory_moment *moment)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < MEMORY_PARTS; i++) {
        sum += moment->bytes[i];
    }
    return sum;
}

static uint64_t in_mib(uint64_t bytes)
{
    return (bytes + MIB / 2) / MIB;
}

/* "trainer 2103, 2 workers 590"; parts without memory are left out. */
static void parts_text(const struct memory_moment *moment, char *out, size_t room)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < MEMORY_PARTS; i++) {
        char count[24] = "";
        const bool is_many = i == MEMORY_WORKERS && moment->n_workers > 1;
        if (moment->bytes[i] == 0 || used >= room) {
            continue;
        }
        if (is_many) {
            (void)snprintf(count, sizeof count, "%zu ", moment->n_workers);
        }
        used +=
            (size_t)snprintf(out + used, room - used, "%s%s%s%s %" PRIu64, used > 0 ? ", " : "",
                             count, parts[i].name, is_many ? "s" : "", in_mib(moment->bytes[i]));
    }
}

const char *run_memory_text(const struct run_memory *memory, char *out, size_t room)
{
    const uint64_t bytes = memory_moment_bytes(&memory->peak);
    char shares[200];
    const double seconds = (double)memory->peak.since_begin_us * 1e-6;
    char when[16];
    out[0] = '\0';
    if (bytes == 0) {
        return out;
    }
    parts_text(&memory->peak, shares, sizeof shares);
    (void)cli_seconds_text(seconds, when, sizeof when);
    if (seconds < 10) {
        (void)snprintf(when, sizeof when, "%.1fs", seconds);
    }
    (void)snprintf(out, room, "at most %" PRIu64 " MiB at once: %s (after %s%s)", in_mib(bytes),
                   shares, when,
                   memory->counts_twice ? "; shared pages counted in each process" : "");
    return out;
}

static enum status fill_json(const struct memory_moment *peak, struct json *object)
{
    TRY(json_put(object, "memory_peak_bytes", json_from_int((int64_t)memory_moment_bytes(peak))));
    TRY(json_put(object, "memory_peak_s", json_from_number((double)peak->since_begin_us * 1e-6)));
    for (size_t i = 0; i < MEMORY_PARTS; i++) {
        TRY(json_put(object, parts[i].key, json_from_int((int64_t)peak->bytes[i])));
    }
    return STATUS_OK;
}

struct json *run_memory_json(const struct run_memory *memory)
{
    if (memory_moment_bytes(&memory->peak) == 0) {
        return NULL;
    }
    struct json *const object = json_object_create();
    if (fill_json(&memory->peak, object) != STATUS_OK) {
        json_destroy(object);
        return NULL;
    }
    return object;
}
