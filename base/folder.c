/* Owns folders: making, listing, syncing, removing. Removal works through descriptors and never
 * follows a link, so what a link points to is safe. */
#include "base/file.h"

#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define REMOVE_DEPTH_MAX 64u

static enum status refuse_errno(const char *path, const char *action)
{
    const enum status code = errno == ENOSPC || errno == EDQUOT ? STATUS_NO_SPACE : STATUS_IO;
    return status_set(code, "%s: cannot %s: %s", path, action, strerror(errno));
}

enum status folder_sync(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return refuse_errno(path, "open");
    }
    const enum status status = fsync(fd) == 0 ? STATUS_OK : refuse_errno(path, "sync");
    (void)close(fd); /* fsync has told all there is to tell */
    return status;
}

/* mkdir of one level; an existing folder is as good. */
static enum status create_level(const char *path)
{
    if (mkdir(path, 0700) == 0 || (errno == EEXIST && folder_exists(path))) {
        return STATUS_OK;
    }
    if (errno == EEXIST) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: is a file, and a folder is wanted there", path);
    }
    return refuse_errno(path, "create folder");
}

enum status folder_create(const char *path)
{
    char *copy;
    enum status status = STATUS_OK;

    TRY(memory_copy_text(path, strlen(path), &copy));
    for (char *slash = copy; status == STATUS_OK && slash != NULL;) {
        slash = strchr(slash + 1, '/');
        if (slash != NULL) {
            *slash = '\0';
        }
        if (!folder_exists(copy)) { /* a parent may be readable only */
            status = create_level(copy);
        }
        if (slash != NULL) {
            *slash = '/';
        }
    }
    memory_free(copy);
    return status;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static enum status remove_content(int parent_fd, const char *name, const char *path,
                                  unsigned depth_left);

static enum status remove_entry(int folder_fd, const char *name, const char *path,
                                unsigned depth_left)
{
    if (unlinkat(folder_fd, name, 0) == 0 || errno == ENOENT) {
        return STATUS_OK;
    }
    if (errno != EISDIR && errno != EPERM) {
        return refuse_errno(path, "remove an entry");
    }
    TRY(remove_content(folder_fd, name, path, depth_left));
    return unlinkat(folder_fd, name, AT_REMOVEDIR) == 0 ? STATUS_OK
                                                        : refuse_errno(path, "remove a folder in");
}

/* Empties the folder `name` of parent_fd; path is for messages. */
static enum status remove_content(int parent_fd, const char *name, const char *path,
                                  unsigned depth_left)
{
    enum status status = STATUS_OK;

    if (depth_left == 0) {
        return status_set(STATUS_IO, "%s: folders nest deeper than %u", path, REMOVE_DEPTH_MAX);
    }
    const int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return refuse_errno(path, "open a folder in");
    }
    DIR *folder = fdopendir(fd);
    if (folder == NULL) {
        status = refuse_errno(path, "read a folder in");
        (void)close(fd); /* only read */
        return status;
    }
    for (const struct dirent *entry = readdir(folder); status == STATUS_OK && entry != NULL;
         entry = readdir(folder)) {
        if (!is_dots(entry->d_name)) {
            status = remove_entry(dirfd(folder), entry->d_name, path, depth_left - 1);
        }
    }
    (void)closedir(folder); /* only read */
    return status;
}

enum status folder_remove(const char *path)
{
    struct stat info;

    if (lstat(path, &info) != 0) {
        return errno == ENOENT ? STATUS_OK : refuse_errno(path, "inspect");
    }
    if (!S_ISDIR(info.st_mode)) {
        return status_set(STATUS_IO, "%s: not a folder", path);
    }
    TRY(remove_content(AT_FDCWD, path, path, REMOVE_DEPTH_MAX));
    return rmdir(path) == 0 ? STATUS_OK : refuse_errno(path, "remove");
}

enum status file_free_bytes(const char *path, uint64_t *out)
{
    struct statvfs info;

    *out = 0;
    if (statvfs(path, &info) != 0) {
        return refuse_errno(path, "ask for free space");
    }
    *out = (uint64_t)info.f_bavail * info.f_frsize;
    return STATUS_OK;
}

static enum status list_add(struct file_list *list, size_t *room, const char *name)
{
    if (list->count == *room) {
        const size_t new_room = *room == 0 ? 16 : 2 * *room;
        TRY(memory_resize(list->count * sizeof(char *), new_room, sizeof(char *), &list->names));
        *room = new_room;
    }
    TRY(memory_copy_text(name, strlen(name), &list->names[list->count]));
    list->count++;
    return STATUS_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

enum status file_list(const char *folder, struct file_list *out)
{
    enum status status = STATUS_OK;
    size_t room = 0;

    *out = (struct file_list){0};
    DIR *stream = opendir(folder);
    if (stream == NULL) {
        return refuse_errno(folder, "list");
    }
    for (const struct dirent *entry = readdir(stream); status == STATUS_OK && entry != NULL;
         entry = readdir(stream)) {
        if (!is_dots(entry->d_name)) {
            status = list_add(out, &room, entry->d_name);
        }
    }
    (void)closedir(stream); /* only read */
    if (status != STATUS_OK) {
        file_list_free(out);
        return status;
    }
    if (out->count > 0) {
        qsort(out->names, out->count, sizeof(char *), compare_names);
    }
    return STATUS_OK;
}

void file_list_free(struct file_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        memory_free(list->names[i]);
    }
    memory_free(list->names);
    *list = (struct file_list){0};
}
