/* The reward service as a process, spoken to over its sockets: acknowledged is committed, killed is
 * resumed, and the same message twice is one row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/reward/service_world.h"

static void a_step_is_logged_once_whatever_is_said_twice(void **state)
{
    struct world w;
    uint64_t ids[2] = {0, 0};

    (void)state;
    world_create(&w, exact_reward);
    greet(&w);
    for (int i = 0; i < 2; i++) {
        announce(&w, 1, "3 4 =");
        hear_and_drop(w.trainer, MESSAGE_GROUP_OK);
    }
    say(w.worker, completion(&w, 1, 0, "7"));
    say(w.worker, completion(&w, 1, 1, "8"));
    say(w.worker, completion(&w, 1, 0, "7"));
    for (int i = 0; i < 3; i++) {
        hear_and_drop(w.worker, MESSAGE_ACK);
    }
    assert_int_equal(read_int(&w, "SELECT count(*) FROM samples"), 2);
    say_sampling(&w, 10);
    say_sampling(&w, 20);
    take_both(&w, ids, "ok");
    for (int i = 0; i < 2; i++) {
        say_manifest(&w, ids, digest_a);
        hear_and_drop(w.trainer, MESSAGE_MANIFEST_OK);
        say_step(&w, ids);
        hear_and_drop(w.trainer, MESSAGE_STEP_OK);
    }
    say_manifest(&w, ids, digest_b);
    hear_and_drop(w.trainer, MESSAGE_REFUSE);
    announce(&w, 1, "other prompt");
    hear_and_drop(w.trainer, MESSAGE_REFUSE);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM batch_items"), 2);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM v_samples WHERE reward IS NOT NULL"), 2);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM v_metrics"), 3);
    assert_int_equal(read_int(&w, "SELECT CAST(value AS INTEGER) FROM v_metrics WHERE step = 1 AND"
                                  " name = 'memory/rollout_bytes'"),
                     20 << 20);
    assert_int_equal(read_int(&w, "SELECT tokens FROM v_sampling WHERE step = 1"), 20);
    assert_int_equal(read_int(&w, "SELECT preempted FROM v_sampling"), 25);
    assert_int_equal(read_int(&w, "SELECT prefix_tokens FROM v_sampling"), 28);
    assert_int_equal(
        read_int(&w, "SELECT count(*) FROM groups WHERE status = 'trained' AND n_scored = 2"), 1);
    assert_sound(&w);
    assert_int_equal(end_of_service(&w, SIGTERM), STATUS_CANCELLED);
    world_destroy(&w);
}

static void what_makes_no_sense_is_refused_and_not_logged(void **state)
{
    struct world w;

    (void)state;
    world_create(&w, exact_reward);
    say_hello(&w, w.worker, "rollout", 5, "another");
    hear_and_drop(w.worker, MESSAGE_REFUSE);
    greet(&w);
    say(w.worker, completion(&w, 99, 0, "7"));
    hear_and_drop(w.worker, MESSAGE_NACK);
    announce(&w, 1, "3 4 =");
    hear_and_drop(w.trainer, MESSAGE_GROUP_OK);
    say(w.worker, completion(&w, 1, 2, "7"));
    hear_and_drop(w.worker, MESSAGE_NACK);
    w.inc += 1;
    say(w.worker, completion(&w, 1, 0, "7"));
    hear_and_drop(w.worker, MESSAGE_NACK);
    say_manifest(&w, (const uint64_t[2]){1, 2}, digest_a);
    hear_and_drop(w.trainer, MESSAGE_REFUSE);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM samples"), 0);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM steps"), 0);
    world_destroy(&w);
}

static void a_second_trainer_is_refused_while_the_first_beats(void **state)
{
    struct world w;
    struct socket *second = NULL;

    (void)state;
    world_create(&w, exact_reward);
    greet(&w);
    dial(&w, ENDPOINT_SCORED, &second);
    say_hello(&w, second, "trainer", (int64_t)getppid(), NULL);
    hear_and_drop(second, MESSAGE_REFUSE);
    socket_close(second);
    say_hello(&w, w.trainer, "trainer", (int64_t)getpid(), NULL); /* the first, once more */
    struct message *const welcome = hear(w.trainer, MESSAGE_HELLO_OK);
    assert_int_equal(message_int(welcome, "inc", 0), w.inc);
    message_destroy(welcome);
    world_destroy(&w);
}

