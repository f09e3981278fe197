#include "base/process_info.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_ROOM 96
#define TEXT_ROOM 8192

/* Reads a small file of /proc whole; NULL when it cannot be. */
static const char *read_text(const char *path, char *out, size_t room)
{
    size_t used = 0;
    ssize_t n = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0) {
        return NULL;
    }
    do {
        n = read(fd, out + used, room - 1 - used);
        used += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && used + 1 < room) || (n < 0 && errno == EINTR));
    (void)close(fd); /* only read from */
    out[used] = '\0';
    return n < 0 ? NULL : out;
}

static const char *read_of(pid_t pid, const char *file, char *out, size_t room)
{
    char path[PATH_ROOM];

    (void)snprintf(path, sizeof(path), "/proc/%ld/%s", (long)pid, file);
    return read_text(path, out, room);
}

/* The number behind "\nKEY", in KiB there, in bytes here. */
static bool find_bytes(const char *text, const char *key, uint64_t *out)
{
    const char *const at = text == NULL ? NULL : strstr(text, key);
    char *end = NULL;

    *out = 0;
    if (at == NULL) {
        return false;
    }
    *out = (uint64_t)strtoull(at + strlen(key), &end, 10) * 1024;
    return strncmp(end, " kB", 3) == 0;
}

bool process_info_parse_memory(const char *rollup, const char *status, struct process_memory *out)
{
    *out = (struct process_memory){0};
    if (find_bytes(rollup, "\nPss:", &out->bytes)) {
        out->is_proportional = true;
        return true;
    }
    return find_bytes(status, "\nVmRSS:", &out->bytes);
}

bool process_info_memory(pid_t pid, struct process_memory *out)
{
    char text[TEXT_ROOM];
    const char *const rollup = read_of(pid, "smaps_rollup", text, sizeof(text));

    if (process_info_parse_memory(rollup, NULL, out)) {
        return true;
    }
    return process_info_parse_memory(NULL, read_of(pid, "status", text, sizeof(text)), out);
}

/* Adds the children of one thread; returns how many there are now. */
static size_t add_children(pid_t pid, const char *thread, pid_t *out, size_t n, size_t room)
{
    char file[PATH_ROOM / 2];
    char text[TEXT_ROOM];

    (void)snprintf(file, sizeof(file), "task/%.12s/children", thread);
    const char *at = read_of(pid, file, text, sizeof(text));
    while (at != NULL && n < room) {
        char *end = NULL;
        const long child = strtol(at, &end, 10);
        if (end == at) {
            break;
        }
        out[n++] = (pid_t)child;
        at = end;
    }
    return n;
}

size_t process_info_children(pid_t pid, pid_t *out, size_t room)
{
    char path[PATH_ROOM];
    const struct dirent *entry = NULL;
    size_t n = 0;

    (void)snprintf(path, sizeof(path), "/proc/%ld/task", (long)pid);
    DIR *const threads = opendir(path);
    while (threads != NULL && (entry = readdir(threads)) != NULL) {
        if (entry->d_name[0] != '.') {
            n = add_children(pid, entry->d_name, out, n, room);
        }
    }
    if (threads != NULL) {
        (void)closedir(threads); /* only read from */
    }
    return n;
}
