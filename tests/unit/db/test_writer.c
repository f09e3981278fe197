/* The writer: schema, rows, transactions, manifests, and what a crash leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "db/reader.h"
#include "db/schema.h"
#include "tests/unit/db/db_fixture.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

static void a_new_database_has_the_schema_and_its_marks(void **state)
{
    struct fixture f;

    (void)state;
    fixture_create(&f);
    assert_int_equal(fixture_read(&f, "PRAGMA application_id"), SCHEMA_APPLICATION_ID);
    assert_int_equal(fixture_read(&f, "PRAGMA user_version"), SCHEMA_VERSION);
    assert_int_equal(fixture_read(&f, "PRAGMA page_size"), 8192);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'"
                                      " AND sql LIKE '%STRICT%'"),
                     18);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM sqlite_schema WHERE type = 'view'"),
                     13);
    fixture_destroy(&f);
}

static int64_t read_raw(sqlite3 *raw, const char *sql)
{
    sqlite3_stmt *stmt = NULL;

    assert_int_equal(sqlite3_prepare_v2(raw, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    const int64_t value = sqlite3_column_int64(stmt, 0);
    assert_int_equal(sqlite3_finalize(stmt), SQLITE_OK);
    return value;
}

/* A file as version 1 left it, with a group in it. */
static void make_version_1(struct fixture *f)
{
    sqlite3 *raw = NULL;

    fixture_create(f);
    fixture_group(f, 4, 1, 2, 100);
    assert_ok(writer_commit(f->writer));
    writer_close(f->writer);
    f->writer = NULL;
    assert_int_equal(sqlite3_open(f->path, &raw), SQLITE_OK);
    assert_int_equal(sqlite3_exec(raw,
                                  "DROP VIEW v_sampling; DROP TABLE sampling;"
                                  "PRAGMA user_version=1",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_close(raw), SQLITE_OK);
}

static void an_older_file_is_kept_and_becomes_one_of_this_version(void **state)
{
    struct fixture f;
    char kept[400];
    struct db *db = NULL;
    sqlite3 *raw = NULL;

    (void)state;
    make_version_1(&f);
    assert_ok(db_open_readonly(f.path, DB_TRUSTED, &db)); /* a reader takes it as it is */
    assert_int_equal(db_schema_version(db), 1);
    db_close(db);
    for (size_t i = 0; i < 2; i++) {
        fixture_open(&f);
        assert_int_equal(fixture_read(&f, "PRAGMA user_version"), SCHEMA_VERSION);
        assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 2);
        assert_int_equal(fixture_read(&f, "SELECT count(*) FROM v_sampling"), 0);
        writer_close(f.writer);
        f.writer = NULL;
    }
    (void)snprintf(kept, sizeof(kept), "%s.version-1", f.path);
    assert_int_equal(sqlite3_open_v2(kept, &raw, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(read_raw(raw, "PRAGMA user_version"), 1);
    assert_int_equal(read_raw(raw, "SELECT count(*) FROM samples"), 2);
    assert_int_equal(read_raw(raw, "SELECT count(*) FROM sqlite_schema WHERE name = 'sampling'"),
                     0);
    assert_int_equal(sqlite3_close(raw), SQLITE_OK);
    fixture_destroy(&f);
}

static void a_worker_may_say_again_what_its_sampling_came_to(void **state)
{
    struct fixture f;
    struct sampling_row row = {.step = 3};

    (void)state;
    fixture_create(&f);
    for (int64_t i = 0; i < 2; i++) {
        assert_ok(writer_put_worker(f.writer, f.run_id, "w", "host", 100 + i, &row.worker_id));
        for (int64_t factor = 1; factor <= 2; factor++) {
            for (size_t j = 0; j < SAMPLING_COLUMNS; j++) {
                row.counts[j] = factor * ((int64_t)j + 1) * (i + 1);
            }
            assert_ok(writer_put_sampling(f.writer, f.run_id, &row));
        }
    }
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM sampling"), 2);
    assert_int_equal(fixture_read(&f, "SELECT workers FROM v_sampling WHERE step = 3"), 2);
    assert_int_equal(fixture_read(&f, "SELECT tokens FROM v_sampling"), 2 + 4);
    assert_int_equal(fixture_read(&f, "SELECT 1000 * tokens_per_turn FROM v_sampling"), 1500);
    assert_int_equal(fixture_read(&f, "SELECT 1000 * acceptance FROM v_sampling"), 1250);
    assert_int_equal(fixture_read(&f, "SELECT preempted FROM v_sampling"), 6 * 6);
    assert_int_equal(fixture_read(&f, "SELECT resumed_tokens FROM v_sampling"), 6 * 7);
    assert_int_equal(fixture_read(&f, "SELECT prompt_tokens FROM v_sampling"), 6 * 8);
    assert_int_equal(fixture_read(&f, "SELECT prefix_tokens FROM v_sampling"), 6 * 9);
    fixture_destroy(&f);
}

static void a_sample_comes_back_as_it_was_put(void **state)
{
    struct fixture f;
    struct arena *arena = NULL;
    struct sample_row row;
    bool found = false;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 2, 100);
    assert_ok(writer_commit(f.writer));
    assert_ok(arena_create(4096, &arena));
    assert_ok(reader_sample(writer_db(f.writer), 101, arena, &row, &found));
    assert_true(found);
    assert_int_equal(row.n_prompt, 3);
    assert_int_equal(row.n_tokens, 2);
    assert_memory_equal(row.tokens, fixture_ids, sizeof(fixture_ids));
    assert_memory_equal(row.logprobs, fixture_logprobs, sizeof(fixture_logprobs));
    assert_true(row.seed == UINT64_C(0xfedcba9876543210));
    assert_int_equal(row.status, ROW_OK);
    assert_string_equal(row.finish, "stop");
    assert_string_equal(row.completion.data, "=7");
    assert_true(row.has_reward && row.reward == 1.0);
    assert_ok(reader_sample(writer_db(f.writer), 999, arena, &row, &found));
    assert_false(found);
    arena_destroy(arena);
    fixture_destroy(&f);
}

static void the_same_attempt_is_stored_once(void **state)
{
    struct fixture f;
    bool is_new = true;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 2, 100);
    struct sample_row again = fixture_sample(200, 4, 0);
    assert_ok(writer_put_sample(f.writer, &again, &is_new));
    assert_false(is_new);
    again.attempt = 1;
    again.status = ROW_LATE;
    assert_ok(writer_put_sample(f.writer, &again, &is_new));
    assert_true(is_new);
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 3);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM sample_blobs"), 3);
    fixture_destroy(&f);
}

