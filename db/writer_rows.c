/* Owns the rows of a run, its processes, groups, samples and scores. */
#include "base/clock.h"
#include "base/hash.h"
#include "db/writer_internal.h"

#include <string.h>

static const char sql_find_run[] = "SELECT run_id, config_sha FROM runs WHERE name = ?1";
static const char sql_update_run[] = "UPDATE runs SET config_json = ?2 WHERE run_id = ?1";
static const char sql_insert_run[] =
    "INSERT INTO runs(name, created_ns, config_json, config_sha, model, build_json)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6) RETURNING run_id";
static const char sql_find_fn[] =
    "SELECT fn_id, sha FROM reward_fns WHERE run_id = ?1 AND name = ?2";
static const char sql_insert_fn[] =
    "INSERT INTO reward_fns(run_id, name, source, sha, weight, scope, config_json)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING fn_id";
static const char sql_insert_incarnation[] =
    "INSERT INTO incarnations(run_id, started_ns, host, pid, resumed_from_step)"
    " VALUES(?1, ?2, ?3, ?4, (SELECT max(step) FROM steps WHERE run_id = ?1"
    " AND status IN('trained','skipped'))) RETURNING inc";
static const char sql_end_incarnation[] =
    "UPDATE incarnations SET ended_ns = ?2, exit_reason = ?3 WHERE inc = ?1";
static const char sql_find_worker[] =
    "UPDATE workers SET last_seen_ns = ?5 WHERE worker_id = (SELECT worker_id FROM workers"
    " WHERE run_id = ?1 AND name = ?2 AND host = ?3 AND pid = ?4) RETURNING worker_id";
static const char sql_insert_worker[] =
    "INSERT INTO workers(run_id, name, host, pid, first_seen_ns, last_seen_ns)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?5) RETURNING worker_id";
static const char sql_find_prompt[] = "SELECT prompt_id FROM prompts WHERE sha = ?1";
static const char sql_insert_prompt[] =
    "INSERT INTO prompts(sha, data_source, text, answer, row_json, answer_json, codec, token_ids)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, '" BLOB_CODEC "', ?7) RETURNING prompt_id";
static const char sql_insert_group[] =
    "INSERT INTO groups(group_id, run_id, prompt_id, step, kind, attempt, n, status, n_scored)"
    " VALUES(?1, ?2, ?3, ?4, ?5, 0, ?6, 'open', 0)";
static const char sql_insert_sample[] =
    "INSERT INTO samples(sample_id, group_id, idx, attempt, worker_id, seed, version_first,"
    " version_last, status, finish, n_prompt, n_tok, gen_us, completion)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
    " ON CONFLICT(group_id, idx, attempt) DO NOTHING RETURNING sample_id";
static const char sql_insert_blob[] =
    "INSERT INTO sample_blobs(sample_id, codec, token_ids, logprobs)"
    " VALUES(?1, '" BLOB_CODEC "', ?2, ?3)";
static const char sql_set_sample[] =
    "UPDATE samples SET status = ?2, reward = ?3 WHERE sample_id = ?1";
static const char sql_retire_sample[] =
    "UPDATE samples SET status = ?2 WHERE sample_id = ?1 AND status IN('ok','masked')"
    " AND NOT EXISTS(SELECT 1 FROM batch_items b WHERE b.sample_id = ?1)";
/* The totals without the sample that was just retired; the group waits for another in its place. */
static const char sql_refresh_totals[] =
    "UPDATE groups AS g SET status = iif(status = 'scored', 'open', status),"
    " n_scored = (SELECT count(*) FROM samples s WHERE s.group_id = g.group_id"
    " AND s.status IN('ok','masked')),"
    " reward_mean = (SELECT avg(s.reward) FROM samples s WHERE s.group_id = g.group_id"
    " AND s.status = 'ok'),"
    " reward_std = (SELECT sqrt(sum((s.reward - m.mean) * (s.reward - m.mean)) /"
    " (count(s.reward) - 1)) FROM samples s, (SELECT avg(o.reward) AS mean FROM samples o"
    " WHERE o.group_id = (SELECT group_id FROM samples WHERE sample_id = ?1) AND o.status = 'ok') m"
    " WHERE s.group_id = g.group_id AND s.status = 'ok')"
    " WHERE g.group_id = (SELECT group_id FROM samples WHERE sample_id = ?1)";
