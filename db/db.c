/* Owns read connections: how they are opened and guarded; the mapping of SQLite's codes. */
#include "db/db.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "db/db_internal.h"
#include "db/schema.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define QUERY_TIMEOUT_US INT64_C(2000000)
#define PROGRESS_OPCODES 2000 /* virtual machine steps between two looks at the clock */
#define VALUE_BYTES_MAX (64 << 20)

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

int64_t db_schema_version(const struct db *db)
{
    return db->version;
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
    db->version = version;
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
    TRY(db_execute(db, "SELECT 1 FROM tokens(0)")); /* connects it: the authorizer would refuse */
    sqlite3_progress_handler(handle, PROGRESS_OPCODES, is_out_of_time, db);
    if (access == DB_RESTRICTED) {
        restrict_handle(db);
    }
    return STATUS_OK;
}

static enum status open_guarded(const char *name, int flags, enum db_access access, struct db **out)
{
    struct db *db;

    *out = NULL;
    TRY(db_open_handle(name, SQLITE_OPEN_READONLY | flags, &db));
    const enum status status = guard_handle(db, access);
    if (status != STATUS_OK) {
        db_close(db);
        return status;
    }
    *out = db;
    return STATUS_OK;
}

/* "file:PATH?immutable=1", every byte of the path but the plainest as %XX. Caller frees. */
static enum status immutable_name(const char *path, char **out)
{
    static const char tail[] = "?immutable=1";
    size_t used = 0;

    TRY(memory_alloc(3 * strlen(path) + sizeof("file:") + sizeof(tail), 1, out));
    used += (size_t)snprintf(*out, sizeof("file:"), "file:");
    for (const char *p = path; *p != '\0'; p++) {
        const bool is_plain = isalnum((unsigned char)*p) != 0 || strchr("/._-", *p) != NULL;
        used += (size_t)snprintf(*out + used, 4, is_plain ? "%c" : "%%%02X", (unsigned char)*p);
    }
    (void)snprintf(*out + used, sizeof(tail), "%s", tail);
    return STATUS_OK;
}

/* A finished run in a folder that cannot be written: SQLite may not make its files beside the
 * database, and needs none, because without a log nothing can change. */
static enum status open_immutable(const char *path, enum db_access access, struct db **out)
{
    char *name = NULL;

    TRY(immutable_name(path, &name));
    enum status status = open_guarded(name, SQLITE_OPEN_URI, access, out);
    memory_free(name);
    if (status != STATUS_OK) {
        return status;
    }
    memory_free((*out)->path); /* messages name the file */
    status = memory_copy_text(path, strlen(path), &(*out)->path);
    if (status != STATUS_OK) {
        db_close(*out);
        *out = NULL;
    }
    return status;
}

static bool has_log(const char *path)
{
    char *name = NULL;

    if (memory_alloc(strlen(path) + sizeof("-wal"), 1, &name) != STATUS_OK) {
        return true;
    }
    (void)snprintf(name, strlen(path) + sizeof("-wal"), "%s-wal", path);
    const bool exists = file_exists(name);
    memory_free(name);
    return exists;
}

enum status db_open_readonly(const char *path, enum db_access access, struct db **out)
{
    const enum status status = open_guarded(path, 0, access, out);

    return status == STATUS_IO && file_exists(path) && !has_log(path)
               ? open_immutable(path, access, out)
               : status;
}
