/* Owns the rows of a step: manifest, outcome, metrics, per-sample statistics, expert load. */
#include "base/clock.h"
#include "base/hash.h"
#include "db/writer_internal.h"

#include <math.h>
#include <string.h>

const char *const step_columns[] = {
    "loss",  "grad_norm",     "kl",          "entropy",    "clip_frac", "lr",
    "n_tok", "t_generate_us", "t_reward_us", "t_train_us", "t_sync_us", "t_wait_us",
};
const size_t n_step_columns = sizeof(step_columns) / sizeof(step_columns[0]);
#define N_REAL_COLUMNS 6u /* the first; the others are integers */

static const char sql_find_manifest[] =
    "SELECT manifest_sha FROM steps WHERE run_id = ?1 AND step = ?2 AND manifest_sha IS NOT NULL";
static const char sql_check_sample[] =
    "SELECT 1 FROM samples s JOIN groups g ON g.group_id = s.group_id WHERE s.sample_id = ?1"
    " AND s.status = 'ok' AND g.run_id = ?2"
    " AND NOT EXISTS(SELECT 1 FROM batch_items b WHERE b.sample_id = ?1)";
static const char sql_put_manifest[] =
    "INSERT INTO steps(run_id, step, status, version_in, manifest_sha)"
    " VALUES(?1, ?2, 'committed', ?3, ?4) ON CONFLICT(run_id, step) DO UPDATE SET"
    " status = 'committed', version_in = excluded.version_in, manifest_sha = excluded.manifest_sha";
static const char sql_insert_item[] =
    "INSERT INTO batch_items(run_id, step, pos, sample_id, advantage) VALUES(?1, ?2, ?3, ?4, ?5)";
static const char sql_find_weights[] = "SELECT weight_digest_out FROM steps WHERE run_id = ?1"
                                       " AND step = ?2 AND weight_digest_out IS NOT NULL";
static const char sql_put_step[] =
    "INSERT INTO steps(run_id, step, status, version_out, weight_digest_out, ended_ns, loss,"
    " grad_norm, kl, entropy, clip_frac, lr, n_tok, t_generate_us, t_reward_us, t_train_us,"
    " t_sync_us, t_wait_us) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
    " ?15, ?16, ?17, ?18) ON CONFLICT(run_id, step) DO UPDATE SET status = excluded.status,"
    " version_out = excluded.version_out, weight_digest_out = excluded.weight_digest_out,"
    " ended_ns = excluded.ended_ns, loss = excluded.loss, grad_norm = excluded.grad_norm,"
    " kl = excluded.kl, entropy = excluded.entropy, clip_frac = excluded.clip_frac,"
    " lr = excluded.lr, n_tok = excluded.n_tok, t_generate_us = excluded.t_generate_us,"
    " t_reward_us = excluded.t_reward_us, t_train_us = excluded.t_train_us,"
    " t_sync_us = excluded.t_sync_us, t_wait_us = excluded.t_wait_us";
static const char sql_groups_trained[] =
    "UPDATE groups SET status = 'trained' WHERE group_id IN(SELECT s.group_id FROM batch_items b"
    " JOIN samples s ON s.sample_id = b.sample_id WHERE b.run_id = ?1 AND b.step = ?2)";
static const char sql_groups_dropped[] =
    "UPDATE groups SET status = 'dropped' WHERE run_id = ?1 AND step = ?2 AND kind = 'train'"
    " AND status IN('open','scored')";
static const char sql_find_metric[] = "SELECT key_id FROM metric_keys WHERE name = ?1";
static const char sql_insert_metric[] = "INSERT INTO metric_keys(name) VALUES(?1) RETURNING key_id";
static const char sql_put_metric[] =
    "INSERT OR REPLACE INTO metrics(run_id, key_id, step, value) VALUES(?1, ?2, ?3, ?4)";
static const char sql_put_stats[] =
    "INSERT OR REPLACE INTO train_stats(sample_id, kl, entropy, clip_frac, mismatch_kl, ratio_max)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
static const char sql_put_expert[] =
    "INSERT OR REPLACE INTO expert_load(run_id, step, layer, expert, tokens, bias)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6)";

