/* hone doctor: what this machine has, and what would go wrong. */
#include "cli/cli.h"
#include "cli/commands.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/run_paths.h"
#include "base/shared_memory.h"
#include "db/db.h"
#include "kernels/backend.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY_MIN_MIB 512u
#define DISK_MIN_MIB 256u
#define SHELL_MS 5000 /* for a shell to open a file */

static const struct cli_option options[] = {
    {'j', "json", NULL, "one object a finding"},
};
static const struct cli_command command = {
    .name = "doctor",
    .arguments = "[DIR]",
    .summary =
        "Checks this machine: processor, memory, whether processes can share weights, disk below\n"
        "DIR (default: here), libraries, sockets and the tools that scorers use. Exit code 1 when\n"
        "something is missing.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .n_arguments_max = 1,
};

struct doctor {
    bool is_json, is_well;
    const char *dir;
};

enum finding { FINDING_GOOD, FINDING_NOTE, FINDING_BAD };

static enum status put_text(struct json *object, const char *key, const char *text)
{
    return json_put(object, key, json_from_text(text, strlen(text)));
}

static enum status print_json(const char *verdict, const char *topic, const char *text)
{
    struct json *object = json_object_create();
    enum status status = put_text(object, "check", topic);
    if (status == STATUS_OK) {
        status = put_text(object, "status", verdict);
    }
    if (status == STATUS_OK) {
        status = put_text(object, "text", text);
    }
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

static enum status tell(struct doctor *doctor, enum finding finding, const char *topic,
                        const char *format, ...) PRINTF_LIKE(4, 5);

static enum status tell(struct doctor *doctor, enum finding finding, const char *topic,
                        const char *format, ...)
{
    static const char *const verdicts[] = {"ok", "note", "bad"};
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    doctor->is_well &= finding != FINDING_BAD;
    if (doctor->is_json) {
        return print_json(verdicts[finding], topic, text);
    }
    (void)printf("%-4s  %-10s %s\n", verdicts[finding], topic, text);
    return STATUS_OK;
}

/* --- What is looked at --- */

/* "model name" of /proc/cpuinfo. */
static void processor_name(char *out, size_t room)
{
    char line[256];
    FILE *const file = fopen("/proc/cpuinfo", "re");
    (void)snprintf(out, room, "unknown processor");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *const colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            (void)snprintf(out, room, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file); /* only read from */
    }
}

static enum status check_processor(struct doctor *doctor)
{
    char name[200];
    cpu_set_t cores;
    const int n_cores = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    processor_name(name, sizeof name);
    __builtin_cpu_init();
    TRY(tell(doctor, FINDING_GOOD, "processor", "%s, %d core%s for us", name, n_cores,
             n_cores == 1 ? "" : "s"));
    return tell(doctor, FINDING_GOOD, "features", "avx2 %s, fma %s, avx512f %s, avx512bw %s",
                __builtin_cpu_supports("avx2") ? "yes" : "no",
                __builtin_cpu_supports("fma") ? "yes" : "no",
                __builtin_cpu_supports("avx512f") ? "yes" : "no",
                __builtin_cpu_supports("avx512bw") ? "yes" : "no");
}

static enum status check_backend(struct doctor *doctor)
{
    struct backend *backend = NULL;
    if (backend_open("auto", 0, &backend) != STATUS_OK) {
        return tell(doctor, FINDING_BAD, "backend", "%s", status_message());
    }
    const enum status status =
        tell(doctor, FINDING_GOOD, "backend", "%s, %zu threads, numerics %s", backend->name,
             backend->n_threads, backend->numerics_ids[PRECISION_F32]);
    backend_close(backend);
    return status;
}

/* A value of /proc/meminfo in MiB, 0 when it is not there. */
static uint64_t memory_mib(const char *key)
{
    char line[128];
    uint64_t mib = 0;
    FILE *const file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0) {
            mib = strtoull(line + strlen(key), NULL, 10) / 1024;
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file); /* only read from */
    }
    return mib;
}

static enum status check_memory(struct doctor *doctor)
{
    const uint64_t total = memory_mib("MemTotal:");
    const uint64_t available = memory_mib("MemAvailable:");
    return tell(doctor, available < MEMORY_MIN_MIB ? FINDING_BAD : FINDING_GOOD, "memory",
                "%" PRIu64 " MiB available of %" PRIu64 "; the demo needs %u", available, total,
                MEMORY_MIN_MIB);
}

/* What a worker does to the trainer's weights, done by a child to ours. false, with a message: it
 * may not. Without a shell it cannot be tried. */
