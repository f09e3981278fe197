/* Files that the writer opens: new ones, older ones, those of others and those in use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "db/reader.h"
#include "db/schema.h"
#include "tests/unit/db/db_fixture.h"

#include <fcntl.h>
#include <sqlite3.h>
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
        cmocka_unit_test(a_second_writer_is_refused),
        cmocka_unit_test(what_is_no_run_database_is_refused),
        cmocka_unit_test(opening_fails_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