/* In the order of sampling_columns. */
static const char sql_put_sampling[] =
    "INSERT OR REPLACE INTO sampling(run_id, step, worker_id, tokens, turns, turn_tokens, drafts,"
    " drafts_right, preempted, resumed_tokens, prompt_tokens, prefix_tokens)"
    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

const char *const sampling_columns[SAMPLING_COLUMNS] = {
    "tokens",    "turns",          "turn_tokens",   "drafts",        "drafts_right",
    "preempted", "resumed_tokens", "prompt_tokens", "prefix_tokens",
};

static void bind_finite(struct bind *bind, double value)
{
    if (isfinite(value)) {
        bind_real(bind, value);
    } else {
        bind_null(bind);
    }
}

/* Column of integers: what no int64 holds becomes NULL. */
static void bind_whole(struct bind *bind, double value)
{
    if (isfinite(value) && fabs(value) < 9e18) {
        bind_int(bind, (int64_t)value);
    } else {
        bind_null(bind);
    }
}

/* *found: the step has a digest; *same: it equals `digest`. */
static enum status compare_digest(struct writer *writer, const char *sql, int64_t run_id,
                                  int64_t step, const struct digest128 *digest, bool *found,
                                  bool *same)
{
    struct bind bind;

    *same = false;
    TRY(writer_statement(writer, sql, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, step);
    TRY(bind_step(writer->db, &bind, found));
    if (*found) {
        const void *const stored = sqlite3_column_blob(bind.stmt, 0);
        *same = sqlite3_column_bytes(bind.stmt, 0) == (int)sizeof(*digest) &&
                memcmp(stored, digest->bytes, sizeof(*digest)) == 0;
    }
    bind_end(&bind);
    return STATUS_OK;
}

/* *sample_id is the first sample that no manifest may hold, or -1. */
static enum status find_unfit(struct writer *writer, int64_t run_id,
                              const struct manifest_row *manifest, int64_t *sample_id)
{
    *sample_id = -1;
    for (size_t i = 0; i < manifest->n; i++) {
        struct bind bind;
        int64_t one;
        bool found;

        TRY(writer_statement(writer, sql_check_sample, &bind));
        bind_int(&bind, (int64_t)manifest->sample_ids[i]);
        bind_int(&bind, run_id);
        TRY(writer_read_int(writer, &bind, &one, &found));
        if (!found || !isfinite(manifest->advantages[i])) {
            *sample_id = (int64_t)manifest->sample_ids[i];
            return STATUS_OK;
        }
    }
    return STATUS_OK;
}

static enum status insert_items(struct writer *writer, int64_t run_id,
                                const struct manifest_row *manifest)
{
    for (size_t i = 0; i < manifest->n; i++) {
        struct bind bind;

        TRY(writer_statement(writer, sql_insert_item, &bind));
        bind_int(&bind, run_id);
        bind_int(&bind, manifest->step);
        bind_int(&bind, (int64_t)i);
        bind_int(&bind, (int64_t)manifest->sample_ids[i]);
        bind_real(&bind, (double)manifest->advantages[i]);
        TRY(writer_run(writer, &bind));
    }
    return STATUS_OK;
}

enum status writer_put_manifest(struct writer *writer, int64_t run_id,
                                const struct manifest_row *manifest, enum manifest_verdict *verdict,
                                int64_t *sample_id)
{
    struct bind bind;
    bool found;
    bool same;

    *sample_id = -1;
    TRY(compare_digest(writer, sql_find_manifest, run_id, manifest->step, &manifest->digest, &found,
                       &same));
    if (found) {
        *verdict = same ? MANIFEST_SAME : MANIFEST_DIFFERS;
        return STATUS_OK;
    }
    *verdict = MANIFEST_UNFIT;
    TRY(find_unfit(writer, run_id, manifest, sample_id));
    if (*sample_id >= 0) {
        return STATUS_OK;
    }
    TRY(writer_statement(writer, sql_put_manifest, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, manifest->step);
    bind_int(&bind, manifest->version_in);
    bind_blob(&bind, manifest->digest.bytes, sizeof(manifest->digest));
    TRY(writer_run(writer, &bind));
    TRY(insert_items(writer, run_id, manifest));
    *verdict = MANIFEST_WRITTEN;
    return STATUS_OK;
}

static enum status close_groups(struct writer *writer, const char *sql, int64_t run_id,
                                int64_t step)
{
    struct bind bind;

    TRY(writer_statement(writer, sql, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, step);
    return writer_run(writer, &bind);
}

enum status writer_put_step(struct writer *writer, int64_t run_id, const struct step_row *step,
                            const double *columns, enum step_verdict *verdict)
{
    struct bind bind;
    bool found;
    bool same;

    TRY(compare_digest(writer, sql_find_weights, run_id, step->step, &step->weight_digest, &found,
                       &same));
    *verdict = found ? STEP_DIFFERS : STEP_WRITTEN;
    if (same) {
        *verdict = STEP_SAME;
        return STATUS_OK;
    }
    TRY(writer_statement(writer, sql_put_step, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, step->step);
    bind_text(&bind, step->is_skipped ? "skipped" : "trained");
    bind_int(&bind, step->version_out);
    bind_blob(&bind, step->weight_digest.bytes, sizeof(step->weight_digest));
    bind_int(&bind, step->ended_ns);
    for (size_t i = 0; i < n_step_columns; i++) {
        if (i < N_REAL_COLUMNS) {
            bind_finite(&bind, columns[i]);
        } else {
            bind_whole(&bind, columns[i]);
        }
    }
    TRY(writer_run(writer, &bind));
    TRY(close_groups(writer, sql_groups_trained, run_id, step->step));
    return close_groups(writer, sql_groups_dropped, run_id, step->step);
}

static enum status metric_key(struct writer *writer, const char *name, int64_t *key_id)
{
    struct bind bind;
    bool found;

    TRY(writer_statement(writer, sql_find_metric, &bind));
    bind_text(&bind, name);
    TRY(writer_read_int(writer, &bind, key_id, &found));
    if (found) {
        return STATUS_OK;
    }
    TRY(writer_statement(writer, sql_insert_metric, &bind));
    bind_text(&bind, name);
    return writer_read_int(writer, &bind, key_id, &found);
}

enum status writer_put_metric(struct writer *writer, int64_t run_id, int64_t step, const char *name,
                              double value)
{
    struct bind bind;
    int64_t key_id;

    TRY(metric_key(writer, name, &key_id));
    TRY(writer_statement(writer, sql_put_metric, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, key_id);
    bind_int(&bind, step);
    bind_finite(&bind, value);
    return writer_run(writer, &bind);
}

enum status writer_put_train_stats(struct writer *writer, const uint64_t *sample_ids,
                                   const float *stats, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct bind bind;

        TRY(writer_statement(writer, sql_put_stats, &bind));
        bind_int(&bind, (int64_t)sample_ids[i]);
        for (size_t j = 0; j < TRAIN_STATS; j++) {
            bind_finite(&bind, (double)stats[i * TRAIN_STATS + j]);
        }
        TRY(writer_run(writer, &bind));
    }
    return STATUS_OK;
}

static enum status put_expert(struct writer *writer, int64_t run_id, int64_t step,
                              const struct expert_rows *experts, size_t i)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_put_expert, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, step);
    bind_int(&bind, experts->layers[i / experts->n_experts]);
    bind_int(&bind, (int64_t)(i % experts->n_experts));
    bind_int(&bind, experts->tokens[i]);
    if (experts->bias != NULL) {
        bind_finite(&bind, (double)experts->bias[i]);
    } else {
        bind_null(&bind);
    }
    return writer_run(writer, &bind);
}

enum status writer_put_experts(struct writer *writer, int64_t run_id, int64_t step,
                               const struct expert_rows *experts)
{
    for (size_t i = 0; i < experts->n_layers * experts->n_experts; i++) {
        TRY(put_expert(writer, run_id, step, experts, i));
    }
    return STATUS_OK;
}

enum status writer_put_sampling(struct writer *writer, int64_t run_id,
                                const struct sampling_row *row)
{
    struct bind bind;

    TRY(writer_statement(writer, sql_put_sampling, &bind));
    bind_int(&bind, run_id);
    bind_int(&bind, row->step);
    bind_int(&bind, row->worker_id);
    for (size_t i = 0; i < SAMPLING_COLUMNS; i++) {
        bind_int(&bind, row->counts[i]);
    }
    return writer_run(writer, &bind);
}
