/* Completions on a terminal while they grow, and lines in their order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/ordered_lines.h"
#include "cli/text_stream.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

/* Tokens that are single bytes: a, E4 BD A0 (together one character), escape, line break, \. */
static const char tokenizer_json[] =
    "{\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
    "\"add_prefix_space\":false,\"use_regex\":false,\"trim_offsets\":true},"
    "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
    "\"use_regex\":false,\"trim_offsets\":true},\"model\":{\"type\":\"BPE\",\"vocab\":{"
    "\"a\":0,\"\\u00e4\":1,\"\\u00bd\":2,\"\\u0142\":3,\"\\u011b\":4,\"\\u010a\":5,\"\\\\\":6},"
    "\"merges\":[]}}";

struct fixture {
    struct tokenizer *tokenizer;
    struct text_stream stream;
};

static void open_fixture(struct fixture *f)
{
    char folder[256];
    char path[300];

    support_temp_dir(folder, sizeof(folder));
    (void)snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
    assert_ok(file_write_atomic(path, tokenizer_json, strlen(tokenizer_json)));
    assert_ok(tokenizer_load(folder, &f->tokenizer));
    support_temp_dir_remove(folder);
    f->stream = (struct text_stream){.tokenizer = f->tokenizer, .stream = tmpfile()};
    assert_non_null(f->stream.stream);
}

static void close_fixture(struct fixture *f)
{
    assert_int_equal(fclose(f->stream.stream), 0);
    tokenizer_destroy(f->tokenizer);
}

static void assert_written(FILE *stream, const char *wanted)
{
    char text[256];

    rewind(stream);
    const size_t n = fread(text, 1, sizeof(text) - 1, stream);
    text[n] = '\0';
    assert_string_equal(text, wanted);
}

static void a_character_waits_for_all_its_bytes(void **state)
{
    static const int32_t ids[] = {0, 1, 2, 3, 0};
    static const char *const wanted[] = {"a", "a", "a", "a\344\275\240", "a\344\275\240a"};
    struct fixture f;

    (void)state;
    open_fixture(&f);
    for (size_t n = 1; n <= 5; n++) {
        assert_ok(text_stream_show(&f.stream, ids, n, n == 5));
        assert_written(f.stream.stream, wanted[n - 1]);
    }
    close_fixture(&f);
}

static void bytes_that_never_become_a_character_are_shown_at_the_end(void **state)
{
    static const int32_t ids[] = {1, 2, 0, 1, 2};
    struct fixture f;

    (void)state;
    open_fixture(&f);
    assert_ok(text_stream_show(&f.stream, ids, 2, false));
    assert_written(f.stream.stream, "");
    assert_ok(text_stream_show(&f.stream, ids, 5, false));
    assert_written(f.stream.stream, "\xEF\xBF\xBD"
                                    "a");
    assert_ok(text_stream_show(&f.stream, ids, 5, true));
    assert_written(f.stream.stream, "\xEF\xBF\xBD"
                                    "a\xEF\xBF\xBD");
    close_fixture(&f);
}

static void a_terminal_is_not_commanded(void **state)
{
    static const int32_t ids[] = {4, 0, 5, 6};
    struct fixture f;

    (void)state;
    open_fixture(&f);
    assert_ok(text_stream_show(&f.stream, ids, 4, true));
    assert_written(f.stream.stream, "\\x1ba\n\\");
    close_fixture(&f);
}

static void text_is_shown_with_its_lines_but_no_other_control(void **state)
{
    static const char text[] = "1\t2\n\r\x07\xc2\x9b\xe2\x80\xae\xff\\frac\0end";
    FILE *stream = tmpfile();

    (void)state;
    assert_non_null(stream);
    assert_ok(text_show(text, sizeof(text) - 1, stream));
    assert_written(stream, "1\t2\n\\r\\a\\xc2\\x9b\\xe2\\x80\\xae\\xff\\frac\\x00end");
    assert_int_equal(fclose(stream), 0);
}

static char *copy(const char *text)
{
    char *out = NULL;

    assert_ok(memory_copy_text(text, strlen(text), &out));
    return out;
}

static void lines_come_in_their_order(void **state)
{
    const size_t blocks = memory_live_blocks();
    struct ordered_lines *lines = NULL;
    FILE *stream = tmpfile();

    (void)state;
    assert_non_null(stream);
    assert_ok(ordered_lines_create(5, stream, &lines));
    assert_ok(ordered_lines_add(lines, 1, copy("one")));
    assert_written(stream, "");
    assert_ok(ordered_lines_add(lines, 0, copy("zero")));
    assert_written(stream, "zero\none\n");
    assert_ok(ordered_lines_add(lines, 4, copy("four")));
    assert_ok(ordered_lines_flush(lines)); /* 2 and 3 never came */
    assert_written(stream, "zero\none\nfour\n");
    ordered_lines_destroy(lines);
    assert_ok(ordered_lines_create(2, stream, &lines));
    assert_ok(ordered_lines_add(lines, 1, copy("kept")));
    ordered_lines_destroy(lines);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(memory_live_blocks(), blocks);
}

static void output_that_cannot_be_written_is_an_error(void **state)
{
    struct ordered_lines *lines = NULL;
    FILE *full = fopen("/dev/full", "w");

    (void)state;
    if (full == NULL) {
        skip();
    }
    assert_ok(ordered_lines_create(1, full, &lines));
    assert_status(ordered_lines_add(lines, 0, copy("x")), STATUS_NO_SPACE,
                  "cannot be written: No space left");
    ordered_lines_destroy(lines);
    (void)fclose(full);
}

static enum status create_lines(void *context)
{
    struct ordered_lines *lines = NULL;

    (void)context;
    const enum status status = ordered_lines_create(3, stdout, &lines);
    assert_true((status == STATUS_OK) == (lines != NULL));
    ordered_lines_destroy(lines);
    return status;
}

static void creation_survives_every_failed_allocation(void **state)
{
    (void)state;
    assert_int_equal(support_fail_allocations(create_lines, NULL), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_character_waits_for_all_its_bytes),
        cmocka_unit_test(bytes_that_never_become_a_character_are_shown_at_the_end),
        cmocka_unit_test(a_terminal_is_not_commanded),
        cmocka_unit_test(text_is_shown_with_its_lines_but_no_other_control),
        cmocka_unit_test(lines_come_in_their_order),
        cmocka_unit_test(output_that_cannot_be_written_is_an_error),
        cmocka_unit_test(creation_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
