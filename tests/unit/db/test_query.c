/* Reading: views, tokens(), the guards around SQL that a person typed, and the invariants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "db/check.h"
#include "db/schema.h"
#include "tests/unit/db/db_fixture.h"

#include <sqlite3.h>

/* Two groups of step 1, trained; one open group of step 2. */
static void fill(struct fixture *f)
{
    const uint64_t ids[] = {100, 101, 102, 103};
    const float advantages[] = {-1.0F, 1.0F, -1.0F, 1.0F};
    const struct manifest_row manifest = {
        .step = 1, .digest = {{9}}, .sample_ids = ids, .advantages = advantages, .n = 4};
    const struct step_row step = {.step = 1, .version_out = 1, .ended_ns = 5};
    const float stats[20] = {0};
    double columns[12] = {0};
    enum manifest_verdict verdict = MANIFEST_UNFIT;
    int64_t unfit = 0;
    enum step_verdict step_verdict = STEP_SAME;

    fixture_group(f, 4, 1, 4, 100);
    fixture_group(f, 5, 1, 4, 200);
    fixture_group(f, 6, 2, 2, 300);
    assert_ok(writer_put_manifest(f->writer, f->run_id, &manifest, &verdict, &unfit));
    assert_int_equal(verdict, MANIFEST_WRITTEN);
    assert_ok(writer_put_step(f->writer, f->run_id, &step, columns, &step_verdict));
    assert_ok(writer_put_train_stats(f->writer, ids, stats, 4));
    assert_ok(writer_put_metric(f->writer, f->run_id, 1, "kl", 0.25));
    assert_ok(writer_commit(f->writer));
}

static const char *const view_names[] = {
    "v_samples", "v_groups",  "v_steps",  "v_batch",       "v_prompt_history", "v_expert_load",
    "v_scores",  "v_rewards", "v_errors", "v_length_hist", "v_suspects",       "v_metrics",
};

/* Rows of a statement on a restricted connection. */
static size_t count_rows(struct db *db, const char *sql)
{
    struct query *query = NULL;
    bool has_row = true;
    size_t n = 0;

    assert_ok(query_open(db, sql, &query));
    for (;;) {
        assert_ok(query_next(query, &has_row));
        if (!has_row) {
            break;
        }
        n++;
    }
    query_close(query);
    return n;
}

static void read_every_view(const struct fixture *f)
{
    struct db *db = NULL;
    char sql[64];

    assert_ok(db_open_readonly(f->path, DB_RESTRICTED, &db));
    for (size_t i = 0; i < sizeof(view_names) / sizeof(view_names[0]); i++) {
        (void)snprintf(sql, sizeof(sql), "SELECT * FROM %s", view_names[i]);
        (void)count_rows(db, sql);
    }
    db_close(db);
}

static void every_view_runs_on_an_empty_and_a_filled_database(void **state)
{
    struct fixture f;

    (void)state;
    fixture_create(&f);
    read_every_view(&f);
    fill(&f);
    read_every_view(&f);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM v_samples"), 10);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM v_batch WHERE staleness = 0"), 4);
    assert_int_equal(fixture_read(&f, "SELECT samples FROM v_steps WHERE step = 1"), 8);
    assert_int_equal(fixture_read(&f, "SELECT duplicates FROM v_groups WHERE group_id = 4"), 3);
    fixture_destroy(&f);
}

static void tokens_gives_a_row_for_each_token(void **state)
{
    struct fixture f;

    (void)state;
    fixture_create(&f);
    fill(&f);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM tokens(101)"), 5);
    assert_int_equal(fixture_read(&f, "SELECT count(logp) FROM tokens(101)"), 2);
    assert_int_equal(fixture_read(&f, "SELECT id FROM tokens(101) WHERE pos = 4"), 11);
    assert_int_equal(fixture_read(&f, "SELECT sum(is_prompt) FROM tokens(101)"), 3);
    assert_int_equal(fixture_read(&f, "SELECT logp = -0.25 FROM tokens(101) WHERE pos = 4"), 1);
    assert_int_equal(fixture_read(&f, "SELECT advantage = 1.0 FROM tokens(101) WHERE pos = 3"), 1);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM tokens(999)"), 0);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples s JOIN tokens(s.sample_id)"),
                     50);
    fixture_destroy(&f);
}

static void assert_refused(struct db *db, const char *sql)
{
    struct query *query = NULL;
    bool has_row = true;

    enum status status = query_open(db, sql, &query);
    while (status == STATUS_OK && has_row) {
        status = query_next(query, &has_row);
    }
    query_close(query);
    if (status != STATUS_BAD_ARGUMENT) {
        fail_msg("not refused: %s (%s)", sql, status_name(status));
    }
}

