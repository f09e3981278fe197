/* The worker's turn: keep in touch, take messages, get weights, sample, send. One thread owns all
 * of it; the backend's threads only compute. */
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "rollout/worker_internal.h"

#include <string.h>
#include <unistd.h>

#define BUILD_NAME "0.1.0"
#define HOST_ROOM 256
#define RETRY_MS 50

enum status worker_send(struct socket *socket, struct message *message, bool *was_sent)
{
    const enum status status = socket_send(socket, NULL, message);

    message_destroy(message);
    *was_sent = status == STATUS_OK;
    return status == STATUS_TIMEOUT ? STATUS_OK : status;
}

static enum status say_hello(const struct worker *worker, struct socket *socket,
                             struct contact *contact)
{
    char host[HOST_ROOM] = "";
    struct message *hello = NULL;
    bool was_sent = false;

    if (gethostname(host, sizeof(host) - 1) != 0) {
        host[0] = '\0';
    }
    TRY(message_create(MESSAGE_HELLO, &hello));
    message_put_text(hello, "role", "rollout");
    message_put_text(hello, "name", worker->name);
    message_put_int(hello, "pid", (int64_t)getpid());
    message_put_text(hello, "host", host);
    message_put_text(hello, "run", worker->config->run.name);
    message_put_text(hello, "build", BUILD_NAME);
    message_put_text(hello, "numerics", policy_numerics(worker->policy));
    message_put_text(hello, "config_sha", worker->config_sha);
    TRY(worker_send(socket, hello, &was_sent));
    contact_said_hello(contact, was_sent, clock_now_us());
    return STATUS_OK;
}

static enum status say_ping(const struct worker *worker, struct socket *socket,
                            struct contact *contact)
{
    struct message *ping = NULL;
    bool was_sent = false;

    TRY(message_create(MESSAGE_PING, &ping));
    message_put_int(ping, "n_tokens", (int64_t)engine_tokens_drawn(worker->engine));
    message_put_int(ping, "queue", (int64_t)engine_queued(worker->engine));
    if (worker->held.version >= 0) {
        message_put_int(ping, "weight_version", worker->held.version);
    }
    contact_said_ping(contact, clock_now_us());
    return worker_send(socket, ping, &was_sent);
}

/* HELLO and PING when they are due; TIMEOUT when the peer is given up. */
static enum status keep_contact(const struct worker *worker, struct socket *socket,
                                struct contact *contact, const char *peer)
{
    const int64_t now_us = clock_now_us();

    if (contact_silence_us(contact, now_us) >= WORKER_SILENCE_US) {
        return status_set(STATUS_TIMEOUT, "worker %s waited %lld s for the %s", worker->name,
                          (long long)(WORKER_SILENCE_US / 1000000), peer);
    }
    if (contact_wants_hello(contact, now_us)) {
        TRY(say_hello(worker, socket, contact));
    }
    if (contact_wants_ping(contact, now_us)) {
        TRY(say_ping(worker, socket, contact));
    }
    return STATUS_OK;
}

/* READY for groups that were never asked for and those that are done. */
static enum status ask_for_work(struct worker *worker)
{
    const size_t n_freed = work_queue_credit(&worker->queue);
    const size_t credit = worker->credit_to_ask + n_freed;
    struct message *ready = NULL;
    bool was_sent = false;

    if (credit == 0 || !worker->trainer_contact.is_up || worker->is_leaving) {
        return STATUS_OK;
    }
    TRY(message_create(MESSAGE_READY, &ready));
    message_put_int(ready, "credit", (int64_t)credit);
    TRY(worker_send(worker->trainer, ready, &was_sent));
    if (was_sent) {
        worker->credit_to_ask = 0;
        work_queue_credit_given(&worker->queue, n_freed);
    }
    return STATUS_OK;
}

static enum status start_work(struct worker *worker)
{
    struct work *work = NULL;

