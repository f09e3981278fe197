/* A linked list in order of arrival; a worker holds a handful of items. */
#include "rollout/work_queue.h"

#include "base/memory.h"

#include <stdio.h>
#include <string.h>

bool weights_id_equal(const struct weights_id *a, const struct weights_id *b)
{
    return a->version == b->version && strcmp(a->digest, b->digest) == 0;
}

static void fill_work(const struct message *message, struct work *work)
{
    work->weights.version = message_int(message, "weight_version", 0);
    (void)snprintf(work->weights.digest, sizeof(work->weights.digest), "%s",
                   message_text(message, "weight_digest", ""));
    work->group = (uint64_t)message_int(message, "group_id", 0);
    work->seed = message_hex64(message, "seed");
    work->inc = message_int(message, "inc", 0);
    work->attempt = (uint32_t)message_int(message, "attempt", 0);
    work->max_tokens = (size_t)message_int(message, "max_tokens", 1);
    work->sampling =
        (struct sampling_params){.temperature = (float)message_number(message, "temperature", 1.0),
                                 .top_k = (int32_t)message_int(message, "top_k", 0),
                                 .top_p = (float)message_number(message, "top_p", 1.0),
                                 .min_p = (float)message_number(message, "min_p", 0.0)};
}

enum status work_create(const struct message *message, struct work **out)
{
    size_t n_prompt = 0;
    size_t n_samples = 0;
    const int32_t *prompt = message_array(message, "prompt", &n_prompt);
    const int32_t *samples = message_array(message, "idx", &n_samples);
    struct work *work = NULL;

    *out = NULL;
    if (n_prompt == 0 || n_samples == 0) {
        return status_set(STATUS_BAD_FORMAT, "WORK with %zu prompt tokens and %zu samples",
                          n_prompt, n_samples);
    }
    for (size_t i = 0; i < n_samples; i++) {
        if (samples[i] < 0) {
            return status_set(STATUS_BAD_FORMAT, "WORK asks for sample %d", samples[i]);
        }
    }
    TRY(memory_alloc(1, sizeof(*work) + (n_prompt + n_samples) * sizeof(int32_t), &work));
    fill_work(message, work);
    work->samples = (int32_t *)(void *)(work + 1);
    work->prompt = work->samples + n_samples;
    work->n_samples = n_samples;
    work->n_prompt = n_prompt;
    work->n_left = n_samples;
    memcpy(work->samples, samples, n_samples * sizeof(int32_t));
    memcpy(work->prompt, prompt, n_prompt * sizeof(int32_t));
    *out = work;
    return STATUS_OK;
}

void work_queue_init(struct work_queue *queue)
{
    *queue = (struct work_queue){.first = NULL, .last = &queue->first};
}

/* Unlinks and frees the item that *link points to; its credit is free again. */
static void drop(struct work_queue *queue, struct work **link)
{
    struct work *work = *link;

    *link = work->next;
    if (queue->last == &work->next) {
        queue->last = link;
    }
    memory_free(work);
    queue->n_freed++;
}

void work_queue_clear(struct work_queue *queue)
{
    while (queue->first != NULL) {
        drop(queue, &queue->first);
    }
    queue->n_freed = 0;
}

enum work_verdict work_queue_add(struct work_queue *queue, struct work *work)
{
    enum work_verdict verdict = WORK_ADDED;
    struct work **link = &queue->first;

    while (*link != NULL && (*link)->group != work->group) {
        link = &(*link)->next;
    }
    if (*link != NULL && (*link)->attempt >= work->attempt) {
        memory_free(work);
        queue->n_freed++;
        return WORK_KNOWN;
    }
    if (*link != NULL) {
        drop(queue, link);
        verdict = WORK_REPLACES;
    }
    *queue->last = work;
    queue->last = &work->next;
    return verdict;
}

struct work *work_queue_next(const struct work_queue *queue, const struct weights_id *held)
{
    for (struct work *work = queue->first; work != NULL; work = work->next) {
        if (!work->is_started && weights_id_equal(&work->weights, held)) {
            return work;
        }
    }
    return NULL;
}

const struct work *work_queue_wanted(const struct work_queue *queue, const struct weights_id *held)
{
    for (const struct work *work = queue->first; work != NULL; work = work->next) {
        if (!work->is_started && !weights_id_equal(&work->weights, held)) {
            return work;
        }
    }
    return NULL;
}

void work_queue_finish_sample(struct work_queue *queue, struct work *work)
{
    if (--work->n_left > 0) {
        return;
    }
    struct work **link = &queue->first;
    while (*link != work) {
        link = &(*link)->next;
    }
    drop(queue, link);
}

void work_queue_drop_weights(struct work_queue *queue, const struct weights_id *weights)
{
    struct work **link = &queue->first;

    while (*link != NULL) {
        if (weights_id_equal(&(*link)->weights, weights)) {
            drop(queue, link);
        } else {
            link = &(*link)->next;
        }
    }
}

size_t work_queue_credit(const struct work_queue *queue)
{
    return queue->n_freed;
}

void work_queue_credit_given(struct work_queue *queue, size_t n)
{
    queue->n_freed -= n;
}
