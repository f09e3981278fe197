/* ZeroMQ sockets: who gets what, what a gone or silent peer does, and messages that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/socket.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

struct fixture {
    char folder[128];
    char endpoint[160];
    struct socket_context *context;
    struct socket *router;
};

static int set_up(void **state)
{
    static struct fixture fixture;

    support_temp_dir(fixture.folder, sizeof(fixture.folder));
    (void)snprintf(fixture.endpoint, sizeof(fixture.endpoint), "ipc://%s/s", fixture.folder);
    assert_ok(socket_context_create(&fixture.context));
    assert_ok(socket_listen(fixture.context, fixture.endpoint, &fixture.router));
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    socket_close(fixture->router);
    socket_context_destroy(fixture->context);
    support_temp_dir_remove(fixture->folder);
    return 0;
}

static struct message *ping(int64_t n_tokens)
{
    struct message *message;

    assert_ok(message_create(MESSAGE_PING, &message));
    message_put_int(message, "n_tokens", n_tokens);
    return message;
}

/* Waits up to 2 s for a socket to have something to read. */
static bool wait_for(struct socket *socket)
{
    const int64_t deadline_us = clock_now_us() + 2000000;
    struct wait_item item = {.socket = socket, .wants_read = true};

    while (!item.can_read && clock_now_us() < deadline_us) {
        assert_ok(socket_wait(&item, 1, 100));
    }
    return item.can_read;
}

/* A DEALER with ZMQ_IMMEDIATE takes a message only once it is connected. */
static void send_when_connected(struct socket *socket, const struct message *message)
{
    const int64_t deadline_us = clock_now_us() + 2000000;

    while (clock_now_us() < deadline_us) {
        if (socket_send(socket, NULL, message) == STATUS_OK) {
            return;
        }
        clock_sleep_us(1000);
    }
    fail_msg("never connected: %s", status_message());
}

static void an_answer_goes_back_to_who_asked(void **state)
{
    struct fixture *fixture = *state;
    struct socket *dealers[2];
    struct peer_id peers[2];
    struct message *message;

    for (size_t i = 0; i < 2; i++) {
        assert_ok(socket_dial(fixture->context, fixture->endpoint, &dealers[i]));
        struct message *request = ping((int64_t)i);
        send_when_connected(dealers[i], request);
        message_destroy(request);
        assert_true(wait_for(fixture->router));
        assert_ok(socket_receive(fixture->router, &peers[i], &message));
        assert_int_equal(message_int(message, "n_tokens", -1), i);
        message_destroy(message);
    }
    assert_false(peer_id_equal(&peers[0], &peers[1]));
    assert_ok(socket_receive(fixture->router, NULL, &message));
    assert_null(message);
    for (size_t i = 0; i < 2; i++) {
        struct message *answer = ping(10 + (int64_t)i);
        assert_ok(socket_send(fixture->router, &peers[i], answer));
        message_destroy(answer);
        assert_true(wait_for(dealers[i]));
        assert_ok(socket_receive(dealers[i], NULL, &message));
        assert_int_equal(message_int(message, "n_tokens", -1), 10 + i);
        message_destroy(message);
    }
    socket_close(dealers[0]);
    socket_close(dealers[1]);
}

static void large_arrays_arrive_unchanged(void **state)
{
    struct fixture *fixture = *state;
    const size_t n_bytes = (size_t)1 << 20;
    struct socket *dealer;
    struct message *message;
    unsigned char *data;
    size_t n;

    assert_ok(memory_alloc(n_bytes, 1, &data));
    for (size_t i = 0; i < n_bytes; i++) {
        data[i] = (unsigned char)(i * 31 + i / 256);
    }
    assert_ok(message_create(MESSAGE_W_CHUNK, &message));
    message_put_int(message, "version", 1);
    message_put_int(message, "index", 0);
    message_put_array(message, "data", DTYPE_U8, data, n_bytes);
    assert_ok(socket_dial(fixture->context, fixture->endpoint, &dealer));
    send_when_connected(dealer, message);
    message_destroy(message);
    assert_true(wait_for(fixture->router));
    assert_ok(socket_receive(fixture->router, NULL, &message));
    assert_memory_equal(message_array(message, "data", &n), data, n_bytes);
    assert_int_equal(n, n_bytes);
    message_destroy(message);
    memory_free(data);
    socket_close(dealer);
}

