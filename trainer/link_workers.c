/* The trainer's side of the conversation with rollout workers. */
#include "trainer/link_internal.h"

#include "base/log.h"

#include <stdio.h>
#include <string.h>

static void answer(struct link *link, const struct peer_id *peer, struct message *message)
{
    if (socket_send(link->work, peer, message) != STATUS_OK) {
        log_debug("link", "not delivered: %s", status_message());
    }
    message_destroy(message);
}

static enum status refuse(struct link *link, const struct peer_id *peer, const char *reason)
{
    struct message *message = NULL;
    log_warn("link", "worker refused: %s", reason);
    TRY(message_create(MESSAGE_REFUSE, &message));
    message_put_text(message, "reason", reason);
    answer(link, peer, message);
    return STATUS_OK;
}

/* NULL when a worker's HELLO fits this run, else what does not (in room). */
static const char *misfit(const struct link *link, const struct message *hello, char *room,
                          size_t n)
{
    const struct {
        const char *key, *what, *ours;
    } must_match[] = {{"run", "run", link->config->run.name},
                      {"build", "build", LINK_BUILD},
                      {"numerics", "numerics", link->numerics_id},
                      {"config_sha", "configuration", link->config_sha}};
    for (size_t i = 0; i < sizeof(must_match) / sizeof(must_match[0]); i++) {
        const char *theirs = message_text(hello, must_match[i].key, "");
        if (strcmp(theirs, must_match[i].ours) != 0) {
            const int written = snprintf(room, n, "%s of the worker is %s, of the trainer %s",
                                         must_match[i].what, theirs, must_match[i].ours);
            return written < 0 ? "mismatch" : room;
        }
    }
    return NULL;
}

static enum status welcome(struct link *link, const struct peer_id *peer)
{
    struct message *message = NULL;
    char digest[DIGEST128_TEXT];
    const struct digest128 root = publisher_digest(link->publisher);
    TRY(message_create(MESSAGE_HELLO_OK, &message));
    message_put_int(message, "inc", link->incarnation);
    message_put_int(message, "weight_version", (int64_t)publisher_version(link->publisher));
    message_put_text(message, "weight_digest", hash_hex(root.bytes, sizeof(root.bytes), digest));
    answer(link, peer, message);
    return STATUS_OK;
}

static enum status on_hello(struct link *link, const struct peer_id *peer,
                            const struct message *hello, int64_t now_us)
{
    char room[512];
    const char *reason = misfit(link, hello, room, sizeof(room));
    if (reason != NULL) {
        return refuse(link, peer, reason);
    }
    if (!link->is_welcome) {
        return STATUS_OK; /* it asks again; the run has no incarnation yet */
    }
    TRY(dispatch_hello(link->dispatch, peer, message_text(hello, "name", ""), now_us));
    log_info("link", "worker %s joined, pid %lld", message_text(hello, "name", ""),
             (long long)message_int(hello, "pid", 0));
    return welcome(link, peer);
}

static enum status pong(struct link *link, const struct peer_id *peer, const char *phase)
{
    struct message *message = NULL;
    TRY(message_create(MESSAGE_PONG, &message));
    message_put_int(message, "weight_version", (int64_t)publisher_version(link->publisher));
    message_put_text(message, "phase", phase);
    answer(link, peer, message);
    return STATUS_OK;
}

static enum status on_worker(struct link *link, const struct peer_id *peer,
                             const struct message *message, const char *phase, int64_t now_us)
{
    const enum message_type type = message_type_of(message);
    if (type == MESSAGE_HELLO) {
        return on_hello(link, peer, message, now_us);
    }
    if (!dispatch_seen(link->dispatch, peer, now_us)) {
        return type == MESSAGE_BYE ? STATUS_OK
                                   : refuse(link, peer, "unknown worker, HELLO comes first");
    }
    if (type == MESSAGE_READY) {
        dispatch_ready(link->dispatch, peer, (size_t)message_int(message, "credit", 0));
    } else if (type == MESSAGE_PING) {
        return pong(link, peer, phase);
    } else if (type == MESSAGE_BYE) {
        dispatch_bye(link->dispatch, peer);
    }
    return STATUS_OK;
}

