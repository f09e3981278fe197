/* Owns typed reads of what was sampled and scored. A row is copied into the arena before its
 * statement moves on. */
#include "db/reader.h"

#include "base/hash.h"
#include "db/reader_internal.h"

#include <string.h>

static const char sql_incarnation[] =
    "SELECT inc, started_ns, pid, coalesce(host, ''), ended_ns IS NOT NULL FROM incarnations"
    " WHERE run_id = ?1 ORDER BY inc DESC LIMIT 1";
static const char sql_sample_id_max[] = "SELECT coalesce(max(sample_id), 0) FROM samples";
static const char sql_group[] =
    "SELECT g.run_id, g.prompt_id, g.step, g.n, g.kind = 'eval',"
    " g.status NOT IN('open','scored') OR EXISTS(SELECT 1 FROM steps t WHERE t.run_id = g.run_id"
    " AND t.step = g.step AND t.status <> 'planned' AND g.kind = 'train'),"
    " p.sha, p.data_source, p.text, p.answer, p.answer_json, p.row_json, p.codec, p.token_ids"
    " FROM groups g JOIN prompts p ON p.prompt_id = g.prompt_id WHERE g.group_id = ?1";
#define SAMPLE_COLUMNS                                                                             \
    "SELECT s.sample_id, s.group_id, s.idx, s.attempt, coalesce(s.worker_id, 0), s.seed,"          \
    " s.version_first, s.version_last, coalesce(s.gen_us, 0), s.status, s.finish, s.completion,"   \
    " s.n_prompt, s.n_tok, s.reward, b.codec, b.token_ids, b.logprobs FROM samples s"              \
    " JOIN sample_blobs b ON b.sample_id = s.sample_id "
static const char sql_sample[] = SAMPLE_COLUMNS "WHERE s.sample_id = ?1";
static const char sql_group_samples[] =
    SAMPLE_COLUMNS "WHERE s.group_id = ?1 ORDER BY s.idx, s.attempt";
static const char sql_count_group[] = "SELECT count(*) FROM samples WHERE group_id = ?1";
static const char sql_rewards[] =
    "SELECT r.sample_id, r.fn_id, f.name, r.status, coalesce(r.value, 0), coalesce(r.us, 0),"
    " r.tries, r.isolation, r.detail FROM rewards r JOIN reward_fns f ON f.fn_id = r.fn_id"
    " WHERE r.sample_id = ?1 ORDER BY r.fn_id";
static const char sql_count_rewards[] = "SELECT count(*) FROM rewards WHERE sample_id = ?1";
static enum status copy_text(sqlite3_stmt *stmt, int column, struct arena *arena, const char **out)
{
    const struct text_span span = column_span(stmt, column);
    char *copy = NULL;

    if (span.data != NULL) {
        TRY(arena_copy_text(arena, span.data, span.bytes, &copy));
    }
    *out = copy;
    return STATUS_OK;
}

static enum status copy_span(sqlite3_stmt *stmt, int column, struct arena *arena,
                             struct text_span *out)
{
    out->bytes = column_span(stmt, column).bytes;
    return copy_text(stmt, column, arena, &out->data);
}

static enum status unpack(struct db *db, sqlite3_stmt *stmt, int codec_column, int column,
                          struct arena *arena, void *out_pointer, size_t *n_bytes)
{
    struct byte_buffer buffer = {0};
    void *copy = NULL;

    const struct text_span codec = column_span(stmt, codec_column);
    const void *const data = sqlite3_column_blob(stmt, column);
    const size_t n = (size_t)sqlite3_column_bytes(stmt, column);
    enum status status =
        blob_unpack(db->coder, codec.data != NULL ? codec.data : "", data, n, &buffer);
    if (status == STATUS_OK) {
        status = arena_alloc(arena, buffer.bytes, 1, (void *)&copy);
    }
    if (status == STATUS_OK && buffer.bytes > 0) {
        memcpy(copy, buffer.data, buffer.bytes);
    }
    *n_bytes = buffer.bytes;
    byte_buffer_dispose(&buffer);
    memcpy(out_pointer, (void *)&copy, sizeof(copy));
    return status;
}

