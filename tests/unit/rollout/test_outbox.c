#include "base/memory.h"
#include "rollout/outbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct outbox_key key_a = {.group = 1, .sample = 0, .attempt = 0};
static const struct outbox_key key_b = {.group = 1, .sample = 1, .attempt = 0};
static const struct outbox_key key_a_again = {.group = 1, .sample = 0, .attempt = 1};

static struct message *make_message(void)
{
    struct message *message = NULL;

    assert_int_equal(message_create(MESSAGE_COMPLETION, &message), STATUS_OK);
    return message;
}

static const struct message *add(struct outbox *outbox, struct outbox_key key)
{
    struct message *message = make_message();

    assert_int_equal(outbox_adopt(outbox, key, message), STATUS_OK);
    return message;
}

static struct outbox *make_outbox(size_t capacity)
{
    struct outbox *outbox = NULL;

    assert_int_equal(outbox_create(capacity, &outbox), STATUS_OK);
    return outbox;
}

static void messages_are_due_once_in_order_and_again_after_a_while(void **state)
{
    struct outbox *outbox = make_outbox(4);
    (void)state;

    const struct message *first = add(outbox, key_a);
    const struct message *second = add(outbox, key_b);
    assert_ptr_equal(outbox_due(outbox, 100), first);
    assert_ptr_equal(outbox_due(outbox, 100), first); /* not sent yet */
    outbox_sent(outbox, 100);
    assert_ptr_equal(outbox_due(outbox, 200), second);
    outbox_sent(outbox, 200);
    assert_null(outbox_due(outbox, 300));
    assert_null(outbox_due(outbox, 99 + OUTBOX_RESEND_US));
    assert_ptr_equal(outbox_due(outbox, 100 + OUTBOX_RESEND_US), first);
    outbox_sent(outbox, 100 + OUTBOX_RESEND_US);
    assert_null(outbox_due(outbox, 101 + OUTBOX_RESEND_US));
    assert_ptr_equal(outbox_due(outbox, 200 + OUTBOX_RESEND_US), second);
    outbox_destroy(outbox);
}

static void an_answered_message_is_gone_and_a_second_answer_is_harmless(void **state)
{
    struct outbox *outbox = make_outbox(4);
    (void)state;

    (void)add(outbox, key_a);
    const struct message *second = add(outbox, key_b);
    assert_false(outbox_settle(outbox, key_a_again)); /* of another attempt */
    assert_true(outbox_settle(outbox, key_a));
    assert_false(outbox_settle(outbox, key_a));
    assert_int_equal(outbox_count(outbox), 1);
    assert_ptr_equal(outbox_due(outbox, 0), second);
    outbox_destroy(outbox);
}

static void a_new_connection_makes_everything_due(void **state)
{
    struct outbox *outbox = make_outbox(4);
    (void)state;

    const struct message *first = add(outbox, key_a);
    (void)outbox_due(outbox, 0);
    outbox_sent(outbox, 0);
    assert_null(outbox_due(outbox, 1));
    outbox_resend_all(outbox);
    assert_ptr_equal(outbox_due(outbox, 1), first);
    outbox_destroy(outbox);
}

static void the_same_sample_twice_is_kept_once(void **state)
{
    struct outbox *outbox = make_outbox(4);
    (void)state;

    (void)add(outbox, key_a);
    (void)add(outbox, key_a);
    (void)add(outbox, key_a_again);
    assert_int_equal(outbox_count(outbox), 2);
    outbox_destroy(outbox);
}

static void a_full_outbox_refuses_and_leaves_the_message_to_the_caller(void **state)
{
    struct outbox *outbox = make_outbox(1);
    struct message *message = make_message();
    (void)state;

    (void)add(outbox, key_a);
    assert_int_equal(outbox_adopt(outbox, key_b, message), STATUS_BAD_ARGUMENT);
    message_destroy(message);
    outbox_destroy(outbox);
}

static void create_fails_cleanly_at_every_allocation(void **state)
{
    struct outbox *outbox = NULL;
    const size_t n_live = memory_live_blocks();
    enum status status = STATUS_NO_MEMORY;
    (void)state;

    for (long n = 0; status != STATUS_OK; n++) {
        memory_fail_after(n);
        status = outbox_create(4, &outbox);
        memory_fail_after(-1);
        if (status != STATUS_OK) {
            assert_int_equal(status, STATUS_NO_MEMORY);
            assert_null(outbox);
            assert_int_equal(memory_live_blocks(), n_live);
        }
    }
    outbox_destroy(outbox);
    outbox_destroy(NULL);
    assert_int_equal(memory_live_blocks(), n_live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_due_once_in_order_and_again_after_a_while),
        cmocka_unit_test(an_answered_message_is_gone_and_a_second_answer_is_harmless),
        cmocka_unit_test(a_new_connection_makes_everything_due),
        cmocka_unit_test(the_same_sample_twice_is_kept_once),
        cmocka_unit_test(a_full_outbox_refuses_and_leaves_the_message_to_the_caller),
        cmocka_unit_test(create_fails_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
