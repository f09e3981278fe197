/* Continuous batching: what the next forward holds, and what its draws did. */
#include "rollout/scheduler_internal.h"

/* Frees what the last result still showed. */
static void reclaim(struct scheduler *s)
{
    struct group **link = &s->groups;

    for (size_t i = 0; i < s->limits.max_num_seqs; i++) {
        if (s->slots[i].state == SEQUENCE_FINISHED) {
            scheduler_free_slot(s, &s->slots[i]);
        }
    }
    while (*link != NULL && (*link)->n_admitted > 0) {
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

/* The token `ahead` behind the sequence's next one is drawn from the last row added. */
static void add_draw(struct scheduler *s, const struct sequence *sequence, size_t ahead)
{
    struct schedule *schedule = &s->schedule;
    const struct group *group = sequence->group;
    const size_t i = schedule->n_draws++;

    schedule->draw_rows[i] = (int32_t)(schedule->n_rows - 1);
    schedule->draw_slots[i] = (size_t)(sequence - s->slots);
    schedule->draws[i] =
        (struct sample_row){.seed = group->seed,
                            .group = group->id,
                            .sample = sequence->sample,
                            .position = (uint32_t)(sequence_length(sequence) + ahead),
                            .sampling = group->sampling};
}

/* The sequence's last token and up to n_drafts drafts; each row draws. */
static void schedule_sequence(struct scheduler *s, struct sequence *sequence, size_t n_drafts)
{
    const size_t position = sequence_length(sequence) - 1;

    while (!scheduler_hold_pages(s, sequence, position + n_drafts)) {
        n_drafts--; /* a draft is not worth a page that somebody would have to go for */
    }
    add_span(&s->schedule, 1 + n_drafts, position, sequence->blocks);
    add_row(&s->schedule, sequence->tokens[sequence->n_tokens - 1], position);
    add_draw(s, sequence, 0);
    for (size_t i = 0; i < n_drafts; i++) {
        add_row(&s->schedule, sequence->drafts[i], position + 1 + i);
        add_draw(s, sequence, 1 + i);
    }
    sequence->n_fed = n_drafts;
}

/* Every running sequence gets a row before a draft gets one. */
static void schedule_decodes(struct scheduler *s)
{
    const size_t n_seqs = s->limits.max_num_seqs;
    const size_t first = s->cursor;
    const size_t n_running = scheduler_running(s);
    size_t room = n_running < s->limits.max_batch_tokens ? s->limits.max_batch_tokens - n_running
                                                         : 0; /* rows for drafts */

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
        const size_t n_drafts = sequence->n_drafts < room ? sequence->n_drafts : room;
        schedule_sequence(s, sequence, n_drafts);
        room -= sequence->n_fed;
    }
}

/* Feeds the next chunk; true when it was the last one. */
static bool schedule_refill(struct scheduler *s, const struct refill *refill)
{
    const struct group *group = refill->group;

    if (s->schedule.n_rows == s->limits.max_batch_tokens ||
        scheduler_share_known(s, refill) == KV_COMING) {
        return false;
    }
    const size_t first = *refill->n_cached;
    const size_t room = s->limits.max_batch_tokens - s->schedule.n_rows;
    const size_t n_left = refill->n_tokens - first;
    const size_t n_rows = n_left < room ? n_left : room;

    add_span(&s->schedule, n_rows, first, refill->blocks);
    for (size_t i = first; i < first + n_rows; i++) {
        add_row(&s->schedule, group_token(group, refill->drawn, i), i);
    }
    scheduler_plan_refill(s, refill, first, n_rows);
    *refill->n_cached = first + n_rows;
    for (size_t i = first / KV_BLOCK_TOKENS;
         i < group_shared_pages(group) && (i + 1) * KV_BLOCK_TOKENS <= *refill->n_cached; i++) {
        kv_cache_name(s->cache, refill->blocks[i], &group->names[i]);
    }
    return n_rows == n_left;
}

/* Those who come back are older than those who have not begun. */
static void schedule_resumptions(struct scheduler *s)
{
    for (struct sequence *q = s->oldest; q != NULL; q = q->younger) {
        const struct refill refill = {.group = q->group,
                                      .drawn = q->tokens,
                                      .blocks = q->blocks,
                                      .n_cached = &q->n_cached,
                                      .n_tokens = sequence_length(q) - 1,
                                      .n_known = sequence_length(q)};

        if (q->state != SEQUENCE_RESUMING) {
            continue;
        }
        const size_t n_rows = s->schedule.n_rows;

        q->state = schedule_refill(s, &refill) ? SEQUENCE_RUNNING : SEQUENCE_RESUMING;
        s->counts.n_resumed_tokens += s->schedule.n_rows - n_rows;
    }
}

static void schedule_prompt(struct scheduler *s, struct group *group)
{
    const struct refill refill = {.group = group,
                                  .blocks = group->blocks,
                                  .n_cached = &group->n_cached,
                                  .n_tokens = group->n_prompt,
                                  .n_known = group->n_prompt};
    const size_t n_rows = s->schedule.n_rows, n_cached = group->n_cached;
    const bool is_through = schedule_refill(s, &refill);
    const size_t n_fed = s->schedule.n_rows - n_rows;

    s->counts.n_prompt_tokens += n_fed;
    s->counts.n_prefix_tokens += group->n_cached - n_cached - n_fed;
    for (struct sequence *q = s->oldest; is_through && q != NULL; q = q->younger) {
        if (q->state == SEQUENCE_ADMITTED && q->group == group) {
            add_draw(s, q, 0);
        }
    }
}

const struct schedule *scheduler_next(struct scheduler *s, int64_t now_us)
{
    struct schedule *schedule = &s->schedule;

    reclaim(s);
    kv_cache_begin_turn(s->cache);
    scheduler_grow(s);
    scheduler_admit(s, now_us);
    schedule->n_rows = 0;
    schedule->n_spans = 0;
    schedule->n_draws = 0;
    s->plan.n_rows = 0;
    s->plan.n_spans = 0;
    schedule_decodes(s);
    schedule_resumptions(s);
    for (struct group *group = s->groups; group != NULL && group->n_admitted > 0;
         group = group->next) {
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
    const int32_t own = sequence->blocks[0];

    for (size_t i = 0; i < n_shared; i++) {
        kv_cache_share(s->cache, group->blocks[i]);
        sequence->blocks[i] = group->blocks[i];
    }
    sequence->blocks[n_shared] = own;
    sequence->n_blocks = n_shared + 1;
    sequence->state = SEQUENCE_RUNNING;
    s->copies[s->n_copies++] =
        (struct page_copy){.from = group->blocks[n_shared],
                           .to = own,
                           .n_tokens = group->n_prompt - n_shared * KV_BLOCK_TOKENS};
}

static void accept_token(struct scheduler *s, struct sequence *sequence, int32_t token, float logp,
                         bool is_end_token)
{
    const bool is_first = sequence->state == SEQUENCE_ADMITTED;

    sequence->group->n_begun += is_first ? 1 : 0;
    if (sequence_append(sequence, token, logp, is_end_token)) {
        scheduler_release_sequence(s, sequence);
        scheduler_unlink(s, sequence);
        sequence->state = SEQUENCE_FINISHED;
        sequence->group->n_finished++;
        s->n_queued--;
        s->finished[s->n_finished++] = sequence;
    } else if (is_first) {
        fork_sequence(s, sequence);
    }
}

struct end_tokens {
    const int32_t *ids;
    size_t n;
};

static bool contains(const int32_t *ids, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* Whether the draft behind the sequence's i-th new token was that token. */
static bool judge(const struct sequence *sequence, size_t i, size_t n_fed, int32_t token,
                  struct schedule_result *result)
{
    const bool is_right = i < n_fed && token == sequence->drafts[i];

    if (i < n_fed) {
        result->n_judged_at[i]++;
        result->n_gained_at[i] += is_right && sequence->state != SEQUENCE_FINISHED ? 1 : 0;
        result->n_right += is_right ? 1 : 0;
    }
    return is_right;
}

/* The sequence's draws from `first` on count while what was fed behind them is what they drew. */
static void accept_draws(struct scheduler *s, size_t first, const int32_t *drawn, const float *logp,
                         const struct end_tokens *end, struct schedule_result *result)
{
    struct sequence *sequence = &s->slots[s->schedule.draw_slots[first]];
    const size_t n_fed = sequence->n_fed;
    const bool is_first = sequence->state == SEQUENCE_ADMITTED;
    bool is_right = true;

    sequence->n_new = 0;
    sequence->n_drafts = 0;
    sequence->n_fed = 0;
    for (size_t i = 0; is_right && sequence->state != SEQUENCE_FINISHED; i++) {
        const int32_t token = drawn[first + i];

        accept_token(s, sequence, token, logp[first + i], contains(end->ids, end->n, token));
        sequence->n_new++;
        is_right = judge(sequence, i, n_fed, token, result);
    }
    result->n_tokens += sequence->n_new;
    result->n_turns += is_first ? 0 : 1;
    result->n_turn_tokens += is_first ? 0 : sequence->n_new;
    /* Drafts behind a sequence's end were not judged. */
    const bool is_cut = sequence->state == SEQUENCE_FINISHED && sequence->n_new < n_fed;
    result->n_fed += is_cut ? sequence->n_new : n_fed;
}

void scheduler_accept(struct scheduler *s, const int32_t *drawn, const float *logp,
                      const int32_t *end_tokens, size_t n_end_tokens,
                      struct schedule_result *result)
{
    const struct end_tokens end = {.ids = end_tokens, .n = n_end_tokens};

    *result = (struct schedule_result){.copies = s->copies, .finished = s->finished};
    for (size_t i = 0; i < s->schedule.n_draws;) {
        const size_t n = 1 + s->slots[s->schedule.draw_slots[i]].n_fed;

        accept_draws(s, i, drawn, logp, &end, result);
        i += n;
    }
    for (struct group *group = s->groups; group != NULL && group->n_admitted > 0;
         group = group->next) {
        if (group->n_begun == group->n_samples) {
            scheduler_release_group(s, group); /* the samples own what they still need */
        }
    }
    result->n_copies = s->n_copies;
    result->n_finished = s->n_finished;
}
