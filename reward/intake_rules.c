/* Owns the rules that need no groups: who is the trainer, and the error budget. */
#include "base/memory.h"
#include "reward/intake.h"

#include <stdio.h>
#include <string.h>

enum hello_verdict holder_judge(const struct holder *holder, int64_t pid, const char *host,
                                int64_t inc_claimed, int64_t now_us)
{
    const bool is_same = holder->pid == pid && strcmp(holder->host, host) == 0;

    if (holder->inc == 0 || holder->is_gone) {
        return HELLO_NEW;
    }
    if (is_same && (inc_claimed == holder->inc || holder->last_us > 0)) {
        return HELLO_SAME;
    }
    const bool beats = holder->last_us > 0 && now_us - holder->last_us < HOLDER_SILENCE_US;
    return beats && !is_same ? HELLO_HELD : HELLO_NEW;
}

void error_budget_dispose(struct error_budget *budget)
{
    memory_free(budget->entries);
    budget->entries = NULL;
    budget->count = 0;
    budget->room = 0;
}

static enum status find_entry(struct error_budget *budget, int64_t step, size_t component,
                              struct budget_entry **out)
{
    for (size_t i = 0; i < budget->count; i++) {
        if (budget->entries[i].step == step && budget->entries[i].component == component) {
            *out = &budget->entries[i];
            return STATUS_OK;
        }
    }
    if (budget->count == budget->room) {
        const size_t room = budget->room == 0 ? 16 : 2 * budget->room;
        TRY(memory_resize(budget->count * sizeof(*budget->entries), room, sizeof(*budget->entries),
                          &budget->entries));
        budget->room = room;
    }
    *out = &budget->entries[budget->count++];
    **out = (struct budget_entry){.step = step, .component = component};
    return STATUS_OK;
}

/* A few calls say nothing about a rate, unless all of a step failed. */
static bool is_above(const struct error_budget *budget, const struct budget_entry *entry,
                     size_t n_calls)
{
    const bool counts =
        entry->n_calls >= BUDGET_CALLS_MIN || entry->n_failures >= budget->n_expected;

    return counts && (double)entry->n_failures > budget->rate_max * (double)n_calls;
}

enum status error_budget_count(struct error_budget *budget, int64_t step, size_t component,
                               int64_t sample_id, const char *failure,
                               const struct budget_entry **exceeded)
{
    struct budget_entry *entry = NULL;

    *exceeded = NULL;
    TRY(find_entry(budget, step, component, &entry));
    entry->n_calls++;
    if (failure != NULL) {
        (void)snprintf(entry->cause, sizeof(entry->cause), "%s", failure);
        if (entry->n_failures < BUDGET_EXAMPLES) {
            entry->examples[entry->n_failures] = sample_id;
        }
        entry->n_failures++;
    }
    const size_t n_whole =
        entry->n_calls > budget->n_expected ? entry->n_calls : budget->n_expected;
    *exceeded = is_above(budget, entry, n_whole) ? entry : NULL;
    return STATUS_OK;
}

const struct budget_entry *error_budget_final(const struct error_budget *budget, int64_t step)
{
    for (size_t i = 0; i < budget->count; i++) {
        const struct budget_entry *const entry = &budget->entries[i];
        if (entry->step == step && is_above(budget, entry, entry->n_calls)) {
            return entry;
        }
    }
    return NULL;
}

void error_budget_forget(struct error_budget *budget, int64_t step)
{
    size_t kept = 0;

    for (size_t i = 0; i < budget->count; i++) {
        if (budget->entries[i].step > step) {
            budget->entries[kept++] = budget->entries[i];
        }
    }
    budget->count = kept;
}
