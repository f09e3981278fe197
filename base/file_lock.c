/* Owns the exclusive lock of a file. F_OFD_SETLK belongs to the open file, not to the process, so
 * it is not lost when some other part of the process opens and closes the same path; the kernel
 * drops it when the holder ends, however it ends. */
#include "base/file.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HOLDER_ROOM 256

struct file_lock {
    int fd;
};

/* What the holder wrote about itself; it may be writing just now, so an empty text is possible. */
static enum status refuse_held(int fd, const char *path)
{
    char holder[HOLDER_ROOM];
    const ssize_t n = pread(fd, holder, sizeof(holder) - 1, 0);

    holder[n > 0 ? n : 0] = '\0';
    return status_set(STATUS_BUSY, "%s: held by %s", path, n > 0 ? holder : "another process");
}

static enum status lock_descriptor(int fd, const char *path, const char *holder_text)
{
    struct flock region = {.l_type = F_WRLCK, .l_whence = SEEK_SET}; /* the whole file */

    if (fcntl(fd, F_OFD_SETLK, &region) != 0) {
        if (errno == EAGAIN || errno == EACCES) {
            return refuse_held(fd, path);
        }
        return status_set(STATUS_IO, "%s: cannot lock: %s", path, strerror(errno));
    }
    const size_t n = strlen(holder_text);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, holder_text, n, 0) != (ssize_t)n) {
        return status_set(errno == ENOSPC || errno == EDQUOT ? STATUS_NO_SPACE : STATUS_IO,
                          "%s: cannot write %zu bytes: %s", path, n, strerror(errno));
    }
    return STATUS_OK;
}

enum status file_lock_acquire(const char *path, const char *holder_text, struct file_lock **out)
{
    struct file_lock *lock;
    enum status status;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*lock), &lock));
    lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (lock->fd < 0) {
        status = status_set(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    } else {
        status = lock_descriptor(lock->fd, path, holder_text);
    }
    if (status != STATUS_OK) {
        file_lock_release(lock);
        return status;
    }
    *out = lock;
    return STATUS_OK;
}

void file_lock_release(struct file_lock *lock)
{
    if (lock != NULL) {
        if (lock->fd >= 0) {
            (void)close(lock->fd); /* which drops the lock; the file stays for the next holder */
        }
        memory_free(lock);
    }
}
