#include "reward/score_slots.h"

#include "base/memory.h"

#include <string.h>

/* Text of the sample at `text`, copied; the slot owns all of them. */
static enum status own_text(struct score_slot *slot, const char **text, size_t n)
{
    char **copy = &slot->texts[slot->n_texts];
    TRY(memory_copy_text(*text, n, copy));
    slot->n_texts++;
    *text = *copy;
    return STATUS_OK;
}

static enum status own_sample(struct score_slot *slot, const struct score_sample *from)
{
    struct score_sample *sample = &slot->sample;
    *sample = *from;
    sample->row = json_retain(from->row);
    sample->answer = json_retain(from->answer);
    TRY(own_text(slot, &sample->finish, strlen(from->finish)));
    TRY(own_text(slot, &sample->prompt, from->prompt_bytes));
    TRY(own_text(slot, &sample->completion, from->completion_bytes));
    return own_text(slot, &sample->data_source, strlen(from->data_source));
}

static void release(const struct score_slots *slots, struct score_slot *slot)
{
    if (!slot->is_used) {
        return;
    }
    json_destroy(slot->sample.row);
    json_destroy(slot->sample.answer);
    while (slot->n_texts > 0) {
        memory_free(slot->texts[--slot->n_texts]);
    }
    for (size_t i = 0; i < slots->n_rewards; i++) {
        memory_free(slot->scores[i].detail);
        slot->scores[i] = (struct score){0};
    }
    slot->is_used = false;
    slot->is_reported = false;
}

void score_slots_release_reported(struct score_slots *slots)
{
    for (size_t i = 0; i < slots->n; i++) {
        if (slots->at[i]->is_reported) {
            release(slots, slots->at[i]);
        }
    }
}

void score_slots_dispose(struct score_slots *slots)
{
    for (size_t i = 0; i < slots->n; i++) {
        release(slots, slots->at[i]);
        memory_free(slots->at[i]->scores);
        memory_free(slots->at[i]);
    }
    memory_free(slots->at);
    memory_free(slots->finished);
}

static enum status add_slot(struct score_slots *slots)
{
    struct score_slot *slot = NULL;
    TRY(memory_alloc(1, sizeof(*slot), &slot));
    const enum status status = memory_alloc(slots->n_rewards, sizeof(struct score), &slot->scores);
    if (status != STATUS_OK) {
        memory_free(slot);
        return status;
    }
    slots->at[slots->n] = slot;
    slots->n++;
    return STATUS_OK;
}

static enum status add_slots(struct score_slots *slots)
{
    const size_t old = slots->n;
    const size_t n = old == 0 ? 64 : 2 * old;
    TRY(memory_resize(old * sizeof(struct score_slot *), n, sizeof(struct score_slot *),
                      &slots->at));
    TRY(memory_resize(old * sizeof(size_t), n, sizeof(size_t), &slots->finished));
    while (slots->n < n) {
        const enum status status = add_slot(slots);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status find_slot(struct score_slots *slots, size_t *slot)
{
    for (*slot = 0; *slot < slots->n; (*slot)++) {
        if (!slots->at[*slot]->is_used) {
            return STATUS_OK;
        }
    }
    return add_slots(slots);
}

enum status score_slots_take(struct score_slots *slots, const struct score_sample *sample,
                             size_t *slot)
{
    TRY(find_slot(slots, slot));
    struct score_slot *const taken = slots->at[*slot];
    taken->is_used = true;
    taken->n_missing = slots->n_rewards;
    const enum status status = own_sample(taken, sample);
    if (status != STATUS_OK) {
        release(slots, taken);
    }
    return status;
}

void score_slots_record(struct score_slots *slots, size_t slot, size_t reward,
                        const struct score *score)
{
    struct score_slot *const at = slots->at[slot];
    at->scores[reward] = *score;
    at->n_missing--;
    if (at->n_missing == 0) {
        slots->finished[slots->n_finished++] = slot;
    }
}
