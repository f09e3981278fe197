/* A worker that reads its trainer's weights in place: the same samples, nothing fetched, and
 * nothing that was computed while the trainer wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/policy.h"
#include "tests/unit/rollout/worker_stage.h"

#define NO_VERSION INT64_C(-1)

/* The trainer's side. */
struct owner {
    struct stage *stage;
    struct backend *backend;
    struct policy *policy;
};

static void open_owner(struct stage *stage, struct owner *owner)
{
    const struct policy_options options = {.max_rows = 8,
                                           .max_draws = 1,
                                           .is_trainable = true,
                                           .shares_weights = true,
                                           .precision = PRECISION_F32};
    struct model_config model;

    owner->stage = stage;
    assert_ok(model_config_load(stage->folder, &model));
    assert_ok(weights_probe_mtp(stage->folder, &model));
    assert_ok(backend_open("auto", 1, &owner->backend));
    assert_ok(policy_create(owner->backend, &model, &options, &owner->policy));
    assert_int_equal(policy_table(owner->policy)->n_floats, stage->table->n_floats);
}

static void close_owner(struct owner *owner)
{
    policy_destroy(owner->policy);
    backend_close(owner->backend);
}

static void set_version(const struct owner *owner, int64_t version)
{
    shared_memory_set_version(policy_share(owner->policy).memory, version);
}

static void publish(struct owner *owner, size_t version)
{
    const struct stage *stage = owner->stage;

    set_version(owner, NO_VERSION);
    memcpy(policy_weights(owner->policy), stage->weights[version % N_VERSIONS],
           stage->table->n_floats * sizeof(float));
    assert_ok(policy_refresh(owner->policy));
    set_version(owner, (int64_t)version);
}

/* What the weights look like to who reads them during an update, at worst. */
static void damage(struct owner *owner)
{
    const struct policy_share share = policy_share(owner->policy);
    const size_t n_bytes = shared_memory_name(share.memory).n_bytes;

    set_version(owner, NO_VERSION);
    memset(shared_memory_data(share.memory), 0xff, n_bytes); /* NaN */
}

static struct message *make_shared_info(const struct owner *owner, size_t version)
{
    const struct policy_share share = policy_share(owner->policy);
    const struct shared_memory_name name = shared_memory_name(share.memory);
    struct message *info = make_info(owner->stage, version);
    struct digest128 packing;
    char text[DIGEST128_TEXT];

    assert_ok(policy_packing(owner->policy, &packing));
    message_put_int(info, "pid", name.pid);
    message_put_int(info, "fd", name.fd);
    message_put_int(info, "shared_bytes", (int64_t)name.n_bytes);
    message_put_int(info, "weights_at", (int64_t)share.weights_at);
    message_put_int(info, "packed_at", (int64_t)share.packed_at);
    message_put_text(info, "nonce", hash_hex(name.nonce, sizeof(name.nonce), text));
    message_put_text(info, "packing", hash_hex(packing.bytes, sizeof(packing.bytes), text));
    return info;
}

/* The worker asks for a version's description, and gets `info`. */
static void describe(struct stage *stage, size_t version, struct message *info)
{
    struct peer_id peer;
    struct message *get = expect(stage->weights_socket, MESSAGE_W_GET, &peer);

    assert_int_equal(message_int(get, "version", -1), version);
    assert_int_equal(message_int(get, "first", 0), -1);
    message_destroy(get);
    send_and_destroy(stage->weights_socket, &peer, info);
}

static void assert_nothing_is_fetched(struct stage *stage)
{
    struct message *message = NULL;

    assert_ok(socket_receive(stage->weights_socket, NULL, &message));
    assert_null(message);
}

static void welcome_both(struct stage *stage, int64_t inc, int64_t credit)
{
    welcome(stage->work, &stage->worker_at_work, inc);
    welcome(stage->results, &stage->worker_at_results, inc);
    expect_ready(stage, credit);
}

static void sample_mapped(struct owner *owner, int64_t group, int64_t attempt, size_t version,
                          struct result results[N_SAMPLES])
{
    publish(owner, version);
    send_work(owner->stage, group, attempt, version);
    describe(owner->stage, version, make_shared_info(owner, version));
    collect(owner->stage, (struct result){.group = group, .attempt = attempt, .version = version},
            results);
    assert_nothing_is_fetched(owner->stage);
}

