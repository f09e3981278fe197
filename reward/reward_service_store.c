/* Owns the way from rows to memory: what a group needs to be scored, and how a restarted service
 * finds its open groups and unscored samples again. */
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "reward/reward_service_internal.h"

#include <string.h>

#define ROW_DEPTH_MAX 64u

void group_data_destroy(void *data)
{
    struct group_data *const group = data;

    if (group == NULL) {
        return;
    }
    json_destroy(group->row);
    json_destroy(group->answer);
    memory_free(group->prompt_text);
    memory_free(group->data_source);
    memory_free(group->prompt);
    memory_free(group);
}

static enum status fill_data(const struct prompt_row *prompt, struct group_data *data)
{
    const char *const source = prompt->data_source != NULL ? prompt->data_source : "";

    TRY(json_parse_with_nul(prompt->row_json.data, prompt->row_json.bytes, ROW_DEPTH_MAX,
                            &data->row));
    if (prompt->answer_json.data != NULL) {
        TRY(json_parse_with_nul(prompt->answer_json.data, prompt->answer_json.bytes, ROW_DEPTH_MAX,
                                &data->answer));
    }
    TRY(memory_copy_text(prompt->text.data, prompt->text.bytes, &data->prompt_text));
    TRY(memory_copy_text(source, strlen(source), &data->data_source));
    TRY(memory_alloc(prompt->n_tokens, sizeof(*data->prompt), &data->prompt));
    memcpy(data->prompt, prompt->tokens, prompt->n_tokens * sizeof(*data->prompt));
    data->prompt_bytes = prompt->text.bytes;
    data->n_prompt = prompt->n_tokens;
    return STATUS_OK;
}

enum status group_data_create(const struct prompt_row *prompt, struct group_data **out)
{
    struct group_data *data;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*data), &data));
    const enum status status = fill_data(prompt, data);
    if (status != STATUS_OK) {
        group_data_destroy(data);
        return status;
    }
    *out = data;
    return STATUS_OK;
}

enum status service_submit(struct service *service, const struct intake_group *group,
                           const struct sample_row *sample)
{
    const struct group_data *const data = group->payload;
    const struct score_sample score = {
        .sample_id = sample->sample_id,
        .group_id = group->group_id,
        .idx = (int32_t)sample->idx,
        .step = group->step,
        .finish = sample->finish,
        .version = sample->version_first,
        .prompt = data->prompt_text,
        .prompt_bytes = data->prompt_bytes,
        .completion = sample->completion.data,
        .completion_bytes = sample->completion.bytes,
        .row = data->row,
        .answer = data->answer,
        .data_source = data->data_source,
        .n_tokens = sample->n_tokens,
    };
    return scoring_submit(service->scoring, &score);
}

enum status service_event(struct service *service, const char *level, const char *kind,
                          int64_t step, int64_t group_id, const char *text)
{
    char *json = NULL;

    struct json *const object = json_object_create();
    enum status status = json_put(object, "text", json_from_text(text, strlen(text)));
    if (status == STATUS_OK) {
        status = json_print(object, &json, NULL);
    }
    json_destroy(object);
    if (status == STATUS_OK) {
        const struct event_row event = {.level = level,
                                        .kind = kind,
                                        .json = json,
                                        .inc = service->holder.inc,
                                        .step = step,
                                        .group_id = group_id};
        status = writer_put_event(service->writer, &event);
    }
    memory_free(json);
    return status;
}

static enum slot_state state_of(const struct sample_row *row, const struct intake_group *group,
                                enum slot_state scored)
{
    if (row->status == ROW_WAITING) {
        return SLOT_WAITING;
    }
    return group->is_closed ? SLOT_TAKEN : scored;
}

/* One stored sample into its slot; samples that were given up (late, stale, aborted) fill none. */
static enum status load_sample(struct service *service, struct intake_group *group,
                               const struct sample_row *row, enum slot_state scored)
{
    const struct completion_facts facts = {.tokens = row->tokens + row->n_prompt,
                                           .logprobs = row->logprobs,
                                           .n_tokens = row->n_tokens,
                                           .n_logprobs = row->n_tokens};
    const struct slot slot = {
        .state = state_of(row, group, scored),
        .is_masked = row->status == ROW_MASKED,
        .has_reward = row->has_reward,
        .reward = row->reward,
        .sample_id = row->sample_id,
        .attempt = row->attempt,
        .version_first = row->version_first,
        .content = completion_digest(&facts),
    };
    const bool is_live =
        row->status == ROW_WAITING || row->status == ROW_OK || row->status == ROW_MASKED;

    if (!is_live || row->idx < 0 || (size_t)row->idx >= group->n) {
        return STATUS_OK;
    }
    TRY(intake_fill(service->intake, group, (size_t)row->idx, &slot));
    if (slot.state == SLOT_WAITING) {
        return service_submit(service, group, row);
    }
    return slot.state == SLOT_QUEUED ? service_post(service, PARCEL_SCORED, row->sample_id, NULL)
                                     : STATUS_OK;
}

