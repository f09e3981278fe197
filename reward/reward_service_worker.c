/* Owns what workers say: HELLO, COMPLETION, SAMPLING, PING, BYE. */
#include "base/log.h"
#include "base/memory.h"
#include "reward/reward_service_internal.h"

#include <stdio.h>
#include <string.h>

enum status service_hello_problem(struct service *service, const struct message *message,
                                  const char *numerics, const char *other, const char **problem)
{
    char text[512];
    char *copy = NULL;

    *problem = NULL;
    const char *const run = message_text(message, "run", "");
    const char *const sha = message_text(message, "config_sha", "");
    const char *const own = message_text(message, "numerics", "");
    const char *const name = message_text(message, "name", "");
    if (strcmp(run, service->config->run.name) != 0) {
        (void)snprintf(text, sizeof(text), "%s is of run %s, this is run %s", name, run,
                       service->config->run.name);
    } else if (strcmp(sha, service->config_sha) != 0) {
        (void)snprintf(text, sizeof(text),
                       "%s has another configuration (%.12s) than the reward service (%.12s)", name,
                       sha, service->config_sha);
    } else if (numerics[0] != '\0' && strcmp(own, numerics) != 0) {
        (void)snprintf(text, sizeof(text), "%s computes with %s, %s with %s", name, own, other,
                       numerics);
    } else {
        return STATUS_OK;
    }
    TRY(arena_copy_text(service->arena, text, strlen(text), &copy));
    *problem = copy;
    return STATUS_OK;
}

static struct worker_peer *find_worker(struct service *service, const struct peer_id *peer)
{
    for (size_t i = 0; i < service->n_workers; i++) {
        if (peer_id_equal(&service->workers[i].peer, peer)) {
            return &service->workers[i];
        }
    }
    return NULL;
}

/* A place for a new peer: a free one, else that of whoever was silent longest. */
static struct worker_peer *place_for(struct service *service)
{
    if (service->n_workers < WORKERS_MAX) {
        return &service->workers[service->n_workers++];
    }
    struct worker_peer *oldest = &service->workers[0];
    for (size_t i = 1; i < service->n_workers; i++) {
        if (service->workers[i].seen_us < oldest->seen_us) {
            oldest = &service->workers[i];
        }
    }
    return oldest;
}

static enum status on_hello(struct service *service, const struct inbox_entry *entry,
                            int64_t now_us)
{
    struct worker_peer *worker = find_worker(service, &entry->peer);
    const char *problem;

    TRY(service_hello_problem(service, entry->message, service->trainer_numerics, "the trainer",
                              &problem));
    if (worker == NULL) {
        worker = place_for(service);
        *worker = (struct worker_peer){.peer = entry->peer};
    }
    worker->seen_us = now_us;
    worker->is_refused = problem != NULL;
    if (problem != NULL) {
        TRY(service_event(service, "warn", "refused", -1, -1, problem));
        return service_refuse(service, entry, problem);
    }
    (void)snprintf(worker->name, sizeof(worker->name), "%s",
                   message_text(entry->message, "name", ""));
    (void)snprintf(worker->numerics, sizeof(worker->numerics), "%s",
                   message_text(entry->message, "numerics", ""));
    TRY(writer_put_worker(service->writer, service->run_id, worker->name,
                          message_text(entry->message, "host", ""),
                          message_int(entry->message, "pid", 0), &worker->worker_id));
    service->is_urgent = true;
    return service_answer_int(service, entry, MESSAGE_HELLO_OK, "inc", service->holder.inc);
}

static enum status answer_completion(struct service *service, const struct inbox_entry *entry,
                                     enum message_type type, const char *reason)
{
    struct message *answer;

    TRY(message_create(type, &answer));
    message_put_int(answer, "group_id", message_int(entry->message, "group_id", 0));
    message_put_int(answer, "idx", message_int(entry->message, "idx", 0));
    message_put_int(answer, "attempt", message_int(entry->message, "attempt", 0));
    if (type == MESSAGE_NACK) {
        message_put_text(answer, "reason", reason);
    }
    return service_answer(service, entry, answer);
}

static enum status nack(struct service *service, const struct inbox_entry *entry,
                        const char *reason)
{
    char text[256];
    const int64_t group_id = message_int(entry->message, "group_id", 0);

    (void)snprintf(text, sizeof(text), "completion group=%lld idx=%lld attempt=%lld: %s",
                   (long long)group_id, (long long)message_int(entry->message, "idx", 0),
                   (long long)message_int(entry->message, "attempt", 0), reason);
    log_warn("reward", "refused a %s", text);
    TRY(service_event(service, "warn", "nack", -1, -1, text));
    return answer_completion(service, entry, MESSAGE_NACK, reason);
}

