/* Groups, slots and pages. A slot is a sequence with its arrays, allocated once; a group is
 * allocated when it is added and freed when its last sample is done. */
#include "base/memory.h"
#include "rollout/scheduler_internal.h"

static enum status allocate_rows(struct schedule *schedule, size_t n_rows)
{
    TRY(memory_alloc(n_rows, sizeof(int32_t), &schedule->tokens));
    TRY(memory_alloc(n_rows, sizeof(int32_t), &schedule->positions));
    return memory_alloc(n_rows, sizeof(struct kv_span), &schedule->spans);
}

static enum status allocate_draws(struct scheduler *s)
{
    struct schedule *schedule = &s->schedule;
    const size_t n_seqs = s->limits.max_num_seqs;
    const size_t n_draws = scheduler_max_draws(&s->limits);

    TRY(memory_alloc(n_draws, sizeof(int32_t), &schedule->draw_rows));
    TRY(memory_alloc(n_draws, sizeof(struct sample_row), &schedule->draws));
    TRY(memory_alloc(n_draws, sizeof(size_t), &schedule->draw_slots));
    TRY(memory_alloc(n_seqs, sizeof(struct page_copy), &s->copies));
    return memory_alloc(n_seqs, sizeof(const struct sequence *), &s->finished);
}

static enum status allocate_slots(struct scheduler *s)
{
    const size_t n_seqs = s->limits.max_num_seqs;
    const size_t n_tokens = s->limits.max_sequence;
    const size_t n_blocks = kv_cache_pages_for(n_tokens);

    TRY(memory_alloc(n_seqs, sizeof(struct sequence), &s->slots));
    TRY(memory_alloc(n_seqs, sizeof(size_t), &s->free_slots));
    TRY(memory_alloc(n_seqs, (n_tokens + n_blocks) * sizeof(int32_t), &s->id_memory));
    TRY(memory_alloc(n_seqs, n_tokens * sizeof(float), &s->logprob_memory));
    for (size_t i = 0; i < n_seqs; i++) {
        s->slots[i].tokens = s->id_memory + i * (n_tokens + n_blocks);
        s->slots[i].blocks = s->slots[i].tokens + n_tokens;
        s->slots[i].logprobs = s->logprob_memory + i * n_tokens;
        s->free_slots[i] = n_seqs - 1 - i;
    }
    s->n_free_slots = n_seqs;
    return STATUS_OK;
}

enum status scheduler_create(const struct scheduler_limits *limits, struct kv_cache *cache,
                             struct scheduler **out)
{
    struct scheduler *s = NULL;

    *out = NULL;
    if (limits->max_num_seqs == 0 || limits->max_batch_tokens == 0 || limits->max_sequence < 2) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "%zu sequences of %zu tokens in batches of %zu, want at least 1, 2, 1",
                          limits->max_num_seqs, limits->max_sequence, limits->max_batch_tokens);
    }
    TRY(memory_alloc(1, sizeof(*s), &s));
    s->limits = *limits;
    s->cache = cache;
    s->last = &s->groups;
    s->wants_drafts = limits->n_drafts > 0;
    enum status status = allocate_rows(&s->schedule, limits->max_batch_tokens);
    if (status == STATUS_OK) {
        status = allocate_draws(s);
    }
    if (status == STATUS_OK) {
        status = allocate_slots(s);
    }
    if (status == STATUS_OK) {
        status = scheduler_create_plan(s);
    }
    if (status != STATUS_OK) {
        scheduler_destroy(s);
        return status;
    }
    *out = s;
    return STATUS_OK;
}

/* The last first (kv_cache_release). */
static void release_blocks(struct scheduler *s, const int32_t *blocks, size_t *n)
{
    while (*n > 0) {
        kv_cache_release(s->cache, blocks[--*n]);
    }
}

void scheduler_release_group(struct scheduler *s, struct group *group)
{
    release_blocks(s, group->blocks, &group->n_blocks);
    group->n_cached = 0;
}

void scheduler_release_sequence(struct scheduler *s, struct sequence *sequence)
{
    release_blocks(s, sequence->blocks, &sequence->n_blocks);
}

void scheduler_unlink(struct scheduler *s, struct sequence *sequence)
{
    *(sequence->older == NULL ? &s->oldest : &sequence->older->younger) = sequence->younger;
    *(sequence->younger == NULL ? &s->youngest : &sequence->younger->older) = sequence->older;
}

