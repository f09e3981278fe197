#include "cli/eval_tally.h"

#include "base/json.h"
#include "base/memory.h"
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>

enum status eval_tally_init(const struct scoring *scoring, struct eval_tally *tally)
{
    const struct scoring_component *components = NULL;
    const size_t n = scoring_components(scoring, &components);

    *tally = (struct eval_tally){.n_components = n};
    TRY(memory_alloc(n, sizeof(*tally->components), &tally->components));
    for (size_t i = n; i > 0; i--) {
        tally->components[i - 1].name = components[i - 1].name;
        tally->components[i - 1].weight = components[i - 1].weight;
        if (components[i - 1].weight != 0.0) {
            tally->pass_component = i - 1;
        }
    }
    return STATUS_OK;
}

void eval_tally_dispose(struct eval_tally *tally)
{
    memory_free(tally->components);
    *tally = (struct eval_tally){.components = NULL};
}

void eval_tally_add_completion(struct eval_tally *tally, const struct completion *completion)
{
    tally->n_samples++;
    tally->n_tokens += completion->n_tokens;
    tally->n_finished[completion->finish]++;
}

void eval_tally_add_result(struct eval_tally *tally, const struct score_result *result)
{
    for (size_t i = 0; i < tally->n_components; i++) {
        const struct score *score = &result->scores[i];

        tally->components[i].counts[score->status]++;
        if (score->status == SCORE_OK) {
            tally->components[i].sum += score->value;
            tally->n_passed += i == tally->pass_component && score->value >= 1.0 ? 1 : 0;
        }
    }
    if (result->has_total) {
        tally->reward_sum += result->total;
        tally->n_rewards++;
    }
}

/* NAN when there is nothing to divide by. */
static double ratio(double sum, double n)
{
    return n > 0.0 ? sum / n : (double)NAN;
}

static double component_mean(const struct component_tally *component)
{
    return ratio(component->sum, (double)component->counts[SCORE_OK]);
}

static enum status fill_component(struct json *object, const struct component_tally *component)
{
    TRY(json_put(object, "mean", json_from_number(component_mean(component))));
    TRY(json_put(object, "ok", json_from_int((int64_t)component->counts[SCORE_OK])));
    TRY(json_put(object, "na", json_from_int((int64_t)component->counts[SCORE_NA])));
    TRY(json_put(object, "error", json_from_int((int64_t)component->counts[SCORE_ERROR])));
    return json_put(object, "timeout", json_from_int((int64_t)component->counts[SCORE_TIMEOUT]));
}

static enum status put_components(struct json *object, const struct eval_tally *tally)
{
    struct json *components = json_object_create();

    for (size_t i = 0; components != NULL && i < tally->n_components; i++) {
        struct json *component = json_object_create();
        enum status status = fill_component(component, &tally->components[i]);

        if (status == STATUS_OK) {
            status = json_put(components, tally->components[i].name, component);
        } else {
            json_destroy(component);
        }
        if (status != STATUS_OK) {
            json_destroy(components);
            return status;
        }
    }
    return json_put(object, "components", components);
}

static enum status fill_json(struct json *object, const struct eval_tally *tally)
{
    const double n = (double)tally->n_samples;
    const double n_stop = (double)tally->n_finished[FINISH_STOP];
    const double n_length = (double)tally->n_finished[FINISH_LENGTH];
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"pass", ratio((double)tally->n_passed, n)},
        {"reward", ratio(tally->reward_sum, (double)tally->n_rewards)},
        {"length", ratio((double)tally->n_tokens, n)},
        {"finish_stop", ratio(n_stop, n)},
        {"finish_length", ratio(n_length, n)},
        {"tokens_per_s", ratio((double)tally->n_tokens, tally->sampling_seconds)},
        {"seconds", tally->seconds},
        {"mtp_acceptance", ratio((double)tally->n_accepted, (double)tally->n_drafted)},
    };

    TRY(json_put(object, "rows", json_from_int((int64_t)tally->n_rows)));
    TRY(json_put(object, "samples", json_from_int((int64_t)tally->n_samples)));
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        TRY(json_put(object, numbers[i].key, json_from_number(numbers[i].value)));
    }
    return put_components(object, tally);
}

enum status eval_tally_print_json(const struct eval_tally *tally)
{
    struct json *object = json_object_create();
    const enum status status = fill_json(object, tally);

    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

void eval_tally_print_table(const struct eval_tally *tally)
{
    const double n = (double)tally->n_samples;
    const double speed = ratio((double)tally->n_tokens, tally->sampling_seconds);
    char speed_text[16];
    char time_text[16];

    (void)printf("rows %zu   samples %zu   %s   %s tokens/s\n", tally->n_rows, tally->n_samples,
                 cli_seconds_text(tally->seconds, time_text, sizeof(time_text)),
                 cli_count_text(speed, speed_text, sizeof(speed_text)));
    (void)printf("%-16s %10.4f\n", "pass@1", ratio((double)tally->n_passed, n));
    (void)printf("%-16s %10.4f\n", "reward", ratio(tally->reward_sum, (double)tally->n_rewards));
    (void)printf("%-16s %10.2f   (stop %.3f, length %.3f)\n", "length",
                 ratio((double)tally->n_tokens, n),
                 ratio((double)tally->n_finished[FINISH_STOP], n),
                 ratio((double)tally->n_finished[FINISH_LENGTH], n));
    if (tally->n_drafted > 0) {
        (void)printf("%-16s %10.4f\n", "MTP acceptance",
                     ratio((double)tally->n_accepted, (double)tally->n_drafted));
    }
    (void)printf("\n%-16s %10s %8s %8s %8s %8s %8s\n", "component", "mean", "weight", "ok", "n/a",
                 "error", "timeout");
    for (size_t i = 0; i < tally->n_components; i++) {
        const struct component_tally *component = &tally->components[i];

        (void)printf("%-16s %10.4f %8g %8zu %8zu %8zu %8zu\n", component->name,
                     component_mean(component), component->weight, component->counts[SCORE_OK],
                     component->counts[SCORE_NA], component->counts[SCORE_ERROR],
                     component->counts[SCORE_TIMEOUT]);
    }
    (void)fflush(stdout);
}