static struct completion_facts facts_of(const struct message *message)
{
    struct completion_facts facts = {
        .idx = message_int(message, "idx", -1),
        .attempt = message_int(message, "attempt", 0),
        .inc = message_int(message, "inc", 0),
        .version_first = message_int(message, "version_first", 0),
        .version_last = message_int(message, "version_last", 0),
        .finish = message_text(message, "finish", ""),
    };
    facts.tokens = message_array(message, "tokens", &facts.n_tokens);
    facts.logprobs = message_array(message, "logprobs", &facts.n_logprobs);
    return facts;
}

/* Prompt and completion ids as one array, in the scratch buffer. */
static enum status join_tokens(struct service *service, const struct group_data *data,
                               const struct completion_facts *facts, struct sample_row *row)
{
    service->scratch.bytes = 0;
    TRY(byte_buffer_put(&service->scratch, data->prompt, data->n_prompt * sizeof(int32_t)));
    TRY(byte_buffer_put(&service->scratch, facts->tokens, facts->n_tokens * sizeof(int32_t)));
    row->tokens = (const void *)service->scratch.data;
    row->n_prompt = data->n_prompt;
    row->n_tokens = facts->n_tokens;
    row->logprobs = facts->logprobs;
    return STATUS_OK;
}

/* Stored and scored is the same text, so that scoring again after a restart gives the same. */
static enum status clean_text(struct service *service, const struct message *message,
                              struct text_span *out)
{
    char *repaired = NULL;
    char *copy = NULL;
    bool is_lossy;
    size_t n;

    const char *const text = message_array(message, "text", &n);
    TRY(utf8_repair(text != NULL ? text : "", n, &repaired, &out->bytes, &is_lossy));
    for (size_t i = 0; i < out->bytes; i++) {
        if (repaired[i] == '\0') {
            repaired[i] = '\x1a'; /* SUBSTITUTE: SQL text ends at a NUL for many readers */
        }
    }
    const enum status status = arena_copy_text(service->arena, repaired, out->bytes, &copy);
    memory_free(repaired);
    out->data = copy;
    return status;
}

static enum status fill_row(struct service *service, const struct inbox_entry *entry,
                            const struct intake_group *group, const struct completion_facts *facts,
                            struct sample_row *row)
{
    const struct message *const message = entry->message;
    const struct worker_peer *const worker = find_worker(service, &entry->peer);

    *row = (struct sample_row){
        .sample_id = service->next_sample_id,
        .group_id = group->group_id,
        .idx = facts->idx,
        .attempt = facts->attempt,
        .worker_id = worker != NULL ? worker->worker_id : 0,
        .seed = message_hex64(message, "seed"),
        .version_first = facts->version_first,
        .version_last = facts->version_last,
        .gen_us = message_int(message, "gen_us", 0),
        .finish = facts->finish,
    };
    TRY(clean_text(service, message, &row->completion));
    return join_tokens(service, group->payload, facts, row);
}

static enum status accept(struct service *service, const struct inbox_entry *entry,
                          struct intake_group *group, const struct completion_facts *facts,
                          const struct sample_row *row)
{
    struct slot slot = {.state = SLOT_WAITING,
                        .sample_id = row->sample_id,
                        .attempt = row->attempt,
                        .version_first = row->version_first,
                        .content = completion_digest(facts)};

    slot.has_weight_digest = hash_unhex(message_text(entry->message, "weight_digest", ""),
                                        slot.weight_digest.bytes, sizeof(slot.weight_digest.bytes));
    TRY(intake_fill(service->intake, group, (size_t)facts->idx, &slot));
    service_note_completed(service, group);
    return service_submit(service, group, row);
}

/* A row for what intake decided to keep: waiting, or late with the reason as an event. */
static enum status keep(struct service *service, const struct inbox_entry *entry,
                        struct intake_group *group, const struct completion_facts *facts,
                        const char *late_reason)
{
    struct sample_row row;
    bool is_new;

    TRY(fill_row(service, entry, group, facts, &row));
    row.status = late_reason != NULL ? ROW_LATE : ROW_WAITING;
    TRY(writer_put_sample(service->writer, &row, &is_new));
    if (is_new) {
        service->next_sample_id++;
    }
    if (is_new && late_reason == NULL) {
        return accept(service, entry, group, facts, &row);
    }
    const char *const text =
        late_reason != NULL ? late_reason : "this attempt is stored and was given up";
    log_debug("reward", "late completion group=%lld idx=%lld: %s", (long long)group->group_id,
              (long long)facts->idx, text);
    return service_event(service, "warn", is_new ? "late" : "duplicate", group->step,
                         group->group_id, text);
}