    while ((work = work_queue_next(&worker->queue, &worker->held)) != NULL) {
        const struct engine_request request = {.seed = work->seed,
                                               .group = work->group,
                                               .prompt = work->prompt,
                                               .n_prompt = work->n_prompt,
                                               .samples = work->samples,
                                               .n_samples = work->n_samples,
                                               .max_tokens = work->max_tokens,
                                               .sampling = work->sampling,
                                               .tag = work};

        TRY(engine_submit(worker->engine, &request));
        work->is_started = true;
    }
    return STATUS_OK;
}

static enum status completion_message(const struct worker *worker,
                                      const struct completion *completion, const char *text,
                                      size_t text_bytes, struct message **out)
{
    const struct work *work = completion->tag;
    struct message *message = NULL;

    TRY(message_create(MESSAGE_COMPLETION, &message));
    message_put_int(message, "group_id", (int64_t)work->group);
    message_put_int(message, "idx", (int64_t)completion->sample);
    message_put_int(message, "attempt", (int64_t)work->attempt);
    message_put_int(message, "inc", work->inc);
    message_put_hex64(message, "seed", work->seed);
    message_put_int(message, "version_first", worker->held.version);
    message_put_int(message, "version_last", worker->held.version);
    message_put_text(message, "weight_digest", worker->held.digest);
    message_put_text(message, "finish", finish_name(completion->finish));
    message_put_int(message, "gen_us", completion->gen_us);
    message_put_array(message, "tokens", DTYPE_I32, completion->tokens, completion->n_tokens);
    message_put_array(message, "logprobs", DTYPE_F32, completion->logprobs, completion->n_tokens);
    message_put_array(message, "text", DTYPE_U8, text, text_bytes);
    *out = message;
    return STATUS_OK;
}

/* Into the outbox, where it stays until it is acknowledged. */
static enum status hand_over(struct worker *worker, const struct completion *completion)
{
    struct work *work = completion->tag;
    const struct outbox_key key = {
        .group = work->group, .sample = completion->sample, .attempt = work->attempt};
    const size_t n_end = completion->finish == FINISH_STOP ? 1 : 0;
    struct message *message = NULL;
    size_t text_bytes = 0;
    char *text = NULL;

    TRY(tokenizer_decode(worker->tokenizer, completion->tokens, completion->n_tokens - n_end, false,
                         false, &text, &text_bytes));
    enum status status = completion_message(worker, completion, text, text_bytes, &message);
    memory_free(text);
    if (status == STATUS_OK) {
        status = outbox_adopt(worker->outbox, key, message);
        if (status != STATUS_OK) {
            message_destroy(message);
        }
    }
    if (status == STATUS_OK) {
        work_queue_finish_sample(&worker->queue, work);
    }
    return status;
}

static bool can_sample(const struct worker *worker)
{
    return !engine_is_idle(worker->engine) && outbox_count(worker->outbox) < worker->outbox_window;
}

static enum status sample(struct worker *worker)
{
    const struct completion *completions = NULL;
    size_t n = 0;

    if (!can_sample(worker)) {
        return STATUS_OK; /* nothing to do, or too much is not acknowledged yet */
    }
    if (worker_is_overtaken(worker)) {
        worker_lose_weights(worker);
        return STATUS_OK;
    }
    const enum status status = engine_tick(worker->engine, &completions, &n);
    worker->rest_us = clock_now_us() + WORKER_REST_US;
    if (worker_is_overtaken(worker)) { /* whatever came of it, an error too, is of no version */
        worker_lose_weights(worker);
        return STATUS_OK;
    }
    TRY(status);
    for (size_t i = 0; i < n; i++) {
        TRY(hand_over(worker, &completions[i]));
    }
    return STATUS_OK;
}

static enum status flush_outbox(struct worker *worker)
{
    const struct message *message = NULL;

