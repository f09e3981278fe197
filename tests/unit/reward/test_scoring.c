/* The queue in front of every scorer: totals, masking and failures by the rules of rewards.md 2.2,
 * and samples that finish in any order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/reward/score_bench.h"

#include <math.h>

#define REWARDS_MAX 4

/* A configuration of several rewards; source NULL is the bench's Python scorer. */
struct set {
    struct bench bench;
    struct reward_config rewards[REWARDS_MAX];
    struct scoring *scoring;
};

static struct set set; /* of the test at hand */

static int setup(void **state)
{
    (void)state;
    memset(&set, 0, sizeof(set));
    bench_open(&set.bench);
    set.bench.config.rewards = set.rewards;
    set.bench.config.n_rewards = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scoring_destroy(set.scoring);
    assert_all_gone(&set.bench);
    for (size_t i = 0; i < set.bench.config.n_rewards; i++) {
        json_destroy(set.rewards[i].config);
    }
    bench_close(&set.bench);
    return 0;
}

static void add_reward(char *name, char *source, double weight, enum on_error on_error)
{
    struct reward_config *reward = &set.rewards[set.bench.config.n_rewards++];
    *reward = set.bench.reward;
    reward->name = name;
    reward->source = source != NULL ? source : set.bench.source;
    reward->weight = weight;
    reward->on_error = on_error;
}

static void configure(size_t i, const char *text)
{
    assert_ok(json_parse(text, strlen(text), 4, &set.rewards[i].config));
}

static void create(void)
{
    assert_ok(scoring_create(&set.bench.config, &set.scoring));
}

static enum status submit(int64_t sample_id, const char *completion)
{
    const struct score_sample sample = bench_sample(sample_id, completion);
    return scoring_submit(set.scoring, &sample);
}