/* Takes the next message of a ROUTER; *message is NULL when there is none or it was malformed
 * (*is_empty tells which). */
static enum status receive(struct socket *socket, struct peer_id *peer, struct message **message,
                           bool *is_empty)
{
    const enum status status = socket_receive(socket, peer, message);
    *is_empty = status == STATUS_OK && *message == NULL;
    if (status == STATUS_BAD_FORMAT) {
        log_warn("link", "malformed message from a worker: %s", status_message());
        return STATUS_OK;
    }
    return status;
}

enum status link_drain_work(struct link *link, const char *phase, int64_t now_us)
{
    const char *who = "";
    bool is_empty = false;
    while (!is_empty) {
        struct peer_id peer;
        struct message *message = NULL;
        enum status status = receive(link->work, &peer, &message, &is_empty);
        if (status == STATUS_OK && message != NULL) {
            status = on_worker(link, &peer, message, phase, now_us);
        }
        message_destroy(message);
        if (status != STATUS_OK) {
            return status;
        }
    }
    const size_t n = dispatch_expire(link->dispatch, now_us, &who);
    if (who[0] != '\0') {
        log_warn("link", "worker %s gave no sign of life for 3 s; %zu groups are issued again", who,
                 n);
    }
    return STATUS_OK;
}

enum status link_drain_weights(struct link *link)
{
    bool is_empty = false;
    while (!is_empty) {
        struct peer_id peer;
        struct message *message = NULL;
        const enum status status = receive(link->weights, &peer, &message, &is_empty);
        if (status == STATUS_OK && message != NULL && message_type_of(message) == MESSAGE_W_GET &&
            publisher_answer(link->publisher, link->weights, &peer, message) != STATUS_OK) {
            log_debug("link", "weights not delivered: %s", status_message());
        }
        message_destroy(message);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status fill_work(struct link *link, const struct assignment *assignment,
                             struct message *work)
{
    char digest[DIGEST128_TEXT];
    const struct digest128 root = publisher_digest(link->publisher);
    message_put_int(work, "group_id", (int64_t)assignment->group_id);
    message_put_int(work, "attempt", (int64_t)assignment->attempt);
    message_put_int(work, "inc", link->incarnation);
    message_put_int(work, "weight_version", (int64_t)publisher_version(link->publisher));
    message_put_text(work, "weight_digest", hash_hex(root.bytes, sizeof(root.bytes), digest));
    message_put_array(work, "idx", DTYPE_I32, assignment->idx, assignment->n_idx);
    return link->filler(link->filler_context, assignment->group_id, work);
}

void link_send_work(struct link *link, int64_t now_us)
{
    struct assignment assignment;
    while (dispatch_next(link->dispatch, now_us, &assignment)) {
        struct message *work = NULL;
        enum status status = message_create(MESSAGE_WORK, &work);
        if (status == STATUS_OK) {
            status = fill_work(link, &assignment, work);
        }
        if (status == STATUS_OK) {
            status = socket_send(link->work, &assignment.peer, work);
        }
        message_destroy(work);
        if (status != STATUS_OK) {
            log_warn("link", "group %llu not sent to %s: %s",
                     (unsigned long long)assignment.group_id, assignment.worker, status_message());
            dispatch_undelivered(link->dispatch, &assignment.peer);
        }
    }
}

void link_tell_workers(struct link *link, const struct message *message)
{
    struct peer_id peer;
    for (size_t i = 0; dispatch_peer(link->dispatch, i, &peer); i++) {
        if (socket_send(link->work, &peer, message) != STATUS_OK) {
            log_debug("link", "not delivered: %s", status_message());
        }
    }
}
