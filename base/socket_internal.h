/* Owns what socket.c (opening, waiting) and socket_transfer.c (messages) share. */
#ifndef HONE_BASE_SOCKET_INTERNAL_H
#define HONE_BASE_SOCKET_INTERNAL_H

#include <stdbool.h>

struct socket {
    void *zmq; /* NULL only while it is being opened */
    bool is_router;
};

#endif