static bool another_process_can_open(const struct shared_memory_name *name)
{
    char script[80];
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct process_options start = {.argv = argv, .wants_pipes = true};
    struct process shell;
    int exit_code = 0;
    (void)snprintf(script, sizeof script, "exec 3</proc/%lld/fd/%lld", (long long)name->pid,
                   (long long)name->fd);
    if (process_start(&start, &shell) != STATUS_OK) {
        return true;
    }
    for (int i = 0; i < SHELL_MS && !process_has_ended(&shell, &exit_code); i++) {
        clock_sleep_us(1000);
    }
    enum status status = STATUS_OK;
    if (!process_has_ended(&shell, &exit_code) || exit_code != 0) {
        status = status_set(STATUS_IO, "a process may not open what another one has open");
    }
    process_stop(&shell, 0);
    return status == STATUS_OK;
}

static bool can_share(void)
{
    struct shared_memory *own = NULL;
    struct shared_memory *seen = NULL;
    enum status status = shared_memory_create(4096, &own);
    if (status != STATUS_OK) {
        return false;
    }
    const struct shared_memory_name name = shared_memory_name(own);
    status = shared_memory_attach(&name, &seen);
    const bool can = status == STATUS_OK && another_process_can_open(&name);
    shared_memory_close(seen);
    shared_memory_close(own);
    return can;
}

/* Without it a run works and needs more memory. */
static enum status check_sharing(struct doctor *doctor)
{
    if (can_share()) {
        return tell(doctor, FINDING_GOOD, "sharing", "workers read the trainer's weights in place");
    }
    return tell(doctor, FINDING_NOTE, "sharing", "%s; each worker will hold a copy of the weights",
                status_message());
}

static enum status check_disk(struct doctor *doctor)
{
    uint64_t bytes = 0;
    if (file_free_bytes(doctor->dir, &bytes) != STATUS_OK) {
        return tell(doctor, FINDING_BAD, "disk", "%s", status_message());
    }
    const uint64_t mib = bytes >> 20;
    return tell(doctor, mib < DISK_MIN_MIB ? FINDING_BAD : FINDING_GOOD, "disk",
                "%" PRIu64 " MiB free below %s; the demo needs %u", mib, doctor->dir, DISK_MIN_MIB);
}

static enum status check_libraries(struct doctor *doctor)
{
    return tell(doctor, FINDING_GOOD, "libraries", "hone %s (%s), SQLite %s, compiler %s",
                HONE_VERSION, HONE_COMMIT, db_sqlite_version(), __VERSION__);
}

/* A run in DIR needs a place for its sockets, whose paths are short. */
static enum status check_sockets(struct doctor *doctor)
{
    char folder[64] = "/tmp/hone-doctor-XXXXXX";
    char *endpoint = NULL;
    if (mkdtemp(folder) == NULL) {
        return tell(doctor, FINDING_BAD, "sockets", "no folder can be made in /tmp: %s",
                    strerror(errno));
    }
    enum status status = run_endpoint(folder, ENDPOINT_WORK, &endpoint);
    if (status == STATUS_OK) {
        status = tell(doctor, FINDING_GOOD, "sockets", "%zu of 107 bytes below %s",
                      strlen(endpoint) - strlen("ipc://"), folder);
    } else {
        status = tell(doctor, FINDING_BAD, "sockets", "%s", status_message());
    }
    memory_free(endpoint);
    const enum status removed = folder_remove(folder);
    return status != STATUS_OK ? status : removed;
}

static bool is_in_path(const char *program)
{
    const char *const path = getenv("PATH");
    const char *at = path != NULL ? path : "/usr/bin:/bin";
    while (*at != '\0') {
        char file[1024];
        const size_t n = strcspn(at, ":");
        (void)snprintf(file, sizeof file, "%.*s/%s", (int)n, at, program);
        if (access(file, X_OK) == 0) {
            return true;
        }
        at += n + (at[n] == ':');
    }
    return false;
}

/* Only rewards of the form "cmd:" need other programs. */
static enum status check_tools(struct doctor *doctor)
{
    static const char *const programs[] = {"python3", "sh", "jq"};
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        const bool is_there = is_in_path(programs[i]);
        TRY(tell(doctor, is_there ? FINDING_GOOD : FINDING_NOTE, "scorers", "%s: %s", programs[i],
                 is_there ? "found" : "not found; only rewards that call it need it"));
    }
    return STATUS_OK;
}

static enum status examine(struct doctor *doctor)
{
    static enum status (*const checks[])(struct doctor *) = {
        check_processor, check_backend,   check_memory,  check_sharing,
        check_disk,      check_libraries, check_sockets, check_tools};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        TRY(checks[i](doctor));
    }
    return STATUS_OK;
}

int cmd_doctor(int argc, char **argv)
{
    struct doctor doctor = {.is_well = true, .dir = "."};
    struct cli_parse parse;
    int code = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        doctor.is_json = true;
    }
    if (code < 0) {
        return parse.exit_code;
    }
    if (parse.n_arguments > 0) {
        doctor.dir = parse.arguments[0];
    }
    const enum status status = examine(&doctor);
    if (status != STATUS_OK) {
        return cli_fail(command.name, status);
    }
    return doctor.is_well ? 0 : 1;
}
