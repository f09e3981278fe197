/* Owns how typed reads run a statement and turn its rows into lists. Only db/ includes this. */
#ifndef HONE_DB_READER_INTERNAL_H
#define HONE_DB_READER_INTERNAL_H

#include "base/arena.h"
#include "db/db_internal.h"

/* Copies the row that a statement stands on into slot i of a list. */
typedef enum status row_reader(struct db *db, sqlite3_stmt *stmt, struct arena *arena, void *list,
                               size_t i);

/* Begins a statement of two integer parameters, or of the first alone: b is NULL. */
MUST_CHECK enum status reader_begin(struct db *db, const char *sql, int64_t a, const int64_t *b,
                                    struct bind *out);
/* bind_end, then the status. */
MUST_CHECK enum status reader_finish(struct bind *bind, enum status status);
/* The one number that such a statement gives; without a row 0. */
MUST_CHECK enum status reader_count(struct db *db, const char *sql, int64_t a, const int64_t *b,
                                    size_t *out);
/* Rows of a begun statement into a list with room for *n; *n becomes how many there were. */
MUST_CHECK enum status reader_rows(struct db *db, struct bind *bind, struct arena *arena,
                                   row_reader *read, void *list, size_t *n);

#endif