enum status reader_incarnation(struct db *db, int64_t run_id, struct arena *arena,
                               struct incarnation_row *out)
{
    struct bind bind;
    bool has_row;

    *out = (struct incarnation_row){.host = ""};
    TRY(reader_begin(db, sql_incarnation, run_id, NULL, &bind));
    TRY(bind_step(db, &bind, &has_row));
    if (!has_row) {
        return reader_finish(&bind, STATUS_OK);
    }
    out->inc = sqlite3_column_int64(bind.stmt, 0);
    out->started_ns = sqlite3_column_int64(bind.stmt, 1);
    out->pid = sqlite3_column_int64(bind.stmt, 2);
    out->has_ended = sqlite3_column_int(bind.stmt, 4) != 0;
    return reader_finish(&bind, copy_text(bind.stmt, 3, arena, &out->host));
}

enum status reader_sample_id_max(struct db *db, int64_t *out)
{
    struct bind bind;
    bool has_row;

    TRY(bind_begin(db, sql_sample_id_max, &bind));
    TRY(bind_step(db, &bind, &has_row));
    *out = has_row ? sqlite3_column_int64(bind.stmt, 0) : 0;
    return reader_finish(&bind, STATUS_OK);
}

static enum status read_prompt(struct db *db, sqlite3_stmt *stmt, struct arena *arena,
                               struct prompt_row *out)
{
    size_t n_bytes;

    *out = (struct prompt_row){0};
    if (sqlite3_column_bytes(stmt, 6) == (int)sizeof(out->sha)) {
        memcpy(out->sha.bytes, sqlite3_column_blob(stmt, 6), sizeof(out->sha));
    }
    TRY(copy_text(stmt, 7, arena, &out->data_source));
    TRY(copy_span(stmt, 8, arena, &out->text));
    TRY(copy_span(stmt, 9, arena, &out->answer));
    TRY(copy_span(stmt, 10, arena, &out->answer_json));
    TRY(copy_span(stmt, 11, arena, &out->row_json));
    TRY(unpack(db, stmt, 12, 13, arena, (void *)&out->tokens, &n_bytes));
    out->n_tokens = n_bytes / sizeof(int32_t);
    return STATUS_OK;
}

enum status reader_group(struct db *db, int64_t group_id, struct arena *arena,
                         struct group_row *group, struct prompt_row *prompt, bool *found)
{
    struct bind bind;

    TRY(reader_begin(db, sql_group, group_id, NULL, &bind));
    TRY(bind_step(db, &bind, found));
    if (!*found) {
        return reader_finish(&bind, STATUS_OK);
    }
    *group = (struct group_row){
        .group_id = group_id,
        .run_id = sqlite3_column_int64(bind.stmt, 0),
        .prompt_id = sqlite3_column_int64(bind.stmt, 1),
        .step = sqlite3_column_int64(bind.stmt, 2),
        .n = sqlite3_column_int64(bind.stmt, 3),
        .is_eval = sqlite3_column_int(bind.stmt, 4) != 0,
        .is_closed = sqlite3_column_int(bind.stmt, 5) != 0,
    };
    return reader_finish(&bind,
                         prompt != NULL ? read_prompt(db, bind.stmt, arena, prompt) : STATUS_OK);
}

static enum status read_arrays(struct db *db, sqlite3_stmt *stmt, struct arena *arena,
                               struct sample_row *out)
{
    size_t id_bytes;
    size_t logprob_bytes;

    enum status status = unpack(db, stmt, 15, 16, arena, (void *)&out->tokens, &id_bytes);
    if (status == STATUS_OK) {
        status = unpack(db, stmt, 15, 17, arena, (void *)&out->logprobs, &logprob_bytes);
    }
    if (status != STATUS_OK) {
        return status_wrap(status, "%s: sample %lld", db->path, (long long)out->sample_id);
    }
    if (id_bytes != (out->n_prompt + out->n_tokens) * sizeof(int32_t) ||
        logprob_bytes != out->n_tokens * sizeof(float)) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: sample %lld has %zu bytes of ids and %zu of log-probabilities for "
                          "%zu + %zu tokens",
                          db->path, (long long)out->sample_id, id_bytes, logprob_bytes,
                          out->n_prompt, out->n_tokens);
    }
    return STATUS_OK;
}

