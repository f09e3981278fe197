/* Owns ZeroMQ. Sends and receives never block; waiting is zmq_poll's, with a deadline. Frames of
 * some size are handed to the library instead of copied: it frees them from its own thread. */
#include "base/socket.h"

#include "base/memory.h"

#include <errno.h>
#include <string.h>
#include <zmq.h>

#define IPC_PATH_MAX 107 /* bytes in sockaddr_un, without NUL */
#define LINGER_MS 2000
#define SEND_MARK 10000 /* credit is the limit; this is beyond any */
#define RECEIVE_MARK 1000
#define RECONNECT_MS 50
#define RECONNECT_MS_MAX 1000
#define COPIED_BYTES_MAX ((size_t)16384)
#define FRAMES_MAX (MESSAGE_ARRAYS_MAX + 2)

struct socket_context {
    void *zmq;
};

struct socket {
    void *zmq;
    bool is_router;
};

static enum status refuse_errno(const char *endpoint, const char *action)
{
    return status_set(STATUS_IO, "%s: cannot %s: %s", endpoint, action, zmq_strerror(errno));
}

enum status socket_context_create(struct socket_context **out)
{
    struct socket_context *context;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*context), &context));
    context->zmq = zmq_ctx_new();
    if (context->zmq == NULL) {
        memory_free(context);
        return refuse_errno("ZeroMQ", "start");
    }
    *out = context;
    return STATUS_OK;
}

void socket_context_destroy(struct socket_context *context)
{
    if (context == NULL) {
        return;
    }
    while (zmq_ctx_term(context->zmq) != 0 && errno == EINTR) {
    }
    memory_free(context);
}

/* ---- Opening ---- */

