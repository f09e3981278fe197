/* What `hone eval` prints: one JSON object, or a table. */
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/eval_tally.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* NAN when there is nothing to divide by. */
static double ratio(double sum, double n)
{
    return n > 0.0 ? sum / n : (double)NAN;
}

static double component_mean(const struct component_tally *component)
{
    return ratio(component->sum, (double)component->counts[SCORE_OK]);
}

static bool has_sources(const struct eval_tally *tally)
{
    return tally->n_sources > 1 || (tally->n_sources == 1 && tally->sources[0].name[0] != '\0');
}

/* --- JSON --- */

struct number {
    const char *key;
    double value;
};

static enum status put_numbers(struct json *object, const struct number *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        TRY(json_put(object, numbers[i].key, json_from_number(numbers[i].value)));
    }
    return STATUS_OK;
}

static enum status fill_component(struct json *object, const struct component_tally *component)
{
    TRY(json_put(object, "mean", json_from_number(component_mean(component))));
    TRY(json_put(object, "ok", json_from_int((int64_t)component->counts[SCORE_OK])));
    TRY(json_put(object, "na", json_from_int((int64_t)component->counts[SCORE_NA])));
    TRY(json_put(object, "error", json_from_int((int64_t)component->counts[SCORE_ERROR])));
    return json_put(object, "timeout", json_from_int((int64_t)component->counts[SCORE_TIMEOUT]));
}

static enum status fill_source(struct json *object, const struct pass_at_list *pass_at,
                               const struct source_tally *source)
{
    const struct number numbers[] = {
        {"reward", ratio(source->reward_sum, (double)source->n_rewards)},
        {"length", ratio((double)source->n_tokens, (double)source->n_samples)},
    };

    TRY(json_put(object, "rows", json_from_int((int64_t)source->n_rows)));
    TRY(json_put(object, "samples", json_from_int((int64_t)source->n_samples)));
    for (size_t i = 0; i < pass_at->count; i++) {
        char key[40];

        (void)snprintf(key, sizeof(key), "pass@%zu", pass_at->items[i]);
        TRY(json_put(object, key,
                     json_from_number(ratio(source->pass_sums[i], (double)source->n_rows))));
    }
    return put_numbers(object, numbers, sizeof(numbers) / sizeof(numbers[0]));
}

/* Puts item under key if filling it went well. */
static enum status put_filled(struct json *object, const char *key, struct json *item,
                              enum status filled)
{
    if (filled != STATUS_OK) {
        json_destroy(item);
        return filled;
    }
    return json_put(object, key, item);
}

static enum status fill_components(struct json *object, const struct eval_tally *tally)
{
    for (size_t i = 0; i < tally->n_components; i++) {
        struct json *item = json_object_create();

        TRY(put_filled(object, tally->components[i].name, item,
                       fill_component(item, &tally->components[i])));
    }
    return STATUS_OK;
}

static enum status fill_sources(struct json *object, const struct eval_tally *tally)
{
    for (size_t i = 0; i < tally->n_sources; i++) {
        struct json *item = json_object_create();

        TRY(put_filled(object, tally->sources[i].name, item,
                       fill_source(item, &tally->pass_at, &tally->sources[i])));
    }
    return STATUS_OK;
}

static enum status fill_report(struct json *object, const struct eval_tally *tally)
{
    const double n = (double)tally->all.n_samples;
    const double n_tokens = (double)tally->all.n_tokens;
    const struct number numbers[] = {
        {"pass", ratio((double)tally->all.n_passed, n)},
        {"finish_stop", ratio((double)tally->n_finished[FINISH_STOP], n)},
        {"finish_length", ratio((double)tally->n_finished[FINISH_LENGTH], n)},
        {"tokens_per_s", ratio(n_tokens, tally->sampling_seconds)},
        {"seconds", tally->seconds},
        {"mtp_acceptance", ratio((double)tally->n_accepted, (double)tally->n_drafted)},
    };
    struct json *components = json_object_create();

