/* Owns what leaves the reward service: answers once their rows are committed, and the trainer's
 * parcels, which wait for room in its queue and for the trainer to be there. */
#include "base/log.h"
#include "base/memory.h"
#include "reward/reward_service_internal.h"

#include <stdio.h>
#include <string.h>

#define PARCELS_A_TURN 512u

enum status service_answer(struct service *service, const struct inbox_entry *to,
                           struct message *message)
{
    if (service->n_answers == service->answers_room) {
        const size_t room = service->answers_room == 0 ? 64 : 2 * service->answers_room;
        const enum status status =
            memory_resize(service->n_answers * sizeof(*service->answers), room,
                          sizeof(*service->answers), &service->answers);
        if (status != STATUS_OK) {
            message_destroy(message);
            return status;
        }
        service->answers_room = room;
    }
    service->answers[service->n_answers++] =
        (struct answer){.source = to->source, .peer = to->peer, .message = message};
    return STATUS_OK;
}

enum status service_answer_int(struct service *service, const struct inbox_entry *to,
                               enum message_type type, const char *key, int64_t value)
{
    struct message *message;

    TRY(message_create(type, &message));
    message_put_int(message, key, value);
    return service_answer(service, to, message);
}

enum status service_refuse(struct service *service, const struct inbox_entry *to,
                           const char *reason)
{
    struct message *message;
    char shown[1024];

    log_warn("reward", "refused %s: %s", message_type_name(message_type_of(to->message)), reason);
    TRY(message_create(MESSAGE_REFUSE, &message));
    message_put_text(message, "reason", log_escape(reason, strlen(reason), shown, sizeof(shown)));
    return service_answer(service, to, message);
}

void service_drop_answers(struct service *service)
{
    for (size_t i = 0; i < service->n_answers; i++) {
        message_destroy(service->answers[i].message);
    }
    service->n_answers = 0;
}

static enum status make_room(struct service *service)
{
    if (service->n_parcels < service->parcels_room) {
        return STATUS_OK;
    }
    if (service->parcel_head > 0) {
        service->n_parcels -= service->parcel_head;
        memmove(service->parcels, service->parcels + service->parcel_head,
                service->n_parcels * sizeof(*service->parcels));
        service->parcel_head = 0;
        return STATUS_OK;
    }
    const size_t room = service->parcels_room == 0 ? 256 : 2 * service->parcels_room;
    TRY(memory_resize(service->n_parcels * sizeof(*service->parcels), room,
                      sizeof(*service->parcels), &service->parcels));
    service->parcels_room = room;
    return STATUS_OK;
}

enum status service_post(struct service *service, enum parcel_kind kind, int64_t id,
                         struct message *message)
{
    const enum status status = make_room(service);

    if (status != STATUS_OK) {
        message_destroy(message);
        return status;
    }
    service->parcels[service->n_parcels++] =
        (struct parcel){.kind = kind, .id = id, .message = message};
    return STATUS_OK;
}

void service_drop_parcels(struct service *service)
{
    for (size_t i = service->parcel_head; i < service->n_parcels; i++) {
        message_destroy(service->parcels[i].message);
    }
    service->parcel_head = 0;
    service->n_parcels = 0;
}

enum status service_send_answers(struct service *service)
{
    enum status status = STATUS_OK;

    for (size_t i = 0; i < service->n_answers && status == STATUS_OK; i++) {
        struct answer *const answer = &service->answers[i];
        struct socket *const socket =
            answer->source == SOURCE_RESULTS ? service->results : service->scored;

        status = socket_send(socket, &answer->peer, answer->message);
        if (status == STATUS_TIMEOUT) { /* gone or choked: it asks again */
            log_debug("reward", "an answer was not taken: %s",
                      message_type_name(message_type_of(answer->message)));
            status = STATUS_OK;
        }
    }
    service_drop_answers(service);
    return status;
}

static enum status put_scores(struct service *service, int64_t sample_id, struct message *message)
{
    struct reward_row *rewards;
    size_t n;

    TRY(reader_rewards(writer_db(service->writer), sample_id, service->arena, &rewards, &n));
    struct json *const scores = json_object_create();
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        struct json *const score = json_object_create();
        status =
            json_put(score, "status", json_from_text(rewards[i].status, strlen(rewards[i].status)));
        if (status == STATUS_OK && strcmp(rewards[i].status, "ok") == 0) {
            status = json_put(score, "value", json_from_number(rewards[i].value));
        }
        if (status == STATUS_OK) {
            status = json_put(score, "us", json_from_int(rewards[i].us));
        }
        if (status == STATUS_OK) {
            status = json_put(scores, rewards[i].component, json_retain(score));
        }
        json_destroy(score);
    }
    message_put_json(message, "scores", scores);
    return status;
}

static void fill_scored(const struct service *service, const struct sample_row *row,
                        struct message *message)
{
    struct intake_group *group;
    const struct slot *const slot = intake_find_sample(service->intake, row->sample_id, &group);
    char digest[DIGEST128_TEXT];

