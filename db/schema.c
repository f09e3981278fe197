/* Owns the tables. A column may be NULL only where it says so; every set is CHECKed; non-finite
 * numbers become NULL in SQLite, so where a number must exist the column is NOT NULL.
 * prompts.token_ids and prompts.answer_json are what a restarted reward service needs to go on:
 * the ids (codec as in sample_blobs) and the answer as the exact JSON it came as. */
#include "db/schema.h"

#include <stddef.h>

/* Times of a step: t_generate_us until every sample has its score, of which t_reward_us from the
 * last completion on (NULL when the service began in between); t_wait_us until the manifest is
 * stored; t_train_us; t_sync_us until the weights are offered. */

/* What a worker's sampling for a step came to, as its process said last. */
static const char sql_sampling[] =
    "CREATE TABLE sampling(run_id INTEGER NOT NULL REFERENCES runs, step INTEGER NOT NULL,"
    " worker_id INTEGER NOT NULL REFERENCES workers, tokens INTEGER NOT NULL,"
    " turns INTEGER NOT NULL, turn_tokens INTEGER NOT NULL, drafts INTEGER NOT NULL,"
    " drafts_right INTEGER NOT NULL, preempted INTEGER NOT NULL,"
    " resumed_tokens INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,"
    " prefix_tokens INTEGER NOT NULL, PRIMARY KEY(run_id, step, worker_id)) STRICT, WITHOUT ROWID";

