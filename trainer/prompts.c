/* The prompts of a step: from dataset rows to groups that the reward service knows and workers can
 * be given. */
#include "trainer/session.h"

#include "base/clock.h"
#include "base/memory.h"

#include <string.h>

#define REPEAT_US INT64_C(3000000)
#define DEADLINE_US INT64_C(60000000)

size_t session_group_step(const struct session *session, uint64_t group_id)
{
    return (size_t)((group_id - 1) / session->config->grpo.prompts_per_step) + 1;
}

static enum status read_row(const struct session *session, uint64_t group_id,
                            struct dataset_row *row)
{
    const struct run_config *config = session->config;
    const size_t index =
        dataset_row_at(session->data.dataset, config->run.seed, group_id - 1, config->data.shuffle);
    return dataset_row_read(session->data.dataset, index, row);
}

enum status session_encode_prompt(struct session *session, uint64_t group_id, struct arena *arena,
                                  int32_t **prompt, size_t *n_prompt)
{
    struct dataset_row row;
    struct chat_prompt encoded;
    TRY(read_row(session, group_id, &row));
    enum status status = dataset_encode_prompt(session->data.dataset, &row, &encoded);
    if (status == STATUS_OK) {
        status = arena_alloc(arena, encoded.ids.count, sizeof(int32_t), prompt);
        if (status == STATUS_OK) {
            memcpy(*prompt, encoded.ids.ids, encoded.ids.count * sizeof(int32_t));
            *n_prompt = encoded.ids.count;
        }
        chat_prompt_dispose(&encoded);
    }
    dataset_row_dispose(&row);
    return status;
}

/* Puts one JSON value as text into an array field. */
static enum status put_json_text(struct message *message, const char *key, const struct json *value)
{
    char *text = NULL;
    size_t n = 0;
    if (value == NULL) {
        return STATUS_OK;
    }
    TRY(json_print(value, &text, &n));
    message_put_array(message, key, DTYPE_U8, text, n);
    memory_free(text);
    return STATUS_OK;
}

static enum status fill_group(struct session *session, const struct open_group *group,
                              const struct dataset_row *row, const struct chat_prompt *prompt,
                              struct message *message)
{
    message_put_int(message, "group_id", (int64_t)group->id);
    message_put_int(message, "step", (int64_t)session_group_step(session, group->id));
    message_put_text(message, "kind", "train");
    message_put_int(message, "n", (int64_t)session->config->grpo.num_generations);
    message_put_text(message, "row_sha", row->sha);
    message_put_text(message, "data_source", row->data_source);
    message_put_array(message, "prompt_text", DTYPE_U8, prompt->text, prompt->text_bytes);
    message_put_array(message, "prompt", DTYPE_I32, prompt->ids.ids, prompt->ids.count);
    TRY(put_json_text(message, "row", row->row));
    return put_json_text(message, "answer", row->answer);
}

static enum status announce_group(struct session *session, const struct open_group *group)
{
    struct dataset_row row;
    struct chat_prompt prompt;
    struct message *message = NULL;
    TRY(read_row(session, group->id, &row));
    enum status status = dataset_encode_prompt(session->data.dataset, &row, &prompt);
    if (status != STATUS_OK) {
        dataset_row_dispose(&row);
        return status;
    }
    status = message_create(MESSAGE_GROUP, &message);
    if (status == STATUS_OK) {
        status = fill_group(session, group, &row, &prompt, message);
    }
    if (status == STATUS_OK) {
        status = link_tell(session->link, message);
    }
    message_destroy(message);
    chat_prompt_dispose(&prompt);
    dataset_row_dispose(&row);
    return status;
}

static enum status announce_groups(struct session *session)
{
    for (size_t i = 0; i < session->n_groups; i++) {
        const enum status status = session->groups[i].is_acknowledged
                                       ? STATUS_OK
                                       : announce_group(session, &session->groups[i]);
        if (status != STATUS_OK && status != STATUS_TIMEOUT) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status await_groups(struct session *session)
{
    const int64_t deadline = clock_now_us() + DEADLINE_US;
    int64_t next_us = 0;
    session->n_groups_acknowledged = 0;
    while (session->n_groups_acknowledged < session->n_groups) {
        const int64_t now = clock_now_us();
        enum status status = STATUS_OK;
        if (now > deadline) {
            return status_set(STATUS_TIMEOUT,
                              "the reward service stored %zu of %zu groups within 60 s",
                              session->n_groups_acknowledged, session->n_groups);
        }
        if (now >= next_us) {
            status = announce_groups(session);
            next_us = now + REPEAT_US;
        }
        if (status == STATUS_OK) {
            status = link_turn(session->link, "opening", 20);
        }
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

/* Rows are on disk before the first sample of them is drawn. */
static enum status store_groups(struct session *session)
{
    link_expect(session->link, "the rows of the step's prompts", DEADLINE_US / 1000000);
    const enum status status = await_groups(session);
    link_expect(session->link, NULL, 0);
    return status;
}

static enum status open_group(struct session *session, const struct open_group *group)
{
    TRY(dispatch_open(session->dispatch, group->id));
    for (size_t idx = 0; idx < session->config->grpo.num_generations; idx++) {
        if (sample_store_find(session->store, group->id, (int32_t)idx) != NULL) {
            (void)dispatch_sample(session->dispatch, group->id, idx);
        }
    }
    return STATUS_OK;
}

enum status session_open_groups(struct session *session, size_t step)
{
    const size_t n = session->config->grpo.prompts_per_step;
    TRY(arena_alloc(session->arena, n, sizeof(*session->groups), &session->groups));
    session->n_groups = n;
    for (size_t i = 0; i < n; i++) {
        struct open_group *group = &session->groups[i];
        group->id = (uint64_t)(step - 1) * n + i + 1;
        const enum status status = session_encode_prompt(session, group->id, session->arena,
                                                         &group->prompt, &group->n_prompt);
        if (status != STATUS_OK) {
            return status;
        }
    }
    TRY(store_groups(session));
    for (size_t i = 0; i < n; i++) {
        const enum status status = open_group(session, &session->groups[i]);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

enum status session_fill_work(void *context, uint64_t group_id, struct message *work)
{
    const struct session *session = context;
    const struct run_config *config = session->config;
    for (size_t i = 0; i < session->n_groups; i++) {
        if (session->groups[i].id == group_id) {
            message_put_array(work, "prompt", DTYPE_I32, session->groups[i].prompt,
                              session->groups[i].n_prompt);
        }
    }
    message_put_hex64(work, "seed", config->run.seed);
    message_put_int(work, "max_tokens", (int64_t)config->rollout.max_completion_length);
    message_put_number(work, "temperature", config->rollout.temperature);
    message_put_int(work, "top_k", (int64_t)config->rollout.top_k);
    message_put_number(work, "top_p", config->rollout.top_p);
    message_put_number(work, "min_p", config->rollout.min_p);
    message_put_int(work, "deadline_ms", 600000);
    return STATUS_OK;
}