    TRY(put_filled(object, "components", components, fill_components(components, tally)));
    TRY(fill_source(object, &tally->pass_at, &tally->all));
    TRY(put_numbers(object, numbers, sizeof(numbers) / sizeof(numbers[0])));
    if (!has_sources(tally)) {
        return STATUS_OK;
    }
    struct json *sources = json_object_create();
    return put_filled(object, "sources", sources, fill_sources(sources, tally));
}

enum status eval_report_json(const struct eval_tally *tally)
{
    struct json *object = json_object_create();
    const enum status status = fill_report(object, tally);

    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

/* --- Table --- */

static void print_head(const struct eval_tally *tally)
{
    const double speed = ratio((double)tally->all.n_tokens, tally->sampling_seconds);
    char speed_text[16];
    char time_text[16];

    (void)printf("rows %zu   samples %zu   %s   %s tokens/s\n", tally->all.n_rows,
                 tally->all.n_samples,
                 cli_seconds_text(tally->seconds, time_text, sizeof(time_text)),
                 cli_count_text(speed, speed_text, sizeof(speed_text)));
}

static void print_totals(const struct eval_tally *tally)
{
    const struct source_tally *all = &tally->all;
    const double n = (double)all->n_samples;

    for (size_t i = 0; i < tally->pass_at.count; i++) {
        char name[40];

        (void)snprintf(name, sizeof(name), "pass@%zu", tally->pass_at.items[i]);
        (void)printf("%-16s %10.4f\n", name, ratio(all->pass_sums[i], (double)all->n_rows));
    }
    (void)printf("%-16s %10.4f\n", "reward", ratio(all->reward_sum, (double)all->n_rewards));
    (void)printf("%-16s %10.2f   (stop %.3f, length %.3f)\n", "length",
                 ratio((double)all->n_tokens, n), ratio((double)tally->n_finished[FINISH_STOP], n),
                 ratio((double)tally->n_finished[FINISH_LENGTH], n));
    if (tally->n_drafted > 0) {
        (void)printf("%-16s %10.4f\n", "MTP acceptance",
                     ratio((double)tally->n_accepted, (double)tally->n_drafted));
    }
}

static void print_components(const struct eval_tally *tally)
{
    (void)printf("\n%-16s %10s %8s %8s %8s %8s %8s\n", "component", "mean", "weight", "ok", "n/a",
                 "error", "timeout");
    for (size_t i = 0; i < tally->n_components; i++) {
        const struct component_tally *component = &tally->components[i];

        (void)printf("%-16s %10.4f %8g %8zu %8zu %8zu %8zu\n", component->name,
                     component_mean(component), component->weight, component->counts[SCORE_OK],
                     component->counts[SCORE_NA], component->counts[SCORE_ERROR],
                     component->counts[SCORE_TIMEOUT]);
    }
}

/* One line a source, with a column for every k. */
static void print_sources(const struct eval_tally *tally)
{
    const struct pass_at_list *pass_at = &tally->pass_at;

    (void)printf("\n%-24s %6s", "source", "rows");
    for (size_t i = 0; i < pass_at->count; i++) {
        char head[40];

        (void)snprintf(head, sizeof(head), "pass@%zu", pass_at->items[i]);
        (void)printf(" %9s", head);
    }
    (void)printf(" %9s %9s\n", "reward", "length");
    for (size_t i = 0; i < tally->n_sources; i++) {
        const struct source_tally *source = &tally->sources[i];
        char name[64];

        (void)log_escape(source->name, strlen(source->name), name, sizeof(name));
        (void)printf("%-24s %6zu", name[0] == '\0' ? "(none)" : name, source->n_rows);
        for (size_t k = 0; k < pass_at->count; k++) {
            (void)printf(" %9.4f", ratio(source->pass_sums[k], (double)source->n_rows));
        }
        (void)printf(" %9.4f %9.2f\n", ratio(source->reward_sum, (double)source->n_rewards),
                     ratio((double)source->n_tokens, (double)source->n_samples));
    }
}

void eval_report_table(const struct eval_tally *tally)
{
    print_head(tally);
    print_totals(tally);
    print_components(tally);
    if (has_sources(tally)) {
        print_sources(tally);
    }
    (void)fflush(stdout);
}