const char *const schema_tables[] = {
    "CREATE TABLE runs(run_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " created_ns INTEGER NOT NULL, config_json TEXT NOT NULL, config_sha BLOB NOT NULL,"
    " model TEXT, tokenizer_sha BLOB, build_json TEXT, flags_json TEXT) STRICT",

    "CREATE TABLE incarnations(inc INTEGER PRIMARY KEY,"
    " run_id INTEGER NOT NULL REFERENCES runs, started_ns INTEGER NOT NULL, host TEXT,"
    " pid INTEGER, resumed_from_step INTEGER, ended_ns INTEGER, exit_reason TEXT) STRICT",

    "CREATE TABLE workers(worker_id INTEGER PRIMARY KEY,"
    " run_id INTEGER NOT NULL REFERENCES runs, name TEXT NOT NULL, host TEXT, pid INTEGER,"
    " first_seen_ns INTEGER, last_seen_ns INTEGER) STRICT",

    "CREATE TABLE steps(run_id INTEGER NOT NULL REFERENCES runs, step INTEGER NOT NULL,"
    " status TEXT NOT NULL CHECK(status IN('planned','committed','trained','skipped')),"
    " version_in INTEGER, version_out INTEGER, weight_digest_out BLOB, manifest_sha BLOB,"
    " loss REAL, grad_norm REAL, kl REAL, entropy REAL, clip_frac REAL, lr REAL,"
    " n_tok INTEGER, t_generate_us INTEGER, t_reward_us INTEGER, t_train_us INTEGER,"
    " t_sync_us INTEGER, t_wait_us INTEGER, ended_ns INTEGER, PRIMARY KEY(run_id,"
    " step)) STRICT, WITHOUT ROWID",

    "CREATE TABLE prompts(prompt_id INTEGER PRIMARY KEY, sha BLOB NOT NULL UNIQUE,"
    " data_source TEXT, text TEXT NOT NULL, answer TEXT, row_json TEXT, answer_json TEXT,"
    " codec TEXT NOT NULL CHECK(codec IN('raw','zstd')), token_ids BLOB NOT NULL) STRICT",

    "CREATE TABLE groups(group_id INTEGER PRIMARY KEY,"
    " run_id INTEGER NOT NULL REFERENCES runs,"
    " prompt_id INTEGER NOT NULL REFERENCES prompts, step INTEGER NOT NULL,"
    " kind TEXT NOT NULL CHECK(kind IN('train','eval')), attempt INTEGER NOT NULL,"
    " n INTEGER NOT NULL, status TEXT NOT NULL CHECK(status IN('open','scored','trained',"
    "'no_signal','dropped','late')), n_scored INTEGER, reward_mean REAL,"
    " reward_std REAL) STRICT",

    "CREATE TABLE samples(sample_id INTEGER PRIMARY KEY,"
    " group_id INTEGER NOT NULL REFERENCES groups, idx INTEGER NOT NULL,"
    " attempt INTEGER NOT NULL, worker_id INTEGER REFERENCES workers,"
    " seed INTEGER NOT NULL, version_first INTEGER NOT NULL, version_last INTEGER NOT NULL,"
    " status TEXT NOT NULL CHECK(status IN('waiting','ok','masked','late','stale',"
    "'aborted')), finish TEXT NOT NULL CHECK(finish IN('stop','length','stop_string',"
    "'abort','timeout')), n_prompt INTEGER NOT NULL, n_tok INTEGER NOT NULL, reward REAL,"
    " gen_us INTEGER, completion TEXT NOT NULL, UNIQUE(group_id, idx, attempt)) STRICT",

    "CREATE TABLE sample_blobs(sample_id INTEGER PRIMARY KEY REFERENCES samples,"
    " codec TEXT NOT NULL CHECK(codec IN('raw','zstd')), token_ids BLOB NOT NULL,"
    " logprobs BLOB NOT NULL, versions BLOB, routes BLOB) STRICT",

    "CREATE TABLE reward_fns(fn_id INTEGER PRIMARY KEY,"
    " run_id INTEGER NOT NULL REFERENCES runs, name TEXT NOT NULL, source TEXT NOT NULL,"
    " version TEXT, sha BLOB, weight REAL NOT NULL, scope TEXT NOT NULL, config_json TEXT,"
    " UNIQUE(run_id, name)) STRICT",

    "CREATE TABLE rewards(sample_id INTEGER NOT NULL REFERENCES samples,"
    " fn_id INTEGER NOT NULL REFERENCES reward_fns,"
    " status TEXT NOT NULL CHECK(status IN('ok','n/a','error','timeout')), value REAL,"
    " us INTEGER, tries INTEGER NOT NULL, cached INTEGER NOT NULL, isolation TEXT,"
    " detail TEXT, PRIMARY KEY(sample_id, fn_id),"
    " CHECK((status = 'ok') = (value IS NOT NULL))) STRICT, WITHOUT ROWID",

    "CREATE TABLE batch_items(run_id INTEGER NOT NULL, step INTEGER NOT NULL,"
    " pos INTEGER NOT NULL, sample_id INTEGER NOT NULL UNIQUE REFERENCES samples,"
    " advantage REAL NOT NULL, PRIMARY KEY(run_id, step, pos), FOREIGN KEY(run_id,"
    " step) REFERENCES steps) STRICT, WITHOUT ROWID",

    "CREATE TABLE train_stats(sample_id INTEGER PRIMARY KEY REFERENCES samples, kl REAL,"
    " entropy REAL, clip_frac REAL, mismatch_kl REAL, ratio_max REAL, codec TEXT,"
    " tokens BLOB) STRICT",

    "CREATE TABLE expert_load(run_id INTEGER NOT NULL, step INTEGER NOT NULL,"
    " layer INTEGER NOT NULL, expert INTEGER NOT NULL, tokens INTEGER NOT NULL, bias REAL,"
    " PRIMARY KEY(run_id, step, layer, expert)) STRICT, WITHOUT ROWID",

    "CREATE TABLE metric_keys(key_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",

    "CREATE TABLE metrics(run_id INTEGER NOT NULL,"
    " key_id INTEGER NOT NULL REFERENCES metric_keys, step INTEGER NOT NULL, value REAL,"
    " PRIMARY KEY(run_id, key_id, step)) STRICT, WITHOUT ROWID",

    "CREATE TABLE events(event_id INTEGER PRIMARY KEY, ts_ns INTEGER NOT NULL,"
    " inc INTEGER REFERENCES incarnations, level TEXT NOT NULL, kind TEXT NOT NULL,"
    " step INTEGER, group_id INTEGER, json TEXT) STRICT",

    "CREATE TABLE reward_cache(fn_id INTEGER NOT NULL REFERENCES reward_fns,"
    " key BLOB NOT NULL, value REAL, status TEXT NOT NULL CHECK(status IN('ok','n/a')),"
    " detail TEXT, PRIMARY KEY(fn_id, key)) STRICT, WITHOUT ROWID",

    sql_sampling,

    "CREATE INDEX groups_by_step ON groups(run_id, step)",

    "CREATE INDEX groups_by_prompt ON groups(prompt_id)",

    "CREATE TRIGGER batch_items_frozen BEFORE UPDATE ON batch_items BEGIN SELECT"
    " RAISE(ABORT, 'a manifest is immutable'); END",
    NULL,
};

static const char *const to_version_2[] = {sql_sampling, schema_view_sampling, NULL};

const char *const *const schema_upgrades[SCHEMA_VERSION - 1] = {to_version_2};
