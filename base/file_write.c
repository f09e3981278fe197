/* Owns writing. A file is what it should be only after file_writer_commit; a write error other than
 * a full disk, and any error of fsync, means that the file is not to be trusted: the kernel may
 * already have dropped the page, so nothing is tried again on the same descriptor. */
#include "base/file.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES ((size_t)1 << 20)

struct file_writer {
    int fd;
    char *path;
    unsigned char *buffer; /* BUFFER_BYTES */
    size_t used;
};

static enum status refuse_write(const char *path, const char *action, size_t n_bytes)
{
    const int reason = errno;

    if (reason == ENOSPC || reason == EDQUOT) {
        uint64_t n_free = 0;
        if (file_free_bytes(path, &n_free) != STATUS_OK) {
            n_free = 0;
        }
        return status_set(STATUS_NO_SPACE, "%s: cannot %s %zu bytes, %llu free: %s", path, action,
                          n_bytes, (unsigned long long)n_free, strerror(reason));
    }
    return status_set(STATUS_IO, "%s: cannot %s: %s", path, action, strerror(reason));
}

static enum status write_all(int fd, const char *path, const unsigned char *data, size_t n)
{
    while (n > 0) {
        const ssize_t n_written = write(fd, data, n);
        if (n_written < 0 && errno == EINTR) {
            continue;
        }
        if (n_written < 0) {
            return refuse_write(path, "write", n);
        }
        data += n_written;
        n -= (size_t)n_written;
    }
    return STATUS_OK;
}

enum status file_writer_open(const char *path, struct file_writer **out)
{
    struct file_writer *writer;
    enum status status;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*writer), &writer));
    writer->fd = -1;
    status = memory_copy_text(path, strlen(path), &writer->path);
    if (status == STATUS_OK) {
        status = memory_alloc(BUFFER_BYTES, 1, &writer->buffer);
    }
    if (status == STATUS_OK) {
        writer->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
        status = writer->fd < 0 ? refuse_write(path, "create", 0) : STATUS_OK;
    }
    if (status != STATUS_OK) {
        file_writer_abandon(writer);
        return status;
    }
    *out = writer;
    return STATUS_OK;
}

static enum status writer_flush(struct file_writer *writer)
{
    const size_t n = writer->used;

    writer->used = 0;
    return write_all(writer->fd, writer->path, writer->buffer, n);
}

enum status file_writer_put(struct file_writer *writer, const void *data, size_t n)
{
    if (n > BUFFER_BYTES - writer->used) {
        TRY(writer_flush(writer));
    }
    if (n >= BUFFER_BYTES) {
        return write_all(writer->fd, writer->path, data, n);
    }
    if (n > 0) {
        memcpy(writer->buffer + writer->used, data, n);
        writer->used += n;
    }
    return STATUS_OK;
}

enum status file_writer_commit(struct file_writer *writer)
{
    enum status status = writer_flush(writer);

    if (status == STATUS_OK && fdatasync(writer->fd) != 0) {
        status = refuse_write(writer->path, "sync", 0);
    }
    if (close(writer->fd) != 0 && status == STATUS_OK) {
        status = refuse_write(writer->path, "close", 0);
    }
    writer->fd = -1;
    file_writer_abandon(writer);
    return status;
}

void file_writer_abandon(struct file_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    if (writer->fd >= 0) {
        (void)close(writer->fd); /* nothing was promised */
    }
    memory_free(writer->buffer);
    memory_free(writer->path);
    memory_free(writer);
}

/* fsync of the folder that holds path, so that a rename or creation in it is durable. */
static enum status sync_parent(const char *path)
{
    char *parent;

    TRY(path_parent(path, &parent));
    const enum status status = folder_sync(parent);
    memory_free(parent);
    return status;
}

static enum status write_file(const char *path, const void *data, size_t n)
{
    struct file_writer *writer;

    TRY(file_writer_open(path, &writer));
    const enum status status = file_writer_put(writer, data, n);
    if (status != STATUS_OK) {
        file_writer_abandon(writer);
        return status;
    }
    return file_writer_commit(writer);
}

enum status file_write_atomic(const char *path, const void *data, size_t n)
{
    const size_t n_path = strlen(path);
    char *temporary;
    enum status status;

    TRY(memory_alloc(n_path + 5, 1, &temporary));
    memcpy(temporary, path, n_path);
    memcpy(temporary + n_path, ".tmp", 4);
    status = write_file(temporary, data, n);
    if (status == STATUS_OK && rename(temporary, path) != 0) {
        status = refuse_write(path, "rename into place", 0);
    }
    if (status == STATUS_OK) {
        status = sync_parent(path);
    } else {
        (void)unlink(temporary); /* a half-written copy is of no use; the failure above counts */
    }
    memory_free(temporary);
    return status;
}

enum status file_rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) != 0) {
        return status_set(errno == ENOSPC || errno == EDQUOT ? STATUS_NO_SPACE : STATUS_IO,
                          "%s: cannot rename to %s: %s", from, to, strerror(errno));
    }
    return sync_parent(to);
}
