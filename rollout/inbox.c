/* Messages in: each becomes an event for a contact, the work queue, the weight transfer or the
 * outbox.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "rollout/worker_internal.h"

#include <string.h>

#define REASON_ROOM 256
#define LEAVE_US INT64_C(10000000)

void worker_drop_work(struct worker *worker)
{
    for (const struct work *work = worker->queue.first; work != NULL; work = work->next) {
        engine_cancel(worker->engine, work->group);
    }
    work_queue_clear(&worker->queue);
    worker->credit_to_ask = 0;
}

static void on_trainer_hello_ok(struct worker *worker, const struct message *message,
                                int64_t now_us)
{
    const int64_t inc = message_int(message, "inc", 0);

    const enum contact_welcome welcome = contact_welcomed(&worker->trainer_contact, inc, now_us);

    if (welcome == CONTACT_SAME) {
        return;
    }
    worker_drop_work(worker);
    if (welcome == CONTACT_CHANGED) {
        worker_unmap_weights(worker); /* of a process that is gone: its memory goes too */
    }
    worker->credit_to_ask = worker->credit;
    log_info("rollout", "trainer inc=%lld credit=%zu", (long long)inc, worker->credit);
}

static enum status on_refuse(struct contact *contact, const char *peer,
                             const struct message *message, int64_t now_us)
{
    char reason[REASON_ROOM];
    const char *text = message_text(message, "reason", "");

    (void)log_escape(text, strlen(text), reason, sizeof(reason));
    if (contact_refused(contact, now_us)) {
        return status_set(STATUS_PEER, "the %s refused this worker: %s", peer, reason);
    }
    log_warn("rollout", "the %s does not know this worker any more: %s", peer, reason);
    return STATUS_OK;
}

static enum status on_work(struct worker *worker, const struct message *message)
{
    struct work *work = NULL;

    if (message_int(message, "inc", 0) != worker->trainer_contact.inc || worker->is_leaving) {
        return STATUS_OK; /* of a trainer that is gone */
    }
    TRY(work_create(message, &work));
    const uint64_t group = work->group;
    if (work_queue_add(&worker->queue, work) == WORK_REPLACES) {
        engine_cancel(worker->engine, group);
    }
    return STATUS_OK;
}

/* PING is answered by both sides. */
static enum status on_ping(const struct worker *worker, struct socket *socket)
{
    struct message *pong = NULL;
    bool was_sent = false;

    TRY(message_create(MESSAGE_PONG, &pong));
    if (worker->held.version >= 0) {
        message_put_int(pong, "weight_version", worker->held.version);
    }
    return worker_send(socket, pong, &was_sent);
}

static enum status on_trainer(struct worker *worker, const struct message *message, int64_t now_us)
{
    const enum message_type type = message_type_of(message);

    contact_heard(&worker->trainer_contact, now_us);
    if (type == MESSAGE_HELLO_OK) {
        on_trainer_hello_ok(worker, message, now_us);
    } else if (type == MESSAGE_REFUSE) {
        worker_drop_work(worker);
        return on_refuse(&worker->trainer_contact, "trainer", message, now_us);
    } else if (type == MESSAGE_WORK) {
        return on_work(worker, message);
    } else if (type == MESSAGE_PING) {
        return on_ping(worker, worker->trainer);
    } else if (type == MESSAGE_BYE && !worker->is_leaving) {
        worker_drop_work(worker);
        worker->is_leaving = true;
        worker->leave_us = now_us + LEAVE_US;
    }
    return STATUS_OK;
}

static void on_answer(struct worker *worker, const struct message *message)
{
    const struct outbox_key key = {.group = (uint64_t)message_int(message, "group_id", 0),
                                   .sample = (uint32_t)message_int(message, "idx", 0),
                                   .attempt = (uint32_t)message_int(message, "attempt", 0)};
    char reason[REASON_ROOM];

    if (outbox_settle(worker->outbox, key) && message_type_of(message) == MESSAGE_NACK) {
        const char *text = message_text(message, "reason", "");

        log_warn("rollout", "sample group=%llu idx=%u attempt=%u was refused: %s",
                 (unsigned long long)key.group, key.sample, key.attempt,
                 log_escape(text, strlen(text), reason, sizeof(reason)));
    }
}

static enum status on_reward(struct worker *worker, const struct message *message, int64_t now_us)
{
    const enum message_type type = message_type_of(message);

    contact_heard(&worker->reward_contact, now_us);
    if (type == MESSAGE_HELLO_OK) {
        (void)contact_welcomed(&worker->reward_contact, message_int(message, "inc", 0), now_us);
        outbox_resend_all(worker->outbox); /* it may be another process by now */
        worker->n_tokens_told = 0;
    } else if (type == MESSAGE_REFUSE) {
        return on_refuse(&worker->reward_contact, "reward service", message, now_us);
    } else if (type == MESSAGE_ACK || type == MESSAGE_NACK) {
        on_answer(worker, message);
    } else if (type == MESSAGE_PING) {
        return on_ping(worker, worker->reward);
    }
    return STATUS_OK;
}

static enum status on_weights(struct worker *worker, const struct message *message, int64_t now_us)
{
    const enum message_type type = message_type_of(message);
    const int64_t version = message_int(message, "version", -1);
    size_t bytes = 0;

    if (type == MESSAGE_W_INFO) {
        const unsigned char *digests = message_array(message, "digests", &bytes);
        const struct weights_info info = {.version = version,
                                          .bytes = (size_t)message_int(message, "bytes", 0),
                                          .chunk_bytes =
                                              (size_t)message_int(message, "chunk_bytes", 0),
                                          .digests = digests,
                                          .digests_bytes = bytes};

        if (version > weights_fetch_id(worker->fetch)->version) {
            worker_weights_gone(worker); /* it describes what it has instead */
        }
        TRY(weights_fetch_info(worker->fetch, &info, now_us));
        return worker_map_weights(worker, message);
    }
    if (type == MESSAGE_W_CHUNK) {
        const void *data = message_array(message, "data", &bytes);

        return weights_fetch_chunk(worker->fetch, version, message_int(message, "index", -1), data,
                                   bytes, now_us);
    }
    if (type == MESSAGE_REFUSE) {
        worker_weights_gone(worker);
    }
    return STATUS_OK;
}

typedef enum status message_handler(struct worker *worker, const struct message *message,
                                    int64_t now_us);

/* Everything that has come on one socket. What is malformed is counted by the log and dropped. */
static enum status drain_socket(struct worker *worker, struct socket *socket,
                                message_handler *handle)
{
    for (;;) {
        struct message *message = NULL;
        const enum status received = socket_receive(socket, NULL, &message);

        if (received == STATUS_BAD_FORMAT) {
            log_warn("rollout", "a malformed message was dropped: %s", status_message());
            continue;
        }
        if (received != STATUS_OK || message == NULL) {
            return received;
        }
        const enum status handled = handle(worker, message, clock_now_us());
        message_destroy(message);
        if (handled != STATUS_OK) {
            return handled;
        }
    }
}

enum status inbox_drain(struct worker *worker, int timeout_ms)
{
    struct wait_item items[] = {{.socket = worker->trainer, .wants_read = true},
                                {.socket = worker->weights, .wants_read = true},
                                {.socket = worker->reward, .wants_read = true}};

    TRY(socket_wait(items, sizeof(items) / sizeof(items[0]), timeout_ms));
    TRY(drain_socket(worker, worker->trainer, on_trainer));
    TRY(drain_socket(worker, worker->weights, on_weights));
    return drain_socket(worker, worker->reward, on_reward);
}
