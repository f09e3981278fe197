/* Owns the read-write connection: settings, schema, transactions, checkpoints of the log. */
#include "db/writer.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "db/schema.h"
#include "db/writer_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAL_CHECKPOINT_BYTES INT64_C(8388608)
#define SQLITE_WAL_RESET_FIXED 3051003
#define PATH_ROOM 4096

/* page_size comes before WAL: it cannot change later. */
static const char *const settings[] = {
    "PRAGMA page_size=8192",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA wal_autocheckpoint=10000",
    "PRAGMA journal_size_limit=268435456",
    "PRAGMA cache_size=-65536",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA mmap_size=0",
    "PRAGMA trusted_schema=OFF",
};

static void tell_version(void)
{
    static bool is_told;

    if (!is_told && sqlite3_libversion_number() < SQLITE_WAL_RESET_FIXED) {
        is_told = true;
        log_debug("db",
                  "SQLite %s: before 3.51.3 a second writing connection could damage the log, so "
                  "there is only ever one",
                  sqlite3_libversion());
    }
}

static enum status set_version(struct db *db, int64_t version)
{
    char pragma[64];

    (void)snprintf(pragma, sizeof(pragma), "PRAGMA user_version=%lld", (long long)version);
    return db_execute(db, pragma);
}

static enum status execute_all(struct db *db, const char *const *statements)
{
    for (size_t i = 0; statements[i] != NULL; i++) {
        TRY(db_execute(db, statements[i]));
    }
    return STATUS_OK;
}

static enum status create_schema(struct db *db)
{
    char pragma[64];

    TRY(execute_all(db, schema_tables));
    TRY(execute_all(db, schema_views));
    (void)snprintf(pragma, sizeof(pragma), "PRAGMA application_id=%d", SCHEMA_APPLICATION_ID);
    TRY(db_execute(db, pragma));
    return set_version(db, SCHEMA_VERSION);
}

/* A file of an older version takes one step after the other to this one. */
static enum status upgrade_schema(struct db *db)
{
    TRY(db_check_version(db));
    while (db->version < SCHEMA_VERSION) {
        TRY(execute_all(db, schema_upgrades[db->version - 1]));
        TRY(set_version(db, ++db->version));
    }
    return STATUS_OK;
}

/* The file as it is, beside it, before a first upgrade of it. */
static enum status back_up(struct db *db)
{
    char path[PATH_ROOM];
    int64_t n_tables = 0;
    sqlite3_stmt *stmt = NULL;

    TRY(db_read_int(db, "SELECT count(*) FROM sqlite_schema", &n_tables));
    if (n_tables == 0) {
        return STATUS_OK;
    }
    TRY(db_check_version(db));
    const int n = snprintf(path, sizeof(path), "%s.version-%lld", db->path, (long long)db->version);
    if (db->version == SCHEMA_VERSION || access(path, F_OK) == 0) {
        return STATUS_OK;
    }
    if (n < 0 || (size_t)n >= sizeof(path)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: the path is too long", db->path);
    }
    log_info("db", "schema version %lld becomes %d, the old file is kept as %s",
             (long long)db->version, SCHEMA_VERSION, path);
    int code = sqlite3_prepare_v2(db->handle, "VACUUM INTO ?1", -1, &stmt, NULL);
    if (code == SQLITE_OK) {
        (void)sqlite3_bind_text(stmt, 1, path, n, SQLITE_STATIC);
        code = sqlite3_step(stmt);
    }
    (void)sqlite3_finalize(stmt);
    return code == SQLITE_DONE ? STATUS_OK : db_failure(db, code, path);
}

/* A file that dies before its schema is committed has no tables and is begun anew. */
static enum status ensure_schema(struct db *db)
{
    int64_t n_tables;

    TRY(back_up(db));
    TRY(db_execute(db, "BEGIN IMMEDIATE"));
    enum status status = db_read_int(db, "SELECT count(*) FROM sqlite_schema", &n_tables);
    if (status == STATUS_OK) {
        status = n_tables == 0 ? create_schema(db) : upgrade_schema(db);
    }
    if (status == STATUS_OK) {
        return db_execute(db, "COMMIT");
    }
    (void)sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

static enum status prepare_file(struct db *db)
{
    (void)sqlite3_busy_timeout(db->handle, 5000);
    (void)sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        TRY(db_execute(db, settings[i]));
    }
    TRY(ensure_schema(db));
    return tokens_table_register(db);
}

static enum status lock_file(const char *path, struct file_lock **out)
{
    char *lock_path;
    char holder[64];

    const size_t n = strlen(path);
    TRY(memory_alloc(n + sizeof(".lock"), 1, &lock_path));
    (void)snprintf(lock_path, n + sizeof(".lock"), "%s.lock", path);
    (void)snprintf(holder, sizeof(holder), "pid %ld", (long)getpid());
    const enum status status = file_lock_acquire(lock_path, holder, out);
    memory_free(lock_path);
    return status;
}

