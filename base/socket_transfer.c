/* Owns messages on sockets. Nothing here blocks. A message leaves whole or not at all; frames of
 * some size are handed to the library instead of copied: it frees them from its own thread. */
#include "base/socket.h"

#include "base/memory.h"
#include "base/socket_internal.h"

#include <errno.h>
#include <string.h>
#include <zmq.h>

#define COPIED_BYTES_MAX ((size_t)16384)
#define FRAMES_MAX (MESSAGE_ARRAYS_MAX + 2)

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
