/* Owns finding a run's database from what a person typed. */
#ifndef HONE_CLI_RUN_DATABASE_H
#define HONE_CLI_RUN_DATABASE_H

#include "base/status.h"
#include "db/db.h"

/* run: a run folder, a .db file, or the configuration of a run (.yaml, .yml). Errors: BAD_ARGUMENT
 * when there is no database, BAD_CONFIG, and those of db_open_readonly. Caller closes *out. */
MUST_CHECK enum status run_database_open(const char *run, enum db_access access, struct db **out);

#endif
