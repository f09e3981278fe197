#include "reward/scoring.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "reward/builtin.h"
#include "reward/cmd_scorer.h"
#include "reward/score_slots.h"

#include <math.h>
#include <signal.h>
#include <string.h>

#define TICK_MOST_MS 1000
#define VALUE_WARNING 1e6

struct component {
    const struct reward_config *reward;
    struct builtin *builtin; /* one of the two */
    struct cmd_scorer *cmd;
    struct scoring *scoring;
    size_t index;
    char *config_json;
    bool has_warned;
};

struct scoring {
    const struct run_config *config;
    struct component *components;
    struct scoring_component *descriptions;
    struct score_slots slots;
    size_t n_in_flight;
    struct score_result *results; /* of the last tick */
    size_t n_results;             /* room in results */
    bool has_failed;              /* on_error: fail */
    char failure[256];
};

const char *score_status_name(enum score_status status)
{
    static const char *const names[] = {"ok", "n/a", "error", "timeout"};
    return names[status];
}

static void record(struct component *component, size_t slot, const struct score *score)
{
    if (score->status == SCORE_OK && fabs(score->value) > VALUE_WARNING && !component->has_warned) {
        component->has_warned = true;
        log_warn("scoring", "reward %s gave %g", component->reward->name, score->value);
    }
    score_slots_record(&component->scoring->slots, slot, component->index, score);
}

static void on_cmd_result(void *context, size_t ticket, const struct score *score)
{
    struct component *component = context;
    record(component, ticket, score);
}

/* One component's score of a sample: at once, or by a child later. */
static enum status ask(struct component *component, size_t slot, const struct score_sample *sample)
{
    struct score score;
    if (component->builtin == NULL) {
        return cmd_scorer_submit(component->cmd, sample, slot);
    }
    builtin_score(component->builtin, sample, &score);
    record(component, slot, &score);
    return STATUS_OK;
}

enum status scoring_submit(struct scoring *scoring, const struct score_sample *sample)
{
    size_t slot = 0;
    TRY(score_slots_take(&scoring->slots, sample, &slot));
    scoring->n_in_flight++;
    for (size_t i = 0; i < scoring->config->n_rewards; i++) {
        TRY(ask(&scoring->components[i], slot, &scoring->slots.at[slot]->sample));
    }
    return STATUS_OK;
}

size_t scoring_wait_items(const struct scoring *scoring, struct wait_item *items, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < scoring->config->n_rewards; i++) {
        if (scoring->components[i].cmd != NULL) {
            n += cmd_scorer_wait_items(scoring->components[i].cmd, items + n, room - n);
        }
    }
    return n;
}

int scoring_timeout_ms(const struct scoring *scoring, int64_t now_us)
{
    int timeout_ms = scoring->slots.n_finished > 0 ? 0 : TICK_MOST_MS;
    for (size_t i = 0; i < scoring->config->n_rewards; i++) {
        if (scoring->components[i].cmd != NULL) {
            timeout_ms = cmd_scorer_timeout_ms(scoring->components[i].cmd, now_us, timeout_ms);
        }
    }
    return timeout_ms;
}

static void note_failure(struct scoring *scoring, const struct reward_config *reward,
                         const struct score_slot *slot, const struct score *score)
{
    char shown[160];
    const char *detail = score->detail != NULL ? score->detail : "";
    if (!scoring->has_failed) {
        scoring->has_failed = true;
        (void)status_set(STATUS_SCORING, "reward %s: sample %lld: %s %s", reward->name,
                         (long long)slot->sample.sample_id, score_status_name(score->status),
                         log_escape(detail, strlen(detail), shown, sizeof(shown)));
        const char *message = status_message();
        const size_t n = strlen(message);
        memcpy(scoring->failure, message,
               n < sizeof(scoring->failure) ? n : sizeof(scoring->failure) - 1);
    }
}

/* Adds component i to the total by the rules of rewards.md 2.2. */
static void add_component(struct scoring *scoring, size_t i, const struct score_slot *slot,
                          struct score_result *result)
{
    const struct reward_config *reward = &scoring->config->rewards[i];
    const struct score *score = &slot->scores[i];
    if (reward->weight == 0.0) {
        return; /* a metric: its errors mask nothing */
    }
    if (score->status == SCORE_OK) {
        result->total += reward->weight * score->value;
        result->has_total = true;
    } else if (score->status != SCORE_NA) {
        result->is_masked = result->is_masked || reward->on_error == ON_ERROR_MASK;
        result->has_total = result->has_total || reward->on_error == ON_ERROR_ZERO;
        if (reward->on_error == ON_ERROR_FAIL) {
            note_failure(scoring, reward, slot, score);
        }
    }
}

static struct score_result conclude(struct scoring *scoring, const struct score_slot *slot)
{
    struct score_result result = {.sample_id = slot->sample.sample_id, .scores = slot->scores};
    for (size_t i = 0; i < scoring->config->n_rewards; i++) {
        add_component(scoring, i, slot, &result);
    }
    result.has_total = result.has_total && !result.is_masked;
    return result;
}

