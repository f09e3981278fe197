/* Owns files: whole reads, read-only maps, durable writes, folders, locks. Each message names the
 * path. */
#ifndef HONE_BASE_FILE_H
#define HONE_BASE_FILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whole content plus a NUL, at most bytes_max. Caller frees *out with memory_free. Errors: IO,
 * NO_MEMORY, BAD_FORMAT when larger. */
MUST_CHECK enum status file_read(const char *path, size_t bytes_max, char **out, size_t *n_out);

struct file_map {
    const unsigned char *data; /* NULL for an empty file */
    size_t bytes;
};
/* Maps a regular file read-only. */
MUST_CHECK enum status file_map_open(const char *path, struct file_map *out);
/* Bytes [begin, end) have been read: gives the memory that shows them back. They can be read again,
 * so a reader of a large file that calls this behind itself holds no more of it than a piece. */
void file_map_forget(const struct file_map *map, size_t begin, size_t end);
void file_map_close(struct file_map *map);

/* A file being written: appended, then made durable. ENOSPC and EDQUOT give NO_SPACE (path, bytes
 * needed). An fsync error is final: the file is not to be trusted (reliability.md I16). */
struct file_writer;
MUST_CHECK enum status file_writer_open(const char *path, struct file_writer **out);
MUST_CHECK enum status file_writer_put(struct file_writer *writer, const void *data, size_t n);
/* fdatasync and close; the writer is gone afterwards, also on failure. */
MUST_CHECK enum status file_writer_commit(struct file_writer *writer);
/* Closes without promises; NULL is legal. */
void file_writer_abandon(struct file_writer *writer);

/* Writes path + ".tmp", syncs, renames over path, syncs the folder: all or nothing. */
MUST_CHECK enum status file_write_atomic(const char *path, const void *data, size_t n);
/* rename with RENAME_NOREPLACE, then fsync of the parent folder. */
MUST_CHECK enum status file_rename_new(const char *from, const char *to);
MUST_CHECK enum status folder_sync(const char *path);
/* mkdir -p with mode 0700 for what is missing. Errors: IO, BAD_ARGUMENT (a file is in the way). */
MUST_CHECK enum status folder_create(const char *path);
/* Removes a folder and what is in it (plain files and folders, never through links); absent is OK.
 */
MUST_CHECK enum status folder_remove(const char *path);
bool file_exists(const char *path);
bool folder_exists(const char *path);
/* Free bytes of the file system that holds path. */
MUST_CHECK enum status file_free_bytes(const char *path, uint64_t *out);

/* Names in a folder (without . and ..), sorted bytewise. Free each and the list with
 * file_list_free. */
struct file_list {
    char **names;
    size_t count;
};
MUST_CHECK enum status file_list(const char *folder, struct file_list *out);
void file_list_free(struct file_list *list);

/* "dir/name" or name if it is absolute or dir is ""; caller frees with memory_free. */
MUST_CHECK enum status path_join(const char *dir, const char *name, char **out);
/* Folder part of path ("." if none); caller frees. */
MUST_CHECK enum status path_parent(const char *path, char **out);

/* Exclusive lock on path (created 0600) for the life of the process (F_OFD_SETLK); holder_text is
 * written into it. Errors: BUSY, the message holding what the other holder wrote. */
struct file_lock;
MUST_CHECK enum status file_lock_acquire(const char *path, const char *holder_text,
                                         struct file_lock **out);
void file_lock_release(struct file_lock *lock);

#endif
