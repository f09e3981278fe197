/* Owns the names below a run folder. */
#include "base/run_paths.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOCKET_PATH_MAX 107
#define NAME_BYTES_MAX 8 /* "/" and the longest of the names below */

static const char *const endpoint_names[] = {"work", "weights", "results", "scored"};

/* run_dir as an absolute path without links, made if it is missing. out: PATH_MAX bytes. */
static enum status resolve_run(const char *run_dir, char out[PATH_MAX])
{
    TRY(folder_create(run_dir));
    if (realpath(run_dir, out) == NULL) {
        return status_set(STATUS_IO, "%s: cannot resolve: %s", run_dir, strerror(errno));
    }
    return STATUS_OK;
}

/* A folder in /tmp must be ours alone: someone else could have made it first. */
static enum status claim_folder(const char *path)
{
    struct stat info;

    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        return status_set(STATUS_IO, "%s: cannot create folder: %s", path, strerror(errno));
    }
    if (lstat(path, &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid() ||
        (info.st_mode & 077u) != 0) {
        return status_set(STATUS_IO, "%s: not a folder of this user's alone (mode 0700)", path);
    }
    return STATUS_OK;
}

/* Where the link leads, or "" when there is none. out: PATH_MAX bytes. */
static void read_link(const char *link, char out[PATH_MAX])
{
    const ssize_t n = readlink(link, out, PATH_MAX - 1);

    out[n > 0 ? n : 0] = '\0';
}

/* A short folder for the sockets of a run whose own path is too long; `link` leads there. */
static enum status short_folder(const char *run, const char *link, char out[PATH_MAX])
{
    const char *root = getenv("XDG_RUNTIME_DIR");
    const struct digest128 digest = hash_128(run, strlen(run));
    char name[17];

    read_link(link, out);
    if (out[0] == '\0') {
        if (root == NULL || root[0] != '/' || strlen(root) > 48 || !folder_exists(root)) {
            root = "/tmp";
        }
        (void)snprintf(out, PATH_MAX, "%s/hone-%lu-%s", root, (unsigned long)geteuid(),
                       hash_hex(digest.bytes, 8, name));
        if (symlink(out, link) != 0 && errno != EEXIST) {
            return status_set(STATUS_IO, "%s: cannot make a link: %s", link, strerror(errno));
        }
        read_link(link, out); /* another process may have been first */
    }
    if (out[0] != '/' || strlen(out) + NAME_BYTES_MAX > SOCKET_PATH_MAX) {
        return status_set(STATUS_IO, "%s: leads to no short folder", link);
    }
    return claim_folder(out);
}

enum status run_endpoint(const char *run_dir, enum run_endpoint which, char **out)
{
    char run[PATH_MAX];
    char folder[PATH_MAX];
    char endpoint[sizeof("ipc://") + SOCKET_PATH_MAX];
    char *sock;

    *out = NULL;
    TRY(resolve_run(run_dir, run));
    TRY(path_join(run, "sock", &sock));
    enum status status;
    if (strlen(sock) + NAME_BYTES_MAX <= SOCKET_PATH_MAX) {
        (void)snprintf(folder, sizeof(folder), "%s", sock);
        status = folder_create(folder);
    } else {
        status = short_folder(run, sock, folder);
    }
    memory_free(sock);
    TRY(status);
    const int n =
        snprintf(endpoint, sizeof(endpoint), "ipc://%s/%s", folder, endpoint_names[which]);
    return memory_copy_text(endpoint, (size_t)n, out);
}

enum status run_database_path(const char *run_dir, char **out)
{
    return path_join(run_dir, "run.db", out);
}

enum status run_checkpoints_path(const char *run_dir, char **out)
{
    return path_join(run_dir, "checkpoints", out);
}
