/* Who has pages: admission by what is needed now, growth, preemption of the youngest, resumption.
 *
 * A sequence is admitted, or comes back, with pages for all tokens it has, and only while one page
 * more is left for each that may still grow: so that it does not have to go again at once. Running
 * sequences take a page when they come to its first token. When there is none the youngest goes;
 * its entries are computed anew when it is back, to the same bits (DESIGN, exactness). The oldest
 * sequence never has to wait for another: all other pages can become its own, and a cache holds at
 * least one sequence of full length. So it finishes, and the next one is the oldest. */
#include "rollout/scheduler_internal.h"

bool scheduler_hold_pages(struct scheduler *s, struct sequence *sequence, size_t position)
{
    while (position / KV_BLOCK_TOKENS >= sequence->n_blocks) {
        if (!kv_cache_take(s->cache, &sequence->blocks[sequence->n_blocks])) {
            return false;
        }
        sequence->n_blocks++;
    }
    return true;
}

static bool has_pages(const struct sequence *sequence)
{
    return sequence->state != SEQUENCE_PREEMPTED;
}

/* Whether the sequence, which has pages, may come to need more than it has. */
static bool can_grow(const struct sequence *sequence)
{
    const struct group *group = sequence->group;
    const size_t n_held =
        sequence->state == SEQUENCE_ADMITTED ? group_shared_pages(group) + 1 : sequence->n_blocks;

    return n_held < kv_cache_pages_for(group->n_prompt + group->max_tokens - 1);
}

/* Prompts that only wait for a slot for more samples lose their pages. */
static bool release_idle_groups(struct scheduler *s)
{
    bool is_any = false;

    for (struct group *group = s->groups; group != NULL; group = group->next) {
        if (group->n_blocks > 0 && group->n_admitted == group->n_begun) {
            scheduler_release_group(s, group);
            is_any = true;
        }
    }
    return is_any;
}

/* The last sample that was admitted, before its prompt was through: as if it had not been. */
static void withdraw(struct scheduler *s, struct sequence *sequence)
{
    struct group *group = sequence->group;

    group->n_admitted--;
    scheduler_unlink(s, sequence);
    scheduler_free_slot(s, sequence);
    if (group->n_admitted == group->n_begun) {
        scheduler_release_group(s, group);
    }
}

static void preempt_youngest(struct scheduler *s)
{
    struct sequence *sequence = s->youngest;

    while (!has_pages(sequence)) {
        sequence = sequence->older;
    }
    scheduler_release_sequence(s, sequence);
    if (sequence->state == SEQUENCE_ADMITTED) {
        withdraw(s, sequence);
        return;
    }
    sequence->state = SEQUENCE_PREEMPTED;
    s->counts.n_preempted++;
}

void scheduler_grow(struct scheduler *s)
{
    for (struct sequence *q = s->oldest; q != NULL; q = q->younger) {
        while (q->state == SEQUENCE_RUNNING &&
               !scheduler_hold_pages(s, q, sequence_length(q) - 1)) {
            if (!release_idle_groups(s)) {
                preempt_youngest(s); /* which may be q itself */
            }
        }
    }
}

/* n pages: those known of the group's prompt, *n_known, then empty ones. False, and nothing is
 * taken, when fewer than n_spare would be left. */
static bool take_pages(struct scheduler *s, const struct group *group, int32_t *blocks, size_t n,
                       size_t n_spare, size_t *n_known)
{
    const size_t n_shared = group_shared_pages(group);
    size_t n_taken = 0;
    bool is_enough = true;

    while (n_taken < n_shared &&
           kv_cache_find(s->cache, &group->names[n_taken], &blocks[n_taken]) == KV_READY) {
        n_taken++;
    }
    *n_known = n_taken;
    is_enough = kv_cache_n_available(s->cache) >= n - n_taken + n_spare;
    while (is_enough && n_taken < n) {
        is_enough = kv_cache_take(s->cache, &blocks[n_taken]);
        n_taken += is_enough ? 1 : 0;
    }
    while (!is_enough && n_taken > 0) {
        kv_cache_release(s->cache, blocks[--n_taken]);
    }
    return is_enough;
}

enum kv_found scheduler_share_known(const struct scheduler *s, const struct refill *refill)
{
    enum kv_found found = KV_READY;

