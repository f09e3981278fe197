/* A worker from outside: work under several weights, a trainer that forgot it, one that refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/rollout/worker_stage.h"

static void work_of_each_version_is_sampled_with_its_weights(void **state)
{
    struct stage *stage = *state;
    struct result first[N_SAMPLES];
    struct result second[N_SAMPLES];
    struct result again[N_SAMPLES];

    welcome(stage->work, &stage->worker_at_work, 7);
    welcome(stage->results, &stage->worker_at_results, 7);
    expect_ready(stage, 4);
    send_work(stage, 1, 0, 1);
    serve_weights(stage, 1);
    collect(stage, (struct result){.group = 1, .version = 1}, first);
    expect_sampling(stage, first, 0);
    expect_ready(stage, 1);
    send_work(stage, 1, 1, 2);
    serve_weights(stage, 2);
    collect(stage, (struct result){.group = 1, .attempt = 1, .version = 2}, second);
    expect_ready(stage, 1);
    send_work(stage, 1, 2, 1);
    serve_weights(stage, 1);
    collect(stage, (struct result){.group = 1, .attempt = 2, .version = 1}, again);
    assert_memory_not_equal(first[0].logprobs, second[0].logprobs, sizeof(float));
    for (size_t i = 0; i < N_SAMPLES; i++) {
        assert_memory_equal(first[i].tokens, again[i].tokens, sizeof(first[i].tokens));
        assert_memory_equal(first[i].logprobs, again[i].logprobs, sizeof(first[i].logprobs));
    }
    say_bye_and_join(stage);
}

static void a_trainer_that_forgot_the_worker_gets_its_credit_again(void **state)
{
    struct stage *stage = *state;
    struct message *refuse = make(MESSAGE_REFUSE);
    struct result results[N_SAMPLES];

    welcome(stage->work, &stage->worker_at_work, 6);
    welcome(stage->results, &stage->worker_at_results, 6);
    expect_ready(stage, 4);
    message_put_text(refuse, "reason", "HELLO comes first");
    send_and_destroy(stage->work, &stage->worker_at_work, refuse);
    welcome(stage->work, &stage->worker_at_work, 7);
    expect_ready(stage, 4);
    send_work(stage, 5, 0, 1);
    serve_weights(stage, 1);
    collect(stage, (struct result){.group = 5, .version = 1}, results);
    say_bye_and_join(stage);
}

static void a_refused_worker_ends_with_the_reason(void **state)
{
    struct stage *stage = *state;
    struct message *refuse = make(MESSAGE_REFUSE);

    message_destroy(expect(stage->work, MESSAGE_HELLO, &stage->worker_at_work));
    message_put_text(refuse, "reason", "config_sha differs");
    send_and_destroy(stage->work, &stage->worker_at_work, refuse);
    assert_int_equal(pthread_join(stage->thread, NULL), 0);
    assert_int_equal(stage->worker_status, STATUS_PEER);
    assert_non_null(strstr(stage->worker_message, "config_sha differs"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(work_of_each_version_is_sampled_with_its_weights, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_trainer_that_forgot_the_worker_gets_its_credit_again,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_worker_ends_with_the_reason, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
