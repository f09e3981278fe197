/* Owns groups and their samples between being announced and being taken. */
#include "reward/intake.h"

#include "base/memory.h"
#include "reward/id_map.h"

#include <math.h>
#include <string.h>

/* A log-probability this much above 0 is rounding, not nonsense. */
#define LOGPROB_MAX 1e-4F

struct intake {
    payload_free *free_payload;
    struct id_map groups;  /* group id -> struct intake_group */
    struct id_map samples; /* sample id -> struct intake_group that holds it */
};

enum status intake_create(payload_free *free_payload, struct intake **out)
{
    struct intake *intake;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*intake), &intake));
    intake->free_payload = free_payload;
    *out = intake;
    return STATUS_OK;
}

static void free_group(struct intake *intake, struct intake_group *group)
{
    if (intake->free_payload != NULL && group->payload != NULL) {
        intake->free_payload(group->payload);
    }
    memory_free(group->slots);
    memory_free(group);
}

void intake_destroy(struct intake *intake)
{
    if (intake == NULL) {
        return;
    }
    for (size_t i = 0; i < intake->groups.room; i++) {
        if (intake->groups.entries[i].value != NULL) {
            free_group(intake, intake->groups.entries[i].value);
        }
    }
    id_map_dispose(&intake->groups);
    id_map_dispose(&intake->samples);
    memory_free(intake);
}

size_t intake_groups(const struct intake *intake)
{
    return intake->groups.count;
}

struct intake_group *intake_find(const struct intake *intake, int64_t group_id)
{
    return id_map_find(&intake->groups, group_id);
}

enum status intake_add(struct intake *intake, const struct intake_group *facts,
                       struct intake_group **out)
{
    struct intake_group *group;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*group), &group));
    *group = *facts;
    group->slots = NULL;
    enum status status = memory_alloc(group->n, sizeof(*group->slots), &group->slots);
    if (status == STATUS_OK) {
        status = id_map_put(&intake->groups, group->group_id, group);
    }
    if (status != STATUS_OK) {
        memory_free(group->slots);
        memory_free(group);
        return status;
    }
    *out = group;
    return STATUS_OK;
}

struct slot *intake_find_sample(const struct intake *intake, int64_t sample_id,
                                struct intake_group **group)
{
    *group = id_map_find(&intake->samples, sample_id);
    for (size_t i = 0; *group != NULL && i < (*group)->n; i++) {
        struct slot *const slot = &(*group)->slots[i];
        if (slot->state != SLOT_EMPTY && slot->sample_id == sample_id) {
            return slot;
        }
    }
    return NULL;
}

const char *completion_problem(const struct completion_facts *facts)
{
    if (facts->n_tokens == 0) {
        return "it has no tokens";
    }
    if (facts->n_tokens != facts->n_logprobs) {
        return "it has another number of log-probabilities than tokens";
    }
    if (facts->version_last < facts->version_first) {
        return "its last weight version is before its first";
    }
    if (!row_finish_is_valid(facts->finish)) {
        return "its finish is none that is known";
    }
    for (size_t i = 0; i < facts->n_tokens; i++) {
        if (facts->tokens[i] < 0) {
            return "it has a negative token id";
        }
        if (!isfinite(facts->logprobs[i]) || facts->logprobs[i] > LOGPROB_MAX) {
            return "it has a log-probability that is above 0 or not finite";
        }
    }
    return NULL;
}

struct digest128 completion_digest(const struct completion_facts *facts)
{
    const uint64_t parts[2] = {
        hash_64(facts->tokens, facts->n_tokens * sizeof(*facts->tokens)),
        hash_64(facts->logprobs, facts->n_logprobs * sizeof(*facts->logprobs)),
    };
    struct digest128 digest;

    memcpy(digest.bytes, parts, sizeof(digest.bytes));
    return digest;
}

/* The weight version that the group's stored samples were begun with; -1 when there are none. */
static int64_t version_of(const struct intake_group *group)
{
    for (size_t i = 0; i < group->n; i++) {
        if (group->slots[i].state != SLOT_EMPTY) {
            return group->slots[i].version_first;
        }
    }
    return -1;
}

enum intake_verdict intake_judge(const struct intake_group *group,
                                 const struct completion_facts *facts, int64_t inc_newest,
                                 const char **reason)
{
    *reason = "";
    if (facts->idx < 0 || (size_t)facts->idx >= group->n) {
        *reason = "the group has fewer samples";
        return INTAKE_REFUSE;
    }
    if (facts->inc > inc_newest) {
        *reason = "no such incarnation was ever given out";
        return INTAKE_REFUSE;
    }
    const struct slot *const slot = &group->slots[facts->idx];
    if (slot->state != SLOT_EMPTY) {
        const struct digest128 content = completion_digest(facts);
        if (digest128_equal(&content, &slot->content)) {
            return INTAKE_DUPLICATE;
        }
        *reason = "another completion with this index is stored";
        return INTAKE_LATE;
    }
    if (group->is_closed) {
        *reason = "the group is closed";
        return INTAKE_LATE;
    }
    /* A completion that an earlier trainer asked for is as good as a new one as long as it was
     * drawn with the weights that the group is drawn with: the draw does not know who asked. */
    const int64_t version = version_of(group);
    if (facts->inc < inc_newest && version >= 0 && version != facts->version_first) {
        *reason = "an earlier incarnation asked for it, under other weights";
        return INTAKE_LATE;
    }
    return INTAKE_STORE;
}

