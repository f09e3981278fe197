/* Log lines and what hostile text becomes in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void assert_escaped(const char *text, size_t n, size_t room, const char *wanted)
{
    char out[256];

    assert_string_equal(log_escape(text, n, out, room), wanted);
}

static void controls_and_tricks_are_made_visible(void **state)
{
    (void)state;
    assert_escaped("plain \xc3\xa9", 8, 256, "plain \xc3\xa9");
    assert_escaped("a\nb\tc\\", 6, 256, "a\\nb\\tc\\\\");
    assert_escaped("\x1b[31m\x7f\0", 7, 256, "\\x1b[31m\\x7f\\x00");
    assert_escaped("\xff\xc3(", 3, 256, "\\xff\\xc3(");
    assert_escaped("\xe2\x80\xae!", 4, 256, "\\xe2\\x80\\xae!"); /* right-to-left override */
    assert_escaped("\xc2\x9b", 2, 256, "\\xc2\\x9b");            /* C1 control */
}

static void long_texts_are_cut_at_whole_pieces(void **state)
{
    (void)state;
    assert_escaped("abcdefgh", 8, 9, "abcdefgh");
    assert_escaped("abcdefgh", 8, 8, "abcd...");
    assert_escaped("ab\x1b\x1b\x1b", 5, 10, "ab\\x1b...");
    assert_escaped("abc", 3, 1, "");
    char out[4] = "xyz";
    assert_string_equal(log_escape("abcdefgh", 8, out, 4), "...");
    assert_string_equal(log_escape("", 0, out, 4), "");
}

/* Runs log_write with stderr in a pipe and returns what came out. */
static size_t capture(enum log_level level, const char *text, char *out, size_t room)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    const int kept = dup(STDERR_FILENO);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    errno = EDOM;
    log_write(level, "module", "text=%s", text);
    assert_int_equal(errno, EDOM);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    (void)close(kept);
    (void)close(ends[1]);
    const ssize_t n = read(ends[0], out, room - 1);
    (void)close(ends[0]);
    assert_true(n >= 0);
    out[n] = '\0';
    return (size_t)n;
}

static void a_record_is_one_line(void **state)
{
    char out[8192];
    char big[6000];

    (void)state;
    log_setup("trainer", LOG_INFO);
    assert_true(capture(LOG_INFO, "a\nb\x1b", out, sizeof(out)) > 0);
    assert_int_equal(out[2], ':');
    assert_string_equal(out + 9, "info  trainer module: text=a b?\n");
    assert_int_equal(capture(LOG_DEBUG, "a", out, sizeof(out)), 0);
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    const size_t n = capture(LOG_ERROR, big, out, sizeof(out));
    assert_true(n > 4000 && n <= 4096);
    assert_string_equal(out + n - 5, "x...\n");
    log_setup("", LOG_DEBUG);
    assert_true(capture(LOG_DEBUG, "a", out, sizeof(out)) > 0);
    assert_string_equal(out + 9, "debug module: text=a\n");
}

static void an_answer_is_shown_at_any_level(void **state)
{
    int ends[2];
    char out[256];

    (void)state;
    log_setup("w0", LOG_ERROR);
    assert_int_equal(capture(LOG_WARN, "a", out, sizeof(out)), 0);
    assert_int_equal(pipe(ends), 0);
    const int kept = dup(STDERR_FILENO);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    log_answer("waits", "for %s", "nobody");
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    (void)close(kept);
    const ssize_t n = read(ends[0], out, sizeof(out) - 1);
    (void)close(ends[0]);
    (void)close(ends[1]);
    assert_true(n > 9);
    out[n] = '\0';
    assert_string_equal(out + 9, "warn  w0 waits: for nobody\n");
    log_setup("", LOG_INFO);
}

static void a_copy_has_a_level_of_its_own(void **state)
{
    int ends[2];
    char out[256];
    char copy[256];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    log_setup("", LOG_WARN);
    log_copy_to(ends[1], LOG_INFO);
    assert_int_equal(capture(LOG_DEBUG, "a", out, sizeof(out)), 0);
    assert_int_equal(capture(LOG_INFO, "b", out, sizeof(out)), 0);
    assert_true(capture(LOG_WARN, "c", out, sizeof(out)) > 0);
    assert_string_equal(out + 9, "warn  module: text=c\n");
    log_copy_to(-1, LOG_INFO);
    assert_true(capture(LOG_WARN, "d", out, sizeof(out)) > 0);
    const ssize_t n = read(ends[0], copy, sizeof(copy) - 1);
    (void)close(ends[0]);
    (void)close(ends[1]);
    assert_true(n > 0);
    copy[n] = '\0';
    assert_string_equal(copy + 9 + strlen("info  module: text=b\n") + 9, "warn  module: text=c\n");
    log_setup("", LOG_INFO);
}

static void levels_are_read_by_name(void **state)
{
    enum log_level level;

    (void)state;
    assert_ok(log_level_parse("error", &level));
    assert_int_equal(level, LOG_ERROR);
    assert_ok(log_level_parse("debug", &level));
    assert_int_equal(level, LOG_DEBUG);
    assert_status(log_level_parse("loud", &level), STATUS_BAD_ARGUMENT, "\"loud\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(controls_and_tricks_are_made_visible),
        cmocka_unit_test(long_texts_are_cut_at_whole_pieces),
        cmocka_unit_test(a_record_is_one_line),
        cmocka_unit_test(an_answer_is_shown_at_any_level),
        cmocka_unit_test(a_copy_has_a_level_of_its_own),
        cmocka_unit_test(levels_are_read_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