static bool begins_with(const char *text, const char *beginning)
{
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* There is no encryption and no authentication here, so nothing may leave the machine. */
static enum status check_endpoint(const char *endpoint)
{
    if (begins_with(endpoint, "ipc://")) {
        const size_t n = strlen(endpoint) - strlen("ipc://");
        if (n == 0 || n > IPC_PATH_MAX) {
            return status_set(STATUS_BAD_ARGUMENT, "%s: a socket path of %zu bytes, want 1 to %d",
                              endpoint, n, IPC_PATH_MAX);
        }
        return STATUS_OK;
    }
    if (begins_with(endpoint, "inproc://") || begins_with(endpoint, "tcp://127.0.0.1:") ||
        begins_with(endpoint, "tcp://[::1]:") || begins_with(endpoint, "tcp://localhost:")) {
        return STATUS_OK;
    }
    return status_set(STATUS_BAD_ARGUMENT,
                      "%s: want ipc://, inproc:// or tcp:// with 127.0.0.1, [::1] or localhost",
                      endpoint);
}

struct int_option {
    int name, value;
};

static enum status set_options(void *zmq, const char *endpoint, const struct int_option *options,
                               size_t n_options)
{
    const int64_t frame_bytes_max = (int64_t)MESSAGE_ARRAY_BYTES_MAX + 64;

    if (zmq_setsockopt(zmq, ZMQ_MAXMSGSIZE, &frame_bytes_max, sizeof(frame_bytes_max)) != 0) {
        return refuse_errno(endpoint, "limit message sizes");
    }
    for (size_t i = 0; i < n_options; i++) {
        if (zmq_setsockopt(zmq, options[i].name, &options[i].value, sizeof(options[i].value)) !=
            0) {
            return refuse_errno(endpoint, "set a socket option");
        }
    }
    return STATUS_OK;
}

static enum status configure(const struct socket *socket, const char *endpoint)
{
    const struct int_option common[] = {
        {ZMQ_LINGER, LINGER_MS},
        {ZMQ_SNDHWM, SEND_MARK},
        {ZMQ_RCVHWM, RECEIVE_MARK},
        {ZMQ_IPV6, begins_with(endpoint, "tcp://[") ? 1 : 0},
    };
    const struct int_option router[] = {{ZMQ_ROUTER_MANDATORY, 1}};
    const struct int_option dealer[] = {
        {ZMQ_IMMEDIATE, 1},
        {ZMQ_RECONNECT_IVL, RECONNECT_MS},
        {ZMQ_RECONNECT_IVL_MAX, RECONNECT_MS_MAX},
    };

    TRY(set_options(socket->zmq, endpoint, common, sizeof(common) / sizeof(common[0])));
    if (socket->is_router) {
        return set_options(socket->zmq, endpoint, router, sizeof(router) / sizeof(router[0]));
    }
    return set_options(socket->zmq, endpoint, dealer, sizeof(dealer) / sizeof(dealer[0]));
}

static enum status attach(const struct socket *socket, const char *endpoint)
{
    TRY(configure(socket, endpoint));
    if (socket->is_router) {
        return zmq_bind(socket->zmq, endpoint) == 0 ? STATUS_OK : refuse_errno(endpoint, "listen");
    }
    return zmq_connect(socket->zmq, endpoint) == 0 ? STATUS_OK : refuse_errno(endpoint, "dial");
}

static enum status open_socket(struct socket_context *context, const char *endpoint, bool is_router,
                               struct socket **out)
{
    struct socket *socket;
    enum status status;

    *out = NULL;
    TRY(check_endpoint(endpoint));
    TRY(memory_alloc(1, sizeof(*socket), &socket));
    socket->is_router = is_router;
    socket->zmq = zmq_socket(context->zmq, is_router ? ZMQ_ROUTER : ZMQ_DEALER);
    status = socket->zmq == NULL ? refuse_errno(endpoint, "make a socket for it")
                                 : attach(socket, endpoint);
    if (status != STATUS_OK) {
        socket_close(socket);
        return status;
    }
    *out = socket;
    return STATUS_OK;
}

enum status socket_listen(struct socket_context *context, const char *endpoint, struct socket **out)
{
    return open_socket(context, endpoint, true, out);
}

enum status socket_dial(struct socket_context *context, const char *endpoint, struct socket **out)
{
    return open_socket(context, endpoint, false, out);
}

void socket_close(struct socket *socket)
{
    if (socket == NULL) {
        return;
    }
    if (socket->zmq != NULL) {
        (void)zmq_close(socket->zmq); /* fails only for what is no socket */
    }
    memory_free(socket);
}

bool peer_id_equal(const struct peer_id *a, const struct peer_id *b)
{
    return a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
}

/* ---- Sending ---- */

static void free_frame(void *data, void *hint)
{
    (void)hint;
    memory_free(data);
}

/* Moves a frame into a message of the library's; on success a large frame is no longer ours. */
static enum status wrap_frame(struct frame *frame, zmq_msg_t *out)
{
    if (frame->bytes > COPIED_BYTES_MAX) {
        if (zmq_msg_init_data(out, frame->data, frame->bytes, free_frame, NULL) != 0) {
            return status_set(STATUS_NO_MEMORY, "no memory for a frame");
        }
        frame->data = NULL;
        return STATUS_OK;
    }
    if (zmq_msg_init_size(out, frame->bytes) != 0) {
        return status_set(STATUS_NO_MEMORY, "no memory for a frame of %zu bytes", frame->bytes);
    }
    if (frame->bytes > 0) {
        memcpy(zmq_msg_data(out), frame->data, frame->bytes);
    }
    return STATUS_OK;
}

/* Sends one part; the library checks room and routing at the first part and takes the rest. */
static enum status send_part(void *zmq, zmq_msg_t *part, bool has_more)
{
    while (zmq_msg_send(part, zmq, ZMQ_DONTWAIT | (has_more ? ZMQ_SNDMORE : 0)) < 0) {
        const int reason = zmq_errno();
        if (reason == EINTR) {
            continue;
        }
        (void)zmq_msg_close(part); /* fails only for what is no message */
        if (reason == EAGAIN || reason == EHOSTUNREACH) {
            return status_set(STATUS_TIMEOUT, "peer is %s",
                              reason == EAGAIN ? "not taking messages" : "gone");
        }
        return status_set(STATUS_IO, "cannot send: %s", zmq_strerror(reason));
    }
    return STATUS_OK;
}

static enum status send_route(const struct socket *socket, const struct peer_id *peer)
{
    zmq_msg_t part;

    if (!socket->is_router) {
        return STATUS_OK;
    }
    if (peer == NULL || peer->n == 0 || peer->n > sizeof(peer->bytes)) {
        return status_set(STATUS_BAD_ARGUMENT, "a message needs a peer to go to");
    }
    if (zmq_msg_init_size(&part, peer->n) != 0) {
        return status_set(STATUS_NO_MEMORY, "no memory for a frame of %zu bytes", peer->n);
    }
    memcpy(zmq_msg_data(&part), peer->bytes, peer->n);
    return send_part(socket->zmq, &part, true);
}

static void close_parts(zmq_msg_t *parts, size_t n_parts)
{
    for (size_t i = 0; i < n_parts; i++) {
        (void)zmq_msg_close(&parts[i]); /* fails only for what is no message */
    }
}

/* Every part exists before the first is sent: nothing can stop the message half-way. */
static enum status send_frames(const struct socket *socket, const struct peer_id *peer,
                               struct frames *frames)
{
    zmq_msg_t parts[FRAMES_MAX];
    enum status status = STATUS_OK;
    size_t n_parts = 0;
    size_t n_sent = 0;

    while (status == STATUS_OK && n_parts < frames->count) {
        status = wrap_frame(&frames->items[n_parts], &parts[n_parts]);
        n_parts += status == STATUS_OK ? 1 : 0;
    }
    if (status == STATUS_OK) {
        status = send_route(socket, peer);
    }
    while (status == STATUS_OK && n_sent < n_parts) {
        status = send_part(socket->zmq, &parts[n_sent], n_sent + 1 < n_parts);
        n_sent++; /* sent, or closed on failure */
    }
    close_parts(parts + n_sent, n_parts - n_sent);
    return status;
}

enum status socket_send(struct socket *socket, const struct peer_id *peer,
                        const struct message *message)
{
    struct frames frames;

    TRY(message_encode(message, &frames));
    const enum status status = send_frames(socket, peer, &frames);
    frames_dispose(&frames);
    return status;
}

/* ---- Receiving ---- */

enum part_result { PART_NONE, PART_LAST, PART_MORE, PART_FAILED };

/* Takes the next part into *part, which the caller closes unless it is PART_NONE or PART_FAILED. */
static enum part_result receive_part(void *zmq, zmq_msg_t *part)
{
    (void)zmq_msg_init(part); /* cannot fail */
    while (zmq_msg_recv(part, zmq, ZMQ_DONTWAIT) < 0) {
        const int reason = zmq_errno();
        if (reason == EINTR) {
            continue;
        }
        (void)zmq_msg_close(part); /* fails only for what is no message */
        errno = reason;
        return reason == EAGAIN ? PART_NONE : PART_FAILED;
    }
    return zmq_msg_more(part) != 0 ? PART_MORE : PART_LAST;
}

/* Reads and drops what is left of a message. */
static void discard_rest(void *zmq, enum part_result last)
{
    zmq_msg_t part;

    while (last == PART_MORE) {
        last = receive_part(zmq, &part);
        if (last == PART_MORE || last == PART_LAST) {
            (void)zmq_msg_close(&part); /* fails only for what is no message */
        }
    }
}

/* Takes up to FRAMES_MAX parts; the result of the last one taken says whether there are more. */
static enum part_result receive_parts(void *zmq, zmq_msg_t parts[FRAMES_MAX], size_t *n_parts)
{
    enum part_result result = PART_MORE;

    *n_parts = 0;
    while (result == PART_MORE && *n_parts < FRAMES_MAX) {
        result = receive_part(zmq, &parts[*n_parts]);
        *n_parts += result == PART_MORE || result == PART_LAST ? 1 : 0;
    }
    return result;
}

static enum status receive_message(const struct socket *socket, struct message **out)
{
    zmq_msg_t parts[FRAMES_MAX];
    struct frames frames = {0};
    enum status status;

    const enum part_result result = receive_parts(socket->zmq, parts, &frames.count);
    if (frames.count == 0) {
        return result == PART_NONE
                   ? STATUS_OK
                   : status_set(STATUS_IO, "cannot receive: %s", zmq_strerror(errno));
    }
    for (size_t i = 0; i < frames.count; i++) {
        frames.items[i].data = zmq_msg_data(&parts[i]); /* borrowed: not disposed of */
        frames.items[i].bytes = zmq_msg_size(&parts[i]);
    }
    if (result == PART_MORE) {
        status = status_set(STATUS_BAD_FORMAT, "message of more than %u frames", FRAMES_MAX);
    } else {
        status = message_decode(&frames, out);
    }
    close_parts(parts, frames.count);
    discard_rest(socket->zmq, result);
    return status;
}

/* The routing id that a ROUTER puts in front. Without one there is no message: *is_empty. */
static enum status receive_route(const struct socket *socket, struct peer_id *peer, bool *is_empty)
{
    zmq_msg_t part;
    enum status status = STATUS_OK;

    const enum part_result result = receive_part(socket->zmq, &part);
    *is_empty = result == PART_NONE;
    if (result == PART_NONE) {
        return STATUS_OK;
    }
    if (result == PART_FAILED) {
        return status_set(STATUS_IO, "cannot receive: %s", zmq_strerror(errno));
    }
    const size_t n = zmq_msg_size(&part);
    if (n > sizeof(peer->bytes)) {
        status = status_set(STATUS_BAD_FORMAT, "routing id of %zu bytes, at most %zu are allowed",
                            n, sizeof(peer->bytes));
    } else {
        memcpy(peer->bytes, zmq_msg_data(&part), n);
        peer->n = n;
    }
    if (status == STATUS_OK && result == PART_LAST) {
        status = status_set(STATUS_BAD_FORMAT, "message without frames");
    }
    (void)zmq_msg_close(&part); /* fails only for what is no message */
    if (status != STATUS_OK) {
        discard_rest(socket->zmq, result);
    }
    return status;
}

enum status socket_receive(struct socket *socket, struct peer_id *peer, struct message **out)
{
    struct peer_id sender = {.n = 0};
    bool is_empty = false;
    enum status status = STATUS_OK;

    *out = NULL;
    if (socket->is_router) {
        status = receive_route(socket, &sender, &is_empty);
    }
    if (peer != NULL) {
        *peer = sender;
    }
    if (status != STATUS_OK || is_empty) {
        return status;
    }
    return receive_message(socket, out);
}

/* ---- Waiting ---- */

static zmq_pollitem_t poll_item(const struct wait_item *item)
{
    return (zmq_pollitem_t){
        .socket = item->socket == NULL ? NULL : item->socket->zmq,
        .fd = item->socket == NULL ? item->fd : 0,
        .events =
            (short)((item->wants_read ? ZMQ_POLLIN : 0) | (item->wants_write ? ZMQ_POLLOUT : 0)),
    };
}

enum status socket_wait(struct wait_item *items, size_t n_items, int timeout_ms)
{
    zmq_pollitem_t polled[WAIT_ITEMS_MAX];

    if (n_items > WAIT_ITEMS_MAX || timeout_ms < 0) {
        return status_set(STATUS_BAD_ARGUMENT, "a wait for %zu things and %d ms", n_items,
                          timeout_ms);
    }
    for (size_t i = 0; i < n_items; i++) {
        items[i].can_read = false;
        items[i].can_write = false;
        polled[i] = poll_item(&items[i]);
    }
    if (zmq_poll(polled, (int)n_items, timeout_ms) < 0) {
        return zmq_errno() == EINTR
                   ? STATUS_OK
                   : status_set(STATUS_IO, "cannot wait: %s", zmq_strerror(zmq_errno()));
    }
    for (size_t i = 0; i < n_items; i++) {
        items[i].can_read = (polled[i].revents & (ZMQ_POLLIN | ZMQ_POLLERR)) != 0;
        items[i].can_write = (polled[i].revents & ZMQ_POLLOUT) != 0;
    }
    return STATUS_OK;
}
