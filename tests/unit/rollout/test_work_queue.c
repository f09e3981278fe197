#include "base/memory.h"
#include "rollout/work_queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define DIGEST_A "0123456789abcdef0123456789abcdef"
#define DIGEST_B "fedcba9876543210fedcba9876543210"

static const struct weights_id none = {.version = -1};
static const struct weights_id one = {.version = 1, .digest = DIGEST_A};
static const struct weights_id two = {.version = 2, .digest = DIGEST_B};

static struct work *make_work(uint64_t group, uint32_t attempt, const struct weights_id *weights)
{
    static const int32_t prompt[] = {7, 8, 9};
    static const int32_t samples[] = {0, 3};
    struct message *message = NULL;
    struct work *work = NULL;

    assert_int_equal(message_create(MESSAGE_WORK, &message), STATUS_OK);
    message_put_int(message, "group_id", (int64_t)group);
    message_put_int(message, "attempt", attempt);
    message_put_int(message, "inc", 5);
    message_put_hex64(message, "seed", UINT64_C(0xfedcba9876543210));
    message_put_int(message, "weight_version", weights->version);
    message_put_text(message, "weight_digest", weights->digest);
    message_put_int(message, "max_tokens", 24);
    message_put_number(message, "temperature", 0.5);
    message_put_int(message, "top_k", 3);
    message_put_number(message, "top_p", 0.25);
    message_put_number(message, "min_p", 0.125);
    message_put_int(message, "deadline_ms", 1000);
    message_put_array(message, "idx", DTYPE_I32, samples, 2);
    message_put_array(message, "prompt", DTYPE_I32, prompt, 3);
    assert_int_equal(work_create(message, &work), STATUS_OK);
    message_destroy(message);
    return work;
}

static void work_is_what_the_message_says(void **state)
{
    struct work *work = make_work(11, 2, &one);
    (void)state;

    assert_int_equal(work->group, 11);
    assert_int_equal(work->attempt, 2);
    assert_int_equal(work->inc, 5);
    assert_true(work->seed == UINT64_C(0xfedcba9876543210));
    assert_true(weights_id_equal(&work->weights, &one));
    assert_int_equal(work->max_tokens, 24);
    assert_true(work->sampling.temperature == 0.5F && work->sampling.top_k == 3);
    assert_true(work->sampling.top_p == 0.25F && work->sampling.min_p == 0.125F);
    assert_int_equal(work->n_prompt, 3);
    assert_int_equal(work->prompt[2], 9);
    assert_int_equal(work->n_samples, 2);
    assert_int_equal(work->samples[1], 3);
    memory_free(work);
}

static void work_without_samples_is_refused(void **state)
{
    static const int32_t prompt[] = {7};
    struct message *message = NULL;
    struct work *work = NULL;
    (void)state;

    assert_int_equal(message_create(MESSAGE_WORK, &message), STATUS_OK);
    message_put_array(message, "prompt", DTYPE_I32, prompt, 1);
    message_put_array(message, "idx", DTYPE_I32, prompt, 0);
    assert_int_equal(work_create(message, &work), STATUS_BAD_FORMAT);
    assert_null(work);
    message_destroy(message);
}

static void work_starts_only_with_its_own_weights(void **state)
{
    struct work_queue queue;
    struct weights_id other = one;
    (void)state;

    work_queue_init(&queue);
    assert_int_equal(work_queue_add(&queue, make_work(1, 0, &one)), WORK_ADDED);
    assert_int_equal(work_queue_add(&queue, make_work(2, 0, &two)), WORK_ADDED);
    assert_int_equal(work_queue_add(&queue, make_work(3, 0, &one)), WORK_ADDED);
    assert_null(work_queue_next(&queue, &none));
    assert_int_equal(work_queue_wanted(&queue, &none)->group, 1);
    memcpy(other.digest, DIGEST_B, sizeof(other.digest)); /* same number, other bits */
    assert_null(work_queue_next(&queue, &other));

    struct work *work = work_queue_next(&queue, &one);
    assert_int_equal(work->group, 1);
    work->is_started = true;
    work = work_queue_next(&queue, &one);
    assert_int_equal(work->group, 3);
    work->is_started = true;
    assert_null(work_queue_next(&queue, &one));
    assert_int_equal(work_queue_wanted(&queue, &one)->group, 2);
    work_queue_clear(&queue);
}

static void credit_comes_back_with_the_last_sample(void **state)
{
    struct work_queue queue;
    (void)state;

    work_queue_init(&queue);
    assert_int_equal(work_queue_add(&queue, make_work(1, 0, &one)), WORK_ADDED);
    struct work *work = work_queue_next(&queue, &one);
    work_queue_finish_sample(&queue, work);
    assert_int_equal(work_queue_credit(&queue), 0);
    work_queue_finish_sample(&queue, work);
    assert_int_equal(work_queue_credit(&queue), 1);
    assert_null(queue.first);
    work_queue_credit_given(&queue, 1);
    assert_int_equal(work_queue_credit(&queue), 0);
    assert_int_equal(work_queue_add(&queue, make_work(2, 0, &one)), WORK_ADDED);
    assert_int_equal(work_queue_next(&queue, &one)->group, 2); /* the list is whole */
    work_queue_clear(&queue);
}

static void a_newer_attempt_replaces_and_an_older_one_is_dropped(void **state)
{
    struct work_queue queue;
    (void)state;

    work_queue_init(&queue);
    assert_int_equal(work_queue_add(&queue, make_work(1, 1, &one)), WORK_ADDED);
    assert_int_equal(work_queue_add(&queue, make_work(1, 1, &one)), WORK_KNOWN);
    assert_int_equal(work_queue_add(&queue, make_work(1, 0, &one)), WORK_KNOWN);
    assert_int_equal(work_queue_add(&queue, make_work(1, 2, &one)), WORK_REPLACES);
    assert_int_equal(work_queue_credit(&queue), 3);
    assert_int_equal(queue.first->attempt, 2);
    assert_null(queue.first->next);
    work_queue_clear(&queue);
    assert_int_equal(work_queue_credit(&queue), 0);
}

static void work_for_weights_that_are_gone_is_dropped(void **state)
{
    struct work_queue queue;
    (void)state;

    work_queue_init(&queue);
    assert_int_equal(work_queue_add(&queue, make_work(1, 0, &one)), WORK_ADDED);
    assert_int_equal(work_queue_add(&queue, make_work(2, 0, &two)), WORK_ADDED);
    work_queue_drop_weights(&queue, &two);
    assert_int_equal(work_queue_credit(&queue), 1);
    assert_int_equal(queue.first->group, 1);
    assert_int_equal(work_queue_add(&queue, make_work(3, 0, &two)), WORK_ADDED);
    assert_int_equal(queue.first->next->group, 3);
    work_queue_clear(&queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_is_what_the_message_says),
        cmocka_unit_test(work_without_samples_is_refused),
        cmocka_unit_test(work_starts_only_with_its_own_weights),
        cmocka_unit_test(credit_comes_back_with_the_last_sample),
        cmocka_unit_test(a_newer_attempt_replaces_and_an_older_one_is_dropped),
        cmocka_unit_test(work_for_weights_that_are_gone_is_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
