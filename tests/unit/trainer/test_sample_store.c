/* Scored samples out of messages: copied, found by place and by id, never twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/support/support.h"
#include "trainer/sample_store.h"

#include <string.h>

#define TOKENS_MAX 9

struct scored {
    int64_t sample_id;
    uint64_t group_id;
    int32_t idx;
    const char *status, *finish;
    size_t n_tokens, n_logprobs;
};

static struct message *make(const struct scored *scored)
{
    struct message *message = NULL;
    struct json *scores = json_object_create();
    int32_t tokens[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    for (size_t i = 0; i < TOKENS_MAX; i++) {
        tokens[i] = (int32_t)scored->sample_id + (int32_t)i;
        logprobs[i] = -0.5F * (float)i - (float)scored->idx;
    }
    assert_ok(json_put(scores, "correct", json_from_int(scored->sample_id)));
    assert_ok(message_create(MESSAGE_SCORED, &message));
    message_put_int(message, "sample_id", scored->sample_id);
    message_put_int(message, "group_id", (int64_t)scored->group_id);
    message_put_int(message, "idx", scored->idx);
    message_put_text(message, "status", scored->status);
    message_put_number(message, "reward", 0.25);
    message_put_text(message, "finish", scored->finish);
    message_put_hex64(message, "seed", 0xfedcba9876543210U);
    message_put_int(message, "version_first", 3);
    message_put_json(message, "scores", scores);
    message_put_array(message, "tokens", DTYPE_I32, tokens, scored->n_tokens);
    message_put_array(message, "logprobs", DTYPE_F32, logprobs, scored->n_logprobs);
    return message;
}

static enum status add(struct sample_store *store, const struct scored *scored, bool *is_new)
{
    struct message *message = make(scored);
    const enum status status = sample_store_add(store, message, is_new);
    message_destroy(message); /* the store keeps no pointer into it */
    return status;
}

static void a_sample_is_copied_out_of_its_message(void **state)
{
    const struct scored scored = {501, 7, 2, "ok", "stop", 4, 4};
    struct sample_store *store = NULL;
    bool is_new = false;
    (void)state;
    assert_ok(sample_store_create(&store));
    assert_ok(add(store, &scored, &is_new));
    assert_true(is_new);
    const struct stored_sample *stored = sample_store_find(store, 7, 2);
    assert_non_null(stored);
    assert_ptr_equal(stored, sample_store_find_id(store, 501));
    assert_ptr_equal(stored, sample_store_at(store, 0));
    assert_int_equal(stored->group_id, 7);
    assert_int_equal(stored->version, 3);
    assert_int_equal(stored->sample.idx, 2);
    assert_int_equal(stored->sample.n_tokens, 4);
    assert_int_equal(stored->sample.tokens[3], 504);
    assert_true(stored->sample.logprobs[3] == -3.5F);
    assert_true(stored->sample.seed == 0xfedcba9876543210U);
    assert_true(stored->sample.reward == 0.25 && stored->sample.has_reward);
    assert_false(stored->sample.is_truncated || stored->is_masked);
    assert_int_equal(json_int(json_get(stored->scores, "correct"), 0), 501);
    sample_store_destroy(store);
}

static void statuses_say_what_counts(void **state)
{
    static const struct {
        struct scored scored;
        bool has_reward, is_masked, is_truncated;
    } cases[] = {{{1, 1, 0, "ok", "length", 1, 1}, true, false, true},
                 {{2, 1, 1, "na", "stop", 1, 1}, false, false, false},
                 {{3, 1, 2, "masked", "stop", 1, 1}, false, true, false}};
    struct sample_store *store = NULL;
    (void)state;
    assert_ok(sample_store_create(&store));
    for (size_t i = 0; i < 3; i++) {
        bool is_new = false;
        assert_ok(add(store, &cases[i].scored, &is_new));
        const struct stored_sample *stored = sample_store_at(store, i);
        assert_int_equal(stored->sample.has_reward, cases[i].has_reward);
        assert_int_equal(stored->is_masked, cases[i].is_masked);
        assert_int_equal(stored->sample.is_truncated, cases[i].is_truncated);
    }
    sample_store_destroy(store);
}