static const char sql_put_reward[] =
    "INSERT OR REPLACE INTO rewards(sample_id, fn_id, status, value, us, tries, cached, isolation,"
    " detail) VALUES(?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8)";
static const char sql_set_totals[] =
    "UPDATE groups SET n_scored = ?2, reward_mean = ?3, reward_std = ?4,"
    " status = iif(status = 'open' AND ?5, 'scored', status) WHERE group_id = ?1";
static const char sql_insert_event[] =
    "INSERT INTO events(ts_ns, inc, level, kind, step, group_id, json)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/* Runs an INSERT ... RETURNING id. */
static enum status insert_returning(struct writer *writer, struct bind *bind, int64_t *id)
{
    bool found;

    writer->n_pending++;
    return writer_read_int(writer, bind, id, &found);
}

static enum status refresh_run(struct writer *writer, const struct run_row *run, int64_t run_id)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_update_run, &bind));
    bind_int(&bind, run_id);
    bind_text(&bind, run->config_json);
    return writer_run(writer, &bind);
}

enum status writer_put_run(struct writer *writer, const struct run_row *run, int64_t *run_id)
{
    struct bind bind;
    bool found;

    TRY(writer_statement(writer, sql_find_run, &bind));
    bind_text(&bind, run->name);
    TRY(bind_step(writer->db, &bind, &found));
    if (found) {
        *run_id = sqlite3_column_int64(bind.stmt, 0);
        const void *const sha = sqlite3_column_blob(bind.stmt, 1);
        const bool fits = sqlite3_column_bytes(bind.stmt, 1) == (int)sizeof(run->config_sha) &&
                          memcmp(sha, run->config_sha.bytes, sizeof(run->config_sha)) == 0;
        bind_end(&bind);
        return fits ? refresh_run(writer, run, *run_id)
                    : status_set(STATUS_BAD_CONFIG,
                                 "run %s was started with another configuration; give it back or "
                                 "choose another run.name",
                                 run->name);
    }
    bind_end(&bind);
    TRY(writer_statement(writer, sql_insert_run, &bind));
    bind_text(&bind, run->name);
    bind_int(&bind, run->created_ns);
    bind_text(&bind, run->config_json);
    bind_blob(&bind, run->config_sha.bytes, sizeof(run->config_sha));
    bind_text(&bind, run->model);
    bind_text(&bind, run->build_json);
    return insert_returning(writer, &bind, run_id);
}

static enum status insert_fn(struct writer *writer, int64_t run_id, const struct fn_row *fn,
                             const struct digest256 *sha, int64_t *fn_id)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_insert_fn, &bind));
    bind_int(&bind, run_id);
    bind_text(&bind, fn->name);
    bind_text(&bind, fn->source);
    bind_blob(&bind, sha, sizeof(*sha));
    bind_real(&bind, fn->weight);
    bind_text(&bind, fn->scope);
    bind_text(&bind, fn->config_json);
    return insert_returning(writer, &bind, fn_id);
}

enum status writer_put_fn(struct writer *writer, int64_t run_id, const struct fn_row *fn,
                          int64_t *fn_id)
{
    struct digest256 digest;
    struct bind bind;
    bool found;

    const bool has_sha = hash_unhex(fn->sha_hex, digest.bytes, sizeof(digest));
    TRY(writer_statement(writer, sql_find_fn, &bind));
    bind_int(&bind, run_id);
    bind_text(&bind, fn->name);
    TRY(bind_step(writer->db, &bind, &found));
    if (!found) {
        bind_end(&bind);
        return insert_fn(writer, run_id, fn, has_sha ? &digest : NULL, fn_id);
    }
    *fn_id = sqlite3_column_int64(bind.stmt, 0);
    const void *const stored = sqlite3_column_blob(bind.stmt, 1);
    const bool differs =
        stored != NULL && has_sha && memcmp(stored, digest.bytes, sizeof(digest)) != 0;
    bind_end(&bind);
    return differs ? status_set(STATUS_BAD_CONFIG,
                                "reward %s: its file changed since the run began; use another "
                                "run.name",
                                fn->name)
                   : STATUS_OK;
}