static void assert_same(const struct result a[N_SAMPLES], const struct result b[N_SAMPLES])
{
    for (size_t i = 0; i < N_SAMPLES; i++) {
        assert_memory_equal(a[i].tokens, b[i].tokens, sizeof(a[i].tokens));
        assert_memory_equal(a[i].logprobs, b[i].logprobs, sizeof(a[i].logprobs));
    }
}

static void mapped_weights_give_the_samples_of_fetched_ones(void **state)
{
    struct stage *stage = *state;
    struct result fetched[N_SAMPLES], mapped[N_SAMPLES], again[N_SAMPLES];
    struct owner owner;

    open_owner(stage, &owner);
    welcome_both(stage, 7, 4);
    send_work(stage, 1, 0, 1);
    serve_weights(stage, 1);
    collect(stage, (struct result){.group = 1, .version = 1}, fetched);
    sample_mapped(&owner, 1, 1, 1 + N_VERSIONS, mapped);
    assert_same(fetched, mapped);
    sample_mapped(&owner, 1, 2, 2 + N_VERSIONS, mapped);
    assert_memory_not_equal(fetched[0].logprobs, mapped[0].logprobs, sizeof(float));
    send_work(stage, 1, 3, 1);
    serve_weights(stage, 1); /* its own memory again */
    collect(stage, (struct result){.group = 1, .attempt = 3, .version = 1}, again);
    assert_same(fetched, again);
    say_bye_and_join(stage);
    close_owner(&owner);
}

static void work_for_weights_that_the_trainer_left_is_dropped(void **state)
{
    struct stage *stage = *state;
    struct result before[N_SAMPLES], after[N_SAMPLES];
    struct owner owner;

    open_owner(stage, &owner);
    welcome_both(stage, 7, 4);
    sample_mapped(&owner, 1, 0, 1, before);
    expect_ready(stage, 1);
    damage(&owner);
    send_work(stage, 2, 0, 1); /* of the version held */
    expect_ready(stage, 1);
    send_work(stage, 3, 0, 2);
    describe(stage, 2, make_shared_info(&owner, 2)); /* not written yet */
    expect_ready(stage, 1);
    sample_mapped(&owner, 1, 1, 1 + N_VERSIONS, after);
    assert_same(before, after);
    say_bye_and_join(stage);
    close_owner(&owner);
}

static void what_cannot_be_mapped_is_fetched(void **state)
{
    static const char *const nonces[] = {"00000000000000000000000000000000", "what?"};
    static const char *const packing = "00000000000000000000000000000000";
    struct stage *stage = *state;
    struct result results[N_SAMPLES];
    struct owner owner;

    welcome_both(stage, 7, 4);
    for (size_t i = 0; i < 4; i++) {
        const int64_t attempt = (int64_t)i;

        open_owner(stage, &owner);
        publish(&owner, i);
        struct message *info = make_shared_info(&owner, i);
        if (i < 2) {
            message_put_text(info, "nonce", nonces[i]);
        } else if (i == 2) {
            message_put_text(info, "packing", packing);
        } else {
            message_put_int(info, "packed_at", INT64_MAX);
        }
        send_work(stage, 1, attempt, i);
        describe(stage, i, info);
        serve_weights(stage, i);
        collect(stage, (struct result){.group = 1, .attempt = attempt, .version = i}, results);
        close_owner(&owner);
    }
    say_bye_and_join(stage);
}

/* Blocks of ours that this process has mapped: the owner's, and the worker's view of it. */
static size_t count_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    size_t n = 0;

    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        n += strstr(line, "memfd:hone") != NULL ? 1 : 0;
    }
    assert_int_equal(fclose(maps), 0);
    return n;
}

static void another_trainer_ends_the_mapping(void **state)
{
    struct stage *stage = *state;
    struct message *refuse = make(MESSAGE_REFUSE);
    struct result before[N_SAMPLES], after[N_SAMPLES];
    struct owner first, second;

    open_owner(stage, &first);
    welcome_both(stage, 7, 4);
    assert_int_equal(count_mappings(), 1);
    sample_mapped(&first, 1, 0, 1, before);
    expect_ready(stage, 1);
    assert_int_equal(count_mappings(), 2);
    message_put_text(refuse, "reason", "HELLO comes first");
    send_and_destroy(stage->work, &stage->worker_at_work, refuse);
    welcome(stage->work, &stage->worker_at_work, 8);
    stage->inc = 8;
    expect_ready(stage, 4);
    assert_int_equal(count_mappings(), 1); /* the worker's went before anything came */
    close_owner(&first);
    open_owner(stage, &second);
    sample_mapped(&second, 1, 1, 1, after); /* the same version of another trainer */
    assert_same(before, after);
    say_bye_and_join(stage);
    close_owner(&second);
}