static void a_second_copy_changes_nothing(void **state)
{
    const struct scored first = {501, 7, 2, "ok", "stop", 4, 4};
    const struct scored second = {999, 7, 2, "masked", "stop", 2, 2};
    struct sample_store *store = NULL;
    bool is_new = false;
    (void)state;
    assert_ok(sample_store_create(&store));
    assert_ok(add(store, &first, &is_new));
    assert_ok(add(store, &second, &is_new));
    assert_false(is_new);
    assert_int_equal(sample_store_count(store), 1);
    assert_int_equal(sample_store_find(store, 7, 2)->sample.sample_id, 501);
    assert_null(sample_store_find_id(store, 999));
    sample_store_destroy(store);
}

static void what_is_not_here_is_not_found(void **state)
{
    const struct scored scored = {501, 7, 2, "ok", "stop", 4, 4};
    struct sample_store *store = NULL;
    bool is_new = false;
    (void)state;
    assert_ok(sample_store_create(&store));
    assert_null(sample_store_find(store, 0, 0));
    assert_null(sample_store_find_id(store, 0));
    assert_ok(add(store, &scored, &is_new));
    assert_null(sample_store_find(store, 7, 3));
    assert_null(sample_store_find(store, 6, 2));
    assert_null(sample_store_find_id(store, 502));
    sample_store_destroy(store);
}

static void broken_arrays_are_refused(void **state)
{
    const struct scored uneven = {501, 7, 2, "ok", "stop", 4, 3};
    const struct scored empty = {501, 7, 2, "ok", "stop", 0, 0};
    struct sample_store *store = NULL;
    bool is_new = false;
    (void)state;
    assert_ok(sample_store_create(&store));
    assert_status(add(store, &uneven, &is_new), STATUS_BAD_FORMAT, "sample 501");
    assert_status(add(store, &empty, &is_new), STATUS_BAD_FORMAT, "0 tokens");
    assert_int_equal(sample_store_count(store), 0);
    assert_null(sample_store_find(store, 7, 2));
    sample_store_destroy(store);
}

static void every_sample_is_found_after_growth_and_none_after_clear(void **state)
{
    enum { N = 5000, GROUP = 16 };
    struct sample_store *store = NULL;
    bool is_new = false;
    (void)state;
    assert_ok(sample_store_create(&store));
    for (int round = 0; round < 2; round++) {
        for (int32_t i = 0; i < N; i++) {
            const struct scored scored = {
                100000 + 7 * i, (uint64_t)(i / GROUP), i % GROUP, "ok", "stop", 2, 2};
            assert_ok(add(store, &scored, &is_new));
            assert_true(is_new);
        }
        assert_int_equal(sample_store_count(store), N);
        for (int32_t i = 0; i < N; i++) {
            const struct stored_sample *stored =
                sample_store_find(store, (uint64_t)(i / GROUP), i % GROUP);
            assert_non_null(stored);
            assert_int_equal(stored->sample.sample_id, 100000 + 7 * i);
            assert_ptr_equal(stored, sample_store_find_id(store, 100000 + 7 * i));
            assert_int_equal(stored->sample.tokens[1], 100000 + 7 * i + 1);
        }
        sample_store_clear(store);
        assert_int_equal(sample_store_count(store), 0);
        assert_null(sample_store_find(store, 0, 0));
        assert_null(sample_store_find_id(store, 100000));
    }
    sample_store_destroy(store);
}

/* Enough samples for one growth, one of whose allocations fails somewhere. */
static enum status attempt(void *context)
{
    struct sample_store *store = NULL;
    enum status status = sample_store_create(&store);
    for (int32_t i = 0; status == STATUS_OK && i < 1100; i++) {
        bool is_new = false;
        status = sample_store_add(store, ((struct message *const *)context)[i], &is_new);
    }
    assert_true(status != STATUS_OK || sample_store_count(store) == 1100);
    sample_store_destroy(store);
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    static struct message *messages[1100];
    (void)state;
    for (int32_t i = 0; i < 1100; i++) {
        const struct scored scored = {i, 1, i, "ok", "stop", 1, 1};
        messages[i] = make(&scored);
    }
    assert_true(support_fail_allocations(attempt, messages) >= 8);
    for (size_t i = 0; i < 1100; i++) {
        message_destroy(messages[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sample_is_copied_out_of_its_message),
        cmocka_unit_test(statuses_say_what_counts),
        cmocka_unit_test(a_second_copy_changes_nothing),
        cmocka_unit_test(what_is_not_here_is_not_found),
        cmocka_unit_test(broken_arrays_are_refused),
        cmocka_unit_test(every_sample_is_found_after_growth_and_none_after_clear),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
