/* Owns what the files of the writer share. */
#ifndef HONE_DB_WRITER_INTERNAL_H
#define HONE_DB_WRITER_INTERNAL_H

#include "base/file.h"
#include "db/blob.h"
#include "db/db_internal.h"
#include "db/writer.h"

struct writer {
    struct db *db;
    struct file_lock *lock;
    size_t n_pending;
    int64_t since_us;
    struct byte_buffer packed_ids, packed_logprobs;
};

/* Begins a transaction if needed and a cached statement in it. */
MUST_CHECK enum status writer_statement(struct writer *writer, const char *sql, struct bind *out);
/* Runs it and counts a row. */
MUST_CHECK enum status writer_run(struct writer *writer, struct bind *bind);
/* Runs a statement that yields one integer; *found is false without a row. */
MUST_CHECK enum status writer_read_int(struct writer *writer, struct bind *bind, int64_t *out,
                                       bool *found);

#endif
