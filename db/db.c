/* Owns read connections and cursors; how they are guarded; the mapping of SQLite's codes. */
#include "db/db.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "db/db_internal.h"
#include "db/schema.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define QUERY_TIMEOUT_US INT64_C(2000000)
#define PROGRESS_OPCODES 2000 /* virtual machine steps between two looks at the clock */
#define VALUE_BYTES_MAX (64 << 20)

struct query {
    struct db *db;
    sqlite3_stmt *stmt;
    int64_t budget_us; /* left for this query, when the connection has a limit */
};

const char *db_sqlite_version(void)
{
    return sqlite3_libversion();
}

const char *db_path(const struct db *db)
{
    return db->path;
}

static enum status status_of_code(int code)
{
    static const struct {
        int code;
        enum status status;
    } table[] = {
        {SQLITE_NOMEM, STATUS_NO_MEMORY},
        {SQLITE_FULL, STATUS_NO_SPACE},
        {SQLITE_BUSY, STATUS_BUSY},
        {SQLITE_LOCKED, STATUS_BUSY},
        {SQLITE_CORRUPT, STATUS_BAD_FORMAT},
        {SQLITE_NOTADB, STATUS_BAD_FORMAT},
        {SQLITE_FORMAT, STATUS_BAD_FORMAT},
        {SQLITE_INTERRUPT, STATUS_TIMEOUT},
        {SQLITE_ERROR, STATUS_BAD_ARGUMENT},
        {SQLITE_AUTH, STATUS_BAD_ARGUMENT},
        {SQLITE_CONSTRAINT, STATUS_BAD_ARGUMENT},
        {SQLITE_TOOBIG, STATUS_BAD_ARGUMENT},
        {SQLITE_RANGE, STATUS_BAD_ARGUMENT},
        {SQLITE_MISMATCH, STATUS_BAD_ARGUMENT},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].code == (code & 0xff)) {
            return table[i].status;
        }
    }
    return status_set(STATUS_IO, "SQLite code %d", code);
}

static enum status no_space(const struct db *db, const char *what)
{
    uint64_t free_bytes = 0;

    const enum status status = file_free_bytes(db->path, &free_bytes);
    return status_set(STATUS_NO_SPACE, "%s: the disk is full while %.60s (%llu bytes free%s)",
                      db->path, what, (unsigned long long)free_bytes,
                      status == STATUS_OK ? "" : ", not known");
}

enum status db_failure(struct db *db, int code, const char *what)
{
    const char *const said = db->handle != NULL ? sqlite3_errmsg(db->handle) : sqlite3_errstr(code);
    const enum status status = status_of_code(code);

    if (status == STATUS_NO_SPACE) {
        return no_space(db, what);
    }
    if (status == STATUS_BUSY) {
        return status_set(status, "%s: locked by another process while %s", db->path, what);
    }
    if (status == STATUS_TIMEOUT) {
        return status_set(status, "the query ran longer than %lld ms",
                          (long long)(db->timeout_us / 1000));
    }
    return status_set(status, "%s: %s: %s", db->path, what, said);
}

enum status db_open_handle(const char *path, int flags, struct db **out)
{
    struct db *db;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*db), &db));
    enum status status = memory_copy_text(path, strlen(path), &db->path);
    if (status == STATUS_OK) {
        status = blob_coder_create(&db->coder);
    }
    if (status == STATUS_OK) {
        const int code = sqlite3_open_v2(path, &db->handle, flags | SQLITE_OPEN_NOMUTEX, NULL);
        if (code != SQLITE_OK) {
            status = db_failure(db, code, "opening it");
        }
    }
    if (status != STATUS_OK) {
        db_close(db);
        return status;
    }
    (void)sqlite3_extended_result_codes(db->handle, 1);
    *out = db;
    return STATUS_OK;
}

void db_close(struct db *db)
{
    if (db == NULL) {
        return;
    }
    for (size_t i = 0; i < db->n_cached; i++) {
        (void)sqlite3_finalize(db->cached[i].stmt);
    }
    (void)sqlite3_close(db->handle);
    blob_coder_destroy(db->coder);
    memory_free(db->path);
    memory_free(db);
}

void db_set_timeout(struct db *db, int64_t timeout_us)
{
    db->timeout_us = timeout_us;
}

enum status db_execute(struct db *db, const char *sql)
{
    const int code = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? STATUS_OK : db_failure(db, code, sql);
}

enum status db_read_int(struct db *db, const char *sql, int64_t *out)
{
    sqlite3_stmt *stmt = NULL;

    int code = sqlite3_prepare_v2(db->handle, sql, -1, &stmt, NULL);
    if (code == SQLITE_OK) {
        code = sqlite3_step(stmt);
    }
    const enum status status = code == SQLITE_ROW ? STATUS_OK : db_failure(db, code, sql);
    *out = code == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
    (void)sqlite3_finalize(stmt);
    return status;
}

enum status db_check_version(struct db *db)
{
    int64_t application_id;
    int64_t version;

    TRY(db_read_int(db, "PRAGMA application_id", &application_id));
    TRY(db_read_int(db, "PRAGMA user_version", &version));
    if (application_id != SCHEMA_APPLICATION_ID || version < 1) {
        return status_set(STATUS_BAD_FORMAT, "%s: not a hone run database", db->path);
    }
    if (version > SCHEMA_VERSION) {
        return status_set(STATUS_UNSUPPORTED, "%s: schema version %lld, this program knows %d",
                          db->path, (long long)version, SCHEMA_VERSION);
    }
    return STATUS_OK;
}

/* Non-zero stops the running statement. */
static int is_out_of_time(void *context)
{
    const struct db *db = context;
    return db->deadline_us != 0 && clock_now_us() > db->deadline_us;
}

static void restrict_handle(struct db *db)
{
    sqlite3 *const handle = db->handle;

    (void)sqlite3_limit(handle, SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX);
    (void)sqlite3_limit(handle, SQLITE_LIMIT_SQL_LENGTH, 100000);
    (void)sqlite3_limit(handle, SQLITE_LIMIT_EXPR_DEPTH, 50);
    (void)sqlite3_limit(handle, SQLITE_LIMIT_COMPOUND_SELECT, 10);
    (void)sqlite3_limit(handle, SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50);
    (void)sqlite3_limit(handle, SQLITE_LIMIT_ATTACHED, 0);
    (void)sqlite3_set_authorizer(handle, db_authorize, NULL);
    db->timeout_us = QUERY_TIMEOUT_US;
}

static enum status guard_handle(struct db *db, enum db_access access)
{
    sqlite3 *const handle = db->handle;

    (void)sqlite3_busy_timeout(handle, 2000);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    (void)sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    TRY(db_execute(db, "PRAGMA query_only=ON"));
    TRY(db_execute(db, "PRAGMA cell_size_check=ON"));
    TRY(db_check_version(db));
    TRY(tokens_table_register(db));
    sqlite3_progress_handler(handle, PROGRESS_OPCODES, is_out_of_time, db);
    if (access == DB_RESTRICTED) {
        restrict_handle(db);
    }
    return STATUS_OK;
}

enum status db_open_readonly(const char *path, enum db_access access, struct db **out)
{
    struct db *db;

    *out = NULL;
    TRY(db_open_handle(path, SQLITE_OPEN_READONLY, &db));
    const enum status status = guard_handle(db, access);
    if (status != STATUS_OK) {
        db_close(db);
        return status;
    }
    *out = db;
    return STATUS_OK;
}

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
    if (code == SQLITE_ERROR || code == SQLITE_AUTH || code == SQLITE_TOOBIG) {
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