/* --- A trainer that goes on at any moment --- */

#define N_ROUNDS ((size_t)160)
#define DELAY_STEP_US ((size_t)10)
#define SETTLE_US ((size_t)1000) /* until what was sampled in time has come */

static void wait_us(size_t n)
{
    const int64_t end_us = clock_now_us() + (int64_t)n;

    while (clock_now_us() < end_us) {
    }
}

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Version v samples group 1 + v % N_VERSIONS, so that equal weights draw with equal noise. */
static int64_t group_of(size_t version)
{
    return 1 + (int64_t)(version % N_VERSIONS);
}

static void check_late(struct stage *stage, const struct message *message,
                       struct result references[N_VERSIONS][N_SAMPLES])
{
    const int64_t idx = message_int(message, "idx", -1);
    const size_t version = (size_t)message_int(message, "version_first", 0);
    const struct result *want = &references[version % N_VERSIONS][idx];
    struct message *ack = make(MESSAGE_ACK);
    size_t n = 0;

    assert_int_equal(message_int(message, "group_id", -1), group_of(version));
    const int32_t *tokens = message_array(message, "tokens", &n);
    assert_int_equal(n, want->n_tokens);
    assert_memory_equal(tokens, want->tokens, n * sizeof(int32_t));
    assert_memory_equal(message_array(message, "logprobs", &n), want->logprobs, n * sizeof(float));
    message_put_int(ack, "group_id", group_of(version));
    message_put_int(ack, "idx", idx);
    message_put_int(ack, "attempt", message_int(message, "attempt", 0));
    send_and_destroy(stage->results, &stage->worker_at_results, ack);
}

/* What has come so far; returns how many samples of versions from `first` on that were. */
static size_t drain(struct stage *stage, size_t first,
                    struct result references[N_VERSIONS][N_SAMPLES])
{
    size_t n = 0;

    for (;;) {
        struct message *message = NULL;

        assert_ok(socket_receive(stage->results, &stage->worker_at_results, &message));
        if (message == NULL) {
            return n;
        }
        if (message_type_of(message) == MESSAGE_COMPLETION) {
            check_late(stage, message, references);
            n += (size_t)message_int(message, "version_first", 0) >= first ? 1 : 0;
        }
        message_destroy(message);
    }
}

static void send_shared_work(struct owner *owner, size_t version)
{
    publish(owner, version);
    send_work(owner->stage, group_of(version), (int64_t)version, version);
    describe(owner->stage, version, make_shared_info(owner, version));
}

static void what_is_sampled_while_weights_change_never_comes(void **state)
{
    static struct result references[N_VERSIONS][N_SAMPLES];
    struct stage *stage = *state;
    struct owner owner;
    size_t n_here = 0, n_last = 0, delay_us = 0;
    const size_t last = N_VERSIONS + N_ROUNDS;

    open_owner(stage, &owner);
    stage->max_tokens = MAX_TOKENS;
    welcome_both(stage, 7, 4);
    for (size_t v = 0; v < N_VERSIONS; v++) {
        sample_mapped(&owner, group_of(v), (int64_t)v, v, references[v]);
    }
    for (size_t v = N_VERSIONS; v < last; v++) {
        send_shared_work(&owner, v);
        wait_us(delay_us);
        damage(&owner);
        wait_us(SETTLE_US);
        const size_t n = drain(stage, 0, references);
        /* Towards a moment when the worker is at it. */
        delay_us = n == 0 ? delay_us + DELAY_STEP_US : delay_us - min(delay_us, DELAY_STEP_US);
        n_here += n;
    }
    assert_true(n_here < N_ROUNDS * N_SAMPLES); /* the first round had no time at all */
    send_shared_work(&owner, last);
    const int64_t deadline_us = clock_now_us() + WAIT_MS * INT64_C(1000);
    while (n_last < N_SAMPLES && clock_now_us() < deadline_us) {
        n_last += drain(stage, last, references);
    }
    assert_int_equal(n_last, N_SAMPLES);
    say_bye_and_join(stage);
    close_owner(&owner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(mapped_weights_give_the_samples_of_fetched_ones, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(work_for_weights_that_the_trainer_left_is_dropped, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_mapped_is_fetched, setup, teardown),
        cmocka_unit_test_setup_teardown(another_trainer_ends_the_mapping, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_sampled_while_weights_change_never_comes, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
