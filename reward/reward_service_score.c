/* Owns what becomes of scores: rows, group totals, the error budget. */
#include "base/clock.h"
#include "base/log.h"
#include "reward/reward_service_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Ends the run: the trainer hears it, what is logged stays logged. */
static enum status give_up(struct service *service, const char *reason)
{
    TRY(writer_commit(service->writer));
    service_tell_end(service, reason);
    return status_set(STATUS_SCORING, "%s", reason);
}

static enum status over_budget(struct service *service, const struct budget_entry *entry)
{
    char reason[640];
    char examples[96];
    size_t used = 0;

    examples[0] = '\0';
    for (size_t i = 0; i < BUDGET_EXAMPLES && i < entry->n_failures; i++) {
        const int n = snprintf(examples + used, sizeof(examples) - used, "%s%lld",
                               i == 0 ? "" : ", ", (long long)entry->examples[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    (void)snprintf(reason, sizeof(reason),
                   "reward %s: %zu of %zu calls of step %lld failed (%.1f %%, "
                   "scoring.max_error_rate is %.1f %%), e.g. samples %s: %s",
                   service->components[entry->component].name, entry->n_failures, entry->n_calls,
                   (long long)entry->step,
                   100.0 * (double)entry->n_failures / (double)entry->n_calls,
                   100.0 * service->budget.rate_max, examples, entry->cause);
    TRY(service_event(service, "error", "error_budget", entry->step, -1, reason));
    return give_up(service, reason);
}

enum status service_check_budget(struct service *service, int64_t step)
{
    const struct budget_entry *const entry = error_budget_final(&service->budget, step);
    return entry == NULL ? STATUS_OK : over_budget(service, entry);
}

static const char *isolation_of(const struct scoring_component *component)
{
    return strncmp(component->source, "builtin:", 8) == 0 ? "none" : "process";
}

static enum status put_rewards(struct service *service, const struct score_result *result)
{
    for (size_t i = 0; i < service->n_components; i++) {
        const struct score *const score = &result->scores[i];
        const struct reward_row row = {
            .sample_id = result->sample_id,
            .fn_id = service->fn_ids[i],
            .status = score_status_name(score->status),
            .value = score->value,
            .us = score->us,
            .tries = score->tries,
            .isolation = isolation_of(&service->components[i]),
            .detail = score->detail,
        };
        TRY(writer_put_reward(service->writer, &row));
    }
    return STATUS_OK;
}

/* A component of weight 0 is a metric: it is logged, and its failures end nothing. */
static enum status count_failures(struct service *service, const struct intake_group *group,
                                  const struct score_result *result)
{
    for (size_t i = 0; i < service->n_components; i++) {
        const enum score_status score = result->scores[i].status;
        const struct budget_entry *exceeded = NULL;
        if (score == SCORE_NA || group->is_eval || !(service->components[i].weight != 0.0)) {
            continue;
        }
        const char *const detail = result->scores[i].detail;
        const char *const failure = detail != NULL ? detail : score_status_name(score);
        enum status status = error_budget_count(&service->budget, group->step, i, result->sample_id,
                                                score == SCORE_OK ? NULL : failure, &exceeded);
        if (status == STATUS_OK && exceeded != NULL) {
            status = over_budget(service, exceeded);
        }
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

/* Steps come one after the other; completions of an older one count no more. */
static bool begin_wait(struct reward_wait *wait, const struct intake_group *group)
{
    if (group->is_eval || group->step < wait->step) {
        return false;
    }
    if (group->step > wait->step) {
        *wait = (struct reward_wait){.step = group->step};
    }
    return true;
}

void service_note_completed(struct service *service, const struct intake_group *group)
{
    if (begin_wait(&service->reward_wait, group)) {
        service->reward_wait.completed_us = clock_now_us();
    }
}

void service_note_scored(struct service *service, const struct intake_group *group)
{
    if (begin_wait(&service->reward_wait, group)) {
        service->reward_wait.scored_us = clock_now_us();
    }
}

double service_reward_us(const struct service *service, int64_t step)
{
    const struct reward_wait *wait = &service->reward_wait;

    if (wait->step != step || wait->completed_us == 0 || wait->scored_us == 0) {
        return (double)NAN;
    }
    const int64_t us = wait->scored_us - wait->completed_us;
    return us > 0 ? (double)us : 0;
}

static enum status apply(struct service *service, const struct score_result *result)
{
    struct intake_group *group;
    struct group_totals totals;
    struct slot *const slot = intake_find_sample(service->intake, result->sample_id, &group);

    if (slot == NULL || slot->state != SLOT_WAITING) {
        return STATUS_OK; /* of a transaction that was rolled back */
    }
    const bool has_reward = result->has_total && !result->is_masked;
    TRY(writer_set_sample(service->writer, result->sample_id,
                          result->is_masked ? ROW_MASKED : ROW_OK, has_reward, result->total));
    TRY(put_rewards(service, result));
    intake_score(group, slot, result->is_masked, has_reward ? &result->total : NULL, &totals);
    service_note_scored(service, group);
    TRY(writer_set_totals(service->writer, group->group_id, &totals));
    if (slot->state == SLOT_QUEUED) {
        TRY(service_post(service, PARCEL_SCORED, result->sample_id, NULL));
    }
    return count_failures(service, group, result);
}

enum status service_score(struct service *service, int64_t now_us)
{
    const struct score_result *results = NULL;
    size_t n = 0;

    const enum status status = scoring_tick(service->scoring, now_us, &results, &n);
    if (status == STATUS_SCORING) {
        char reason[512];
        (void)snprintf(reason, sizeof(reason), "%s", status_message());
        TRY(service_event(service, "error", "scorer", -1, -1, reason));
        return give_up(service, reason);
    }
    TRY(status);
    for (size_t i = 0; i < n; i++) {
        TRY(apply(service, &results[i]));
    }
    return STATUS_OK;
}