static void rows_are_seen_by_others_only_after_commit(void **state)
{
    struct fixture f;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 2, 100);
    assert_true(writer_pending(f.writer) > 0);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 0);
    assert_ok(writer_commit(f.writer));
    assert_int_equal(writer_pending(f.writer), 0);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 2);
    fixture_group(&f, 5, 1, 2, 200);
    writer_rollback(f.writer);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 2);
    fixture_destroy(&f);
}

/* The child dies between insert and commit, and between commit and anything else. */
static void die_while_writing(struct fixture *f, bool commits)
{
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        fixture_open(f);
        fixture_group(f, 4, 1, 2, 100);
        const bool is_done = !commits || writer_commit(f->writer) == STATUS_OK;
        _exit(is_done ? (raise(SIGKILL), 1) : 2);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how));
}

static void a_crash_before_commit_leaves_nothing_and_one_after_it_all(void **state)
{
    struct fixture f;

    (void)state;
    fixture_create(&f);
    writer_close(f.writer);
    die_while_writing(&f, false);
    fixture_open(&f);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 0);
    writer_close(f.writer);
    die_while_writing(&f, true);
    fixture_open(&f);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 2);
    fixture_destroy(&f);
}

static enum manifest_verdict put_manifest(struct fixture *f, int64_t step, unsigned char digest,
                                          uint64_t first, size_t n, int64_t *unfit)
{
    uint64_t ids[8];
    const float advantages[8] = {-1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F};
    enum manifest_verdict verdict = MANIFEST_UNFIT;

    for (size_t i = 0; i < n; i++) {
        ids[i] = first + i;
    }
    const struct manifest_row row = {
        .step = step, .digest = {{digest}}, .sample_ids = ids, .advantages = advantages, .n = n};
    assert_ok(writer_put_manifest(f->writer, f->run_id, &row, &verdict, unfit));
    assert_ok(writer_commit(f->writer));
    return verdict;
}