static enum status read_sample(struct db *db, sqlite3_stmt *stmt, struct arena *arena,
                               struct sample_row *out)
{
    *out = (struct sample_row){
        .sample_id = sqlite3_column_int64(stmt, 0),
        .group_id = sqlite3_column_int64(stmt, 1),
        .idx = sqlite3_column_int64(stmt, 2),
        .attempt = sqlite3_column_int64(stmt, 3),
        .worker_id = sqlite3_column_int64(stmt, 4),
        .seed = (uint64_t)sqlite3_column_int64(stmt, 5),
        .version_first = sqlite3_column_int64(stmt, 6),
        .version_last = sqlite3_column_int64(stmt, 7),
        .gen_us = sqlite3_column_int64(stmt, 8),
        .n_prompt = (size_t)sqlite3_column_int64(stmt, 12),
        .n_tokens = (size_t)sqlite3_column_int64(stmt, 13),
        .has_reward = sqlite3_column_type(stmt, 14) != SQLITE_NULL,
        .reward = sqlite3_column_double(stmt, 14),
    };
    const struct text_span status = column_span(stmt, 9);
    if (status.data == NULL || !row_status_parse(status.data, &out->status)) {
        return status_set(STATUS_BAD_FORMAT, "%s: sample %lld has an unknown status", db->path,
                          (long long)out->sample_id);
    }
    TRY(copy_text(stmt, 10, arena, &out->finish));
    TRY(copy_span(stmt, 11, arena, &out->completion));
    return read_arrays(db, stmt, arena, out);
}

enum status reader_sample(struct db *db, int64_t sample_id, struct arena *arena,
                          struct sample_row *out, bool *found)
{
    struct bind bind;

    TRY(reader_begin(db, sql_sample, sample_id, NULL, &bind));
    TRY(bind_step(db, &bind, found));
    return reader_finish(&bind, *found ? read_sample(db, bind.stmt, arena, out) : STATUS_OK);
}

static enum status read_listed_sample(struct db *db, sqlite3_stmt *stmt, struct arena *arena,
                                      void *list, size_t i)
{
    return read_sample(db, stmt, arena, &((struct sample_row *)list)[i]);
}

enum status reader_group_samples(struct db *db, int64_t group_id, struct arena *arena,
                                 struct sample_row **out, size_t *n)
{
    struct bind bind;

    TRY(reader_count(db, sql_count_group, group_id, NULL, n));
    TRY(arena_alloc(arena, *n, sizeof(**out), (void *)out));
    TRY(reader_begin(db, sql_group_samples, group_id, NULL, &bind));
    return reader_rows(db, &bind, arena, read_listed_sample, *out, n);
}

static enum status read_listed_reward(struct db *db, sqlite3_stmt *stmt, struct arena *arena,
                                      void *list, size_t i)
{
    struct reward_row *const row = &((struct reward_row *)list)[i];

    (void)db;
    *row = (struct reward_row){
        .sample_id = sqlite3_column_int64(stmt, 0),
        .fn_id = sqlite3_column_int64(stmt, 1),
        .value = sqlite3_column_double(stmt, 4),
        .us = sqlite3_column_int64(stmt, 5),
        .tries = sqlite3_column_int64(stmt, 6),
    };
    TRY(copy_text(stmt, 2, arena, &row->component));
    TRY(copy_text(stmt, 3, arena, &row->status));
    TRY(copy_text(stmt, 7, arena, &row->isolation));
    return copy_text(stmt, 8, arena, &row->detail);
}

enum status reader_rewards(struct db *db, int64_t sample_id, struct arena *arena,
                           struct reward_row **out, size_t *n)
{
    struct bind bind;

    TRY(reader_count(db, sql_count_rewards, sample_id, NULL, n));
    TRY(arena_alloc(arena, *n, sizeof(**out), (void *)out));
    TRY(reader_begin(db, sql_rewards, sample_id, NULL, &bind));
    return reader_rows(db, &bind, arena, read_listed_reward, *out, n);
}
