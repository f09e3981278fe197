/* Owns reading: whole files, maps, and what a path names. Writing is in file_write.c, folders in
 * folder.c, locks in file_lock.c. */
#include "base/file.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static enum status refuse_errno(const char *path, const char *action)
{
    return status_set(STATUS_IO, "%s: cannot %s: %s", path, action, strerror(errno));
}

/* Opens for reading; a folder or device is refused by what reading it gives. */
static enum status open_for_reading(const char *path, int *out)
{
    *out = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    return *out < 0 ? refuse_errno(path, "open") : STATUS_OK;
}

struct text_buffer {
    char *data;
    size_t used;
    size_t room; /* without the NUL */
};

/* Makes room for more; up to one byte past the limit, which is how a larger file is seen. */
static enum status buffer_grow(struct text_buffer *buffer, size_t bytes_max)
{
    const size_t room = buffer->room < bytes_max / 2 ? 2 * buffer->room + 4096 : bytes_max + 1;

    TRY(memory_resize(buffer->used, room + 1, 1, &buffer->data));
    buffer->room = room;
    return STATUS_OK;
}

/* Reads to the end of fd. The size of a file is only a hint: it may grow, or be a pipe. */
static enum status read_all(int fd, const char *path, size_t bytes_max, struct text_buffer *buffer)
{
    ssize_t n = 1;

    while (n != 0) {
        if (buffer->used > bytes_max) {
            return status_set(STATUS_BAD_FORMAT, "%s: larger than %zu bytes", path, bytes_max);
        }
        const enum status status =
            buffer->used == buffer->room ? buffer_grow(buffer, bytes_max) : STATUS_OK;
        if (status != STATUS_OK) {
            return status;
        }
        n = read(fd, buffer->data + buffer->used, buffer->room - buffer->used);
        if (n < 0 && errno != EINTR) {
            return refuse_errno(path, "read");
        }
        buffer->used += n > 0 ? (size_t)n : 0;
    }
    buffer->data[buffer->used] = '\0';
    return STATUS_OK;
}

enum status file_read(const char *path, size_t bytes_max, char **out, size_t *n_out)
{
    struct text_buffer buffer = {0};
    struct stat info;
    int fd;

    *out = NULL;
    *n_out = 0;
    if (bytes_max > SIZE_MAX / 4) {
        bytes_max = SIZE_MAX / 4; /* so that no sum of sizes below can wrap */
    }
    TRY(open_for_reading(path, &fd));
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size <= bytes_max) {
        buffer.room = (size_t)info.st_size + 1; /* one more, to see the end without growing */
    } else {
        buffer.room = bytes_max < 65536 ? bytes_max + 1 : 65536;
    }
    enum status status = memory_alloc(buffer.room + 1, 1, &buffer.data);
    if (status == STATUS_OK) {
        status = read_all(fd, path, bytes_max, &buffer);
    }
    (void)close(fd); /* nothing was written */
    if (status != STATUS_OK) {
        memory_free(buffer.data);
        return status;
    }
    *out = buffer.data;
    *n_out = buffer.used;
    return STATUS_OK;
}

static enum status map_descriptor(int fd, const char *path, struct file_map *out)
{
    struct stat info;

    if (fstat(fd, &info) != 0) {
        return refuse_errno(path, "inspect");
    }
    if (!S_ISREG(info.st_mode)) {
        return status_set(STATUS_IO, "%s: not a regular file", path);
    }
    if (info.st_size == 0) {
        return STATUS_OK;
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        return refuse_errno(path, "map");
    }
    out->data = data;
    out->bytes = (size_t)info.st_size;
    return STATUS_OK;
}

enum status file_map_open(const char *path, struct file_map *out)
{
    int fd;

    *out = (struct file_map){0};
    TRY(open_for_reading(path, &fd));
    const enum status status = map_descriptor(fd, path, out);
    (void)close(fd); /* the map stays */
    return status;
}

void file_map_forget(const struct file_map *map, size_t begin, size_t end)
{
    const size_t page = 4096;
    const size_t first = begin / page * page;
    void *data;

    if (map->data == NULL || first >= end || end > map->bytes) {
        return;
    }
    memcpy(&data, &map->data, sizeof(data)); /* madvise takes no const */
    (void)madvise((unsigned char *)data + first, end - first, MADV_DONTNEED); /* only a hint */
}

void file_map_close(struct file_map *map)
{
    if (map->data != NULL) {
        void *data;
        memcpy(&data, &map->data, sizeof(data)); /* munmap takes no const */
        (void)munmap(data, map->bytes);
    }
    *map = (struct file_map){0};
}

bool file_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
}

bool folder_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

enum status path_join(const char *dir, const char *name, char **out)
{
    const size_t n_dir = name[0] == '/' ? 0 : strlen(dir);
    const size_t n_name = strlen(name);
    const bool wants_slash = n_dir > 0 && dir[n_dir - 1] != '/';

    *out = NULL;
    TRY(memory_alloc(n_dir + n_name + 2, 1, out));
    memcpy(*out, dir, n_dir);
    if (wants_slash) {
        (*out)[n_dir] = '/';
    }
    memcpy(*out + n_dir + (wants_slash ? 1 : 0), name, n_name);
    return STATUS_OK;
}

enum status path_parent(const char *path, char **out)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/') {
        n--; /* "a/b/" is in "a" */
    }
    while (n > 0 && path[n - 1] != '/') {
        n--;
    }
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    return n == 0 ? memory_copy_text(".", 1, out) : memory_copy_text(path, n, out);
}