    if (!worker->reward_contact.is_up) {
        return STATUS_OK;
    }
    while ((message = outbox_due(worker->outbox, clock_now_us())) != NULL) {
        const enum status status = socket_send(worker->reward, NULL, message);

        if (status != STATUS_OK) {
            return status == STATUS_TIMEOUT ? STATUS_OK : status;
        }
        outbox_sent(worker->outbox, clock_now_us());
    }
    return STATUS_OK;
}

/* The trainer learns while nothing is sampled: it may have the memory. */
static void rest(struct worker *worker)
{
    if (worker->rest_us != 0 && engine_is_idle(worker->engine) &&
        clock_now_us() >= worker->rest_us) {
        log_debug("rollout", "nothing to sample, memory goes back");
        engine_rest(worker->engine);
        worker->rest_us = 0;
    }
}

static int64_t earlier(int64_t a_us, int64_t b_us)
{
    return a_us < b_us ? a_us : b_us;
}

/* When there is something to do at the latest. */
static int64_t next_due_us(const struct worker *worker)
{
    const int64_t ping_us =
        earlier(worker->trainer_contact.ping_due_us, worker->reward_contact.ping_due_us);
    const bool may_rest = worker->rest_us != 0 && engine_is_idle(worker->engine);

    return may_rest ? earlier(ping_us, worker->rest_us) : ping_us;
}

/* How long the next turn may wait for messages: not at all with something to do. */
static int idle_ms(const struct worker *worker)
{
    const int64_t now_us = clock_now_us();
    const int64_t due_us = next_due_us(worker);
    const bool is_met = worker->trainer_contact.is_up && worker->reward_contact.is_up;

    if (can_sample(worker) || worker_wants_weights(worker)) {
        return 0;
    }
    if (!is_met || worker->is_leaving || weights_fetch_is_active(worker->fetch)) {
        return RETRY_MS;
    }
    return due_us <= now_us ? 1 : (int)((due_us - now_us) / 1000 + 1);
}

static enum status keep_contacts(struct worker *worker)
{
    TRY(keep_contact(worker, worker->trainer, &worker->trainer_contact, "trainer"));
    TRY(keep_contact(worker, worker->reward, &worker->reward_contact, "reward service"));
    return ask_for_work(worker);
}

/* One turn: messages in, one forward over every running sequence, messages out. */
static enum status worker_tick(struct worker *worker)
{
    TRY(keep_contacts(worker));
    TRY(inbox_drain(worker, idle_ms(worker)));
    TRY(worker_advance_weights(worker));
    TRY(start_work(worker));
    TRY(sample(worker));
    TRY(flush_outbox(worker));
    rest(worker);
    worker_tell_waits(worker);
    return worker_tell_stats(worker);
}

static enum status say_bye(const struct worker *worker, const char *reason)
{
    struct message *bye = NULL;
    bool was_sent = false;

    TRY(message_create(MESSAGE_BYE, &bye));
    message_put_text(bye, "reason", reason);
    return worker_send(worker->trainer, bye, &was_sent);
}

/* The trainer has said BYE and everything finished is acknowledged, or it took too long. */
static bool may_leave(const struct worker *worker)
{
    return worker->is_leaving &&
           (outbox_count(worker->outbox) == 0 || clock_now_us() >= worker->leave_us);
}

enum status worker_run(struct worker *worker)
{
    while (!may_leave(worker) && process_signal_caught() == 0) {
        TRY(worker_tick(worker));
    }
    if (!may_leave(worker)) {
        TRY(say_bye(worker, "signal"));
        return status_set(STATUS_CANCELLED, "worker %s stopped by signal %d", worker->name,
                          process_signal_caught());
    }
    if (outbox_count(worker->outbox) > 0) {
        log_warn("rollout", "left with %zu samples that nobody acknowledged",
                 outbox_count(worker->outbox));
    }
    return say_bye(worker, "done"); /* the trainer waits for it, and the reward service till then */
}