/* Ticks until something is finished, or the tick fails. */
static enum status next_results(const struct score_result **results, size_t *n)
{
    const int64_t begin_us = clock_now_us();
    *n = 0;
    while (*n == 0) {
        struct wait_item items[16];
        const int64_t now_us = clock_now_us();
        const size_t n_items = scoring_wait_items(set.scoring, items, 16);
        assert_true(now_us - begin_us < 20000000);
        assert_ok(socket_wait(items, n_items, scoring_timeout_ms(set.scoring, now_us)));
        const enum status status = scoring_tick(set.scoring, clock_now_us(), results, n);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

/* Scores one sample alone. */
static struct score_result score(const char *completion)
{
    const struct score_result *results = NULL;
    size_t n = 0;
    assert_ok(submit(1, completion));
    assert_int_equal(scoring_in_flight(set.scoring), 1);
    assert_ok(next_results(&results, &n));
    assert_int_equal(n, 1);
    assert_int_equal(results[0].sample_id, 1);
    assert_int_equal(scoring_in_flight(set.scoring), 0);
    return results[0];
}

static char correct[] = "correct";
static char length[] = "length";
static char match[] = "match";
static char builtin_length[] = "builtin:length";
static char builtin_regex[] = "builtin:regex";
static char builtin_exact[] = "builtin:exact";

static void the_total_is_the_weighted_sum(void **state)
{
    (void)state;
    add_reward(match, builtin_regex, 2.0, ON_ERROR_MASK);
    configure(0, "{\"pattern\": \"yes\"}");
    add_reward(length, builtin_length, -0.1, ON_ERROR_MASK);
    create();
    struct score_result result = score("yes");
    assert_true(result.has_total && !result.is_masked);
    assert_true(result.total == 2.0 * 1.0 + -0.1 * 5.0);
    assert_true(result.scores[0].value == 1.0 && result.scores[1].value == 5.0);
    result = score("no");
    assert_true(result.has_total && result.total == -0.1 * 5.0);
}

static void not_applicable_components_are_left_out(void **state)
{
    (void)state;
    add_reward(correct, builtin_exact, 1.0, ON_ERROR_MASK); /* no answer: n/a */
    add_reward(length, builtin_length, 1.0, ON_ERROR_MASK);
    create();
    const struct score_result result = score("x");
    assert_int_equal(result.scores[0].status, SCORE_NA);
    assert_true(result.has_total && !result.is_masked && result.total == 5.0);
}

static void a_sample_with_nothing_but_not_applicable_is_unscorable(void **state)
{
    (void)state;
    add_reward(correct, builtin_exact, 1.0, ON_ERROR_MASK);
    add_reward(length, builtin_length, 0.0, ON_ERROR_MASK); /* a metric is no judgement */
    create();
    const struct score_result result = score("x");
    assert_true(!result.has_total && !result.is_masked && result.total == 0.0);
    assert_true(result.scores[1].value == 5.0);
}

static void an_error_masks_the_sample(void **state)
{
    (void)state;
    add_reward(length, builtin_length, 1.0, ON_ERROR_MASK);
    add_reward(correct, NULL, 1.0, ON_ERROR_MASK);
    create();
    struct score_result result = score("json {\"error\": \"broken\"}");
    assert_true(result.is_masked && !result.has_total);
    assert_int_equal(result.scores[1].status, SCORE_ERROR);
    assert_true(result.total == 5.0); /* the ok components', always stored in this form */
    result = score("value 1");
    assert_true(!result.is_masked && result.has_total && result.total == 6.0);
}

static void an_error_can_count_as_zero_and_keeps_its_status(void **state)
{
    (void)state;
    add_reward(correct, NULL, 1.0, ON_ERROR_ZERO);
    create();
    const struct score_result result = score("json {\"error\": \"broken\"}");
    assert_true(!result.is_masked && result.has_total && result.total == 0.0);
    assert_int_equal(result.scores[0].status, SCORE_ERROR);
}

static void a_timeout_is_an_error_too(void **state)
{
    (void)state;
    add_reward(correct, NULL, 1.0, ON_ERROR_MASK);
    create();
    set.rewards[0].timeout_s = 0.1;
    const struct score_result result = score("sleep");
    assert_int_equal(result.scores[0].status, SCORE_TIMEOUT);
    assert_true(result.is_masked && !result.has_total);
}

static void errors_of_a_metric_mask_nothing(void **state)
{
    (void)state;
    add_reward(length, builtin_length, 1.0, ON_ERROR_MASK);
    add_reward(correct, NULL, 0.0, ON_ERROR_FAIL);
    create();
    const struct score_result result = score("json {\"error\": \"broken\"}");
    assert_true(!result.is_masked && result.has_total && result.total == 5.0);
}

static void an_error_can_stop_the_run(void **state)
{
    const struct score_result *results = NULL;
    size_t n = 0;
    (void)state;
    add_reward(correct, NULL, 1.0, ON_ERROR_FAIL);
    create();
    (void)score("value 1");
    assert_ok(submit(77, "json {\"error\": \"broken\"}"));
    assert_status(next_results(&results, &n), STATUS_SCORING, "reward correct: sample 77: error");
    assert_non_null(strstr(status_message(), "broken"));
    assert_status(scoring_tick(set.scoring, clock_now_us(), &results, &n), STATUS_SCORING, NULL);
}

/* Far more than one call and one growth hold; every result comes once and under its own id. */
static void many_samples_are_in_flight_at_once(void **state)
{
    enum { N = 300 };
    static bool is_seen[N];
    size_t n_seen = 0;
    (void)state;
    memset(is_seen, 0, sizeof(is_seen));
    add_reward(correct, NULL, 1.0, ON_ERROR_MASK);
    add_reward(length, builtin_length, 1.0, ON_ERROR_MASK);
    set.rewards[0].workers = 2;
    create();
    for (int64_t i = 0; i < N; i++) {
        char text[32]; /* the queue has a copy */
        const int bytes = snprintf(text, sizeof(text), "value %lld", (long long)i);
        assert_true(bytes > 0);
        assert_ok(submit(i, text));
    }
    assert_int_equal(scoring_in_flight(set.scoring), N);
    while (n_seen < N) {
        const struct score_result *results = NULL;
        size_t n = 0;
        assert_ok(next_results(&results, &n));
        for (size_t i = 0; i < n; i++) {
            const int64_t id = results[i].sample_id;
            assert_true(id >= 0 && id < N && !is_seen[id]);
            assert_true(results[i].has_total && results[i].total == (double)id + 5.0);
            is_seen[id] = true;
        }
        n_seen += n;
    }
    assert_int_equal(scoring_in_flight(set.scoring), 0);
}

/* Results are borrowed until the next tick; submitting meanwhile must not move them. */
static void results_outlive_a_submit(void **state)
{
    const struct score_result *results = NULL;
    size_t n = 0;
    (void)state;
    add_reward(length, builtin_length, 1.0, ON_ERROR_MASK);
    create();
    for (int64_t i = 0; i < 64; i++) {
        assert_ok(submit(i, "x"));
    }
    assert_int_equal(scoring_timeout_ms(set.scoring, clock_now_us()), 0);
    assert_ok(next_results(&results, &n));
    assert_int_equal(n, 64);
    for (int64_t i = 0; i < 64; i++) {
        assert_int_equal(results[i].sample_id, i);
        assert_true(results[i].total == 5.0 && results[i].scores[0].value == 5.0);
        assert_ok(submit(100 + i, "y"));
        assert_ok(submit(200 + i, "z"));
    }
    assert_ok(next_results(&results, &n));
    assert_int_equal(n, 128);
}

/* A stuck component holds its own samples back and nobody else's: nothing waits in the loop. */
static void ticks_do_not_block(void **state)
{
    const struct score_result *results = NULL;
    size_t n = 0;
    int64_t longest_us = 0;
    (void)state;
    add_reward(correct, NULL, 1.0, ON_ERROR_MASK);
    create();
    set.rewards[0].timeout_s = 0.1;
    assert_ok(submit(1, "stubborn"));
    while (n == 0) {
        const int64_t begin_us = clock_now_us();
        assert_ok(scoring_tick(set.scoring, begin_us, &results, &n));
        const int64_t us = clock_now_us() - begin_us;
        longest_us = us > longest_us ? us : longest_us;
        clock_sleep_us(2000);
    }
    assert_int_equal(results[0].scores[0].status, SCORE_TIMEOUT);
    assert_true(longest_us < 60000);
}

static void components_are_described(void **state)
{
    const struct scoring_component *components = NULL;
    (void)state;
    add_reward(match, builtin_regex, 2.0, ON_ERROR_MASK);
    configure(0, "{\"pattern\": \"yes\"}");
    add_reward(correct, NULL, 0.5, ON_ERROR_MASK);
    create();
    assert_int_equal(scoring_components(set.scoring, &components), 2);
    assert_string_equal(components[0].name, "match");
    assert_string_equal(components[0].source, "builtin:regex");
    assert_string_equal(components[0].config_json, "{\"pattern\":\"yes\"}");
    assert_string_equal(components[0].sha, "");
    assert_string_equal(components[1].config_json, "{}");
    assert_string_equal(components[1].scope, "sample");
    assert_int_equal(strlen(components[1].sha), 64);
    assert_true(components[1].weight == 0.5);
}

static void wrong_rewards_are_named(void **state)
{
    static char unknown[] = "http://localhost";
    static char no_scorer[] = "builtin:exactly";
    static char no_program[] = "cmd:no-such-program";
    char *const sources[] = {unknown, no_scorer, no_program};
    static const char *const parts[] = {"unknown source http://localhost", "there are: exact",
                                        "no-such-program"};
    (void)state;
    add_reward(length, builtin_length, 1.0, ON_ERROR_MASK);
    add_reward(correct, NULL, 1.0, ON_ERROR_MASK);
    for (size_t i = 0; i < 3; i++) {
        set.rewards[1].source = sources[i];
        assert_status(scoring_create(&set.bench.config, &set.scoring), STATUS_BAD_CONFIG, parts[i]);
        assert_non_null(strstr(status_message(), "reward correct"));
        assert_null(set.scoring);
    }
}

static enum status attempt(void *context)
{
    struct scoring *scoring = NULL;
    enum status status = scoring_create(context, &scoring);
    assert_true(status == STATUS_OK || scoring == NULL);
    const struct score_sample sample = bench_sample(1, "yes");
    const struct score_result *results = NULL;
    size_t n = 0;
    if (status == STATUS_OK) {
        status = scoring_submit(scoring, &sample);
    }
    if (status == STATUS_OK) {
        status = scoring_tick(scoring, 0, &results, &n);
    }
    assert_true(status != STATUS_OK || n == 1);
    scoring_destroy(scoring);
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    (void)state;
    add_reward(match, builtin_regex, 2.0, ON_ERROR_MASK);
    configure(0, "{\"pattern\": \"yes\"}");
    add_reward(length, builtin_length, 1.0, ON_ERROR_MASK);
    assert_true(support_fail_allocations(attempt, &set.bench.config) > 64);
}

static void statuses_have_the_names_of_the_database(void **state)
{
    (void)state;
    assert_string_equal(score_status_name(SCORE_OK), "ok");
    assert_string_equal(score_status_name(SCORE_NA), "n/a");
    assert_string_equal(score_status_name(SCORE_ERROR), "error");
    assert_string_equal(score_status_name(SCORE_TIMEOUT), "timeout");
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_total_is_the_weighted_sum),
        CASE(not_applicable_components_are_left_out),
        CASE(a_sample_with_nothing_but_not_applicable_is_unscorable),
        CASE(an_error_masks_the_sample),
        CASE(an_error_can_count_as_zero_and_keeps_its_status),
        CASE(a_timeout_is_an_error_too),
        CASE(errors_of_a_metric_mask_nothing),
        CASE(an_error_can_stop_the_run),
        CASE(many_samples_are_in_flight_at_once),
        CASE(results_outlive_a_submit),
        CASE(ticks_do_not_block),
        CASE(components_are_described),
        CASE(wrong_rewards_are_named),
        CASE(no_failed_allocation_leaks),
        CASE(statuses_have_the_names_of_the_database),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