static enum status on_completion(struct service *service, const struct inbox_entry *entry)
{
    const struct completion_facts facts = facts_of(entry->message);
    struct intake_group *group;
    const char *reason;

    const char *const problem = completion_problem(&facts);
    if (problem != NULL) {
        return nack(service, entry, problem);
    }
    TRY(service_group(service, message_int(entry->message, "group_id", 0), &group));
    if (group == NULL) {
        return nack(service, entry, "the group is unknown");
    }
    arena_reset(service->arena);
    const enum intake_verdict verdict = intake_judge(group, &facts, service->holder.inc, &reason);
    if (verdict == INTAKE_REFUSE) {
        return nack(service, entry, reason);
    }
    if (verdict == INTAKE_DUPLICATE) {
        TRY(service_event(service, "info", "duplicate", group->step, group->group_id,
                          "same completion again"));
    } else {
        TRY(keep(service, entry, group, &facts, verdict == INTAKE_LATE ? reason : NULL));
    }
    return answer_completion(service, entry, MESSAGE_ACK, NULL);
}

/* "memory/w0_bytes": what the worker held when it had sampled the step. */
static enum status put_memory(struct service *service, int64_t step,
                              const struct worker_peer *worker, int64_t bytes)
{
    char name[sizeof(worker->name) + 16];

    if (bytes <= 0) {
        return STATUS_OK;
    }
    (void)snprintf(name, sizeof(name), "memory/%s_bytes", worker->name);
    return writer_put_metric(service->writer, service->run_id, step, name, (double)bytes);
}

/* Said again now and then, with larger numbers. What a version samples is trained as the next step.
 */
static enum status on_sampling(struct service *service, const struct inbox_entry *entry,
                               const struct worker_peer *worker)
{
    struct sampling_row row = {.step = message_int(entry->message, "weight_version", 0) + 1,
                               .worker_id = worker == NULL ? 0 : worker->worker_id};

    if (worker == NULL) {
        return STATUS_OK; /* it says so again when it has been welcomed */
    }
    for (size_t i = 0; i < SAMPLING_COLUMNS; i++) {
        row.counts[i] = message_int(entry->message, sampling_columns[i], 0);
    }
    TRY(writer_put_sampling(service->writer, service->run_id, &row));
    return put_memory(service, row.step, worker, message_int(entry->message, "memory_bytes", 0));
}

/* true when what this peer says must not be used: it was refused, or the trainer that came after it
 * computes otherwise. */
static bool is_unfit(const struct service *service, const struct worker_peer *worker)
{
    return worker != NULL &&
           (worker->is_refused || (service->trainer_numerics[0] != '\0' &&
                                   strcmp(worker->numerics, service->trainer_numerics) != 0));
}

static void forget_worker(struct service *service, const struct peer_id *peer)
{
    struct worker_peer *const worker = find_worker(service, peer);

    if (worker != NULL) {
        *worker = service->workers[--service->n_workers];
    }
}

/* A completion of a peer that said no HELLO here is taken all the same: after a restart of this
 * service that is every worker, and the row is bound by its group, incarnation and digest. */
enum status service_on_results(struct service *service, const struct inbox_entry *entry,
                               int64_t now_us)
{
    struct worker_peer *const worker = find_worker(service, &entry->peer);
    const enum message_type type = message_type_of(entry->message);

    if (type == MESSAGE_HELLO) {
        return on_hello(service, entry, now_us);
    }
    if (worker != NULL) {
        worker->seen_us = now_us;
    }
    if (type == MESSAGE_BYE) {
        forget_worker(service, &entry->peer);
        return STATUS_OK;
    }
    if (is_unfit(service, worker)) {
        worker->is_refused = true;
        return service_refuse(service, entry, "this worker does not compute as the trainer does");
    }
    if (type == MESSAGE_SAMPLING) {
        return on_sampling(service, entry, worker);
    }
    return type == MESSAGE_COMPLETION ? on_completion(service, entry)
                                      : service_refuse(service, entry, "not a worker's message");
}