static void typed_sql_can_only_read(void **state)
{
    struct fixture f;
    struct db *db = NULL;
    static const char *const refused[] = {
        "ATTACH '/tmp/hone-attached.db' AS other",
        "PRAGMA user_version",
        "PRAGMA query_only=OFF",
        "PRAGMA writable_schema=1",
        "SELECT * FROM pragma_table_info('samples')",
        "INSERT INTO runs(name) VALUES('x')",
        "UPDATE samples SET reward = 1",
        "DELETE FROM samples",
        "DROP TABLE samples",
        "CREATE TABLE t(x)",
        "CREATE TEMP TABLE t(x)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "VACUUM INTO '/tmp/hone-stolen.db'",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT fts3_tokenizer('x', x'00')",
        "SELECT randomblob(10)",
        "SELECT 1; DELETE FROM samples",
        "SELECT 1; SELECT 2",
        "",
        "  -- nothing",
        "SELEC 1",
        "SELECT no_such_column FROM samples",
        "SELECT zeroblob(1000000000)",
    };

    (void)state;
    fixture_create(&f);
    fill(&f);
    assert_ok(db_open_readonly(f.path, DB_RESTRICTED, &db));
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_refused(db, refused[i]);
    }
    assert_int_equal(count_rows(db, "SELECT sqrt(2), json_extract('{\"a\":1}', '$.a'), "
                                    "'{\"a\":1}' ->> '$.a'; -- fine "),
                     1);
    assert_int_equal(count_rows(db, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c"
                                    " LIMIT 5) SELECT x FROM c"),
                     5);
    assert_int_equal(count_rows(db, "SELECT id, logp FROM tokens(101)"), 5);
    db_close(db);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 10);
    fixture_destroy(&f);
}

static void a_query_without_end_is_stopped(void **state)
{
    struct fixture f;
    struct db *db = NULL;
    struct query *query = NULL;
    bool has_row = false;

    (void)state;
    fixture_create(&f);
    assert_ok(db_open_readonly(f.path, DB_RESTRICTED, &db));
    db_set_timeout(db, 100000);
    assert_ok(query_open(db,
                         "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
                         " SELECT sum(x) FROM c",
                         &query));
    const int64_t begin_us = clock_now_us();
    assert_status(query_next(query, &has_row), STATUS_TIMEOUT, "100 ms");
    assert_true(clock_now_us() - begin_us < 2000000);
    query_close(query);
    assert_int_equal(count_rows(db, "SELECT 1"), 1); /* the next query has its own budget */
    db_close(db);
    fixture_destroy(&f);
}

static void a_reader_leaves_the_log_to_the_writer(void **state)
{
    struct fixture f;
    struct db *db = NULL;
    int64_t wal_bytes = 0;

    (void)state;
    fixture_create(&f);
    fill(&f);
    assert_ok(db_open_readonly(f.path, DB_RESTRICTED, &db));
    assert_int_equal(count_rows(db, "SELECT * FROM samples"), 10);
    db_close(db);
    assert_ok(writer_checkpoint(f.writer, &wal_bytes));
    assert_true(wal_bytes > 0);
    writer_close(f.writer);
    f.writer = NULL;
    assert_ok(db_open_readonly(f.path, DB_RESTRICTED, &db)); /* a finished run */
    assert_int_equal(count_rows(db, "SELECT * FROM samples"), 10);
    db_close(db);
    fixture_destroy(&f);
}