enum status writer_put_incarnation(struct writer *writer, int64_t run_id, const char *host,
                                   int64_t pid, int64_t *inc)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_insert_incarnation, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, clock_wall_ns());
    bind_text(&bind, host);
    bind_int(&bind, pid);
    return insert_returning(writer, &bind, inc);
}

enum status writer_end_incarnation(struct writer *writer, int64_t inc, const char *reason)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_end_incarnation, &bind));
    bind_int(&bind, inc);
    bind_int(&bind, clock_wall_ns());
    bind_text(&bind, reason);
    return writer_run(writer, &bind);
}

static void bind_worker(struct bind *bind, int64_t run_id, const char *name, const char *host,
                        int64_t pid)
{
    bind_int(bind, run_id);
    bind_text(bind, name);
    bind_text(bind, host);
    bind_int(bind, pid);
    bind_int(bind, clock_wall_ns());
}

enum status writer_put_worker(struct writer *writer, int64_t run_id, const char *name,
                              const char *host, int64_t pid, int64_t *worker_id)
{
    struct bind bind;
    bool found;

    TRY(writer_statement(writer, sql_find_worker, &bind));
    bind_worker(&bind, run_id, name, host, pid);
    TRY(writer_read_int(writer, &bind, worker_id, &found));
    if (found) {
        return STATUS_OK;
    }
    TRY(writer_statement(writer, sql_insert_worker, &bind));
    bind_worker(&bind, run_id, name, host, pid);
    return insert_returning(writer, &bind, worker_id);
}

enum status writer_put_prompt(struct writer *writer, const struct prompt_row *prompt,
                              int64_t *prompt_id)
{
    struct bind bind;
    bool found;

    TRY(writer_statement(writer, sql_find_prompt, &bind));
    bind_blob(&bind, prompt->sha.bytes, sizeof(prompt->sha));
    TRY(writer_read_int(writer, &bind, prompt_id, &found));
    if (found) {
        return STATUS_OK;
    }
    TRY(blob_pack(writer->db->coder, prompt->tokens, prompt->n_tokens * sizeof(int32_t),
                  &writer->packed_ids));
    TRY(writer_statement(writer, sql_insert_prompt, &bind));
    bind_blob(&bind, prompt->sha.bytes, sizeof(prompt->sha));
    bind_text(&bind, prompt->data_source);
    bind_span(&bind, prompt->text);
    bind_span(&bind, prompt->answer);
    bind_span(&bind, prompt->row_json);
    bind_span(&bind, prompt->answer_json);
    bind_blob(&bind, writer->packed_ids.data, writer->packed_ids.bytes);
    return insert_returning(writer, &bind, prompt_id);
}

enum status writer_put_group(struct writer *writer, const struct group_row *group)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_insert_group, &bind));
    bind_int(&bind, group->group_id);
    bind_int(&bind, group->run_id);
    bind_int(&bind, group->prompt_id);
    bind_int(&bind, group->step);
    bind_text(&bind, group->is_eval ? "eval" : "train");
    bind_int(&bind, group->n);
    return writer_run(writer, &bind);
}

static enum status insert_sample(struct writer *writer, const struct sample_row *sample,
                                 bool *is_new)
{
    struct bind bind;
    int64_t id;

    TRY(writer_statement(writer, sql_insert_sample, &bind));
    bind_int(&bind, sample->sample_id);
    bind_int(&bind, sample->group_id);
    bind_int(&bind, sample->idx);
    bind_int(&bind, sample->attempt);
    if (sample->worker_id > 0) {
        bind_int(&bind, sample->worker_id);
    } else {
        bind_null(&bind);
    }
    bind_int(&bind, (int64_t)sample->seed); /* the 64 bits, shown as a signed number */
    bind_int(&bind, sample->version_first);
    bind_int(&bind, sample->version_last);
    bind_text(&bind, row_status_name(sample->status));
    bind_text(&bind, sample->finish);
    bind_int(&bind, (int64_t)sample->n_prompt);
    bind_int(&bind, (int64_t)sample->n_tokens);
    bind_int(&bind, sample->gen_us);
    bind_span(&bind, sample->completion);
    return writer_read_int(writer, &bind, &id, is_new);
}