static void a_peer_that_is_unknown_or_absent_is_a_timeout_at_once(void **state)
{
    struct fixture *fixture = *state;
    const struct peer_id nobody = {.bytes = {1, 2, 3, 4, 5}, .n = 5};
    struct message *message = ping(0);
    struct socket *lonely;
    char endpoint[192];

    const int64_t begin_us = clock_now_us();
    assert_status(socket_send(fixture->router, &nobody, message), STATUS_TIMEOUT, "gone");
    (void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/absent", fixture->folder);
    assert_ok(socket_dial(fixture->context, endpoint, &lonely));
    assert_status(socket_send(lonely, NULL, message), STATUS_TIMEOUT, NULL);
    assert_true(clock_now_us() - begin_us < 500000);
    assert_status(socket_send(fixture->router, NULL, message), STATUS_BAD_ARGUMENT, "peer");
    message_destroy(message);
    socket_close(lonely);
}

static void a_dealer_finds_a_router_that_starts_later(void **state)
{
    struct fixture *fixture = *state;
    struct message *message = ping(5);
    struct socket *early;
    struct socket *late;
    char endpoint[192];

    (void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/late", fixture->folder);
    assert_ok(socket_dial(fixture->context, endpoint, &early));
    assert_ok(socket_listen(fixture->context, endpoint, &late));
    send_when_connected(early, message);
    message_destroy(message);
    assert_true(wait_for(late));
    assert_ok(socket_receive(late, NULL, &message));
    assert_int_equal(message_int(message, "n_tokens", 0), 5);
    message_destroy(message);
    socket_close(early);
    socket_close(late);
}

/* A peer that does not use our code. */
struct stranger {
    void *context, *socket;
};

static struct stranger stranger_open(const struct fixture *fixture, size_t id_bytes)
{
    static const char id[200] = "stranger";
    struct stranger stranger = {.context = zmq_ctx_new()};
    const int linger_ms = 0;

    stranger.socket = zmq_socket(stranger.context, ZMQ_DEALER);
    assert_non_null(stranger.socket);
    assert_int_equal(zmq_setsockopt(stranger.socket, ZMQ_LINGER, &linger_ms, sizeof(linger_ms)), 0);
    if (id_bytes > 0) {
        assert_int_equal(zmq_setsockopt(stranger.socket, ZMQ_ROUTING_ID, id, id_bytes), 0);
    }
    assert_int_equal(zmq_connect(stranger.socket, fixture->endpoint), 0);
    return stranger;
}

static void stranger_close(struct stranger *stranger)
{
    (void)zmq_close(stranger->socket);
    (void)zmq_ctx_term(stranger->context);
}

static void stranger_send(const struct stranger *stranger, size_t n_frames)
{
    for (size_t i = 0; i < n_frames; i++) {
        assert_int_equal(zmq_send(stranger->socket, "junk", 4, i + 1 < n_frames ? ZMQ_SNDMORE : 0),
                         4);
    }
}

static void messages_that_are_none_are_consumed_one_by_one(void **state)
{
    static const size_t frame_counts[] = {1, 2, 8, 9, 30};
    struct fixture *fixture = *state;
    struct stranger stranger = stranger_open(fixture, 0);
    struct peer_id peer;
    struct message *message;

    for (size_t i = 0; i < sizeof(frame_counts) / sizeof(frame_counts[0]); i++) {
        stranger_send(&stranger, frame_counts[i]);
        assert_true(wait_for(fixture->router));
        assert_status(socket_receive(fixture->router, &peer, &message), STATUS_BAD_FORMAT, NULL);
        assert_null(message);
        assert_true(peer.n > 0);
        assert_ok(socket_receive(fixture->router, &peer, &message));
        assert_null(message);
    }
    stranger_close(&stranger);
}

static void a_routing_id_that_is_too_long_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct stranger stranger = stranger_open(fixture, 65);
    struct peer_id peer;
    struct message *message;

    stranger_send(&stranger, 3);
    assert_true(wait_for(fixture->router));
    assert_status(socket_receive(fixture->router, &peer, &message), STATUS_BAD_FORMAT, "65 bytes");
    assert_ok(socket_receive(fixture->router, &peer, &message));
    assert_null(message);
    stranger_close(&stranger);
}

static void only_endpoints_of_this_machine_are_accepted(void **state)
{
    static const char *const bad[] = {"tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://10.0.0.1:5555",
                                      "udp://127.0.0.1:1",  "ipc://",       "nonsense"};
    struct fixture *fixture = *state;
    struct socket *socket;
    char path[128] = "ipc://";

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_status(socket_listen(fixture->context, bad[i], &socket), STATUS_BAD_ARGUMENT,
                      bad[i]);
        assert_null(socket);
    }
    memset(path + 6, 'a', 108);
    path[6 + 108] = '\0';
    assert_status(socket_dial(fixture->context, path, &socket), STATUS_BAD_ARGUMENT, "108");
    assert_ok(socket_listen(fixture->context, "tcp://127.0.0.1:*", &socket));
    socket_close(socket);
    assert_ok(socket_listen(fixture->context, "inproc://here", &socket));
    socket_close(socket);
}

static void a_wait_ends_for_descriptors_and_for_time(void **state)
{
    struct fixture *fixture = *state;
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    struct wait_item items[2] = {{.socket = fixture->router, .wants_read = true},
                                 {.fd = ends[0], .wants_read = true}};
    const int64_t begin_us = clock_now_us();
    assert_ok(socket_wait(items, 2, 30));
    assert_true(clock_now_us() - begin_us >= 29000);
    assert_false(items[0].can_read || items[1].can_read);
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_ok(socket_wait(items, 2, 2000));
    assert_true(items[1].can_read);
    assert_false(items[0].can_read);
    (void)close(ends[1]);
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_ok(socket_wait(items, 2, 2000));
    assert_true(items[1].can_read); /* hung up */
    (void)close(ends[0]);
    assert_status(socket_wait(items, 2, -1), STATUS_BAD_ARGUMENT, NULL);
}

static enum status open_and_close(void *context)
{
    struct fixture *fixture = context;
    struct socket *socket;
    const enum status status = socket_listen(fixture->context, "inproc://short", &socket);

    socket_close(socket);
    return status;
}

static void short_memory_is_reported_at_every_point(void **state)
{
    assert_true(support_fail_allocations(open_and_close, *state) >= 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_answer_goes_back_to_who_asked),
        TEST(large_arrays_arrive_unchanged),
        TEST(a_peer_that_is_unknown_or_absent_is_a_timeout_at_once),
        TEST(a_dealer_finds_a_router_that_starts_later),
        TEST(messages_that_are_none_are_consumed_one_by_one),
        TEST(a_routing_id_that_is_too_long_is_refused),
        TEST(only_endpoints_of_this_machine_are_accepted),
        TEST(a_wait_ends_for_descriptors_and_for_time),
        TEST(short_memory_is_reported_at_every_point),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
