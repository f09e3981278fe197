/* Continuous batching over slots. A slot is a sequence with its arrays, allocated once; a group is
 * allocated when it is added and freed when its last sample is done. */
#include "rollout/scheduler.h"

#include "base/memory.h"

struct scheduler {
    struct scheduler_limits limits;
    struct kv_cache *cache;
    struct group *groups, **last; /* in order of arrival; last: where the next one is linked */
    struct sequence *slots;       /* (max_num_seqs) */
    size_t *free_slots;           /* a stack */
    size_t n_free_slots;
    size_t cursor; /* slot that decodes first, so that no one starves when rows are few */
    int32_t *id_memory;
    float *logprob_memory;
    struct schedule schedule;
    struct page_copy *copies;         /* (max_num_seqs) */
    const struct sequence **finished; /* (max_num_seqs) */
    size_t n_copies, n_finished;
};

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

    TRY(memory_alloc(n_seqs, sizeof(int32_t), &schedule->draw_rows));
    TRY(memory_alloc(n_seqs, sizeof(struct sample_row), &schedule->draws));
    TRY(memory_alloc(n_seqs, sizeof(size_t), &schedule->draw_slots));
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
    enum status status = allocate_rows(&s->schedule, limits->max_batch_tokens);
    if (status == STATUS_OK) {
        status = allocate_draws(s);
    }
    if (status == STATUS_OK) {
        status = allocate_slots(s);
    }
    if (status != STATUS_OK) {
        scheduler_destroy(s);
        return status;
    }
    *out = s;
    return STATUS_OK;
}

static void release_group_pages(struct scheduler *s, struct group *group)
{
    for (size_t i = 0; i < group->n_blocks; i++) {
        kv_cache_release(s->cache, group->blocks[i]);
    }
    group->n_blocks = 0;
}

static void release_sequence_pages(struct scheduler *s, struct sequence *sequence)
{
    for (size_t i = 0; i < sequence->n_blocks; i++) {
        kv_cache_release(s->cache, sequence->blocks[i]);
    }
    kv_cache_unreserve(s->cache, sequence->n_promised);
    sequence->n_blocks = 0;
    sequence->n_promised = 0;
}

static void free_slot(struct scheduler *s, struct sequence *sequence)
{
    sequence->state = SEQUENCE_FREE;
    sequence->group = NULL;
    s->free_slots[s->n_free_slots++] = (size_t)(sequence - s->slots);
}

/* Unlinks and frees the group that *link points to. */
static void remove_group(struct scheduler *s, struct group **link)
{
    struct group *group = *link;

    release_group_pages(s, group);
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

        if (sequence->state != SEQUENCE_FREE && sequence->group == *link) {
            release_sequence_pages(s, sequence);
            free_slot(s, sequence);
        }
    }
    remove_group(s, link);
}

void scheduler_destroy(struct scheduler *s)
{
    if (s == NULL) {
        return;
    }
    while (s->groups != NULL) {
        drop_group(s, &s->groups);
    }
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
    return STATUS_OK;
}

/* Gives one more sample of the group a slot and promises; false when either is short. */
static bool admit_sample(struct scheduler *s, struct group *group, int64_t now_us)
{
    const size_t n_own = group_sample_pages(group);
    const size_t n_prompt_pages = group->n_blocks == 0 ? group_prompt_pages(group) : 0;

    if (s->n_free_slots == 0 || !kv_cache_reserve(s->cache, n_own + n_prompt_pages)) {
        return false;
    }
    for (size_t i = 0; i < n_prompt_pages; i++) {
        group->blocks[group->n_blocks++] = kv_cache_take(s->cache);
    }
    if (group->n_admitted == 0) {
        group->since_us = now_us;
    }
    if (group->n_cached == group->n_prompt) {
        group->n_cached--; /* feed the last prompt token once more: its row gives the first draw */
    }
    struct sequence *sequence = &s->slots[s->free_slots[--s->n_free_slots]];
    sequence->state = SEQUENCE_ADMITTED;
    sequence->group = group;
    sequence->sample = (uint32_t)group->samples[group->n_admitted++];
    sequence->n_tokens = 0;
    sequence->n_promised = n_own;
    return true;
}

static void admit(struct scheduler *s, int64_t now_us)
{
    for (struct group *group = s->groups; group != NULL; group = group->next) {
        while (group->n_admitted < group->n_samples) {
            if (!admit_sample(s, group, now_us)) {
                return; /* strictly in order: a large group is not overtaken for ever */
            }
        }
    }
}

/* Frees what the last result still showed. */
static void reclaim(struct scheduler *s)
{
    struct group **link = &s->groups;

    for (size_t i = 0; i < s->limits.max_num_seqs; i++) {
        if (s->slots[i].state == SEQUENCE_FINISHED) {
            free_slot(s, &s->slots[i]);
        }
    }
    while (*link != NULL) {
        if ((*link)->n_finished == (*link)->n_samples) {
            remove_group(s, link);
        } else {
            link = &(*link)->next;
        }
    }
    s->n_finished = 0;
    s->n_copies = 0;
}

static void add_span(struct schedule *schedule, size_t n_rows, size_t n_cached,
                     const int32_t *blocks)
{
    schedule->spans[schedule->n_spans++] = (struct kv_span){
        .first_row = schedule->n_rows, .n_rows = n_rows, .n_cached = n_cached, .blocks = blocks};
}

static void add_row(struct schedule *schedule, int32_t token, size_t position)
{
    schedule->tokens[schedule->n_rows] = token;
    schedule->positions[schedule->n_rows] = (int32_t)position;
    schedule->n_rows++;
}

