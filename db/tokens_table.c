/* Owns tokens(sample_id): the token ids of a sample with what is known of each, as rows.
 * An eponymous virtual table; sample_id is its hidden argument. Departure from the documented
 * column list: text is left out, because it needs the run's tokenizer. */
#include "base/memory.h"
#include "db/blob.h"
#include "db/db_internal.h"

#include <string.h>

enum {
    COLUMN_POS,
    COLUMN_ID,
    COLUMN_LOGP,
    COLUMN_ADVANTAGE,
    COLUMN_IS_PROMPT,
    COLUMN_VERSION,
    COLUMN_SAMPLE_ID
};

static const char declaration[] =
    "CREATE TABLE tokens(pos INTEGER, id INTEGER, logp REAL, advantage REAL, is_prompt INTEGER,"
    " version INTEGER, sample_id INTEGER HIDDEN)";
static const char select_sample[] =
    "SELECT s.n_prompt, s.version_first, b.codec, b.token_ids, b.logprobs, b.versions, i.advantage"
    " FROM samples s JOIN sample_blobs b ON b.sample_id = s.sample_id"
    " LEFT JOIN batch_items i ON i.sample_id = s.sample_id WHERE s.sample_id = ?1";

struct tokens_table {
    sqlite3_vtab base;
    struct db *db;
};
struct tokens_cursor {
    sqlite3_vtab_cursor base;
    struct byte_buffer ids, logprobs, versions; /* i32, f32, u32 */
    size_t position, n_rows, n_prompt;
    int64_t sample_id, version_first;
    bool has_advantage;
    double advantage;
};

static int table_connect(sqlite3 *handle, void *context, int argc, const char *const *argv,
                         sqlite3_vtab **out, char **error)
{
    struct tokens_table *table;

    (void)argc;
    (void)argv;
    (void)error;
    const int code = sqlite3_declare_vtab(handle, declaration);
    if (code != SQLITE_OK) {
        return code;
    }
    if (memory_alloc(1, sizeof(*table), &table) != STATUS_OK) {
        return SQLITE_NOMEM;
    }
    table->db = context;
    *out = &table->base;
    return SQLITE_OK;
}

static int table_disconnect(sqlite3_vtab *base)
{
    memory_free(base);
    return SQLITE_OK;
}

/* Only sample_id = value can be answered. */
static int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *const constraint = &info->aConstraint[i];
        if (constraint->iColumn != COLUMN_SAMPLE_ID ||
            constraint->op != SQLITE_INDEX_CONSTRAINT_EQ || constraint->usable == 0) {
            continue;
        }
        info->aConstraintUsage[i].argvIndex = 1;
        info->aConstraintUsage[i].omit = 1;
        info->estimatedCost = 100.0;
        info->estimatedRows = 1000;
        return SQLITE_OK;
    }
    return SQLITE_CONSTRAINT;
}

static int cursor_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    struct tokens_cursor *cursor;

    (void)base;
    if (memory_alloc(1, sizeof(*cursor), &cursor) != STATUS_OK) {
        return SQLITE_NOMEM;
    }
    *out = &cursor->base;
    return SQLITE_OK;
}

static int cursor_close(sqlite3_vtab_cursor *base)
{
    struct tokens_cursor *const cursor = (struct tokens_cursor *)base;

    byte_buffer_dispose(&cursor->ids);
    byte_buffer_dispose(&cursor->logprobs);
    byte_buffer_dispose(&cursor->versions);
    memory_free(cursor);
    return SQLITE_OK;
}

/* A NULL blob gives an empty buffer. */
static enum status unpack_column(struct blob_coder *coder, sqlite3_stmt *stmt, int column,
                                 struct byte_buffer *out)
{
    const void *const data = sqlite3_column_blob(stmt, column);
    const size_t n = (size_t)sqlite3_column_bytes(stmt, column);
    const char *const codec = (const char *)sqlite3_column_text(stmt, 2);

    out->bytes = 0;
    return data == NULL ? STATUS_OK : blob_unpack(coder, codec, data, n, out);
}

static enum status load_row(struct tokens_cursor *cursor, struct blob_coder *coder,
                            sqlite3_stmt *stmt)
{
    TRY(unpack_column(coder, stmt, 3, &cursor->ids));
    TRY(unpack_column(coder, stmt, 4, &cursor->logprobs));
    TRY(unpack_column(coder, stmt, 5, &cursor->versions));
    const int64_t n_prompt = sqlite3_column_int64(stmt, 0);
    cursor->n_rows = cursor->ids.bytes / sizeof(int32_t);
    cursor->n_prompt = n_prompt > 0 ? (size_t)n_prompt : 0;
    cursor->version_first = sqlite3_column_int64(stmt, 1);
    cursor->has_advantage = sqlite3_column_type(stmt, 6) != SQLITE_NULL;
    cursor->advantage = sqlite3_column_double(stmt, 6);
    return STATUS_OK;
}

