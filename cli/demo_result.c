/* What the demo came to: read from the evaluations and the run's database, shown as a table and a
 * curve. */
#include "cli/demo.h"

#include "base/memory.h"
#include "cli/chart.h"
#include "cli/cli.h"
#include "db/db.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CURVE_HEIGHT 8u
#define MIB 1048576.0

enum status demo_read_eval(const char *text, double *pass, double *length, double *acceptance)
{
    struct json *json = NULL;
    TRY(json_parse(text, strlen(text), 16, &json));
    *pass = json_number(json_get(json, "pass"), (double)NAN);
    *length = json_number(json_get(json, "length"), (double)NAN);
    *acceptance = json_number(json_get(json, "mtp_acceptance"), (double)NAN);
    json_destroy(json);
    if (isnan(*pass) || isnan(*length)) {
        return status_set(STATUS_BAD_FORMAT, "hone eval printed no pass or length");
    }
    return STATUS_OK;
}

/* The first column of the only row of sql; NaN when it is null. */
static enum status read_number(struct db *db, const char *sql, double *out)
{
    struct query *query = NULL;
    bool has_row = false;
    *out = (double)NAN;
    TRY(query_open(db, sql, &query));
    const enum status status = query_next(query, &has_row);
    if (status == STATUS_OK && has_row && query_kind(query, 0) != DB_NULL) {
        *out = query_real(query, 0);
    }
    query_close(query);
    return status;
}

static enum status read_rewards(struct db *db, struct demo_result *out)
{
    struct query *query = NULL;
    bool has_row = true;
    TRY(query_open(db, "SELECT value FROM v_metrics WHERE name='reward' ORDER BY step", &query));
    enum status status = query_next(query, &has_row);
    while (status == STATUS_OK && has_row && out->n_rewards < DEMO_STEPS_MAX) {
        out->rewards[out->n_rewards++] = query_real(query, 0);
        status = query_next(query, &has_row);
    }
    query_close(query);
    return status;
}

static enum status read_numbers(struct db *db, struct demo_result *out)
{
    double n_samples = 0;
    const struct {
        const char *sql;
        double *value;
    } numbers[] = {
        {"SELECT max(value) FROM v_metrics WHERE name='mismatch/absdiff_max'", &out->mismatch_max},
        {"SELECT avg(value) FROM v_metrics WHERE name='perf/tokens_per_s'", &out->tokens_per_s},
        {"SELECT avg(value) FROM v_metrics WHERE name='perf/share_of_peak'", &out->share_of_peak},
        {"SELECT value FROM v_metrics WHERE name='moe/max_violation' ORDER BY step DESC LIMIT 1",
         &out->max_violation},
        {"SELECT max(value) FROM v_metrics WHERE name='memory/trainer_bytes'", &out->trainer_bytes},
        {"SELECT max(bytes) FROM (SELECT sum(value) AS bytes FROM v_metrics WHERE name LIKE "
         "'memory/w%' GROUP BY step)",
         &out->workers_bytes},
        {"SELECT avg(completion LIKE '<think>%') FROM v_samples WHERE kind='train' AND "
         "step=(SELECT min(step) FROM v_steps)",
         &out->thinking_first},
        {"SELECT avg(completion LIKE '<think>%') FROM v_samples WHERE kind='train' AND "
         "step=(SELECT max(step) FROM v_steps)",
         &out->thinking_last},
        {"SELECT count(*) FROM v_samples WHERE trained_step IS NOT NULL", &n_samples},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        TRY(read_number(db, numbers[i].sql, numbers[i].value));
    }
    out->n_samples = (size_t)n_samples;
    return read_rewards(db, out);
}

enum status demo_read_run(const char *database, struct demo_result *out)
{
    struct db *db = NULL;
    TRY(db_open_readonly(database, DB_TRUSTED, &db));
    const enum status status = read_numbers(db, out);
    db_close(db);
    return status;
}

