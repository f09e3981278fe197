/* Owns the invariants as SQL: each statement yields one text per violation. */
#include "db/check.h"

#define TOLD_MAX 20u

struct invariant {
    const char *name, *sql;
};

static const struct invariant invariants[] = {
    {"a sample is in one manifest at most",
     "SELECT format('sample %d', sample_id) FROM batch_items GROUP BY sample_id"
     " HAVING count(*) > 1"},
    {"a manifest holds only stored samples that were scored ok",
     "SELECT format('step %d position %d sample %d (%s)', b.step, b.pos, b.sample_id,"
     " coalesce(s.status, 'absent')) FROM batch_items b"
     " LEFT JOIN samples s ON s.sample_id = b.sample_id"
     " WHERE s.sample_id IS NULL OR s.status <> 'ok'"},
    {"a step is trained only after its manifest",
     "SELECT format('step %d (%s)', t.step, t.status) FROM steps t WHERE t.status IN('committed',"
     "'trained') AND (t.manifest_sha IS NULL OR (t.status = 'trained' AND NOT EXISTS(SELECT 1 FROM"
     " batch_items b WHERE b.run_id = t.run_id AND b.step = t.step)))"},
    {"the positions of a manifest have no gap",
     "SELECT format('step %d', step) FROM batch_items GROUP BY run_id, step"
     " HAVING min(pos) <> 0 OR max(pos) + 1 <> count(*)"},
    {"a place of a group holds one living sample",
     "SELECT format('group %d index %d', group_id, idx) FROM samples"
     " WHERE status IN('waiting','ok','masked') GROUP BY group_id, idx HAVING count(*) > 1"},
    {"a sample's index is below its group's size",
     "SELECT format('sample %d', s.sample_id) FROM samples s JOIN groups g"
     " ON g.group_id = s.group_id WHERE s.idx < 0 OR s.idx >= g.n"},
    {"a reward is the weighted sum of its ok scores",
     "SELECT format('sample %d: %s, its scores give %s', s.sample_id, s.reward, x.total)"
     " FROM samples s JOIN (SELECT r.sample_id, sum(iif(r.status = 'ok', f.weight * r.value, NULL))"
     " AS total FROM rewards r JOIN reward_fns f ON f.fn_id = r.fn_id WHERE f.weight <> 0"
     " GROUP BY r.sample_id) x ON x.sample_id = s.sample_id WHERE s.status = 'ok'"
     " AND (s.reward IS NULL AND x.total IS NOT NULL OR abs(s.reward - coalesce(x.total, 0))"
     " > 1e-9 * max(1, abs(s.reward)))"},
    {"only samples that were scored ok have a reward",
     "SELECT format('sample %d (%s)', sample_id, status) FROM samples"
     " WHERE reward IS NOT NULL AND status IN('waiting','masked','aborted')"},
    {"every component has a score of every scored sample",
     "SELECT format('sample %d', s.sample_id) FROM samples s JOIN groups g"
     " ON g.group_id = s.group_id WHERE s.status IN('ok','masked')"
     " AND (SELECT count(*) FROM rewards r WHERE r.sample_id = s.sample_id) <>"
     " (SELECT count(*) FROM reward_fns f WHERE f.run_id = g.run_id)"},
    {"a score has a value exactly when it is ok",
     "SELECT format('sample %d component %d', sample_id, fn_id) FROM rewards"
     " WHERE (status = 'ok') <> (value IS NOT NULL)"},
    {"the totals of a group are its members'",
     "SELECT format('group %d: %d scored, mean %s; its samples give %d, %s', g.group_id,"
     " g.n_scored, g.reward_mean, x.n, x.mean) FROM groups g LEFT JOIN (SELECT group_id,"
     " count(*) AS n, avg(iif(status = 'ok', reward, NULL)) AS mean FROM samples"
     " WHERE status IN('ok','masked') GROUP BY group_id) x ON x.group_id = g.group_id"
     " WHERE coalesce(g.n_scored, 0) <> coalesce(x.n, 0) OR (g.reward_mean IS NULL) <>"
     " (x.mean IS NULL) OR abs(g.reward_mean - x.mean) > 1e-9 * max(1, abs(x.mean))"},
    {"the spread of a group is its members'",
     "SELECT format('group %d: %s, its samples give %s', g.group_id, g.reward_std, x.std)"
     " FROM groups g JOIN (SELECT s.group_id, sqrt(sum((s.reward - m.mean) * (s.reward - m.mean))"
     " / (count(*) - 1)) AS std FROM samples s JOIN (SELECT group_id, avg(reward) AS mean"
     " FROM samples WHERE status = 'ok' GROUP BY group_id) m ON m.group_id = s.group_id"
     " WHERE s.status = 'ok' AND s.reward IS NOT NULL GROUP BY s.group_id HAVING count(*) > 1) x"
     " ON x.group_id = g.group_id WHERE g.reward_std IS NULL"
     " OR abs(g.reward_std - x.std) > 1e-7 * max(1, abs(x.std))"},
    {"a sample is trained by weights near those that drew it",
     "SELECT format('sample %d: weights %d, trained at %d', s.sample_id, s.version_first,"
     " t.version_in) FROM batch_items b JOIN samples s ON s.sample_id = b.sample_id"
     " JOIN steps t ON t.run_id = b.run_id AND t.step = b.step JOIN runs r ON r.run_id = b.run_id"
     " WHERE t.version_in - s.version_first NOT BETWEEN 0 AND"
     " coalesce(json_extract(r.config_json, '$.grpo.max_staleness'), 0)"},
    {"every sample has its tokens and log-probabilities",
     "SELECT format('sample %d', s.sample_id) FROM samples s WHERE NOT EXISTS(SELECT 1 FROM"
     " sample_blobs b WHERE b.sample_id = s.sample_id) OR (SELECT count(id) FROM"
     " tokens(s.sample_id)) <> s.n_prompt + s.n_tok OR (SELECT count(logp) FROM"
     " tokens(s.sample_id)) <> s.n_tok"},
    {"no row points at nothing",
     "SELECT format('%s row %s -> %s', \"table\", rowid, parent) FROM pragma_foreign_key_check"},
    {"the file is sound",
     "SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'"},
};

size_t db_check_count(void)
{
    return sizeof(invariants) / sizeof(invariants[0]);
}

static enum status check_one(struct db *db, const struct invariant *invariant,
                             check_listener *listener, void *context, size_t *n_violations)
{
    struct query *query;
    bool has_row = true;

    TRY(query_open(db, invariant->sql, &query));
    enum status status = STATUS_OK;
    for (size_t i = 0; i < TOLD_MAX && status == STATUS_OK && has_row; i++) {
        status = query_next(query, &has_row);
        if (status == STATUS_OK && has_row) {
            listener(context, invariant->name, query_text(query, 0, NULL));
            (*n_violations)++;
        }
    }
    query_close(query);
    return status;
}

enum status db_check(struct db *db, check_listener *listener, void *context, size_t *n_violations)
{
    *n_violations = 0;
    for (size_t i = 0; i < db_check_count(); i++) {
        const enum status status = check_one(db, &invariants[i], listener, context, n_violations);
        if (status != STATUS_OK) {
            return status_wrap(status, "checking that %s", invariants[i].name);
        }
    }
    return STATUS_OK;
}