enum status intake_fill(struct intake *intake, struct intake_group *group, size_t idx,
                        const struct slot *slot)
{
    TRY(id_map_put(&intake->samples, slot->sample_id, group));
    group->slots[idx] = *slot;
    return STATUS_OK;
}

static void sum_up(const struct intake_group *group, struct group_totals *totals)
{
    size_t n_rewards = 0;
    double sum = 0.0;
    double squares = 0.0;

    *totals = (struct group_totals){0};
    for (size_t i = 0; i < group->n; i++) {
        const struct slot *const slot = &group->slots[i];
        if (slot->state == SLOT_EMPTY || slot->state == SLOT_WAITING) {
            continue;
        }
        totals->n_scored++;
        n_rewards += slot->has_reward ? 1 : 0;
        sum += slot->has_reward ? slot->reward : 0.0;
    }
    totals->is_complete = (size_t)totals->n_scored == group->n;
    totals->has_mean = n_rewards > 0;
    totals->has_std = n_rewards > 1;
    if (!totals->has_mean) {
        return;
    }
    totals->mean = sum / (double)n_rewards;
    for (size_t i = 0; i < group->n; i++) {
        const struct slot *const slot = &group->slots[i];
        if (slot->state != SLOT_EMPTY && slot->has_reward) {
            squares += (slot->reward - totals->mean) * (slot->reward - totals->mean);
        }
    }
    totals->std = totals->has_std ? sqrt(squares / (double)(n_rewards - 1)) : 0.0;
}

void intake_score(struct intake_group *group, struct slot *slot, bool is_masked,
                  const double *reward, struct group_totals *totals)
{
    slot->state = group->is_closed ? SLOT_TAKEN : SLOT_QUEUED;
    slot->is_masked = is_masked;
    slot->has_reward = reward != NULL;
    slot->reward = reward != NULL ? *reward : 0.0;
    sum_up(group, totals);
}

bool intake_take(struct intake *intake, int64_t sample_id, bool is_accepted)
{
    struct intake_group *group;
    struct slot *const slot = intake_find_sample(intake, sample_id, &group);

    if (slot == NULL) {
        return false;
    }
    if (is_accepted) {
        slot->state = SLOT_TAKEN;
        return true;
    }
    *slot = (struct slot){.state = SLOT_EMPTY};
    id_map_remove(&intake->samples, sample_id);
    return true;
}

void intake_close_step(struct intake *intake, int64_t step)
{
    for (size_t i = 0; i < intake->groups.room; i++) {
        struct intake_group *const group = intake->groups.entries[i].value;
        if (group != NULL && !group->is_eval && group->step <= step) {
            group->is_closed = true;
        }
    }
}

/* One group's share of intake_resend; n of room are taken. */
static size_t resend_group(struct intake_group *group, int64_t before_us, int64_t *ids, size_t n,
                           size_t room)
{
    for (size_t i = 0; i < group->n && n < room; i++) {
        struct slot *const slot = &group->slots[i];
        if (slot->state == SLOT_SENT && slot->sent_us <= before_us) {
            slot->state = SLOT_QUEUED;
            ids[n++] = slot->sample_id;
        }
    }
    return n;
}

size_t intake_resend(struct intake *intake, int64_t now_us, int64_t resend_us, int64_t *ids,
                     size_t room)
{
    size_t n = 0;

    for (size_t i = 0; i < intake->groups.room && n < room; i++) {
        struct intake_group *const group = intake->groups.entries[i].value;
        if (group != NULL && !group->is_closed) {
            n = resend_group(group, now_us - resend_us, ids, n, room);
        }
    }
    return n;
}

static size_t count_unanswered(const struct intake_group *group, int64_t *since_us)
{
    size_t n = 0;

    for (size_t i = 0; i < group->n && !group->is_closed; i++) {
        const struct slot *slot = &group->slots[i];

        if (slot->state == SLOT_SENT) {
            *since_us = *since_us == 0 || slot->sent_us < *since_us ? slot->sent_us : *since_us;
            n++;
        }
    }
    return n;
}

size_t intake_unanswered(const struct intake *intake, int64_t *since_us)
{
    size_t n = 0;

    *since_us = 0;
    for (size_t i = 0; i < intake->groups.room; i++) {
        const struct intake_group *const group = intake->groups.entries[i].value;

        n += group != NULL ? count_unanswered(group, since_us) : 0;
    }
    return n;
}

static bool is_finished(const struct intake_group *group)
{
    bool is_all_taken = true;

    for (size_t i = 0; i < group->n; i++) {
        const enum slot_state state = group->slots[i].state;
        if (state == SLOT_WAITING) {
            return false;
        }
        is_all_taken = is_all_taken && state == SLOT_TAKEN;
    }
    return is_all_taken || group->is_closed;
}

static void forget(struct intake *intake, struct intake_group *group)
{
    for (size_t i = 0; i < group->n; i++) {
        if (group->slots[i].state != SLOT_EMPTY) {
            id_map_remove(&intake->samples, group->slots[i].sample_id);
        }
    }
    id_map_remove(&intake->groups, group->group_id);
    free_group(intake, group);
}

void intake_sweep(struct intake *intake)
{
    size_t i = 0;

    /* Removing shifts later entries back into place i, so it is looked at again. An entry that
     * wraps around to the front is met by the next sweep. */
    while (i < intake->groups.room) {
        struct intake_group *const group = intake->groups.entries[i].value;
        if (group != NULL && is_finished(group)) {
            forget(intake, group);
        } else {
            i++;
        }
    }
}