enum status writer_put_sample(struct writer *writer, const struct sample_row *sample, bool *is_new)
{
    struct bind bind;

    TRY(insert_sample(writer, sample, is_new));
    if (!*is_new) {
        return STATUS_OK;
    }
    TRY(blob_pack(writer->db->coder, sample->tokens,
                  (sample->n_prompt + sample->n_tokens) * sizeof(int32_t), &writer->packed_ids));
    TRY(blob_pack(writer->db->coder, sample->logprobs, sample->n_tokens * sizeof(float),
                  &writer->packed_logprobs));
    TRY(writer_statement(writer, sql_insert_blob, &bind));
    bind_int(&bind, sample->sample_id);
    bind_blob(&bind, writer->packed_ids.data, writer->packed_ids.bytes);
    bind_blob(&bind, writer->packed_logprobs.data, writer->packed_logprobs.bytes);
    return writer_run(writer, &bind);
}

enum status writer_set_sample(struct writer *writer, int64_t sample_id, enum row_status status,
                              bool has_reward, double reward)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_set_sample, &bind));
    bind_int(&bind, sample_id);
    bind_text(&bind, row_status_name(status));
    if (has_reward) {
        bind_real(&bind, reward);
    } else {
        bind_null(&bind);
    }
    return writer_run(writer, &bind);
}

enum status writer_retire_sample(struct writer *writer, int64_t sample_id, enum row_status status)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_retire_sample, &bind));
    bind_int(&bind, sample_id);
    bind_text(&bind, row_status_name(status));
    TRY(writer_run(writer, &bind));
    if (sqlite3_changes(writer->db->handle) == 0) {
        return STATUS_OK;
    }
    TRY(writer_statement(writer, sql_refresh_totals, &bind));
    bind_int(&bind, sample_id);
    return writer_run(writer, &bind);
}

enum status writer_put_reward(struct writer *writer, const struct reward_row *reward)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_put_reward, &bind));
    bind_int(&bind, reward->sample_id);
    bind_int(&bind, reward->fn_id);
    bind_text(&bind, reward->status);
    if (strcmp(reward->status, "ok") == 0) {
        bind_real(&bind, reward->value);
    } else {
        bind_null(&bind);
    }
    bind_int(&bind, reward->us);
    bind_int(&bind, reward->tries);
    bind_text(&bind, reward->isolation);
    bind_text(&bind, reward->detail);
    return writer_run(writer, &bind);
}

enum status writer_set_totals(struct writer *writer, int64_t group_id,
                              const struct group_totals *totals)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_set_totals, &bind));
    bind_int(&bind, group_id);
    bind_int(&bind, totals->n_scored);
    if (totals->has_mean) {
        bind_real(&bind, totals->mean);
    } else {
        bind_null(&bind);
    }
    if (totals->has_std) {
        bind_real(&bind, totals->std);
    } else {
        bind_null(&bind);
    }
    bind_int(&bind, totals->is_complete ? 1 : 0);
    return writer_run(writer, &bind);
}

static void bind_optional(struct bind *bind, int64_t value)
{
    if (value < 0) {
        bind_null(bind);
    } else {
        bind_int(bind, value);
    }
}

enum status writer_put_event(struct writer *writer, const struct event_row *event)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_insert_event, &bind));
    bind_int(&bind, clock_wall_ns());
    bind_optional(&bind, event->inc > 0 ? event->inc : -1);
    bind_text(&bind, event->level);
    bind_text(&bind, event->kind);
    bind_optional(&bind, event->step);
    bind_optional(&bind, event->group_id);
    bind_text(&bind, event->json);
    return writer_run(writer, &bind);
}