enum status writer_open(const char *path, struct writer **out)
{
    struct writer *writer;

    *out = NULL;
    tell_version();
    TRY(memory_alloc(1, sizeof(*writer), &writer));
    enum status status = lock_file(path, &writer->lock);
    if (status == STATUS_OK) {
        status = db_open_handle(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &writer->db);
    }
    if (status == STATUS_OK) {
        status = prepare_file(writer->db);
    }
    if (status != STATUS_OK) {
        writer_close(writer);
        return status;
    }
    *out = writer;
    return STATUS_OK;
}

void writer_close(struct writer *writer)
{
    if (writer == NULL) {
        return;
    }
    if (writer->db != NULL) {
        writer_rollback(writer);
        db_close(writer->db); /* the last connection checkpoints and removes the log */
    }
    byte_buffer_dispose(&writer->packed_ids);
    byte_buffer_dispose(&writer->packed_logprobs);
    file_lock_release(writer->lock);
    memory_free(writer);
}

struct db *writer_db(struct writer *writer)
{
    return writer->db;
}

size_t writer_pending(const struct writer *writer)
{
    return writer->n_pending;
}

int64_t writer_pending_since_us(const struct writer *writer)
{
    return writer->since_us;
}

enum status writer_begin(struct writer *writer)
{
    if (sqlite3_get_autocommit(writer->db->handle) == 0) {
        return STATUS_OK;
    }
    writer->n_pending = 0;
    TRY(db_execute(writer->db, "BEGIN IMMEDIATE"));
    writer->since_us = clock_now_us();
    return STATUS_OK;
}

enum status writer_commit(struct writer *writer)
{
    if (sqlite3_get_autocommit(writer->db->handle) == 0) {
        TRY(db_execute(writer->db, "COMMIT"));
    }
    writer->n_pending = 0;
    writer->since_us = 0;
    return STATUS_OK;
}

void writer_rollback(struct writer *writer)
{
    if (sqlite3_get_autocommit(writer->db->handle) == 0) {
        (void)sqlite3_exec(writer->db->handle, "ROLLBACK", NULL, NULL, NULL);
    }
    writer->n_pending = 0;
    writer->since_us = 0;
}

static const char sql_mark[] = "SAVEPOINT mark";
static const char sql_keep[] = "RELEASE mark";
static const char sql_undo[] = "ROLLBACK TO mark";

static enum status run_cached(struct writer *writer, const char *sql)
{
    struct bind bind;

    TRY(bind_begin(writer->db, sql, &bind));
    return bind_run(writer->db, &bind);
}

enum status writer_mark(struct writer *writer)
{
    TRY(writer_begin(writer));
    return run_cached(writer, sql_mark);
}

enum status writer_keep(struct writer *writer)
{
    return run_cached(writer, sql_keep);
}

enum status writer_undo(struct writer *writer)
{
    TRY(run_cached(writer, sql_undo));
    return run_cached(writer, sql_keep);
}

static int64_t wal_size(struct db *db)
{
    sqlite3_file *file = NULL;
    sqlite3_int64 bytes = 0;

    const int code = sqlite3_file_control(db->handle, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file);
    if (code != SQLITE_OK || file == NULL || file->pMethods == NULL) {
        return 0;
    }
    return file->pMethods->xFileSize(file, &bytes) == SQLITE_OK ? bytes : 0;
}

enum status writer_checkpoint(struct writer *writer, int64_t *wal_bytes)
{
    sqlite3 *const handle = writer->db->handle;

    *wal_bytes = wal_size(writer->db);
    if (*wal_bytes < WAL_CHECKPOINT_BYTES || sqlite3_get_autocommit(handle) == 0) {
        return STATUS_OK;
    }
    (void)sqlite3_busy_timeout(handle, 0); /* a reader in the way: try at the next step */
    const int code =
        sqlite3_wal_checkpoint_v2(handle, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    (void)sqlite3_busy_timeout(handle, 5000);
    *wal_bytes = wal_size(writer->db);
    return code == SQLITE_OK || (code & 0xff) == SQLITE_BUSY
               ? STATUS_OK
               : db_failure(writer->db, code, "moving the log into the database");
}

enum status writer_statement(struct writer *writer, const char *sql, struct bind *out)
{
    TRY(writer_begin(writer));
    return bind_begin(writer->db, sql, out);
}

enum status writer_run(struct writer *writer, struct bind *bind)
{
    writer->n_pending++;
    return bind_run(writer->db, bind);
}

enum status writer_read_int(struct writer *writer, struct bind *bind, int64_t *out, bool *found)
{
    TRY(bind_step(writer->db, bind, found));
    *out = *found ? sqlite3_column_int64(bind->stmt, 0) : 0;
    bind_end(bind);
    return STATUS_OK;
}
