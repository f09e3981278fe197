/* Weights over an inproc socket: description, chunks, refusals; what arrives are the same bytes,
 * and memory that is named is the policy's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/weights.h"
#include "tests/support/support.h"
#include "trainer/publisher.h"

#include <string.h>

#define N_FLOATS (2 * WEIGHTS_CHUNK_BYTES / sizeof(float) + 5) /* two chunks and a short one */
#define N_CHUNKS 3

struct pair {
    struct socket_context *context;
    struct socket *router, *dealer;
    float *weights;
    struct publisher *publisher;
};

static int setup(void **state)
{
    static struct pair pair;
    memset(&pair, 0, sizeof(pair));
    assert_ok(memory_alloc(N_FLOATS, sizeof(float), &pair.weights));
    for (size_t i = 0; i < N_FLOATS; i++) {
        pair.weights[i] = (float)(i % 99991) * 0.25F;
    }
    assert_ok(publisher_create(pair.weights, N_FLOATS, &pair.publisher));
    publisher_offer(pair.publisher, 12);
    assert_ok(socket_context_create(&pair.context));
    assert_ok(socket_listen(pair.context, "inproc://weights", &pair.router));
    assert_ok(socket_dial(pair.context, "inproc://weights", &pair.dealer));
    *state = &pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;
    socket_close(pair->dealer);
    socket_close(pair->router);
    socket_context_destroy(pair->context);
    publisher_destroy(pair->publisher);
    memory_free(pair->weights);
    return 0;
}

/* Waits for a message; fails the test after 2 s. */
static struct message *receive(struct socket *socket, struct peer_id *peer)
{
    struct message *message = NULL;
    for (int i = 0; i < 20 && message == NULL; i++) {
        struct wait_item item = {.socket = socket, .wants_read = true};
        assert_ok(socket_wait(&item, 1, 100));
        assert_ok(socket_receive(socket, peer, &message));
    }
    assert_non_null(message);
    return message;
}

static void assert_silent(struct socket *socket)
{
    struct wait_item item = {.socket = socket, .wants_read = true};
    struct message *message = NULL;
    assert_ok(socket_wait(&item, 1, 20));
    assert_ok(socket_receive(socket, NULL, &message));
    assert_null(message);
}

/* A worker's W_GET, and the publisher's answer to it. */
static void ask(struct pair *pair, int64_t version, int64_t first, int64_t count)
{
    struct message *request = NULL;
    struct peer_id peer;
    assert_ok(message_create(MESSAGE_W_GET, &request));
    message_put_int(request, "version", version);
    message_put_int(request, "first", first);
    message_put_int(request, "count", count);
    assert_ok(socket_send(pair->dealer, NULL, request));
    message_destroy(request);
    request = receive(pair->router, &peer);
    assert_ok(publisher_answer(pair->publisher, pair->router, &peer, request));
    message_destroy(request);
}

static void the_description_names_every_chunk(void **state)
{
    struct pair *pair = *state;
    const struct digest128 root = publisher_digest(pair->publisher);
    char text[DIGEST128_TEXT];
    size_t n = 0;
    ask(pair, 12, -1, 0);
    struct message *info = receive(pair->dealer, NULL);
    assert_int_equal(message_type_of(info), MESSAGE_W_INFO);
    assert_int_equal(message_int(info, "version", -1), 12);
    assert_int_equal(message_int(info, "bytes", -1), N_FLOATS * sizeof(float));
    assert_int_equal(message_int(info, "chunk_bytes", -1), WEIGHTS_CHUNK_BYTES);
    assert_string_equal(message_text(info, "root", ""),
                        hash_hex(root.bytes, sizeof(root.bytes), text));
    const unsigned char *digests = message_array(info, "digests", &n);
    assert_int_equal(n, N_CHUNKS * sizeof(struct digest128));
    for (size_t i = 0; i < N_CHUNKS; i++) {
        const struct digest128 want = weights_chunk_digest(pair->weights, N_FLOATS, i);
        assert_memory_equal(digests + i * sizeof(want), want.bytes, sizeof(want));
    }
    message_destroy(info);
}

static void chunks_carry_the_weights(void **state)
{
    struct pair *pair = *state;
    ask(pair, 12, 1, 16); /* the window reaches past the end */
    for (size_t i = 1; i < N_CHUNKS; i++) {
        size_t n = 0;
        struct message *chunk = receive(pair->dealer, NULL);
        assert_int_equal(message_type_of(chunk), MESSAGE_W_CHUNK);
        assert_int_equal(message_int(chunk, "index", -1), i);
        assert_int_equal(message_int(chunk, "version", -1), 12);
        const void *data = message_array(chunk, "data", &n);
        assert_int_equal(n, i < 2 ? WEIGHTS_CHUNK_BYTES : 5 * sizeof(float));
        assert_memory_equal(data, (const char *)pair->weights + i * WEIGHTS_CHUNK_BYTES, n);
        message_destroy(chunk);
    }
    assert_silent(pair->dealer);
    ask(pair, 12, N_CHUNKS, 4); /* all of it is past the end */
    assert_silent(pair->dealer);
}

