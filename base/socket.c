/* Owns ZeroMQ's contexts, sockets with their settings, and waiting, which is zmq_poll's with a
 * deadline. Sending and receiving are in socket_transfer.c. */
#include "base/socket.h"

#include "base/memory.h"
#include "base/socket_internal.h"

#include <errno.h>
#include <string.h>
#include <zmq.h>

#define IPC_PATH_MAX 107 /* bytes in sockaddr_un, without NUL */
#define LINGER_MS 2000
#define SEND_MARK 10000 /* credit is the limit; this is beyond any */
#define RECEIVE_MARK 1000
#define RECONNECT_MS 50
#define RECONNECT_MS_MAX 1000

struct socket_context {
    void *zmq;
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
