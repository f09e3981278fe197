#include "trainer/link.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/run_paths.h"
#include "base/socket.h"
#include "trainer/link_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BEAT_US INT64_C(1000000)
#define REWARD_SILENCE_US INT64_C(30000000)
#define HELLO_DEADLINE_US INT64_C(30000000)
#define REQUEST_REPEAT_US INT64_C(3000000)
#define IDLE_WARNING_US INT64_C(10000000)
#define FAREWELL_US INT64_C(2000000)
#define FAREWELL_TURN_MS 100

static enum status open_socket(struct link *link, enum run_endpoint which, bool listens,
                               struct socket **out)
{
    char *endpoint = NULL;
    TRY(run_endpoint(link->run_dir, which, &endpoint));
    const enum status status = listens ? socket_listen(link->context, endpoint, out)
                                       : socket_dial(link->context, endpoint, out);
    memory_free(endpoint);
    return status;
}

static enum status open_sockets(struct link *link)
{
    TRY(socket_context_create(&link->context));
    TRY(open_socket(link, ENDPOINT_WORK, true, &link->work));
    TRY(open_socket(link, ENDPOINT_WEIGHTS, true, &link->weights));
    return open_socket(link, ENDPOINT_SCORED, false, &link->scored);
}

enum status link_open(const struct link_options *options, link_listener *listener, void *context,
                      struct link **out)
{
    struct link *link = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*link), &link));
    link->config = options->config;
    link->run_dir = options->run_dir;
    link->numerics_id = options->numerics_id;
    link->dispatch = options->dispatch;
    link->publisher = options->publisher;
    link->listener = listener;
    link->listener_context = context;
    enum status status = config_digest(options->config, link->config_sha);
    if (status == STATUS_OK) {
        status = open_sockets(link);
    }
    if (status != STATUS_OK) {
        link_close(link);
        return status;
    }
    *out = link;
    return STATUS_OK;
}

void link_close(struct link *link)
{
    if (link == NULL) {
        return;
    }
    socket_close(link->work);
    socket_close(link->weights);
    socket_close(link->scored);
    socket_context_destroy(link->context);
    memory_free(link);
}

int64_t link_incarnation(const struct link *link)
{
    return link->incarnation;
}

void link_set_work_filler(struct link *link, link_work_filler *filler, void *context)
{
    link->filler = filler;
    link->filler_context = context;
}

enum status link_tell(struct link *link, const struct message *message)
{
    return socket_send(link->scored, NULL, message);
}

static enum status send_hello(struct link *link)
{
    struct message *hello = NULL;
    char host[256] = "localhost";
    if (gethostname(host, sizeof(host) - 1) != 0) {
        log_debug("link", "no host name");
    }
    TRY(message_create(MESSAGE_HELLO, &hello));
    message_put_text(hello, "role", "trainer");
    message_put_text(hello, "name", "trainer");
    message_put_int(hello, "pid", (int64_t)getpid());
    message_put_text(hello, "host", host);
    message_put_text(hello, "run", link->config->run.name);
    message_put_text(hello, "build", LINK_BUILD);
    message_put_text(hello, "numerics", link->numerics_id);
    message_put_text(hello, "config_sha", link->config_sha);
    const enum status status = link_tell(link, hello);
    message_destroy(hello);
    return status;
}