    while (found == KV_READY && *refill->n_cached % KV_BLOCK_TOKENS == 0 &&
           *refill->n_cached / KV_BLOCK_TOKENS < group_shared_pages(refill->group)) {
        const size_t i = *refill->n_cached / KV_BLOCK_TOKENS;
        int32_t page = 0;

        found = kv_cache_find(s->cache, &refill->group->names[i], &page);
        if (found == KV_READY) {
            kv_cache_release(s->cache, refill->blocks[i]);
            refill->blocks[i] = page;
            *refill->n_cached += KV_BLOCK_TOKENS;
        }
    }
    return found;
}

/* Pages for every token that the sequence has. */
static bool resume(struct scheduler *s, struct sequence *sequence, size_t n_growing)
{
    const size_t n = kv_cache_pages_for(sequence_length(sequence));
    size_t n_known = 0;

    if (!take_pages(s, sequence->group, sequence->blocks, n, n_growing, &n_known)) {
        return false;
    }
    sequence->n_blocks = n;
    sequence->n_cached = n_known * KV_BLOCK_TOKENS;
    sequence->state = SEQUENCE_RESUMING;
    return true;
}

/* The prompt's pages, if the group has none, and one of the sample's own. */
static bool take_sample_pages(struct scheduler *s, struct group *group, size_t n_growing,
                              int32_t *own)
{
    size_t n_known = 0;

    if (group->n_blocks == 0) {
        const size_t n = group_prompt_pages(group);

        if (group->n_admitted == 0) {
            group_set_drafted(group, s->wants_drafts);
        }

        if (!take_pages(s, group, group->blocks, n, n_growing + 1, &n_known)) {
            return false;
        }
        group->n_blocks = n;
        group->n_cached = n_known * KV_BLOCK_TOKENS;
        s->counts.n_prefix_tokens += group->n_cached;
    } else if (kv_cache_n_available(s->cache) < n_growing + 1) {
        return false;
    }
    return kv_cache_take(s->cache, own);
}

static void append(struct scheduler *s, struct sequence *sequence)
{
    sequence->older = s->youngest;
    sequence->younger = NULL;
    *(s->youngest == NULL ? &s->oldest : &s->youngest->younger) = sequence;
    s->youngest = sequence;
}

/* Gives one more sample of the group a slot and pages; NULL when either is short. */
static struct sequence *admit_sample(struct scheduler *s, struct group *group, size_t n_growing,
                                     int64_t now_us)
{
    int32_t own = 0;

    if (s->n_free_slots == 0 || !take_sample_pages(s, group, n_growing, &own)) {
        return NULL;
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
    sequence->blocks[0] = own;
    sequence->n_blocks = 1;
    sequence->n_drafts = 0;
    sequence->n_fed = 0;
    append(s, sequence);
    return sequence;
}

/* Who has pages and may grow; *preempted: the first who has none. */
static size_t count_growing(const struct scheduler *s, struct sequence **preempted)
{
    size_t n = 0;

    *preempted = s->oldest;
    while (*preempted != NULL && has_pages(*preempted)) {
        n += can_grow(*preempted) ? 1 : 0;
        *preempted = (*preempted)->younger;
    }
    return n;
}

/* One pass in order, as far as pages go; whether anybody got some. */
static bool admit_some(struct scheduler *s, int64_t now_us)
{
    struct sequence *preempted = NULL;
    size_t n_growing = count_growing(s, &preempted);
    bool is_any = false;

    for (; preempted != NULL; preempted = preempted->younger) {
        if (!resume(s, preempted, n_growing)) {
            return is_any;
        }
        n_growing += can_grow(preempted) ? 1 : 0;
        is_any = true;
    }
    for (struct group *group = s->groups; group != NULL; group = group->next) {
        while (group->n_admitted < group->n_samples) {
            const struct sequence *sequence = admit_sample(s, group, n_growing, now_us);

            if (sequence == NULL) {
                return is_any; /* strictly in order: a large group is not overtaken for ever */
            }
            n_growing += can_grow(sequence) ? 1 : 0;
            is_any = true;
        }
    }
    return is_any;
}

void scheduler_admit(struct scheduler *s, int64_t now_us)
{
    if (!admit_some(s, now_us) && (s->oldest == NULL || !has_pages(s->oldest)) &&
        release_idle_groups(s)) {
        (void)admit_some(s, now_us); /* nobody runs: now the whole cache is there */
    }
}