static void a_manifest_is_written_once_and_never_changed(void **state)
{
    struct fixture f;
    struct arena *arena = NULL;
    struct manifest_row row;
    bool found = false;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_WRITTEN);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_SAME);
    assert_int_equal(put_manifest(&f, 1, 8, 100, 3, &unfit), MANIFEST_DIFFERS);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM batch_items"), 4);
    assert_ok(arena_create(4096, &arena));
    assert_ok(reader_manifest(writer_db(f.writer), f.run_id, 1, arena, &row, &found));
    assert_true(found);
    assert_int_equal(row.n, 4);
    assert_int_equal(row.digest.bytes[0], 7);
    assert_true(row.sample_ids[3] == 103 && row.advantages[3] == 1.0F);
    arena_destroy(arena);
    fixture_destroy(&f);
}

static void a_manifest_with_an_unfit_sample_writes_nothing(void **state)
{
    struct fixture f;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    fixture_group(&f, 5, 2, 4, 200);
    assert_ok(writer_set_sample(f.writer, 102, ROW_MASKED, false, 0.0));
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_UNFIT);
    assert_int_equal(unfit, 102);
    assert_int_equal(put_manifest(&f, 1, 7, 900, 1, &unfit), MANIFEST_UNFIT);
    assert_int_equal(put_manifest(&f, 2, 7, 200, 4, &unfit), MANIFEST_WRITTEN);
    assert_int_equal(put_manifest(&f, 3, 7, 203, 1, &unfit), MANIFEST_UNFIT);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM steps"), 1);
    fixture_destroy(&f);
}

static void a_step_can_be_reported_again(void **state)
{
    struct fixture f;
    double columns[12];
    enum step_verdict verdict = STEP_DIFFERS;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    fixture_group(&f, 5, 1, 2, 200);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_WRITTEN);
    for (size_t i = 0; i < n_step_columns; i++) {
        columns[i] = i == 3 ? (double)NAN : (double)i;
    }
    const uint64_t ids[] = {100, 101};
    const float stats[] = {0.0F, 1.0F, 0.0F, 0.0F, 1.0F, 0.0F, 1.0F, 0.0F, NAN, 1.0F};
    const struct expert_rows experts = {.layers = (const int32_t[]){1},
                                        .tokens = (const uint32_t[]){5, 0, 3},
                                        .n_layers = 1,
                                        .n_experts = 3};
    struct step_row step = {.step = 1, .version_out = 1, .ended_ns = 9};
    for (int i = 0; i < 2; i++) {
        assert_ok(writer_put_step(f.writer, f.run_id, &step, columns, &verdict));
        assert_int_equal(verdict, i == 0 ? STEP_WRITTEN : STEP_SAME);
        assert_ok(writer_put_metric(f.writer, f.run_id, 1, "kl", 0.5));
        assert_ok(writer_put_train_stats(f.writer, ids, stats, 2));
        assert_ok(writer_put_experts(f.writer, f.run_id, 1, &experts));
        assert_ok(writer_commit(f.writer));
    }
    step.weight_digest.bytes[0] = 1;
    assert_ok(writer_put_step(f.writer, f.run_id, &step, columns, &verdict));
    assert_int_equal(verdict, STEP_DIFFERS);
    writer_rollback(f.writer);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM metrics"), 1);
    assert_int_equal(fixture_read(&f, "SELECT tokens FROM expert_load WHERE expert = 2"), 3);
    assert_int_equal(fixture_read(&f, "SELECT n_tok FROM steps WHERE status = 'trained'"), 6);
    assert_int_equal(fixture_read(&f, "SELECT entropy IS NULL FROM steps"), 1);
    assert_int_equal(
        fixture_read(&f, "SELECT count(*) FROM groups WHERE group_id = 4 AND status = 'trained'"),
        1);
    assert_int_equal(
        fixture_read(&f, "SELECT count(*) FROM groups WHERE group_id = 5 AND status = 'dropped'"),
        1);
    fixture_destroy(&f);
}