    message_put_int(message, "sample_id", row->sample_id);
    message_put_int(message, "group_id", row->group_id);
    message_put_int(message, "idx", row->idx);
    message_put_int(message, "attempt", row->attempt);
    if (row->status == ROW_MASKED) {
        message_put_text(message, "status", "masked");
    } else {
        message_put_text(message, "status", row->has_reward ? "ok" : "na");
    }
    if (row->status == ROW_OK && row->has_reward) {
        message_put_number(message, "reward", row->reward);
    }
    message_put_text(message, "finish", row->finish);
    message_put_hex64(message, "seed", row->seed);
    message_put_int(message, "version_first", row->version_first);
    if (slot != NULL && slot->has_weight_digest) {
        message_put_text(
            message, "weight_digest",
            hash_hex(slot->weight_digest.bytes, sizeof(slot->weight_digest.bytes), digest));
    }
    message_put_int(message, "gen_us", row->gen_us);
    message_put_array(message, "tokens", DTYPE_I32, row->tokens + row->n_prompt, row->n_tokens);
    message_put_array(message, "logprobs", DTYPE_F32, row->logprobs, row->n_tokens);
}

/* *out stays NULL for a sample that is no longer, or not yet, one for the trainer. */
static enum status build_scored(struct service *service, int64_t sample_id, struct message **out)
{
    struct sample_row row;
    bool found;

    TRY(reader_sample(writer_db(service->writer), sample_id, service->arena, &row, &found));
    if (!found || (row.status != ROW_OK && row.status != ROW_MASKED)) {
        return STATUS_OK;
    }
    TRY(message_create(MESSAGE_SCORED, out));
    fill_scored(service, &row, *out);
    return put_scores(service, sample_id, *out);
}

static enum status build_manifest(struct service *service, int64_t step, struct message **out)
{
    struct manifest_row row;
    char digest[DIGEST128_TEXT];
    bool found;

    TRY(reader_manifest(writer_db(service->writer), service->run_id, step, service->arena, &row,
                        &found));
    if (!found) {
        return STATUS_OK;
    }
    TRY(message_create(MESSAGE_MANIFEST, out));
    message_put_int(*out, "step", step);
    message_put_int(*out, "inc", service->holder.inc);
    message_put_int(*out, "version_in", row.version_in);
    message_put_text(*out, "digest", hash_hex(row.digest.bytes, sizeof(row.digest.bytes), digest));
    message_put_array(*out, "sample_ids", DTYPE_U64, row.sample_ids, row.n);
    message_put_array(*out, "advantages", DTYPE_F32, row.advantages, row.n);
    return STATUS_OK;
}

static enum status build(struct service *service, struct parcel *parcel)
{
    if (parcel->message != NULL || parcel->kind == PARCEL_MESSAGE) {
        return STATUS_OK;
    }
    arena_reset(service->arena);
    return parcel->kind == PARCEL_MANIFEST ? build_manifest(service, parcel->id, &parcel->message)
                                           : build_scored(service, parcel->id, &parcel->message);
}

static void mark_sent(struct service *service, const struct parcel *parcel, int64_t now_us)
{
    struct intake_group *group;
    struct slot *const slot = parcel->kind == PARCEL_SCORED
                                  ? intake_find_sample(service->intake, parcel->id, &group)
                                  : NULL;

    if (slot != NULL && slot->state == SLOT_QUEUED) {
        slot->state = SLOT_SENT;
        slot->sent_us = now_us;
    }
}

enum status service_send_parcels(struct service *service, int64_t now_us)
{
    for (size_t i = 0; i < PARCELS_A_TURN && service->parcel_head < service->n_parcels; i++) {
        struct parcel *const parcel = &service->parcels[service->parcel_head];
        if (!service->has_trainer) {
            return STATUS_OK;
        }
        enum status status = build(service, parcel);
        if (status == STATUS_OK && parcel->message != NULL) {
            status = socket_send(service->scored, &service->trainer, parcel->message);
        }
        if (status != STATUS_OK) {
            return status == STATUS_TIMEOUT ? STATUS_OK : status; /* later */
        }
        mark_sent(service, parcel, now_us);
        message_destroy(parcel->message);
        service->parcel_head++;
    }
    if (service->parcel_head == service->n_parcels) {
        service->parcel_head = 0;
        service->n_parcels = 0;
    }
    return STATUS_OK;
}

void service_tell_end(struct service *service, const char *reason)
{
    struct message *message;

    if (!service->has_trainer || message_create(MESSAGE_REFUSE, &message) != STATUS_OK) {
        return;
    }
    message_put_text(message, "reason", reason);
    if (socket_send(service->scored, &service->trainer, message) != STATUS_OK) {
        log_warn("reward", "the trainer could not be told: %s", reason);
    }
    message_destroy(message);
}
