/* A worker from outside: work under several weights, a trainer that forgot it, one that refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rollout/worker_internal.h"
#include "tests/unit/rollout/worker_stage.h"

#include <fcntl.h>
#include <unistd.h>

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

/* Waits until the log has told n times of a rest. */
static void expect_rests(const char *log_path, size_t n)
{
    const int64_t deadline_us = clock_now_us() + WAIT_MS * INT64_C(1000);
    size_t n_seen = 0;

    while (n_seen < n && clock_now_us() < deadline_us) {
        char *text = NULL;
        size_t n_bytes = 0;

        n_seen = 0;
        (void)usleep(2000);
        assert_ok(file_read(log_path, (size_t)1 << 20, &text, &n_bytes));
        for (const char *at = text; (at = strstr(at, "memory goes back")) != NULL; at++) {
            n_seen++;
        }
        memory_free(text);
    }
    assert_int_equal(n_seen, n);
}

static void a_worker_without_work_rests_once_and_samples_the_same_afterwards(void **state)
{
    struct stage *stage = *state;
    struct result results[2][N_SAMPLES];
    char log_path[PATH_ROOM + 16];

    (void)snprintf(log_path, sizeof(log_path), "%s/log", stage->folder);
    const int fd = open(log_path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    log_copy_to(fd, LOG_DEBUG);
    welcome(stage->work, &stage->worker_at_work, 7);
    welcome(stage->results, &stage->worker_at_results, 7);
    expect_ready(stage, 4);
    for (size_t i = 0; i < 2; i++) {
        send_work(stage, 1, (int64_t)i, 1);
        if (i == 0) {
            serve_weights(stage, 1);
        }
        collect(stage, (struct result){.group = 1, .attempt = (int64_t)i, .version = 1},
                results[i]);
        expect_rests(log_path, i + 1);
    }
    (void)usleep(WORKER_REST_US + 50000); /* it rests: no more to tell */
    expect_rests(log_path, 2);
    for (size_t i = 0; i < N_SAMPLES; i++) {
        assert_memory_equal(results[0][i].tokens, results[1][i].tokens,
                            sizeof(results[0][i].tokens));
        assert_memory_equal(results[0][i].logprobs, results[1][i].logprobs,
                            sizeof(results[0][i].logprobs));
    }
    say_bye_and_join(stage);
    log_copy_to(-1, LOG_ERROR);
    assert_int_equal(close(fd), 0);
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
        cmocka_unit_test_setup_teardown(
            a_worker_without_work_rests_once_and_samples_the_same_afterwards, setup, teardown),
        cmocka_unit_test_setup_teardown(a_trainer_that_forgot_the_worker_gets_its_credit_again,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_worker_ends_with_the_reason, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