static void a_retired_sample_leaves_the_totals_of_its_group(void **state)
{
    struct fixture f;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    assert_ok(writer_retire_sample(f.writer, 103, ROW_STALE));
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT n_scored FROM groups"), 3);
    assert_int_equal(fixture_read(&f, "SELECT abs(reward_mean - 1.0 / 3) < 1e-12 FROM groups"), 1);
    assert_int_equal(fixture_read(&f, "SELECT abs(reward_std - sqrt(1.0 / 3)) < 1e-12 FROM groups"),
                     1);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 3, &unfit), MANIFEST_WRITTEN);
    assert_ok(writer_retire_sample(f.writer, 100, ROW_LATE)); /* in a manifest: keeps its status */
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples WHERE status = 'ok'"), 3);
    fixture_destroy(&f);
}

/* Groups until the limit of pages is met; how many were committed. */
static int64_t fill_until_full(struct fixture *f)
{
    int64_t n = 0;
    enum status status = STATUS_OK;
    static char text[4096];
    static const int64_t limit = 400;

    memset(text, 'x', sizeof(text));
    for (int64_t i = 10; status == STATUS_OK; i++) {
        struct sample_row row = fixture_sample(1000 + i, 4, 0);
        bool is_new = false;

        assert_true(i < limit);
        row.attempt = i;
        row.status = ROW_LATE;
        row.completion = (struct text_span){text, sizeof(text)};
        status = writer_put_sample(f->writer, &row, &is_new);
        if (status == STATUS_OK) {
            status = writer_commit(f->writer);
        }
        n += status == STATUS_OK ? 1 : 0;
    }
    assert_int_equal(status, STATUS_NO_SPACE);
    assert_non_null(strstr(status_message(), f->path));
    return n;
}

static void a_full_disk_loses_nothing_that_was_committed(void **state)
{
    struct fixture f;
    struct query *query = NULL;
    bool has_row = false;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 2, 100);
    assert_ok(writer_commit(f.writer));
    assert_ok(query_open(writer_db(f.writer), "PRAGMA max_page_count=80", &query));
    assert_ok(query_next(query, &has_row));
    query_close(query);
    const int64_t n = fill_until_full(&f);
    writer_rollback(f.writer);
    assert_true(n > 0);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 2 + n);
    assert_ok(query_open(writer_db(f.writer), "PRAGMA max_page_count=100000", &query));
    assert_ok(query_next(query, &has_row));
    query_close(query);
    fixture_group(&f, 5, 1, 2, 200);
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples"), 4 + n);
    fixture_destroy(&f);
}

static void a_second_writer_is_refused(void **state)
{
    struct fixture f;
    struct writer *second = NULL;

    (void)state;
    fixture_create(&f);
    assert_status(writer_open(f.path, &second), STATUS_BUSY, NULL);
    assert_null(second);
    fixture_destroy(&f);
}

static void a_run_keeps_its_configuration_and_scorers(void **state)
{
    struct fixture f;
    struct run_row other = {.name = "toy", .config_json = "{}", .config_sha = {{1}}};
    struct fn_row fn = {
        .name = "py", .source = "cmd:x", .scope = "sample", .weight = 1.0, .sha_hex = ""};
    char sha[65];
    int64_t id = 0;
    int64_t again = 0;

    (void)state;
    fixture_create(&f);
    assert_status(writer_put_run(f.writer, &other, &id), STATUS_BAD_CONFIG, "toy");
    memset(sha, 'a', 64);
    sha[64] = '\0';
    fn.sha_hex = sha;
    assert_ok(writer_put_fn(f.writer, f.run_id, &fn, &id));
    assert_ok(writer_put_fn(f.writer, f.run_id, &fn, &again));
    assert_int_equal(id, again);
    sha[0] = 'b';
    assert_status(writer_put_fn(f.writer, f.run_id, &fn, &id), STATUS_BAD_CONFIG, "py");
    fixture_destroy(&f);
}

