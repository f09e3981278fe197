/* Owns reads of what a restart goes on from: groups that are not done, and manifests. */
#include "db/reader.h"
#include "db/reader_internal.h"

#include <string.h>

#define OPEN_GROUPS                                                                                \
    " FROM groups g WHERE g.run_id = ?1 AND g.step > ?2 AND g.kind = 'train'"                      \
    " AND g.status IN('open','scored') AND NOT EXISTS(SELECT 1 FROM steps t"                       \
    " WHERE t.run_id = g.run_id AND t.step = g.step AND t.status <> 'planned')"
static const char sql_open_groups[] = "SELECT g.group_id" OPEN_GROUPS " ORDER BY g.group_id";
static const char sql_count_open[] = "SELECT count(*)" OPEN_GROUPS;
#define WAITING_GROUPS                                                                             \
    " FROM groups g WHERE g.run_id = ?1 AND EXISTS(SELECT 1 FROM samples s"                        \
    " WHERE s.group_id = g.group_id AND s.status = 'waiting')"
static const char sql_waiting_groups[] = "SELECT g.group_id" WAITING_GROUPS " ORDER BY g.group_id";
static const char sql_count_waiting[] = "SELECT count(*)" WAITING_GROUPS;
#define MANIFESTS " FROM steps WHERE run_id = ?1 AND step > ?2 AND manifest_sha IS NOT NULL"
static const char sql_manifest_steps[] = "SELECT step" MANIFESTS " ORDER BY step";
static const char sql_count_manifests[] = "SELECT count(*)" MANIFESTS;
static const char sql_manifest[] = "SELECT coalesce(version_in, 0), manifest_sha FROM steps"
                                   " WHERE run_id = ?1 AND step = ?2 AND manifest_sha IS NOT NULL";
static const char sql_items[] =
    "SELECT sample_id, advantage FROM batch_items WHERE run_id = ?1 AND step = ?2 ORDER BY pos";
static const char sql_count_items[] =
    "SELECT count(*) FROM batch_items WHERE run_id = ?1 AND step = ?2";

static enum status read_listed_id(struct db *db, sqlite3_stmt *stmt, struct arena *arena,
                                  void *list, size_t i)
{
    (void)db;
    (void)arena;
    ((int64_t *)list)[i] = sqlite3_column_int64(stmt, 0);
    return STATUS_OK;
}

static enum status read_ids(struct db *db, const char *sql_count, const char *sql, int64_t a,
                            const int64_t *b, struct arena *arena, struct id_list *out)
{
    struct bind bind;

    TRY(reader_count(db, sql_count, a, b, &out->count));
    TRY(arena_alloc(arena, out->count, sizeof(*out->ids), (void *)&out->ids));
    TRY(reader_begin(db, sql, a, b, &bind));
    return reader_rows(db, &bind, arena, read_listed_id, out->ids, &out->count);
}

enum status reader_open_groups(struct db *db, int64_t run_id, int64_t after_step,
                               struct arena *arena, struct id_list *out)
{
    return read_ids(db, sql_count_open, sql_open_groups, run_id, &after_step, arena, out);
}

enum status reader_waiting_groups(struct db *db, int64_t run_id, struct arena *arena,
                                  struct id_list *out)
{
    return read_ids(db, sql_count_waiting, sql_waiting_groups, run_id, NULL, arena, out);
}

enum status reader_manifest_steps(struct db *db, int64_t run_id, int64_t after_step,
                                  struct arena *arena, struct id_list *out)
{
    return read_ids(db, sql_count_manifests, sql_manifest_steps, run_id, &after_step, arena, out);
}

struct item_lists {
    uint64_t *sample_ids;
    float *advantages;
};

static enum status read_listed_item(struct db *db, sqlite3_stmt *stmt, struct arena *arena,
                                    void *list, size_t i)
{
    const struct item_lists *const lists = list;

    (void)db;
    (void)arena;
    lists->sample_ids[i] = (uint64_t)sqlite3_column_int64(stmt, 0);
    lists->advantages[i] = (float)sqlite3_column_double(stmt, 1);
    return STATUS_OK;
}

static enum status read_items(struct db *db, int64_t run_id, int64_t step, struct arena *arena,
                              struct manifest_row *out)
{
    struct item_lists lists;
    struct bind bind;

    TRY(reader_count(db, sql_count_items, run_id, &step, &out->n));
    TRY(arena_alloc(arena, out->n, sizeof(*lists.sample_ids), (void *)&lists.sample_ids));
    TRY(arena_alloc(arena, out->n, sizeof(*lists.advantages), (void *)&lists.advantages));
    TRY(reader_begin(db, sql_items, run_id, &step, &bind));
    TRY(reader_rows(db, &bind, arena, read_listed_item, &lists, &out->n));
    out->sample_ids = lists.sample_ids;
    out->advantages = lists.advantages;
    return STATUS_OK;
}

enum status reader_manifest(struct db *db, int64_t run_id, int64_t step, struct arena *arena,
                            struct manifest_row *out, bool *found)
{
    struct bind bind;

    *out = (struct manifest_row){.step = step};
    TRY(reader_begin(db, sql_manifest, run_id, &step, &bind));
    TRY(bind_step(db, &bind, found));
    if (*found) {
        out->version_in = sqlite3_column_int64(bind.stmt, 0);
        if (sqlite3_column_bytes(bind.stmt, 1) == (int)sizeof(out->digest)) {
            memcpy(out->digest.bytes, sqlite3_column_blob(bind.stmt, 1), sizeof(out->digest));
        }
    }
    TRY(reader_finish(&bind, STATUS_OK));
    return *found ? read_items(db, run_id, step, arena, out) : STATUS_OK;
}
