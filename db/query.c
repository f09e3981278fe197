/* Owns cursors over SQL: one statement, its parameters, its rows, its budget of time. */
#include "base/clock.h"
#include "base/memory.h"
#include "db/db.h"
#include "db/db_internal.h"

struct query {
    struct db *db;
    sqlite3_stmt *stmt;
    int64_t budget_us; /* left for this query, when the connection has a limit */
};

static enum status check_statement(struct db *db, sqlite3_stmt *stmt, const char *tail)
{
    if (stmt == NULL) {
        return status_set(STATUS_BAD_ARGUMENT, "the SQL is empty");
    }
    if (sqlite3_stmt_readonly(stmt) == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "the SQL writes; only reading is allowed");
    }
    sqlite3_stmt *second = NULL;
    const int code = sqlite3_prepare_v2(db->handle, tail, -1, &second, NULL);
    (void)sqlite3_finalize(second);
    if (code != SQLITE_OK || second != NULL) {
        return status_set(STATUS_BAD_ARGUMENT, "one statement at a time: \"%.40s\" is left over",
                          tail);
    }
    return STATUS_OK;
}

enum status query_open(struct db *db, const char *sql, struct query **out)
{
    struct query *query;
    const char *tail = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*query), &query));
    query->db = db;
    query->budget_us = db->timeout_us;
    const int code = sqlite3_prepare_v2(db->handle, sql, -1, &query->stmt, &tail);
    enum status status = STATUS_OK;
    if (code == SQLITE_AUTH) {
        status = status_set(STATUS_BAD_ARGUMENT, "%s: a query may only read",
                            sqlite3_errmsg(db->handle));
    } else if (code == SQLITE_ERROR || code == SQLITE_TOOBIG) {
        status = status_set(STATUS_BAD_ARGUMENT, "%s", sqlite3_errmsg(db->handle));
    } else if (code != SQLITE_OK) {
        status = db_failure(db, code, "preparing a query");
    } else {
        status = check_statement(db, query->stmt, tail);
    }
    if (status != STATUS_OK) {
        query_close(query);
        return status;
    }
    *out = query;
    return STATUS_OK;
}

void query_close(struct query *query)
{
    if (query == NULL) {
        return;
    }
    (void)sqlite3_finalize(query->stmt);
    memory_free(query);
}

enum status query_bind_int(struct query *query, int index, int64_t value)
{
    const int code = sqlite3_bind_int64(query->stmt, index, value);
    return code == SQLITE_OK ? STATUS_OK : db_failure(query->db, code, "binding a parameter");
}

enum status query_bind_text(struct query *query, int index, const char *text)
{
    const int code = sqlite3_bind_text(query->stmt, index, text, -1, SQLITE_TRANSIENT);
    return code == SQLITE_OK ? STATUS_OK : db_failure(query->db, code, "binding a parameter");
}

enum status query_next(struct query *query, bool *has_row)
{
    struct db *const db = query->db;
    const int64_t begin_us = clock_now_us();

    *has_row = false;
    db->deadline_us = db->timeout_us > 0 ? begin_us + query->budget_us : 0;
    const int code = sqlite3_step(query->stmt);
    db->deadline_us = 0;
    query->budget_us -= clock_now_us() - begin_us;
    if (code == SQLITE_ROW) {
        *has_row = true;
        return STATUS_OK;
    }
    if (code == SQLITE_ERROR || code == SQLITE_TOOBIG) {
        return status_set(STATUS_BAD_ARGUMENT, "%s", sqlite3_errmsg(db->handle));
    }
    return code == SQLITE_DONE ? STATUS_OK : db_failure(db, code, "running a query");
}

size_t query_columns(const struct query *query)
{
    return (size_t)sqlite3_column_count(query->stmt);
}

const char *query_name(const struct query *query, size_t column)
{
    const char *name = sqlite3_column_name(query->stmt, (int)column);
    return name != NULL ? name : "";
}

enum db_kind query_kind(const struct query *query, size_t column)
{
    switch (sqlite3_column_type(query->stmt, (int)column)) {
    case SQLITE_INTEGER:
        return DB_INT;
    case SQLITE_FLOAT:
        return DB_REAL;
    case SQLITE_TEXT:
        return DB_TEXT;
    case SQLITE_BLOB:
        return DB_BLOB;
    default:
        return DB_NULL;
    }
}

int64_t query_int(const struct query *query, size_t column)
{
    return sqlite3_column_int64(query->stmt, (int)column);
}

double query_real(const struct query *query, size_t column)
{
    return sqlite3_column_double(query->stmt, (int)column);
}

const char *query_text(const struct query *query, size_t column, size_t *n)
{
    const struct text_span span = column_span(query->stmt, (int)column);

    if (n != NULL) {
        *n = span.bytes;
    }
    return span.data != NULL ? span.data : "";
}

const void *query_blob(const struct query *query, size_t column, size_t *n)
{
    const void *data = sqlite3_column_blob(query->stmt, (int)column);

    *n = (size_t)sqlite3_column_bytes(query->stmt, (int)column);
    return data;
}
