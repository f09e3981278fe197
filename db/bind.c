/* Owns cached statements and the binding of their parameters. */
#include "db/db_internal.h"

#include <limits.h>
#include <string.h>

enum status bind_begin(struct db *db, const char *sql, struct bind *out)
{
    *out = (struct bind){.index = 0, .code = SQLITE_OK};
    for (size_t i = 0; i < db->n_cached; i++) {
        if (db->cached[i].sql == sql) {
            out->stmt = db->cached[i].stmt;
            return STATUS_OK;
        }
    }
    if (db->n_cached == DB_CACHED_MAX) {
        return status_set(STATUS_NO_MEMORY, "more than %u kinds of statements", DB_CACHED_MAX);
    }
    const int code =
        sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &out->stmt, NULL);
    if (code != SQLITE_OK) {
        return db_failure(db, code, sql);
    }
    db->cached[db->n_cached].sql = sql;
    db->cached[db->n_cached].stmt = out->stmt;
    db->n_cached++;
    return STATUS_OK;
}

static void remember(struct bind *bind, int code)
{
    if (bind->code == SQLITE_OK) {
        bind->code = code;
    }
}

void bind_int(struct bind *bind, int64_t value)
{
    remember(bind, sqlite3_bind_int64(bind->stmt, ++bind->index, value));
}

void bind_real(struct bind *bind, double value)
{
    remember(bind, sqlite3_bind_double(bind->stmt, ++bind->index, value));
}

void bind_null(struct bind *bind)
{
    remember(bind, sqlite3_bind_null(bind->stmt, ++bind->index));
}

void bind_span(struct bind *bind, struct text_span span)
{
    if (span.data == NULL) {
        bind_null(bind);
        return;
    }
    remember(bind, sqlite3_bind_text64(bind->stmt, ++bind->index, span.data, span.bytes,
                                       SQLITE_STATIC, SQLITE_UTF8));
}

void bind_text(struct bind *bind, const char *text)
{
    bind_span(bind,
              (struct text_span){.data = text, .bytes = text != NULL ? strlen(text) : (size_t)0});
}

void bind_blob(struct bind *bind, const void *data, size_t n)
{
    if (data == NULL) {
        bind_null(bind);
        return;
    }
    remember(bind, sqlite3_bind_blob64(bind->stmt, ++bind->index, data, n, SQLITE_STATIC));
}

enum status bind_step(struct db *db, struct bind *bind, bool *has_row)
{
    *has_row = false;
    const int code = bind->code != SQLITE_OK ? bind->code : sqlite3_step(bind->stmt);
    if (code == SQLITE_ROW) {
        *has_row = true;
        return STATUS_OK;
    }
    const enum status status =
        code == SQLITE_DONE ? STATUS_OK : db_failure(db, code, sqlite3_sql(bind->stmt));
    if (status != STATUS_OK) {
        bind_end(bind);
    }
    return status;
}

void bind_end(struct bind *bind)
{
    (void)sqlite3_reset(bind->stmt);
    (void)sqlite3_clear_bindings(bind->stmt);
}

enum status bind_run(struct db *db, struct bind *bind)
{
    bool has_row;

    do {
        TRY(bind_step(db, bind, &has_row));
    } while (has_row);
    bind_end(bind);
    return STATUS_OK;
}

struct text_span column_span(sqlite3_stmt *stmt, int column)
{
    const unsigned char *text = sqlite3_column_text(stmt, column);
    return (struct text_span){.data = (const char *)text,
                              .bytes = (size_t)sqlite3_column_bytes(stmt, column)};
}