static enum status load_samples(struct service *service, struct intake_group *group,
                                enum slot_state scored)
{
    struct sample_row *rows;
    size_t n;

    TRY(reader_group_samples(writer_db(service->writer), group->group_id, service->arena, &rows,
                             &n));
    for (size_t i = 0; i < n; i++) {
        TRY(load_sample(service, group, &rows[i], scored));
    }
    return STATUS_OK;
}

/* From the database; *out NULL when it is not there. Scored samples enter in state `scored`. */
static enum status load_group(struct service *service, int64_t group_id, enum slot_state scored,
                              struct intake_group **out)
{
    struct group_row row;
    struct prompt_row prompt;
    struct group_data *data;
    bool found;

    *out = NULL;
    arena_reset(service->arena);
    TRY(reader_group(writer_db(service->writer), group_id, service->arena, &row, &prompt, &found));
    if (!found) {
        return STATUS_OK;
    }
    TRY(group_data_create(&prompt, &data));
    const struct intake_group facts = {.group_id = group_id,
                                       .step = row.step,
                                       .is_eval = row.is_eval,
                                       .is_closed = row.is_closed,
                                       .n = (size_t)row.n,
                                       .prompt_sha = prompt.sha,
                                       .payload = data};
    const enum status status = intake_add(service->intake, &facts, out);
    if (status != STATUS_OK) {
        group_data_destroy(data);
        return status;
    }
    return load_samples(service, *out, scored);
}

enum status service_group(struct service *service, int64_t group_id, struct intake_group **out)
{
    *out = intake_find(service->intake, group_id);
    return *out != NULL ? STATUS_OK : load_group(service, group_id, SLOT_TAKEN, out);
}

/* Queues the scored samples of a group that is in memory. */
static enum status queue_again(struct service *service, struct intake_group *group)
{
    for (size_t i = 0; i < group->n; i++) {
        struct slot *const slot = &group->slots[i];
        if (slot->state == SLOT_EMPTY || slot->state == SLOT_WAITING) {
            continue;
        }
        slot->state = SLOT_QUEUED;
        const enum status status = service_post(service, PARCEL_SCORED, slot->sample_id, NULL);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status load_or_queue(struct service *service, int64_t group_id)
{
    struct intake_group *group = intake_find(service->intake, group_id);

    return group != NULL ? queue_again(service, group)
                         : load_group(service, group_id, SLOT_QUEUED, &group);
}

enum status service_load_open(struct service *service, int64_t after_step, int64_t *n_queued)
{
    struct id_list list;
    struct arena *arena;

    const size_t before = service->n_parcels - service->parcel_head;
    TRY(arena_create(4096, &arena)); /* the list outlives the arena of single rows */
    enum status status =
        reader_open_groups(writer_db(service->writer), service->run_id, after_step, arena, &list);
    for (size_t i = 0; status == STATUS_OK && i < list.count; i++) {
        status = load_or_queue(service, list.ids[i]);
    }
    arena_destroy(arena);
    *n_queued = (int64_t)(service->n_parcels - service->parcel_head - before);
    return status;
}

static enum status load_waiting(struct service *service, size_t *n_groups)
{
    struct id_list list;
    struct arena *arena;

    TRY(arena_create(4096, &arena));
    enum status status =
        reader_waiting_groups(writer_db(service->writer), service->run_id, arena, &list);
    for (size_t i = 0; status == STATUS_OK && i < list.count; i++) {
        struct intake_group *group;
        status = service_group(service, list.ids[i], &group);
    }
    *n_groups = status == STATUS_OK ? list.count : 0;
    arena_destroy(arena);
    return status;
}

enum status service_load(struct service *service)
{
    int64_t sample_id_max;
    int64_t n_queued;
    size_t n_waiting;

    TRY(reader_sample_id_max(writer_db(service->writer), &sample_id_max));
    if (service->next_sample_id <= sample_id_max) {
        service->next_sample_id = sample_id_max + 1;
    }
    TRY(service_load_open(service, -1, &n_queued));
    TRY(load_waiting(service, &n_waiting));
    if (intake_groups(service->intake) > 0) {
        log_info("reward", "found open_groups=%zu unscored_in=%zu scored_samples=%lld",
                 intake_groups(service->intake), n_waiting, (long long)n_queued);
    }
    return STATUS_OK;
}
