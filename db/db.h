/* Owns reading a run's database: a connection and cursors over SQL. This is the front door for
 * whoever asks (`hone db query`, `hone show`, checks, tests); writing is db/writer.h's alone.
 *
 * A restricted connection is for SQL that a person typed: mode=ro, query_only, defensive,
 * trusted_schema off, an authorizer that allows SELECT, reading and listed functions only, and a
 * time budget for each query. The table-valued function tokens(sample_id) is there on every
 * connection: columns pos, id, logp, advantage, is_prompt, version; logp is NULL on the prompt. */
#ifndef HONE_DB_DB_H
#define HONE_DB_DB_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct db;

enum db_access {
    DB_RESTRICTED, /* typed by a person: 2 s a query until db_set_timeout */
    DB_TRUSTED,    /* hone's own statements: reading PRAGMAs too, no time limit */
};
/* Opens an existing database for reading; never checkpoints. Caller closes *out. Errors: IO when it
 * cannot be opened, BAD_FORMAT when it is no run database or damaged, UNSUPPORTED when its schema
 * is newer than this program's. */
MUST_CHECK enum status db_open_readonly(const char *path, enum db_access access, struct db **out);
void db_close(struct db *db); /* close its queries first; NULL is legal */
/* Time that each following query may spend inside SQLite; 0: unlimited. */
void db_set_timeout(struct db *db, int64_t timeout_us);
const char *db_path(const struct db *db);
int64_t db_schema_version(const struct db *db); /* of the file: 1 or more, perhaps an older one */
const char *db_sqlite_version(void);

enum db_kind { DB_NULL, DB_INT, DB_REAL, DB_TEXT, DB_BLOB };

struct query;
/* Prepares exactly one reading statement. Caller closes *out. Errors: BAD_ARGUMENT with SQLite's
 * words (also for a refused action and for text after the statement). */
MUST_CHECK enum status query_open(struct db *db, const char *sql, struct query **out);
void query_close(struct query *query); /* NULL is legal */
/* Parameters count from 1. text is copied. */
MUST_CHECK enum status query_bind_int(struct query *query, int index, int64_t value);
MUST_CHECK enum status query_bind_text(struct query *query, int index, const char *text);
/* *has_row is false at the end. Errors: TIMEOUT when the budget is spent, BUSY, BAD_ARGUMENT, IO,
 * BAD_FORMAT. */
MUST_CHECK enum status query_next(struct query *query, bool *has_row);

/* Columns count from 0; texts and blobs are borrowed until the next query_next. */
size_t query_columns(const struct query *query);
const char *query_name(const struct query *query, size_t column);
enum db_kind query_kind(const struct query *query, size_t column);
int64_t query_int(const struct query *query, size_t column);
double query_real(const struct query *query, size_t column);
const char *query_text(const struct query *query, size_t column, size_t *n); /* n may be NULL */
const void *query_blob(const struct query *query, size_t column, size_t *n);

#endif