void scheduler_free_slot(struct scheduler *s, struct sequence *sequence)
{
    sequence->state = SEQUENCE_FREE;
    sequence->group = NULL;
    s->free_slots[s->n_free_slots++] = (size_t)(sequence - s->slots);
}

void scheduler_remove_group(struct scheduler *s, struct group **link)
{
    struct group *group = *link;

    scheduler_release_group(s, group);
    *link = group->next;
    if (s->last == &group->next) {
        s->last = link;
    }
    memory_free(group);
}

static void drop_group(struct scheduler *s, struct group **link)
{
    for (size_t i = 0; i < s->limits.max_num_seqs; i++) {
        struct sequence *sequence = &s->slots[i];

        if (sequence->state == SEQUENCE_FREE || sequence->group != *link) {
            continue;
        }
        if (sequence->state != SEQUENCE_FINISHED) {
            scheduler_release_sequence(s, sequence);
            scheduler_unlink(s, sequence);
        }
        scheduler_free_slot(s, sequence);
    }
    s->n_queued -= (*link)->n_samples - (*link)->n_finished;
    scheduler_remove_group(s, link);
}

void scheduler_destroy(struct scheduler *s)
{
    if (s == NULL) {
        return;
    }
    while (s->groups != NULL) {
        drop_group(s, &s->groups);
    }
    scheduler_destroy_plan(s);
    memory_free(s->finished);
    memory_free(s->copies);
    memory_free(s->schedule.draw_slots);
    memory_free(s->schedule.draws);
    memory_free(s->schedule.draw_rows);
    memory_free(s->schedule.spans);
    memory_free(s->schedule.positions);
    memory_free(s->schedule.tokens);
    memory_free(s->logprob_memory);
    memory_free(s->id_memory);
    memory_free(s->free_slots);
    memory_free(s->slots);
    memory_free(s);
}

static enum status check_request(const struct scheduler *s, const struct engine_request *request)
{
    const size_t room = s->limits.max_sequence;

    if (request->n_prompt == 0 || request->n_samples == 0 || request->max_tokens == 0) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "a request with %zu prompt tokens, %zu samples, %zu new tokens: none may "
                          "be 0",
                          request->n_prompt, request->n_samples, request->max_tokens);
    }
    if (request->n_prompt > room || request->max_tokens > room - request->n_prompt) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "%zu prompt tokens and up to %zu new ones do not fit in %zu",
                          request->n_prompt, request->max_tokens, room);
    }
    return STATUS_OK;
}

enum status scheduler_add(struct scheduler *s, const struct engine_request *request)
{
    struct group *group = NULL;

    TRY(check_request(s, request));
    TRY(group_create(request, &group));
    const size_t n_needed = group_prompt_pages(group) + group_sample_pages(group);
    if (n_needed > kv_cache_n_pages(s->cache)) {
        memory_free(group);
        return status_set(STATUS_BAD_ARGUMENT,
                          "a sequence needs %zu cache pages, there are %zu: raise "
                          "rollout.kv_cache_bytes",
                          n_needed, kv_cache_n_pages(s->cache));
    }
    *s->last = group;
    s->last = &group->next;
    s->n_queued += group->n_samples;
    return STATUS_OK;
}

void scheduler_cancel(struct scheduler *s, uint64_t group_id)
{
    struct group **link = &s->groups;

    while (*link != NULL) {
        if ((*link)->id == group_id) {
            drop_group(s, link);
        } else {
            link = &(*link)->next;
        }
    }
}

const struct sequence *scheduler_find(const struct scheduler *s, uint64_t group_id, uint32_t sample)
{
    for (size_t i = 0; i < s->limits.max_num_seqs; i++) {
        const struct sequence *sequence = &s->slots[i];

        if (sequence->state != SEQUENCE_FREE && sequence->state != SEQUENCE_FINISHED &&
            sequence->sample == sample && sequence->group->id == group_id) {
            return sequence;
        }
    }
    return NULL;
}

size_t scheduler_running(const struct scheduler *s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->limits.max_num_seqs; i++) {
        n += s->slots[i].state == SEQUENCE_RUNNING ? 1 : 0;
    }
    return n;
}

struct scheduler_counts scheduler_counts(const struct scheduler *s)
{
    return s->counts;
}

size_t scheduler_queued(const struct scheduler *s)
{
    return s->n_queued;
}
