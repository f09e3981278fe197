/* Owns the loop of the reward service: messages in, scores, one commit for many rows, messages out.
 * Commits are grouped by themselves: one is made when nothing more has come for a few milliseconds,
 * when somebody waits for it, or at the limits of size and age. */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "reward/reward.h"
#include "reward/reward_service_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FLUSH_ROWS 320u /* 64 samples: sample, blobs, score, total ... */
#define FLUSH_US INT64_C(200000)
#define QUIET_MS 4
#define PAUSED_MS 100
#define IDLE_MS 250
#define BLOCKED_MS 10 /* parcels wait for room */
#define RESEND_US INT64_C(2000000)
#define RESEND_LOOK_US INT64_C(250000)
#define RESEND_BATCH 256u
#define PAUSE_RETRY_US INT64_C(500000)
#define SPACE_MIN_BYTES UINT64_C(4194304)
#define WAL_ALARM_BYTES INT64_C(268435456)
#define SCORER_FDS_MAX 62u

/* --- Messages in --- */

static enum status pong(struct service *service, const struct inbox_entry *entry)
{
    struct message *message;
    struct socket *const socket =
        entry->source == SOURCE_RESULTS ? service->results : service->scored;

    TRY(message_create(MESSAGE_PONG, &message));
    message_put_text(message, "phase", service->paused_since_us != 0 ? "paused" : "scoring");
    const enum status status = socket_send(socket, &entry->peer, message);
    message_destroy(message);
    return status == STATUS_TIMEOUT ? STATUS_OK : status;
}

/* Everything that has come on one socket, as far as the inbox has room. Beats are answered at once:
 * they write nothing. */
static enum status receive(struct service *service, enum source source, int64_t now_us)
{
    struct socket *const socket = source == SOURCE_RESULTS ? service->results : service->scored;