/* Room for a result per slot; those of the last tick stay where they are until the next. */
static enum status make_results(struct scoring *scoring)
{
    if (scoring->n_results >= scoring->slots.n) {
        return STATUS_OK;
    }
    TRY(memory_resize(0, scoring->slots.n, sizeof(struct score_result), &scoring->results));
    scoring->n_results = scoring->slots.n;
    return STATUS_OK;
}

enum status scoring_tick(struct scoring *scoring, int64_t now_us,
                         const struct score_result **results, size_t *n)
{
    struct score_slots *const slots = &scoring->slots;
    score_slots_release_reported(slots);
    for (size_t i = 0; i < scoring->config->n_rewards; i++) {
        struct cmd_scorer *cmd = scoring->components[i].cmd;
        const enum status status = cmd != NULL ? cmd_scorer_tick(cmd, now_us) : STATUS_OK;
        if (status != STATUS_OK) {
            return status;
        }
    }
    TRY(make_results(scoring));
    *n = slots->n_finished;
    *results = scoring->results;
    for (size_t k = 0; k < slots->n_finished; k++) {
        struct score_slot *const slot = slots->at[slots->finished[k]];
        scoring->results[k] = conclude(scoring, slot);
        slot->is_reported = true;
    }
    scoring->n_in_flight -= slots->n_finished;
    slots->n_finished = 0;
    return scoring->has_failed ? status_set(STATUS_SCORING, "%s", scoring->failure) : STATUS_OK;
}

void scoring_tell_waits(const struct scoring *scoring)
{
    for (size_t i = 0; i < scoring->config->n_rewards; i++) {
        if (scoring->components[i].cmd != NULL) {
            cmd_scorer_tell_waits(scoring->components[i].cmd);
        }
    }
}

size_t scoring_in_flight(const struct scoring *scoring)
{
    return scoring->n_in_flight;
}

size_t scoring_components(const struct scoring *scoring, const struct scoring_component **out)
{
    *out = scoring->descriptions;
    return scoring->config->n_rewards;
}

static enum status open_component(struct scoring *scoring, size_t i)
{
    const struct reward_config *reward = &scoring->config->rewards[i];
    struct component *component = &scoring->components[i];
    enum status status = STATUS_OK;
    component->reward = reward;
    component->scoring = scoring;
    component->index = i;
    if (strncmp(reward->source, "builtin:", 8) == 0) {
        status = builtin_create(reward->source + 8, reward->config, &component->builtin);
        if (status != STATUS_OK) {
            return status_wrap(status, "reward %s", reward->name);
        }
    } else if (strncmp(reward->source, "cmd:", 4) == 0) {
        TRY(cmd_scorer_create(scoring->config, reward, on_cmd_result, component, &component->cmd));
    } else {
        return status_set(STATUS_BAD_CONFIG,
                          "reward %s: unknown source %s; wanted builtin:NAME or cmd:COMMAND",
                          reward->name, reward->source);
    }
    if (reward->config != NULL) {
        TRY(json_print(reward->config, &component->config_json, NULL));
    }
    return STATUS_OK;
}

static void describe(struct scoring *scoring, size_t i)
{
    const struct component *component = &scoring->components[i];
    struct scoring_component *description = &scoring->descriptions[i];
    *description = (struct scoring_component){
        .name = component->reward->name,
        .source = component->reward->source,
        .scope = "sample",
        .config_json = component->config_json != NULL ? component->config_json : "{}",
        .weight = component->reward->weight,
    };
    if (component->cmd != NULL) {
        memcpy(description->sha, cmd_scorer_sha(component->cmd), sizeof(description->sha));
    }
}

enum status scoring_create(const struct run_config *config, struct scoring **out)
{
    struct scoring *scoring = NULL;
    *out = NULL;
    (void)signal(SIGPIPE, SIG_IGN); /* a scorer that dies shows on its stdout */
    TRY(memory_alloc(1, sizeof(*scoring), &scoring));
    scoring->config = config;
    scoring->slots.n_rewards = config->n_rewards;
    enum status status =
        memory_alloc(config->n_rewards, sizeof(struct component), &scoring->components);
    if (status == STATUS_OK) {
        status = memory_alloc(config->n_rewards, sizeof(struct scoring_component),
                              &scoring->descriptions);
    }
    for (size_t i = 0; i < config->n_rewards && status == STATUS_OK; i++) {
        status = open_component(scoring, i);
        if (status == STATUS_OK) {
            describe(scoring, i);
        }
    }
    if (status != STATUS_OK) {
        scoring_destroy(scoring);
        return status;
    }
    *out = scoring;
    return STATUS_OK;
}

void scoring_destroy(struct scoring *scoring)
{
    if (scoring == NULL) {
        return;
    }
    for (size_t i = 0; scoring->components != NULL && i < scoring->config->n_rewards; i++) {
        builtin_destroy(scoring->components[i].builtin);
        cmd_scorer_destroy(scoring->components[i].cmd);
        memory_free(scoring->components[i].config_json);
    }
    score_slots_dispose(&scoring->slots);
    memory_free(scoring->results);
    memory_free(scoring->descriptions);
    memory_free(scoring->components);
    memory_free(scoring);
}