static enum status await_welcome(struct link *link)
{
    const int64_t deadline = clock_now_us() + HELLO_DEADLINE_US;
    int64_t next_us = 0;
    while (!link->is_welcome) {
        const int64_t now = clock_now_us();
        if (now > deadline) {
            return status_set(STATUS_TIMEOUT, "no answer from the reward service for 30 s");
        }
        if (now >= next_us && send_hello(link) == STATUS_OK) {
            next_us = now + BEAT_US;
        }
        const enum status status = link_turn(link, "starting", 50);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

enum status link_hello(struct link *link)
{
    link_expect(link, "its answer to HELLO", HELLO_DEADLINE_US / 1000000);
    const enum status status = await_welcome(link);
    link_expect(link, NULL, 0);
    return status;
}

/* What the reward service says: heartbeats and welcomes end here, the rest goes to the listener. */
static enum status on_scored(struct link *link, const struct message *message)
{
    const enum message_type type = message_type_of(message);
    if (type == MESSAGE_HELLO_OK) {
        link->incarnation = message_int(message, "inc", 0);
        link->is_welcome = true;
        return STATUS_OK;
    }
    if (type == MESSAGE_REFUSE) {
        return status_set(link->is_welcome ? STATUS_SCORING : STATUS_BUSY, "%s",
                          message_text(message, "reason", "refused by the reward service"));
    }
    if (type == MESSAGE_PING || type == MESSAGE_PONG) {
        return STATUS_OK;
    }
    return link->listener(link->listener_context, message);
}

static enum status drain_scored(struct link *link)
{
    for (;;) {
        struct message *message = NULL;
        const enum status received = socket_receive(link->scored, NULL, &message);
        if (received == STATUS_BAD_FORMAT) {
            log_warn("link", "malformed message from the reward service: %s", status_message());
            continue;
        }
        if (received != STATUS_OK || message == NULL) {
            return received;
        }
        link->reward_seen_us = clock_now_us();
        const enum status status = on_scored(link, message);
        message_destroy(message);
        if (status != STATUS_OK) {
            return status;
        }
    }
}

static void beat(struct link *link, int64_t now_us)
{
    struct message *ping = NULL;
    if (now_us - link->last_beat_us < BEAT_US) {
        return;
    }
    link->last_beat_us = now_us;
    if (message_create(MESSAGE_PING, &ping) != STATUS_OK || link_tell(link, ping) != STATUS_OK) {
        log_debug("link", "heartbeat not sent: %s", status_message());
    }
    message_destroy(ping);
}

static enum status check_silence(struct link *link, int64_t now_us)
{
    if (link->reward_seen_us != 0 && now_us - link->reward_seen_us > REWARD_SILENCE_US) {
        return status_set(STATUS_TIMEOUT, "the reward service has been silent for 30 s");
    }
    if (dispatch_missing(link->dispatch) == 0 || dispatch_workers_alive(link->dispatch) > 0) {
        link->idle_since_us = now_us;
        link->idle_warned_us = now_us;
        return STATUS_OK;
    }
    if (now_us - link->idle_since_us > LINK_IDLE_US) {
        return status_set(STATUS_TIMEOUT, "no rollout worker for 10 minutes");
    }
    if (now_us - link->idle_warned_us > IDLE_WARNING_US) {
        log_warn("link", "no rollout worker for %lld s; %zu samples are missing",
                 (long long)((now_us - link->idle_since_us) / 1000000),
                 dispatch_missing(link->dispatch));
        link->idle_warned_us = now_us;
    }
    return STATUS_OK;
}

/* Silence counts while the trainer listens: after minutes of training it has heard nobody. */
static void forgive_busy_time(struct link *link, int64_t now_us)
{
    if (link->reward_seen_us != 0 && link->turned_us != 0) {
        link->reward_seen_us += now_us - link->turned_us;
    }
}

static enum status turn(struct link *link, const char *phase, int timeout_ms)
{
    forgive_busy_time(link, clock_now_us());
    struct wait_item items[] = {{.socket = link->work, .fd = -1, .wants_read = true},
                                {.socket = link->weights, .fd = -1, .wants_read = true},
                                {.socket = link->scored, .fd = -1, .wants_read = true}};
    TRY(socket_wait(items, 3, timeout_ms));
    const int64_t now_us = clock_now_us();
    TRY(link_drain_work(link, phase, now_us));
    TRY(link_drain_weights(link));
    TRY(drain_scored(link));
    link_send_work(link, now_us);
    beat(link, now_us);
    const enum status status = check_silence(link, now_us);
    link_tell_waits(link);
    link->turned_us = clock_now_us();
    return status;
}

enum status link_turn(struct link *link, const char *phase, int timeout_ms)
{
    if (process_signal_caught() != 0) {
        return status_set(STATUS_CANCELLED, "interrupted by signal %d", process_signal_caught());
    }
    return turn(link, phase, timeout_ms);
}

static enum status repeat_request(struct link *link, const struct message *request,
                                  const bool *is_answered, const char *what, int64_t deadline_s)
{
    const int64_t deadline = clock_now_us() + deadline_s * 1000000;
    int64_t next_us = 0;
    while (!*is_answered) {
        const int64_t now = clock_now_us();
        if (now > deadline) {
            return status_set(STATUS_TIMEOUT, "the reward service did not answer %s within %lld s",
                              what, (long long)deadline_s);
        }
        if (now >= next_us && link_tell(link, request) == STATUS_OK) {
            next_us = now + REQUEST_REPEAT_US;
        }
        const enum status status = turn(link, "waiting", 20);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

enum status link_request(struct link *link, const struct message *request, const bool *is_answered,
                         const char *what, int64_t deadline_s)
{
    link_expect(link, what, deadline_s);
    const enum status status = repeat_request(link, request, is_answered, what, deadline_s);
    link_expect(link, NULL, 0);
    return status;
}

/* Says it until each worker has said it too: what a worker has not read when the connection ends
 * is lost, and one that heard nothing would wait for a trainer to come back. */
static void part_from_workers(struct link *link, const struct message *bye)
{
    const int64_t deadline_us = clock_now_us() + FAREWELL_US;
    struct wait_item item = {.socket = link->work, .fd = -1, .wants_read = true};
    enum status status = STATUS_OK;
    while (status == STATUS_OK && dispatch_workers_alive(link->dispatch) > 0 &&
           clock_now_us() < deadline_us) {
        link_tell_workers(link, bye);
        status = socket_wait(&item, 1, FAREWELL_TURN_MS);
        if (status == STATUS_OK) {
            status = link_drain_work(link, "leaving", clock_now_us());
        }
    }
    if (dispatch_workers_alive(link->dispatch) > 0) {
        log_warn("link", "%zu workers did not say goodbye", dispatch_workers_alive(link->dispatch));
    }
}

void link_say_bye(struct link *link, const char *reason)
{
    struct message *bye = NULL;
    if (message_create(MESSAGE_BYE, &bye) != STATUS_OK) {
        return;
    }
    message_put_text(bye, "reason", reason);
    part_from_workers(link, bye);
    if (link->is_welcome && link_tell(link, bye) != STATUS_OK) {
        log_warn("link", "could not say goodbye to the reward service: %s", status_message());
    }
    message_destroy(bye);
}