static void other_versions_are_refused(void **state)
{
    struct pair *pair = *state;
    for (int64_t version = 11; version <= 13; version += 2) {
        ask(pair, version, version == 11 ? -1 : 0, 1);
        struct message *refusal = receive(pair->dealer, NULL);
        assert_int_equal(message_type_of(refusal), MESSAGE_REFUSE);
        assert_non_null(strstr(message_text(refusal, "reason", ""), "12"));
        message_destroy(refusal);
    }
}

static void a_new_version_has_a_new_digest(void **state)
{
    struct pair *pair = *state;
    const struct digest128 before = publisher_digest(pair->publisher);
    publisher_offer(pair->publisher, 13);
    assert_int_equal(publisher_version(pair->publisher), 13);
    struct digest128 after = publisher_digest(pair->publisher);
    assert_true(digest128_equal(&before, &after)); /* the weights are what counts */
    pair->weights[N_FLOATS - 1] += 1.0F;
    publisher_offer(pair->publisher, 14);
    after = publisher_digest(pair->publisher);
    assert_false(digest128_equal(&before, &after));
}

static struct policy *make_policy(struct backend *backend, bool shares)
{
    const struct policy_options options = {
        .max_rows = 8, .max_draws = 1, .is_trainable = true, .shares_weights = shares};
    struct model_config config;
    struct policy *policy = NULL;
    assert_ok(model_config_preset("tiny", &config));
    assert_ok(policy_create(backend, &config, &options, &policy));
    return policy;
}

static struct message *describe(struct pair *pair, int64_t version)
{
    ask(pair, version, -1, 0);
    struct message *info = receive(pair->dealer, NULL);
    assert_int_equal(message_type_of(info), MESSAGE_W_INFO);
    return info;
}

/* What the description names is the policy's memory, and its version is the publisher's word. */
static void shared_weights_are_named_and_withdrawn(void **state)
{
    struct pair *pair = *state;
    struct backend *backend = NULL;
    assert_ok(backend_open("cpu", 1, &backend));
    struct policy *policy = make_policy(backend, true);
    assert_ok(publisher_share(pair->publisher, policy));
    publisher_offer(pair->publisher, 13);
    struct message *info = describe(pair, 13);
    struct shared_memory_name name = {.pid = message_int(info, "pid", -1),
                                      .fd = message_int(info, "fd", -1),
                                      .n_bytes = (size_t)message_int(info, "shared_bytes", 0)};
    assert_true(hash_unhex(message_text(info, "nonce", ""), name.nonce, sizeof(name.nonce)));
    struct shared_memory *seen = NULL;
    assert_ok(shared_memory_attach(&name, &seen));
    policy_weights(policy)[5] = 0.625F;
    const char *weights =
        (const char *)shared_memory_data(seen) + message_int(info, "weights_at", 0);
    assert_memory_equal(weights, policy_weights(policy), 6 * sizeof(float));
    assert_int_equal(shared_memory_version(seen), 13);
    publisher_withdraw(pair->publisher);
    assert_int_equal(shared_memory_version(seen), -1);
    publisher_offer(pair->publisher, 14);
    assert_int_equal(shared_memory_version(seen), 14);
    message_destroy(info);
    shared_memory_close(seen);
    policy_destroy(policy);
    backend_close(backend);
}

static void weights_of_its_own_are_described_without_memory(void **state)
{
    struct pair *pair = *state;
    struct backend *backend = NULL;
    assert_ok(backend_open("cpu", 1, &backend));
    struct policy *policy = make_policy(backend, false);
    assert_ok(publisher_share(pair->publisher, policy));
    publisher_withdraw(pair->publisher); /* of no consequence */
    struct message *info = describe(pair, 12);
    assert_int_equal(message_int(info, "pid", -1), -1);
    assert_string_equal(message_text(info, "nonce", "none"), "none");
    message_destroy(info);
    policy_destroy(policy);
    backend_close(backend);
}

static enum status attempt(void *context)
{
    struct publisher *publisher = NULL;
    const enum status status = publisher_create(context, N_FLOATS, &publisher);
    assert_true(status == STATUS_OK || publisher == NULL);
    publisher_destroy(publisher);
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    struct pair *pair = *state;
    assert_int_equal(support_fail_allocations(attempt, pair->weights), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_description_names_every_chunk, setup, teardown),
        cmocka_unit_test_setup_teardown(chunks_carry_the_weights, setup, teardown),
        cmocka_unit_test_setup_teardown(other_versions_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_new_version_has_a_new_digest, setup, teardown),
        cmocka_unit_test_setup_teardown(shared_weights_are_named_and_withdrawn, setup, teardown),
        cmocka_unit_test_setup_teardown(weights_of_its_own_are_described_without_memory, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(no_failed_allocation_leaks, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
