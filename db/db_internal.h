/* Owns what the files of db/ share and nobody else sees: SQLite handles, error mapping, cached
 * statements and binding. */
#ifndef HONE_DB_DB_INTERNAL_H
#define HONE_DB_DB_INTERNAL_H

#include "db/blob.h"
#include "db/db.h"
#include "db/run_rows.h"

#include <sqlite3.h>

#define DB_CACHED_MAX 64u

struct db {
    sqlite3 *handle;
    char *path;
    int64_t version;     /* of the schema, once it was checked */
    int64_t timeout_us;  /* budget of each query, 0: none */
    int64_t deadline_us; /* of the step that runs now, 0: none */
    struct blob_coder *coder;
    /* Statements of our own SQL, found by the address of its text. */
    struct {
        const char *sql;
        sqlite3_stmt *stmt;
    } cached[DB_CACHED_MAX];
    size_t n_cached;
};

/* Opens a handle around path with `flags` of sqlite3_open_v2, without any setting. */
MUST_CHECK enum status db_open_handle(const char *path, int flags, struct db **out);
/* Turns a result code of `db` into a status whose message says what was attempted and where. */
enum status db_failure(struct db *db, int code, const char *what);
/* Runs statements without results. */
MUST_CHECK enum status db_execute(struct db *db, const char *sql);
/* First column of the first row of sql, as an integer. */
MUST_CHECK enum status db_read_int(struct db *db, const char *sql, int64_t *out);
/* Checks application id and schema version of a database that has tables. */
MUST_CHECK enum status db_check_version(struct db *db);
/* The virtual table behind tokens(sample_id). */
MUST_CHECK enum status tokens_table_register(struct db *db);
/* SQLITE_OK when a restricted connection may do this. */
int db_authorize(void *context, int action, const char *a, const char *b, const char *schema,
                 const char *trigger);

/* One cached statement on its way: binds run through its parameters in order and remember the first
 * failure. `sql` must be a constant: its address names it. */
struct bind {
    sqlite3_stmt *stmt;
    int index, code;
};
MUST_CHECK enum status bind_begin(struct db *db, const char *sql, struct bind *out);
void bind_int(struct bind *bind, int64_t value);
void bind_real(struct bind *bind, double value);
void bind_null(struct bind *bind);
/* NULL data binds NULL. The bytes must live until bind_end or bind_run. */
void bind_text(struct bind *bind, const char *text);
void bind_span(struct bind *bind, struct text_span span);
void bind_blob(struct bind *bind, const void *data, size_t n);
/* Steps once; *has_row false means done. Call bind_end when finished with the row. */
MUST_CHECK enum status bind_step(struct db *db, struct bind *bind, bool *has_row);
void bind_end(struct bind *bind);
/* Steps to the end and ends. */
MUST_CHECK enum status bind_run(struct db *db, struct bind *bind);

/* Column helpers over a stepped statement. */
struct text_span column_span(sqlite3_stmt *stmt, int column);

#endif
