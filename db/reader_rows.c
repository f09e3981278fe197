#include "db/reader_internal.h"

enum status reader_begin(struct db *db, const char *sql, int64_t a, const int64_t *b,
                         struct bind *out)
{
    TRY(bind_begin(db, sql, out));
    bind_int(out, a);
    if (b != NULL) {
        bind_int(out, *b);
    }
    return STATUS_OK;
}

enum status reader_count(struct db *db, const char *sql, int64_t a, const int64_t *b, size_t *out)
{
    struct bind bind;
    bool has_row;

    TRY(reader_begin(db, sql, a, b, &bind));
    TRY(bind_step(db, &bind, &has_row));
    *out = has_row ? (size_t)sqlite3_column_int64(bind.stmt, 0) : 0;
    bind_end(&bind);
    return STATUS_OK;
}

enum status reader_finish(struct bind *bind, enum status status)
{
    bind_end(bind);
    return status;
}

enum status reader_rows(struct db *db, struct bind *bind, struct arena *arena, row_reader *read,
                        void *list, size_t *n)
{
    enum status status = STATUS_OK;
    size_t i = 0;

    while (status == STATUS_OK && i < *n) {
        bool has_row;

        TRY(bind_step(db, bind, &has_row));
        if (!has_row) {
            break;
        }
        status = read(db, bind->stmt, arena, list, i);
        i++;
    }
    *n = i;
    return reader_finish(bind, status);
}
