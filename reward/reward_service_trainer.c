/* Owns who the trainer is and what it says of groups and samples: HELLO, GROUP, TAKEN, BYE. Each
 * can come again and is answered again. */
#include "base/log.h"
#include "base/memory.h"
#include "reward/reward_service_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ROW_DEPTH_MAX 64u

/* A process of this host that has ended cannot come back, so nobody need wait for its silence. */
static bool is_process_gone(const struct holder *holder)
{
    char host[257] = "";
    char path[64];
    char state = '?';

    if (holder->inc == 0 || holder->pid <= 0 || gethostname(host, sizeof(host) - 1) != 0 ||
        strcmp(host, holder->host) != 0) {
        return false;
    }
    if (kill((pid_t)holder->pid, 0) != 0) {
        return errno == ESRCH;
    }
    (void)snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)holder->pid);
    FILE *const file = fopen(path, "re");
    if (file != NULL) {
        if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1) {
            state = '?';
        }
        (void)fclose(file);
    }
    return state == 'Z' || state == 'X';
}

static enum status welcome(struct service *service, const struct inbox_entry *entry, int64_t inc)
{
    service->is_urgent = true;
    return service_answer_int(service, entry, MESSAGE_HELLO_OK, "inc", inc);
}

static void hold(struct service *service, const struct inbox_entry *entry, int64_t inc,
                 int64_t now_us)
{
    struct holder *const holder = &service->holder;

    holder->inc = inc;
    holder->pid = message_int(entry->message, "pid", 0);
    holder->last_us = now_us;
    holder->is_gone = false;
    (void)snprintf(holder->host, sizeof(holder->host), "%s",
                   message_text(entry->message, "host", ""));
    (void)snprintf(service->trainer_numerics, sizeof(service->trainer_numerics), "%s",
                   message_text(entry->message, "numerics", ""));
    service->trainer = entry->peer;
    service->has_trainer = true;
}

static enum status begin_incarnation(struct service *service, const struct inbox_entry *entry,
                                     int64_t now_us)
{
    char text[400];
    int64_t inc;

    if (service->holder.inc > 0 && !service->holder.is_gone) {
        TRY(writer_end_incarnation(service->writer, service->holder.inc, "superseded"));
    }
    TRY(writer_put_incarnation(service->writer, service->run_id,
                               message_text(entry->message, "host", ""),
                               message_int(entry->message, "pid", 0), &inc));
    service_drop_parcels(service);
    hold(service, entry, inc, now_us);
    (void)snprintf(text, sizeof(text), "trainer pid %lld on %.256s", (long long)service->holder.pid,
                   service->holder.host);
    log_info("reward", "incarnation=%lld pid=%lld", (long long)inc, (long long)service->holder.pid);
    TRY(service_event(service, "info", "incarnation", -1, -1, text));
    return welcome(service, entry, inc);
}

enum status service_refuse_trainer(struct service *service, const struct inbox_entry *entry,
                                   const char *problem)
{
    TRY(service_event(service, "warn", "refused", -1, -1, problem));
    return service_refuse(service, entry, problem);
}

static enum status on_hello(struct service *service, const struct inbox_entry *entry,
                            int64_t now_us)
{
    const struct message *const message = entry->message;
    struct holder *const holder = &service->holder;
    const char *problem;
    char text[512];

    TRY(service_hello_problem(service, message, "", "", &problem));
    if (problem != NULL) {
        return service_refuse_trainer(service, entry, problem);
    }
    if (service->has_trainer && peer_id_equal(&service->trainer, &entry->peer) &&
        holder->pid != message_int(message, "pid", 0)) {
        holder->last_us = 0; /* its first beat was taken for the former trainer's */
    }
    holder->is_gone = holder->is_gone || is_process_gone(holder);
    const enum hello_verdict verdict =
        holder_judge(holder, message_int(message, "pid", 0), message_text(message, "host", ""),
                     message_int(message, "inc", 0), now_us);
    if (verdict == HELLO_SAME) {
        hold(service, entry, holder->inc, now_us);
        return welcome(service, entry, holder->inc);
    }
    if (verdict == HELLO_NEW) {
        return begin_incarnation(service, entry, now_us);
    }
    (void)snprintf(text, sizeof(text),
                   "the run is held by another trainer: pid %lld on %.256s, incarnation %lld",
                   (long long)holder->pid, holder->host, (long long)holder->inc);
    return service_refuse_trainer(service, entry, text);
}