static void fetch(struct world *w, int64_t n_manifests, int64_t n_samples)
{
    struct message *message = NULL;

    assert_ok(message_create(MESSAGE_FETCH, &message));
    message_put_int(message, "after_step", 0);
    say(w->trainer, message);
    message = hear(w->trainer, MESSAGE_FETCHED);
    assert_int_equal(message_int(message, "n_manifests", -1), n_manifests);
    assert_int_equal(message_int(message, "n_samples", -1), n_samples);
    message_destroy(message);
}

static void a_killed_service_goes_on_where_it_was(void **state)
{
    struct world w;
    uint64_t ids[2] = {0, 0};
    uint64_t again[2] = {0, 0};

    (void)state;
    world_create(&w, exact_reward);
    greet(&w);
    announce(&w, 1, "3 4 =");
    hear_and_drop(w.trainer, MESSAGE_GROUP_OK);
    say(w.worker, completion(&w, 1, 0, "7"));
    hear_and_drop(w.worker, MESSAGE_ACK);
    (void)end_of_service(&w, SIGKILL);
    restart_service(&w);
    say_sampling(&w, 10);                     /* of nobody that it knows */
    say(w.worker, completion(&w, 1, 0, "7")); /* no HELLO: the worker does not know */
    say(w.worker, completion(&w, 1, 1, "8"));
    hear_and_drop(w.worker, MESSAGE_ACK);
    hear_and_drop(w.worker, MESSAGE_ACK);
    announce(&w, 1, "3 4 ="); /* nor does the trainer */
    hear_and_drop(w.trainer, MESSAGE_GROUP_OK);
    take_both(&w, ids, "ok");
    say_manifest(&w, ids, digest_a);
    hear_and_drop(w.trainer, MESSAGE_MANIFEST_OK);
    (void)end_of_service(&w, SIGKILL);
    restart_service(&w);
    greet(&w); /* a new trainer process, as far as the service can tell */
    fetch(&w, 1, 2);
    fetch(&w, 1, 2);
    struct message *message = NULL;
    assert_ok(message_create(MESSAGE_FETCH, &message));
    message_put_int(message, "after_step", 0);
    say(w.trainer, message);
    take_both(&w, again, "ok");
    assert_memory_equal(ids, again, sizeof(ids));
    message = hear(w.trainer, MESSAGE_MANIFEST);
    assert_string_equal(message_text(message, "digest", ""), digest_a);
    message_destroy(message);
    say_step(&w, ids);
    hear_and_drop(w.trainer, MESSAGE_STEP_OK);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM samples"), 2);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM incarnations"), 2);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM v_sampling"), 0);
    assert_sound(&w);
    assert_ok(message_create(MESSAGE_BYE, &message));
    message_put_text(message, "reason", "done");
    say(w.trainer, message);
    assert_int_equal(end_of_service(&w, 0), STATUS_OK);
    assert_int_equal(read_int(&w, "SELECT count(*) FROM incarnations WHERE exit_reason = 'done'"),
                     1);
    world_destroy(&w);
}

static void open_samples_come_again_to_a_new_trainer(void **state)
{
    struct world w;
    uint64_t ids[2] = {0, 0};
    uint64_t again[2] = {0, 0};

    (void)state;
    world_create(&w, exact_reward);
    greet(&w);
    announce(&w, 1, "3 4 =");
    hear_and_drop(w.trainer, MESSAGE_GROUP_OK);
    say(w.worker, completion(&w, 1, 0, "7"));
    say(w.worker, completion(&w, 1, 1, "8"));
    take_both(&w, ids, "ok");
    struct message *message = NULL;
    assert_ok(message_create(MESSAGE_FETCH, &message));
    message_put_int(message, "after_step", 0);
    say(w.trainer, message);
    take_both(&w, again, "ok");
    assert_memory_equal(ids, again, sizeof(ids));
    hear_and_drop(w.trainer, MESSAGE_FETCHED);
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_logged_once_whatever_is_said_twice),
        cmocka_unit_test(what_makes_no_sense_is_refused_and_not_logged),
        cmocka_unit_test(a_second_trainer_is_refused_while_the_first_beats),
        cmocka_unit_test(a_killed_service_goes_on_where_it_was),
        cmocka_unit_test(open_samples_come_again_to_a_new_trainer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