    while (service->n_inbox < INBOX_MAX) {
        struct inbox_entry entry = {.source = source};
        const enum status received = socket_receive(socket, &entry.peer, &entry.message);
        if (received == STATUS_BAD_FORMAT) {
            service->n_malformed++;
            log_warn("reward", "malformed messages=%zu: %s", service->n_malformed,
                     status_message());
            continue;
        }
        if (received != STATUS_OK || entry.message == NULL) {
            return received;
        }
        if (message_type_of(entry.message) != MESSAGE_PING) {
            service->inbox[service->n_inbox++] = entry;
            continue;
        }
        enum status status = pong(service, &entry);
        if (status == STATUS_OK && source == SOURCE_SCORED) {
            status = service_on_scored(service, &entry, now_us);
        }
        message_destroy(entry.message);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status handle(struct service *service, const struct inbox_entry *entry, int64_t now_us)
{
    arena_reset(service->arena);
    if (entry->source == SOURCE_RESULTS) {
        return service_on_results(service, entry, now_us);
    }
    TRY(writer_mark(service->writer));
    const enum status status = service_on_scored(service, entry, now_us);
    if (status != STATUS_BAD_ARGUMENT && status != STATUS_BAD_FORMAT) {
        return status == STATUS_OK ? writer_keep(service->writer) : status;
    }
    char reason[512];
    (void)snprintf(reason, sizeof(reason), "%s", status_message());
    TRY(writer_undo(service->writer)); /* the message is at fault: none of it stays */
    return service_refuse(service, entry, reason);
}

static enum status handle_inbox(struct service *service, int64_t now_us)
{
    while (service->n_done < service->n_inbox) {
        TRY(handle(service, &service->inbox[service->n_done], now_us));
        service->n_done++;
    }
    return STATUS_OK;
}

/* --- Commits, and what follows one --- */

static bool is_commit_due(const struct service *service, bool is_quiet, int64_t now_us)
{
    return is_quiet || service->is_urgent || service->n_inbox == INBOX_MAX ||
           writer_pending(service->writer) >= FLUSH_ROWS ||
           now_us - writer_pending_since_us(service->writer) >= FLUSH_US;
}

static enum status commit(struct service *service)
{
    TRY(writer_commit(service->writer));
    for (size_t i = 0; i < service->n_done; i++) {
        message_destroy(service->inbox[i].message);
    }
    service->n_inbox -= service->n_done;
    memmove(service->inbox, service->inbox + service->n_done,
            service->n_inbox * sizeof(*service->inbox));
    service->n_done = 0;
    service->is_urgent = false;
    return service_send_answers(service);
}

static enum status post_unanswered(struct service *service, int64_t now_us)
{
    int64_t ids[RESEND_BATCH];

    if (now_us < service->resend_due_us) {
        return STATUS_OK;
    }
    service->resend_due_us = now_us + RESEND_LOOK_US;
    const size_t n = intake_resend(service->intake, now_us, RESEND_US, ids, RESEND_BATCH);
    for (size_t i = 0; i < n; i++) {
        TRY(service_post(service, PARCEL_SCORED, ids[i], NULL));
    }
    intake_sweep(service->intake);
    return STATUS_OK;
}

static enum status keep_log_small(struct service *service)
{
    int64_t wal_bytes;

    if (!service->wants_checkpoint) {
        return STATUS_OK;
    }
    service->wants_checkpoint = false;
    TRY(writer_checkpoint(service->writer, &wal_bytes));
    if (wal_bytes > WAL_ALARM_BYTES && !service->is_wal_told) {
        service->is_wal_told = true;
        log_warn("reward", "the database's log has %lld MiB: a reader keeps an old snapshot open",
                 (long long)(wal_bytes >> 20));
    }
    return STATUS_OK;
}

static enum status work(struct service *service, bool is_quiet)
{
    const int64_t now_us = clock_now_us();

    TRY(handle_inbox(service, now_us));
    TRY(service_score(service, now_us));
    if (is_commit_due(service, is_quiet, now_us)) {
        TRY(commit(service));
        TRY(service_send_parcels(service, clock_now_us()));
        TRY(keep_log_small(service));
    }
    return post_unanswered(service, now_us);
}

/* --- When the disk is full or the database is held --- */

static enum status pause_work(struct service *service, enum status status)
{
    const int64_t now_us = clock_now_us();

    writer_rollback(service->writer);
    service_drop_answers(service);
    service->n_done = 0;
    if (service->paused_since_us == 0) {
        service->paused_since_us = now_us;
        service->pause_ends_us = now_us + (status == STATUS_BUSY ? BUSY_MAX_US : FULL_MAX_US);
        log_warn("reward", "waiting: %s", status_message());
    } else if (now_us - service->paused_since_us >
               (status == STATUS_BUSY ? BUSY_MAX_US : FULL_MAX_US)) {
        return status; /* the message is the database's */
    }
    service->retry_due_us = now_us + PAUSE_RETRY_US;
    return STATUS_OK;
}

/* The disk has room for more than the next few rows; when it cannot be asked, a try will tell. */
static bool has_space(const struct service *service)
{
    uint64_t free_bytes = 0;

    return file_free_bytes(service->database, &free_bytes) != STATUS_OK ||
           free_bytes >= SPACE_MIN_BYTES;
}

static enum status resume_work(struct service *service)
{
    if (clock_now_us() < service->retry_due_us) {
        return STATUS_OK;
    }
    if (!has_space(service)) {
        return status_set(STATUS_NO_SPACE, "%s: the disk is full; %llu bytes are needed",
                          service->database, (unsigned long long)SPACE_MIN_BYTES);
    }
    TRY(service_event(service, "warn", "paused", -1, -1, "the database did not take rows"));
    TRY(writer_commit(service->writer)); /* the probe: what follows costs more */
    TRY(service_rebuild(service));
    TRY(work(service, true));
    log_info("reward", "the database takes rows again after %lld ms",
             (long long)((clock_now_us() - service->paused_since_us) / 1000));
    service->paused_since_us = 0;
    return STATUS_OK;
}

/* --- The loop --- */

static int timeout_ms(const struct service *service, int64_t now_us)
{
    int ms = IDLE_MS;

    if (writer_pending(service->writer) > 0 || service->n_done > 0) {
        ms = QUIET_MS;
    } else if (service->has_trainer && service->parcel_head < service->n_parcels) {
        ms = BLOCKED_MS;
    }
    if (service->paused_since_us != 0) {
        return PAUSED_MS;
    }
    const int scorers_ms = scoring_timeout_ms(service->scoring, now_us);
    return scorers_ms >= 0 && scorers_ms < ms ? scorers_ms : ms;
}

/* Waits and receives. *is_quiet: nothing came. A full inbox reads no more: that is the
 * back-pressure. */
static enum status listen(struct service *service, bool *is_quiet)
{
    const bool has_room = service->n_inbox < INBOX_MAX;
    struct wait_item items[SCORER_FDS_MAX + 2] = {
        {.socket = service->results, .fd = -1, .wants_read = has_room},
        {.socket = service->scored, .fd = -1, .wants_read = has_room}};
    const size_t before = service->n_inbox;

    size_t n = 2;
    if (service->paused_since_us == 0) {
        n += scoring_wait_items(service->scoring, items + 2, SCORER_FDS_MAX);
    }
    TRY(socket_wait(items, n, timeout_ms(service, clock_now_us())));
    const int64_t now_us = clock_now_us();
    TRY(receive(service, SOURCE_SCORED, now_us));
    TRY(receive(service, SOURCE_RESULTS, now_us));
    *is_quiet = service->n_inbox == before;
    service_tell_waits(service);
    return STATUS_OK;
}

static enum status turn(struct service *service)
{
    bool is_quiet;

    TRY(listen(service, &is_quiet));
    const enum status status =
        service->paused_since_us != 0 ? resume_work(service) : work(service, is_quiet);
    return status == STATUS_NO_SPACE || status == STATUS_BUSY ? pause_work(service, status)
                                                              : status;
}

static enum status serve(struct service *service)
{
    enum status status = STATUS_OK;

    while (status == STATUS_OK && (!service->is_over || service->paused_since_us != 0) &&
           process_signal_caught() == 0) {
        status = turn(service);
    }
    TRY(status);
    TRY(commit(service));
    return service->is_over ? STATUS_OK
                            : status_set(STATUS_CANCELLED,
                                         "stopped by signal %d; what came is "
                                         "stored",
                                         process_signal_caught());
}

enum status reward_main(const struct run_config *config, const char *run_dir)
{
    struct service *service;

    process_catch_signals();
    (void)umask(0077); /* the database is its owner's, wherever the run folder lies */
    TRY(memory_alloc(1, sizeof(*service), &service));
    enum status status = service_open(service, config, run_dir);
    if (status == STATUS_OK) {
        log_info("reward", "ready rewards=%zu database=%s", service->n_components,
                 service->database);
        status = serve(service);
    }
    service_close(service);
    memory_free(service);
    return status;
}

enum status reward_check(const struct run_config *config)
{
    struct scoring *scoring;

    TRY(scoring_create(config, &scoring));
    scoring_destroy(scoring);
    return STATUS_OK;
}
