/* The writer: rows, transactions, and what a crash or a full disk leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "db/reader.h"
#include "tests/unit/db/db_fixture.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_may_say_again_what_its_sampling_came_to),
        cmocka_unit_test(a_sample_comes_back_as_it_was_put),
        cmocka_unit_test(the_same_attempt_is_stored_once),
        cmocka_unit_test(rows_are_seen_by_others_only_after_commit),
        cmocka_unit_test(a_crash_before_commit_leaves_nothing_and_one_after_it_all),
        cmocka_unit_test(a_full_disk_loses_nothing_that_was_committed),
        cmocka_unit_test(a_run_keeps_its_configuration_and_scorers),
        cmocka_unit_test(incarnations_count_up_and_end),
        cmocka_unit_test(a_place_in_the_transaction_can_be_gone_back_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
