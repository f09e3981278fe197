/* What query results look like: columns, CSV, JSON, and text that a model wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "cli/table.h"
#include "db/writer.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

struct fixture {
    char folder[256];
    struct db *db;
    struct query *query;
    bool has_row;
    FILE *stream; /* takes what is printed */
};

static void ask(struct fixture *f, const char *sql)
{
    char path[300];
    struct writer *writer = NULL;

    *f = (struct fixture){0};
    support_temp_dir(f->folder, sizeof(f->folder));
    (void)snprintf(path, sizeof(path), "%s/run.db", f->folder);
    assert_ok(writer_open(path, &writer));
    writer_close(writer);
    assert_ok(db_open_readonly(path, DB_RESTRICTED, &f->db));
    assert_ok(query_open(f->db, sql, &f->query));
    assert_ok(query_next(f->query, &f->has_row));
    f->stream = tmpfile();
    assert_non_null(f->stream);
}

static void assert_printed(struct fixture *f, const char *wanted)
{
    char text[1024];

    rewind(f->stream);
    const size_t n = fread(text, 1, sizeof(text) - 1, f->stream);
    text[n] = '\0';
    assert_string_equal(text, wanted);
    assert_int_equal(fclose(f->stream), 0);
    query_close(f->query);
    db_close(f->db);
    support_temp_dir_remove(f->folder);
}

static void columns_are_aligned_and_control_characters_visible(void **state)
{
    struct fixture f;
    struct table *table = NULL;

    (void)state;
    ask(&f, "SELECT 1 AS n, 'a' AS t, NULL AS none UNION ALL"
            " SELECT 1234, 'b' || char(27) || '[2J', 0.5");
    assert_ok(table_create(40, &table));
    assert_ok(table_begin(table, f.query));
    while (f.has_row) {
        assert_ok(table_add(table, f.query));
        assert_ok(query_next(f.query, &f.has_row));
    }
    assert_int_equal(table_rows(table), 2);
    table_print(table, f.stream);
    table_destroy(table);
    assert_printed(&f, "   n  t         none\n"
                       "   1  a            -\n"
                       "1234  b\\x1b[2J   0.5\n");
}

static void long_cells_are_cut(void **state)
{
    struct fixture f;
    struct table *table = NULL;

    (void)state;
    ask(&f, "SELECT 'abcdefghijklmnop' AS t");
    assert_ok(table_create(10, &table));
    assert_ok(table_begin(table, f.query));
    assert_ok(table_add(table, f.query));
    table_print(table, f.stream);
    table_destroy(table);
    assert_printed(&f, "t\nabcdefg...\n");
}

static void csv_quotes_and_disarms_formulas(void **state)
{
    struct fixture f;

    (void)state;
    ask(&f, "SELECT '=1+1' AS \"a,b\", '-x' AS m, -2 AS n, -0.5 AS r, 'say \"hi\"' AS q,"
            " 'two' || char(10) || 'lines' AS l, NULL AS z, x'00ff' AS h, '@a,b' AS at");
    csv_print_names(f.query, f.stream);
    csv_print_row(f.query, f.stream);
    assert_printed(&f, "\"a,b\",m,n,r,q,l,z,h,at\n"
                       "'=1+1,'-x,-2,-0.5,\"say \"\"hi\"\"\",\"two\nlines\",,00ff,\"'@a,b\"\n");
}

static void a_row_is_an_object(void **state)
{
    struct fixture f;
    char *text = NULL;

    (void)state;
    ask(&f, "SELECT 1 AS n, 0.5 AS r, 'x' AS t, NULL AS z, x'00ff' AS h");
    struct json *const object = row_to_json(f.query);
    assert_ok(json_print(object, &text, NULL));
    (void)fputs(text, f.stream);
    memory_free(text);
    json_destroy(object);
    assert_printed(&f, "{\"h\":\"00ff\",\"n\":1,\"r\":0.5,\"t\":\"x\",\"z\":null}");
}

static void text_keeps_its_lines_and_nothing_else(void **state)
{
    struct fixture f;

    (void)state;
    ask(&f, "SELECT 1");
    print_text("one\n\x1b[31mtwo", 12, f.stream);
    assert_printed(&f, "  one\n  \\x1b[31mtwo\n");
}

static enum status build_table(void *context)
{
    struct table *table = NULL;

    (void)context;
    const enum status status = table_create(10, &table);
    table_destroy(table);
    return status;
}

static void a_table_fails_cleanly_at_every_allocation(void **state)
{
    (void)state;
    assert_true(support_fail_allocations(build_table, NULL) >= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_aligned_and_control_characters_visible),
        cmocka_unit_test(long_cells_are_cut),
        cmocka_unit_test(csv_quotes_and_disarms_formulas),
        cmocka_unit_test(a_row_is_an_object),
        cmocka_unit_test(text_keeps_its_lines_and_nothing_else),
        cmocka_unit_test(a_table_fails_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