static void a_newer_schema_is_refused(void **state)
{
    struct fixture f;
    struct db *db = NULL;
    sqlite3 *raw = NULL;

    (void)state;
    fixture_create(&f);
    writer_close(f.writer);
    f.writer = NULL;
    assert_int_equal(sqlite3_open(f.path, &raw), SQLITE_OK);
    assert_int_equal(sqlite3_exec(raw, "PRAGMA user_version=1000", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(raw), SQLITE_OK);
    assert_status(db_open_readonly(f.path, DB_TRUSTED, &db), STATUS_UNSUPPORTED, "version 1000");
    assert_status(writer_open(f.path, &f.writer), STATUS_UNSUPPORTED, "version 1000");
    fixture_destroy(&f);
}

struct violations {
    char all[4000]; /* "invariant: what; " of each */
};

static void remember(void *context, const char *invariant, const char *what)
{
    struct violations *const seen = context;
    const size_t used = strlen(seen->all);
    (void)snprintf(seen->all + used, sizeof(seen->all) - used, "%s: %s; ", invariant, what);
}

static size_t check(const struct fixture *f, struct violations *seen)
{
    struct db *db = NULL;
    size_t n = 0;

    assert_ok(db_open_readonly(f->path, DB_TRUSTED, &db));
    assert_ok(db_check(db, remember, seen, &n));
    db_close(db);
    return n;
}

static void check_accepts_a_sound_run(void **state)
{
    struct fixture f;
    struct violations seen = {""};

    (void)state;
    fixture_create(&f);
    assert_int_equal(check(&f, &seen), 0);
    fill(&f);
    assert_int_equal(check(&f, &seen), 0);
    assert_string_equal(seen.all, "");
    fixture_destroy(&f);
}

/* Each plant goes in through a raw connection that ignores foreign keys and is taken out again. */
static void check_finds_what_was_planted(void **state)
{
    static const struct {
        const char *plant, *undo, *found;
    } plants[] = {
        {"UPDATE samples SET status = 'late' WHERE sample_id = 100",
         "UPDATE samples SET status = 'ok' WHERE sample_id = 100", "scored ok: step 1 position 0"},
        {"UPDATE steps SET manifest_sha = NULL", "UPDATE steps SET manifest_sha = x'09'",
         "after its manifest: step 1"},
        {"DELETE FROM batch_items WHERE pos = 1",
         "INSERT INTO batch_items VALUES(1, 1, 1, 101, 1.0)", "no gap: step 1"},
        {"UPDATE samples SET reward = 5 WHERE sample_id = 301",
         "UPDATE samples SET reward = 1 WHERE sample_id = 301", "ok scores: sample 301: 5.0"},
        {"UPDATE samples SET idx = 9 WHERE sample_id = 300",
         "UPDATE samples SET idx = 0 WHERE sample_id = 300", "group's size: sample 300"},
        {"DELETE FROM rewards WHERE sample_id = 300",
         "INSERT INTO rewards VALUES(300, 1, 'ok', 0.0, 0, 1, 0, NULL, NULL)",
         "every scored sample: sample 300"},
        {"UPDATE groups SET reward_mean = 0.75 WHERE group_id = 6",
         "UPDATE groups SET reward_mean = 0.5 WHERE group_id = 6", "members': group 6"},
        {"UPDATE samples SET version_first = 7 WHERE sample_id = 103",
         "UPDATE samples SET version_first = 0 WHERE sample_id = 103", "sample 103: weights 7"},
        {"UPDATE samples SET n_tok = 3 WHERE sample_id = 300",
         "UPDATE samples SET n_tok = 2 WHERE sample_id = 300", "log-probabilities: sample 300"},
        {"UPDATE samples SET group_id = 77 WHERE sample_id = 300",
         "UPDATE samples SET group_id = 6 WHERE sample_id = 300",
         "points at nothing: samples row 300"},
        {"UPDATE samples SET attempt = 1, idx = 0 WHERE sample_id = 301",
         "UPDATE samples SET attempt = 0, idx = 1 WHERE sample_id = 301", "index 0"},
    };
    struct fixture f;
    struct violations seen;
    sqlite3 *raw = NULL;

    (void)state;
    fixture_create(&f);
    fill(&f);
    writer_close(f.writer);
    f.writer = NULL;
    assert_int_equal(sqlite3_open(f.path, &raw), SQLITE_OK);
    for (size_t i = 0; i < sizeof(plants) / sizeof(plants[0]); i++) {
        assert_int_equal(sqlite3_exec(raw, plants[i].plant, NULL, NULL, NULL), SQLITE_OK);
        seen.all[0] = '\0';
        if (check(&f, &seen) == 0 || strstr(seen.all, plants[i].found) == NULL) {
            fail_msg("%s: \"%s\", want \"%s\"", plants[i].plant, seen.all, plants[i].found);
        }
        assert_int_equal(sqlite3_exec(raw, plants[i].undo, NULL, NULL, NULL), SQLITE_OK);
    }
    assert_int_equal(sqlite3_close(raw), SQLITE_OK);
    assert_int_equal(check(&f, &seen), 0);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_view_runs_on_an_empty_and_a_filled_database),
        cmocka_unit_test(tokens_gives_a_row_for_each_token),
        cmocka_unit_test(typed_sql_can_only_read),
        cmocka_unit_test(a_query_without_end_is_stopped),
        cmocka_unit_test(a_reader_leaves_the_log_to_the_writer),
        cmocka_unit_test(a_newer_schema_is_refused),
        cmocka_unit_test(check_accepts_a_sound_run),
        cmocka_unit_test(check_finds_what_was_planted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
