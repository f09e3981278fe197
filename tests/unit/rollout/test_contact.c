#include "rollout/contact.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000)

static struct contact make_contact(void)
{
    struct contact contact;

    contact_init(&contact, 3 * SECOND, 0);
    return contact;
}

static void hello_is_repeated_each_second_until_it_is_answered(void **state)
{
    struct contact contact = make_contact();
    (void)state;

    assert_true(contact_wants_hello(&contact, 0));
    assert_false(contact_wants_ping(&contact, 0));
    contact_said_hello(&contact, true, 0);
    assert_false(contact_wants_hello(&contact, SECOND - 1));
    assert_true(contact_wants_hello(&contact, SECOND));
    contact_said_hello(&contact, false, SECOND); /* nobody listens: soon again */
    assert_true(contact_wants_hello(&contact, SECOND + SECOND / 10));
    assert_int_equal(contact_silence_us(&contact, 5 * SECOND), 5 * SECOND);
    assert_int_equal(contact_welcomed(&contact, 7, 2 * SECOND), CONTACT_FIRST);
    assert_false(contact_wants_hello(&contact, 2 * SECOND));
    assert_true(contact_wants_ping(&contact, 2 * SECOND));
    contact_said_ping(&contact, 2 * SECOND);
    assert_false(contact_wants_ping(&contact, 3 * SECOND - 1));
    assert_true(contact_wants_ping(&contact, 3 * SECOND));
}

static void a_silent_peer_is_called_again_without_losing_it(void **state)
{
    struct contact contact = make_contact();
    (void)state;

    contact_said_hello(&contact, true, 0);
    assert_int_equal(contact_welcomed(&contact, 7, 0), CONTACT_FIRST);
    contact_heard(&contact, SECOND);
    assert_false(contact_wants_hello(&contact, 4 * SECOND - 1));
    assert_true(contact_wants_hello(&contact, 4 * SECOND));
    contact_said_hello(&contact, true, 4 * SECOND);
    assert_false(contact_wants_hello(&contact, 6 * SECOND));
    assert_true(contact_wants_hello(&contact, 7 * SECOND));
    assert_int_equal(contact_silence_us(&contact, 7 * SECOND), 6 * SECOND);
    assert_int_equal(contact_welcomed(&contact, 7, 8 * SECOND), CONTACT_SAME);
    assert_int_equal(contact_welcomed(&contact, 8, 9 * SECOND), CONTACT_CHANGED);
    assert_int_equal(contact.inc, 8);
}

static void the_first_refusal_is_final(void **state)
{
    struct contact contact = make_contact();
    (void)state;

    assert_true(contact_refused(&contact, 0));
}

static void a_peer_that_forgot_us_is_called_again_at_once(void **state)
{
    struct contact contact = make_contact();
    (void)state;

    assert_int_equal(contact_welcomed(&contact, 7, 0), CONTACT_FIRST);
    contact_said_hello(&contact, true, 0);
    assert_false(contact_refused(&contact, SECOND / 2));
    assert_true(contact_wants_hello(&contact, SECOND / 2));
    assert_false(contact_wants_ping(&contact, 5 * SECOND));
    assert_false(contact_refused(&contact, SECOND)); /* answers to older messages */
    assert_int_equal(contact_welcomed(&contact, 7, SECOND), CONTACT_FIRST);
    assert_false(contact_refused(&contact, 2 * SECOND));
    assert_true(contact_refused(&contact, 12 * SECOND));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_is_repeated_each_second_until_it_is_answered),
        cmocka_unit_test(a_silent_peer_is_called_again_without_losing_it),
        cmocka_unit_test(the_first_refusal_is_final),
        cmocka_unit_test(a_peer_that_forgot_us_is_called_again_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