/* The next token of the sequence is drawn from the last row added. */
static void add_draw(struct scheduler *s, const struct sequence *sequence)
{
    struct schedule *schedule = &s->schedule;
    const struct group *group = sequence->group;
    const size_t i = schedule->n_draws++;

    schedule->draw_rows[i] = (int32_t)(schedule->n_rows - 1);
    schedule->draw_slots[i] = (size_t)(sequence - s->slots);
    schedule->draws[i] = (struct sample_row){.seed = group->seed,
                                             .group = group->id,
                                             .sample = sequence->sample,
                                             .position = (uint32_t)sequence_length(sequence),
                                             .sampling = group->sampling};
}

static void schedule_decodes(struct scheduler *s)
{
    const size_t n_seqs = s->limits.max_num_seqs;
    const size_t first = s->cursor;

    for (size_t i = 0; i < n_seqs; i++) {
        const size_t slot = (first + i) % n_seqs;
        struct sequence *sequence = &s->slots[slot];

        if (sequence->state != SEQUENCE_RUNNING) {
            continue;
        }
        if (s->schedule.n_rows == s->limits.max_batch_tokens) {
            s->cursor = slot;
            return;
        }
        const size_t position = sequence_length(sequence) - 1;
        if (position / KV_BLOCK_TOKENS == sequence->n_blocks) {
            sequence->blocks[sequence->n_blocks++] = kv_cache_take(s->cache);
            sequence->n_promised--;
        }
        add_span(&s->schedule, 1, position, sequence->blocks);
        add_row(&s->schedule, sequence->tokens[sequence->n_tokens - 1], position);
        add_draw(s, sequence);
    }
}

static void schedule_prompt(struct scheduler *s, struct group *group)
{
    const size_t room = s->limits.max_batch_tokens - s->schedule.n_rows;
    const size_t n_left = group->n_prompt - group->n_cached;
    const size_t n_rows = n_left < room ? n_left : room;

    add_span(&s->schedule, n_rows, group->n_cached, group->blocks);
    for (size_t i = 0; i < n_rows; i++) {
        add_row(&s->schedule, group->prompt[group->n_cached], group->n_cached);
        group->n_cached++;
    }
    if (n_rows < n_left) {
        return;
    }
    for (size_t i = 0; i < s->limits.max_num_seqs; i++) {
        if (s->slots[i].state == SEQUENCE_ADMITTED && s->slots[i].group == group) {
            add_draw(s, &s->slots[i]);
        }
    }
}

const struct schedule *scheduler_next(struct scheduler *s, int64_t now_us)
{
    struct schedule *schedule = &s->schedule;

    reclaim(s);
    admit(s, now_us);
    schedule->n_rows = 0;
    schedule->n_spans = 0;
    schedule->n_draws = 0;
    schedule_decodes(s);
    for (struct group *group = s->groups; group != NULL; group = group->next) {
        if (schedule->n_rows == s->limits.max_batch_tokens) {
            break;
        }
        if (group->n_admitted > group->n_begun) {
            schedule_prompt(s, group);
        }
    }
    return schedule;
}

/* The sample leaves its group's prompt: shared pages get one owner more, the last one is copied. */
static void fork_sequence(struct scheduler *s, struct sequence *sequence)
{
    const struct group *group = sequence->group;
    const size_t n_shared = group_shared_pages(group);

    for (size_t i = 0; i < n_shared; i++) {
        kv_cache_share(s->cache, group->blocks[i]);
        sequence->blocks[i] = group->blocks[i];
    }
    sequence->blocks[n_shared] = kv_cache_take(s->cache);
    sequence->n_promised--;
    sequence->n_blocks = n_shared + 1;
    sequence->state = SEQUENCE_RUNNING;
    s->copies[s->n_copies++] =
        (struct page_copy){.from = group->blocks[n_shared], .to = sequence->blocks[n_shared]};
}

static void accept_token(struct scheduler *s, struct sequence *sequence, int32_t token, float logp,
                         bool is_end_token)
{
    const bool is_first = sequence->state == SEQUENCE_ADMITTED;

    sequence->group->n_begun += is_first ? 1 : 0;
    if (sequence_append(sequence, token, logp, is_end_token)) {
        release_sequence_pages(s, sequence);
        sequence->state = SEQUENCE_FINISHED;
        sequence->group->n_finished++;
        s->finished[s->n_finished++] = sequence;
    } else if (is_first) {
        fork_sequence(s, sequence);
    }
}

static bool contains(const int32_t *ids, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

void scheduler_accept(struct scheduler *s, const int32_t *drawn, const float *logp,
                      const int32_t *end_tokens, size_t n_end_tokens,
                      struct schedule_result *result)
{
    for (size_t i = 0; i < s->schedule.n_draws; i++) {
        accept_token(s, &s->slots[s->schedule.draw_slots[i]], drawn[i], logp[i],
                     contains(end_tokens, n_end_tokens, drawn[i]));
    }
    for (struct group *group = s->groups; group != NULL; group = group->next) {
        if (group->n_begun == group->n_samples) {
            release_group_pages(s, group); /* the samples own what they still need */
        }
    }
    *result = (struct schedule_result){.copies = s->copies,
                                       .n_copies = s->n_copies,
                                       .finished = s->finished,
                                       .n_finished = s->n_finished};
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

size_t scheduler_queued(const struct scheduler *s)
{
    size_t n_queued = 0;

    for (const struct group *group = s->groups; group != NULL; group = group->next) {
        n_queued += group->n_samples - group->n_finished;
    }
    return n_queued;
}