static struct text_span bytes_of(const struct message *message, const char *key)
{
    struct text_span span = {0};

    span.data = message_array(message, key, &span.bytes);
    return span;
}

/* What a person reads as the answer: the text of a JSON string, else the JSON. */
static enum status answer_text(struct service *service, struct text_span json,
                               struct text_span *out)
{
    struct json *value = NULL;
    char *copy = NULL;

    *out = json;
    if (json.data == NULL) {
        return STATUS_OK;
    }
    TRY(json_parse_with_nul(json.data, json.bytes, ROW_DEPTH_MAX, &value));
    enum status status = STATUS_OK;
    if (json_is(value, JSON_STRING)) {
        out->bytes = json_text_bytes(value);
        status = arena_copy_text(service->arena, json_text(value, ""), out->bytes, &copy);
        out->data = copy;
    }
    json_destroy(value);
    return status;
}

static enum status digest_prompt(struct service *service, struct prompt_row *prompt)
{
    struct byte_buffer *const all = &service->scratch;
    const char *const source = prompt->data_source != NULL ? prompt->data_source : "";
    const struct text_span parts[] = {
        prompt->row_json,
        prompt->text,
        prompt->answer_json,
        {source, strlen(source)},
        {(const char *)prompt->tokens, prompt->n_tokens * sizeof(int32_t)},
    };

    all->bytes = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        TRY(byte_buffer_put(all, &parts[i].bytes, sizeof(parts[i].bytes)));
        TRY(byte_buffer_put(all, parts[i].data, parts[i].bytes));
    }
    prompt->sha = hash_sha256(all->data, all->bytes);
    return STATUS_OK;
}

static enum status read_prompt(struct service *service, const struct message *message,
                               struct prompt_row *out)
{
    char *repaired = NULL;
    char *copy = NULL;
    bool is_lossy;

    *out = (struct prompt_row){.data_source = message_text(message, "data_source", NULL),
                               .row_json = bytes_of(message, "row"),
                               .answer_json = bytes_of(message, "answer")};
    const struct text_span text = bytes_of(message, "prompt_text");
    out->tokens = message_array(message, "prompt", &out->n_tokens);
    TRY(utf8_repair(text.data != NULL ? text.data : "", text.bytes, &repaired, &out->text.bytes,
                    &is_lossy));
    const enum status status = arena_copy_text(service->arena, repaired, out->text.bytes, &copy);
    memory_free(repaired);
    TRY(status);
    out->text.data = copy;
    TRY(answer_text(service, out->answer_json, &out->answer));
    return digest_prompt(service, out);
}

static enum status add_group(struct service *service, const struct message *message,
                             const struct prompt_row *prompt)
{
    struct group_row row = {.group_id = message_int(message, "group_id", 0),
                            .run_id = service->run_id,
                            .step = message_int(message, "step", 0),
                            .n = message_int(message, "n", 1),
                            .is_eval = strcmp(message_text(message, "kind", ""), "eval") == 0};
    struct intake_group *group;
    struct group_data *data;

    TRY(group_data_create(prompt, &data));
    enum status status = writer_put_prompt(service->writer, prompt, &row.prompt_id);
    if (status == STATUS_OK) {
        status = writer_put_group(service->writer, &row);
    }
    if (status == STATUS_OK) {
        const struct intake_group facts = {.group_id = row.group_id,
                                           .step = row.step,
                                           .is_eval = row.is_eval,
                                           .n = (size_t)row.n,
                                           .prompt_sha = prompt->sha,
                                           .payload = data};
        status = intake_add(service->intake, &facts, &group);
    }
    if (status != STATUS_OK) {
        group_data_destroy(data);
    }
    return status;
}

