/* Continuous batching: who is admitted, what the next forward holds, what its draws did. */
#include "rollout/scheduler_internal.h"

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
            scheduler_free_slot(s, &s->slots[i]);
        }
    }
    while (*link != NULL) {
        if ((*link)->n_finished == (*link)->n_samples) {
            scheduler_remove_group(s, link);
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
        scheduler_release_sequence(s, sequence);
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
            scheduler_release_group(s, group); /* the samples own what they still need */
        }
    }
    *result = (struct schedule_result){.copies = s->copies,
                                       .n_copies = s->n_copies,
                                       .finished = s->finished,
                                       .n_finished = s->n_finished};
}