static int cursor_filter(sqlite3_vtab_cursor *base, int index, const char *text, int argc,
                         sqlite3_value **argv)
{
    struct tokens_cursor *const cursor = (struct tokens_cursor *)base;
    struct db *const db = ((const struct tokens_table *)base->pVtab)->db;
    sqlite3_stmt *stmt = NULL;

    (void)index;
    (void)text;
    cursor->position = 0;
    cursor->n_rows = 0;
    cursor->sample_id = argc > 0 ? sqlite3_value_int64(argv[0]) : 0;
    int code = sqlite3_prepare_v2(db->handle, select_sample, -1, &stmt, NULL);
    if (code == SQLITE_OK) {
        code = sqlite3_bind_int64(stmt, 1, cursor->sample_id);
    }
    if (code == SQLITE_OK) {
        code = sqlite3_step(stmt);
    }
    if (code == SQLITE_ROW && load_row(cursor, db->coder, stmt) != STATUS_OK) {
        code = SQLITE_CORRUPT_VTAB;
    }
    (void)sqlite3_finalize(stmt);
    return code == SQLITE_ROW || code == SQLITE_DONE ? SQLITE_OK : code;
}

static int cursor_next(sqlite3_vtab_cursor *base)
{
    ((struct tokens_cursor *)base)->position++;
    return SQLITE_OK;
}

static int cursor_eof(sqlite3_vtab_cursor *base)
{
    const struct tokens_cursor *const cursor = (const struct tokens_cursor *)base;
    return cursor->position >= cursor->n_rows;
}

static int cursor_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out)
{
    *out = (sqlite3_int64)((const struct tokens_cursor *)base)->position;
    return SQLITE_OK;
}

/* Item i of size bytes; false when the buffer is shorter. */
static bool read_item(const struct byte_buffer *buffer, size_t i, size_t size, void *out)
{
    if ((i + 1) * size > buffer->bytes) {
        return false;
    }
    memcpy(out, buffer->data + i * size, size);
    return true;
}

static void give_token(const struct tokens_cursor *cursor, sqlite3_context *context, int column)
{
    const size_t position = cursor->position;
    int32_t id;
    uint32_t version;
    float logprob;

    if (column == COLUMN_ID) {
        if (read_item(&cursor->ids, position, sizeof(id), &id)) {
            sqlite3_result_int(context, id);
        }
        return;
    }
    if (position < cursor->n_prompt) {
        return; /* NULL: the prompt was not drawn */
    }
    const size_t i = position - cursor->n_prompt;
    if (column == COLUMN_LOGP) {
        if (read_item(&cursor->logprobs, i, sizeof(logprob), &logprob)) {
            sqlite3_result_double(context, (double)logprob);
        }
    } else if (column == COLUMN_ADVANTAGE) {
        if (cursor->has_advantage) {
            sqlite3_result_double(context, cursor->advantage);
        }
    } else if (read_item(&cursor->versions, i, sizeof(version), &version)) {
        sqlite3_result_int64(context, version);
    } else {
        sqlite3_result_int64(context, cursor->version_first);
    }
}

static int cursor_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const struct tokens_cursor *const cursor = (const struct tokens_cursor *)base;

    switch (column) {
    case COLUMN_POS:
        sqlite3_result_int64(context, (sqlite3_int64)cursor->position);
        break;
    case COLUMN_IS_PROMPT:
        sqlite3_result_int(context, cursor->position < cursor->n_prompt);
        break;
    case COLUMN_SAMPLE_ID:
        sqlite3_result_int64(context, cursor->sample_id);
        break;
    default:
        give_token(cursor, context, column);
        break;
    }
    return SQLITE_OK;
}

static const sqlite3_module tokens_module = {
    .iVersion = 0,
    .xConnect = table_connect,
    .xBestIndex = table_best_index,
    .xDisconnect = table_disconnect,
    .xDestroy = table_disconnect,
    .xOpen = cursor_open,
    .xClose = cursor_close,
    .xFilter = cursor_filter,
    .xNext = cursor_next,
    .xEof = cursor_eof,
    .xColumn = cursor_column,
    .xRowid = cursor_rowid,
};

enum status tokens_table_register(struct db *db)
{
    const int code = sqlite3_create_module(db->handle, "tokens", &tokens_module, db);
    return code == SQLITE_OK ? STATUS_OK : db_failure(db, code, "adding tokens()");
}
