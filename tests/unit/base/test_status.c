/* Messages stay with their thread and with their code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/status.h"
#include "tests/support/support.h"

#include <pthread.h>
#include <string.h>

static void set_keeps_the_message_and_returns_the_code(void **state)
{
    (void)state;
    assert_int_equal(status_set(STATUS_IO, "%s: line %d", "a.txt", 3), STATUS_IO);
    assert_string_equal(status_message(), "a.txt: line 3");
    assert_int_equal(status_wrap(STATUS_IO, "loading %d", 7), STATUS_IO);
    assert_string_equal(status_message(), "loading 7: a.txt: line 3");
    assert_int_equal(status_set(STATUS_IO, "again: %s", status_message()), STATUS_IO);
    assert_string_equal(status_message(), "again: loading 7: a.txt: line 3");
}

static void messages_are_cut_and_kept_on_one_line(void **state)
{
    char big[3000];

    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    big[1] = '\n';
    assert_int_equal(status_set(STATUS_IO, "%s", big), STATUS_IO);
    assert_int_equal(strlen(status_message()), 1023);
    assert_null(strchr(status_message(), '\n'));
    assert_int_equal(status_wrap(STATUS_IO, "%s", big), STATUS_IO);
    assert_int_equal(strlen(status_message()), 1023);
}

static void messages_hold_no_control_characters(void **state)
{
    (void)state;
    assert_int_equal(status_set(STATUS_IO, "%s", "\x1b[31mred\x07 \x7f \xc2\x9b \xc2\xb5\t."),
                     STATUS_IO);
    assert_string_equal(status_message(), "?[31mred? ? ?? \xc2\xb5 .");
}

static void *set_in_a_thread(void *context)
{
    (void)context;
    assert_string_equal(status_message(), "");
    assert_int_equal(status_set(STATUS_TIMEOUT, "other"), STATUS_TIMEOUT);
    return NULL;
}

static void each_thread_has_a_message_of_its_own(void **state)
{
    pthread_t thread;

    (void)state;
    assert_int_equal(status_set(STATUS_IO, "mine"), STATUS_IO);
    assert_int_equal(pthread_create(&thread, NULL, set_in_a_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(status_message(), "mine");
}

static void exit_codes_are_the_documented_ones(void **state)
{
    static const int wanted[] = {0, 6, 6, 1, 2, 2, 5, 5, 1, 7, 75, 8, 9, 4, 10, 3};

    (void)state;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        assert_int_equal(status_exit_code((enum status)i), wanted[i]);
        assert_true(strlen(status_name((enum status)i)) > 0);
    }
    assert_int_equal(status_exit_code((enum status)99), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_keeps_the_message_and_returns_the_code),
        cmocka_unit_test(messages_are_cut_and_kept_on_one_line),
        cmocka_unit_test(messages_hold_no_control_characters),
        cmocka_unit_test(each_thread_has_a_message_of_its_own),
        cmocka_unit_test(exit_codes_are_the_documented_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