static void print_table(const struct demo_result *r)
{
    char speed[16];
    char time[16];
    (void)printf("\n%-34s %8s %8s\n", "", "before", "after");
    (void)printf("%-34s %8.3f %8.3f\n", "pass@1, held-out, T = 1", r->pass_before, r->pass_after);
    (void)printf("%-34s %8.1f %8.1f\n", "mean length, tokens", r->length_before, r->length_after);
    if (!isnan(r->acceptance_before) && !isnan(r->acceptance_after)) {
        (void)printf("%-34s %8.3f %8.3f\n", "MTP drafts accepted", r->acceptance_before,
                     r->acceptance_after);
    }
    (void)printf("\n%-34s %8s, %.0f %% of this machine's measured peak\n", "tokens/s in a step",
                 cli_count_text(r->tokens_per_s, speed, sizeof speed), 100 * r->share_of_peak);
    (void)printf("%-34s %8g, over %zu samples\n", "largest |log p sampler - trainer|",
                 r->mismatch_max, r->n_samples);
    if (!isnan(r->max_violation)) {
        (void)printf("%-34s %8.2f, 0 is perfect balance of the experts\n", "MaxVio, last step",
                     r->max_violation);
    }
    if (!isnan(r->trainer_bytes) && !isnan(r->workers_bytes)) {
        (void)printf("%-34s %8.0f MiB, and %.0f in the workers\n", "memory of the trainer",
                     r->trainer_bytes / MIB, r->workers_bytes / MIB);
    }
    (void)printf("%-34s %8s\n", "time", cli_seconds_text(r->seconds, time, sizeof time));
}

static enum status print_curve(const struct demo_result *r)
{
    char label[96];
    char *text = NULL;
    (void)snprintf(label, sizeof label, "mean reward, step 1 to %zu", r->n_rewards);
    const struct chart chart = {.values = r->rewards,
                                .n = r->n_rewards,
                                .low = 0,
                                .high = 1,
                                .width = cli_columns() > 20 ? cli_columns() - 12 : 8,
                                .height = CURVE_HEIGHT,
                                .x_label = label};
    TRY(chart_curve(&chart, &text));
    (void)printf("\n%s", text);
    memory_free(text);
    return STATUS_OK;
}

static void print_meaning(const struct demo_result *r)
{
    (void)printf(
        "\nWhat happened: supervised training taught the model to add digits one by one between\n"
        "<think> tags, by one example in five, and to guess at once, by the others. GRPO gave a\n"
        "point for a right answer and nothing for form or length. Thinking is right more often, "
        "so\n"
        "its share of the samples went from %.2f in the first step to %.2f in the last. The "
        "ability\n"
        "was there before: reinforcement moved the probability of using it.\n",
        r->thinking_first, r->thinking_last);
}

static void print_next(const struct demo *demo)
{
    const char *const me = demo->shown_path;
    const char *const dir = demo->dir;
    (void)printf("\nLook further:\n");
    (void)printf("  %s show step %s/runs/rl 1\n", me, dir);
    (void)printf("  %s db query %s/runs/rl \"SELECT step, reward, n_tok, prompt, completion FROM "
                 "v_samples ORDER BY step DESC LIMIT 5\"\n",
                 me, dir);
    (void)printf("  %s db query %s/runs/rl \"SELECT step, reward, len_mean FROM v_steps\"\n", me,
                 dir);
    (void)printf("  %s run %s/run.yaml --set run.name=again --set run.max_steps=5\n", me, dir);
}

enum status demo_print_result(const struct demo *demo, const struct demo_result *result)
{
    print_table(result);
    TRY(print_curve(result));
    print_meaning(result);
    print_next(demo);
    return STATUS_OK;
}

static enum status put_path(struct json *object, const char *key, const struct demo *demo,
                            const char *path)
{
    char text[4096];
    const int n = snprintf(text, sizeof text, "%s/%s", demo->dir, path);
    return json_put(object, key, json_from_text(text, n < 0 ? 0 : strlen(text)));
}

static enum status fill_json(struct json *object, const struct demo *demo,
                             const struct demo_result *r)
{
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"pass_before", r->pass_before},
        {"pass_after", r->pass_after},
        {"length_before", r->length_before},
        {"length_after", r->length_after},
        {"seconds", r->seconds},
        {"mismatch_max", r->mismatch_max},
        {"tokens_per_s", r->tokens_per_s},
        {"share_of_peak", r->share_of_peak},
        {"max_violation", r->max_violation},
        {"trainer_bytes", r->trainer_bytes},
        {"workers_bytes", r->workers_bytes},
        {"thinking_first", r->thinking_first},
        {"thinking_last", r->thinking_last},
        {"mtp_acceptance_before", r->acceptance_before},
        {"mtp_acceptance_after", r->acceptance_after},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        TRY(json_put(object, numbers[i].key,
                     isfinite(numbers[i].value) ? json_from_number(numbers[i].value)
                                                : json_null_create()));
    }
    TRY(put_path(object, "run_dir", demo, "runs/rl"));
    return put_path(object, "run_db", demo, "runs/rl/run.db");
}

enum status demo_print_json(const struct demo *demo, const struct demo_result *result)
{
    struct json *object = json_object_create();
    const enum status status = fill_json(object, demo, result);
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}
