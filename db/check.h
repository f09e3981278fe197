/* Owns the invariants of a run's database: what must hold of every one at every moment. */
#ifndef HONE_DB_CHECK_H
#define HONE_DB_CHECK_H

#include "base/status.h"
#include "db/db.h"

#include <stddef.h>

/* One violation: which invariant, and what breaks it ("sample 12"). */
typedef void check_listener(void *context, const char *invariant, const char *what);

/* Runs every check on a trusted connection, telling at most 20 violations of each. *n_violations
 * counts what was told. Errors: IO, BUSY, BAD_FORMAT when the file is too damaged to be read. */
MUST_CHECK enum status db_check(struct db *db, check_listener *listener, void *context,
                                size_t *n_violations);
/* How many invariants there are. */
size_t db_check_count(void);

#endif