static void incarnations_count_up_and_end(void **state)
{
    struct fixture f;
    struct incarnation_row row;
    struct arena *arena = NULL;
    int64_t first = 0;
    int64_t second = 0;

    (void)state;
    fixture_create(&f);
    assert_ok(arena_create(4096, &arena));
    assert_ok(reader_incarnation(writer_db(f.writer), f.run_id, arena, &row));
    assert_int_equal(row.inc, 0);
    assert_ok(writer_put_incarnation(f.writer, f.run_id, "host", 12, &first));
    assert_ok(writer_end_incarnation(f.writer, first, "bye"));
    assert_ok(writer_put_incarnation(f.writer, f.run_id, "host", 13, &second));
    assert_true(second > first);
    assert_ok(reader_incarnation(writer_db(f.writer), f.run_id, arena, &row));
    assert_int_equal(row.inc, second);
    assert_int_equal(row.pid, 13);
    assert_false(row.has_ended);
    arena_destroy(arena);
    fixture_destroy(&f);
}

static void a_place_in_the_transaction_can_be_gone_back_to(void **state)
{
    struct fixture f;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 2, 100);
    assert_ok(writer_mark(f.writer));
    fixture_group(&f, 5, 1, 2, 200);
    assert_ok(writer_undo(f.writer));
    assert_ok(writer_mark(f.writer));
    fixture_group(&f, 6, 1, 2, 300);
    assert_ok(writer_keep(f.writer));
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT sum(group_id) FROM groups"), 10);
    fixture_destroy(&f);
}

static void what_is_no_run_database_is_refused(void **state)
{
    char folder[256];
    char path[300];
    struct writer *writer = NULL;
    struct db *db = NULL;
    static const char junk[] = "this is no database, but it is long enough to be looked at closely";

    (void)state;
    support_temp_dir(folder, sizeof(folder));
    (void)snprintf(path, sizeof(path), "%s/run.db", folder);
    const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, junk, sizeof(junk)), sizeof(junk));
    assert_int_equal(close(fd), 0);
    assert_status(writer_open(path, &writer), STATUS_BAD_FORMAT, path);
    assert_status(db_open_readonly(path, DB_TRUSTED, &db), STATUS_BAD_FORMAT, path);
    assert_null(writer);
    assert_null(db);
    support_temp_dir_remove(folder);
}

static enum status try_to_open(void *context)
{
    const char *path = context;
    struct writer *writer = NULL;
    struct db *db = NULL;

    enum status status = writer_open(path, &writer);
    if (status == STATUS_OK) {
        status = db_open_readonly(path, DB_RESTRICTED, &db);
    }
    db_close(db);
    writer_close(writer);
    return status;
}

static void opening_fails_cleanly_at_every_allocation(void **state)
{
    struct fixture f;

    (void)state;
    fixture_create(&f);
    writer_close(f.writer);
    f.writer = NULL;
    assert_true(support_fail_allocations(try_to_open, f.path) > 3);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_database_has_the_schema_and_its_marks),
        cmocka_unit_test(an_older_file_is_kept_and_becomes_one_of_this_version),
        cmocka_unit_test(a_worker_may_say_again_what_its_sampling_came_to),
        cmocka_unit_test(a_sample_comes_back_as_it_was_put),
        cmocka_unit_test(the_same_attempt_is_stored_once),
        cmocka_unit_test(rows_are_seen_by_others_only_after_commit),
        cmocka_unit_test(a_crash_before_commit_leaves_nothing_and_one_after_it_all),
        cmocka_unit_test(a_manifest_is_written_once_and_never_changed),
        cmocka_unit_test(a_manifest_with_an_unfit_sample_writes_nothing),
        cmocka_unit_test(a_step_can_be_reported_again),
        cmocka_unit_test(a_retired_sample_leaves_the_totals_of_its_group),
        cmocka_unit_test(a_full_disk_loses_nothing_that_was_committed),
        cmocka_unit_test(a_second_writer_is_refused),
        cmocka_unit_test(a_run_keeps_its_configuration_and_scorers),
        cmocka_unit_test(incarnations_count_up_and_end),
        cmocka_unit_test(a_place_in_the_transaction_can_be_gone_back_to),
        cmocka_unit_test(what_is_no_run_database_is_refused),
        cmocka_unit_test(opening_fails_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
