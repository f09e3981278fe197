/* Owns ZeroMQ: contexts, ROUTER and DEALER sockets, and one wait over sockets and descriptors with
 * a deadline. The rules of reliability.md 5.6 are set here once (mandatory routing, no infinite
 * linger, size limits, EINTR). A socket belongs to one thread. A process that has a context starts
 * children with process.h only, whose child touches no context and runs another program at once. */
#ifndef HONE_BASE_SOCKET_H
#define HONE_BASE_SOCKET_H

#include "base/message.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct socket_context;
struct socket;

MUST_CHECK enum status socket_context_create(struct socket_context **out);
/* Close every socket first. NULL is legal; returns within the linger of 2 s. */
void socket_context_destroy(struct socket_context *context);

/* A ROUTER that binds endpoint ("ipc://path", at most 107 bytes of path; "inproc://name";
 * "tcp://127.0.0.1:port": any other address is refused, since there is no CURVE here). */
MUST_CHECK enum status socket_listen(struct socket_context *context, const char *endpoint,
                                     struct socket **out);
/* A DEALER that connects, ZMQ_IMMEDIATE on; reconnects by itself. */
MUST_CHECK enum status socket_dial(struct socket_context *context, const char *endpoint,
                                   struct socket **out);
void socket_close(struct socket *socket); /* NULL is legal */

/* Who a message of a ROUTER came from or goes to: the routing id of the connection. */
struct peer_id {
    unsigned char bytes[64];
    size_t n;
};
bool peer_id_equal(const struct peer_id *a, const struct peer_id *b);

/* Encodes and sends without blocking. peer is NULL on a DEALER. Errors: TIMEOUT when the peer is
 * gone or its queue full (nothing was sent), and those of message_encode. */
MUST_CHECK enum status socket_send(struct socket *socket, const struct peer_id *peer,
                                   const struct message *message);
/* Takes the next message without blocking: *out is NULL when there is none. On a ROUTER *peer says
 * from whom (may be NULL on a DEALER). A malformed message is BAD_FORMAT, is consumed, and *peer is
 * set. */
MUST_CHECK enum status socket_receive(struct socket *socket, struct peer_id *peer,
                                      struct message **out);

#define WAIT_ITEMS_MAX ((size_t)256)

/* One thing to wait for: a socket, or a descriptor when socket is NULL. */
struct wait_item {
    struct socket *socket;
    int fd;
    bool wants_read, wants_write;
    bool can_read, can_write; /* out; can_read also on hang-up */
};
/* Waits until an item is ready or timeout_ms (>= 0) has passed; EINTR ends it early with nothing
 * ready. Errors: BAD_ARGUMENT past WAIT_ITEMS_MAX items or without a timeout, IO. */
MUST_CHECK enum status socket_wait(struct wait_item *items, size_t n_items, int timeout_ms);

#endif