static bool is_same_group(const struct intake_group *group, const struct message *message,
                          const struct prompt_row *prompt)
{
    const bool is_eval = strcmp(message_text(message, "kind", ""), "eval") == 0;

    return group->step == message_int(message, "step", 0) &&
           (int64_t)group->n == message_int(message, "n", 1) && group->is_eval == is_eval &&
           memcmp(group->prompt_sha.bytes, prompt->sha.bytes, sizeof(prompt->sha.bytes)) == 0;
}

static enum status on_group(struct service *service, const struct inbox_entry *entry)
{
    const struct message *const message = entry->message;
    const int64_t group_id = message_int(message, "group_id", 0);
    struct prompt_row prompt;
    struct intake_group *group;
    char text[128];

    TRY(service_group(service, group_id, &group));
    arena_reset(service->arena);
    TRY(read_prompt(service, message, &prompt));
    if (group != NULL && !is_same_group(group, message, &prompt)) {
        (void)snprintf(text, sizeof(text),
                       "group %lld is in the database with another prompt, step or size",
                       (long long)group_id);
        return service_refuse_trainer(service, entry, text);
    }
    if (group == NULL) {
        TRY(add_group(service, message, &prompt));
    }
    service->is_urgent = true;
    return service_answer_int(service, entry, MESSAGE_GROUP_OK, "group_id", group_id);
}

static enum status on_taken(struct service *service, const struct inbox_entry *entry)
{
    const int64_t sample_id = message_int(entry->message, "sample_id", 0);
    const char *const verdict = message_text(entry->message, "verdict", "ok");
    const bool is_accepted = strcmp(verdict, "ok") == 0;

    (void)intake_take(service->intake, sample_id, is_accepted); /* unknown: a replayed one */
    if (is_accepted) {
        return STATUS_OK;
    }
    return writer_retire_sample(service->writer, sample_id,
                                strcmp(verdict, "stale") == 0 ? ROW_STALE : ROW_LATE);
}

static enum status on_bye(struct service *service, const struct inbox_entry *entry)
{
    const char *const reason = message_text(entry->message, "reason", "");

    TRY(writer_end_incarnation(service->writer, service->holder.inc, reason));
    service->holder.is_gone = true;
    service->is_over = true;
    service->is_urgent = true;
    return STATUS_OK;
}

/* After a restart of this service the trainer of the newest incarnation goes on talking without a
 * new HELLO: it is taken for what it is. Any other stranger is not. */
static bool is_trainer(struct service *service, const struct inbox_entry *entry, int64_t now_us)
{
    if (!service->has_trainer && service->holder.inc > 0 && !service->holder.is_gone) {
        service->trainer = entry->peer;
        service->has_trainer = true;
    }
    if (!service->has_trainer || !peer_id_equal(&service->trainer, &entry->peer)) {
        return false;
    }
    service->holder.last_us = now_us;
    return true;
}

enum status service_on_scored(struct service *service, const struct inbox_entry *entry,
                              int64_t now_us)
{
    const enum message_type type = message_type_of(entry->message);

    if (type == MESSAGE_HELLO) {
        return on_hello(service, entry, now_us);
    }
    if (!is_trainer(service, entry, now_us)) {
        return type == MESSAGE_PING ? STATUS_OK
                                    : service_refuse(service, entry, "this is not the trainer");
    }
    if (type == MESSAGE_GROUP) {
        return on_group(service, entry);
    }
    if (type == MESSAGE_TAKEN) {
        return on_taken(service, entry);
    }
    if (type == MESSAGE_MANIFEST) {
        return service_on_manifest(service, entry);
    }
    if (type == MESSAGE_STEP) {
        return service_on_step(service, entry);
    }
    if (type == MESSAGE_FETCH) {
        return service_on_fetch(service, entry);
    }
    if (type == MESSAGE_BYE) {
        return on_bye(service, entry);
    }
    return type == MESSAGE_PING ? STATUS_OK
                                : service_refuse(service, entry, "not a trainer's message");
}
