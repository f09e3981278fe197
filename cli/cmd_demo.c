/* hone demo: the order of the commands, from nothing to an aligned model. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/demo.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"
#include "model/precision.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CODE_FORCE 256
#define CODE_KEEP 257
#define CODE_SEED 258
#define CODE_STEPS 259
#define STEPS_DEFAULT 50u
#define PATH_ROOM 4096u

static const struct cli_option options[] = {
    {'d', "dir", "DIR", "folder for everything (default: demo)"},
    {CODE_SEED, "seed", "N", "of data, weights and draws (default: 42)"},
    {CODE_STEPS, "steps", "N", "of GRPO (default: 50)"},
    {'y', "dtype", "NAME", "products in fp32, bf16 or fp8 (default: fp32)"},
    {CODE_FORCE, "force", NULL, "remove an earlier demo in DIR first"},
    {CODE_KEEP, "keep", NULL, "go on with an interrupted demo in DIR: do only what is missing"},
    {'j', "json", NULL, "one object at the end, nothing else on stdout"},
};
static const struct cli_command command = {
    .name = "demo",
    .arguments = "",
    .summary = "R1-Zero in miniature: makes data and a small DeepSeek-V3 model, teaches it to add\n"
               "digits by a few worked examples, then lets GRPO discover that thinking pays.\n"
               "Takes about a minute on two cores. Every command it runs is shown.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .n_arguments_max = 0,
    .examples = "  hone demo\n  hone demo --dir /tmp/demo --seed 7 --dtype bf16 --json\n",
};

/* --- Options --- */

static bool parse_number(const char *text, uint64_t max, uint64_t *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && *out <= max;
}

static bool take_option(struct demo *demo, int code, const char *value, bool *is_forced)
{
    uint64_t number = 0;
    if (code == 'd') {
        demo->dir = value;
    } else if (code == 'j') {
        demo->is_json = true;
    } else if (code == CODE_FORCE) {
        *is_forced = true;
    } else if (code == CODE_KEEP) {
        demo->keeps = true;
    } else if (code == 'y') {
        return precision_parse(value, &demo->precision);
    } else if (code == CODE_SEED) {
        return parse_number(value, (uint64_t)1 << 53, &demo->seed);
    } else if (code == CODE_STEPS) {
        const bool is_number = parse_number(value, DEMO_STEPS_MAX, &number) && number > 0;
        demo->steps = (size_t)number;
        return is_number;
    }
    return true;
}

static const char *wanted_of(int code)
{
    switch (code) {
    case 'y':
        return "fp32, bf16 or fp8";
    case CODE_SEED:
        return "0..9007199254740992";
    default:
        return "1..1000";
    }
}

/* --- Steps --- */

/* DIR/name; caller has PATH_ROOM bytes. */
static const char *in_dir(const struct demo *demo, const char *name, char *out)
{
    (void)snprintf(out, PATH_ROOM, "%s/%s", demo->dir, name);
    return out;
}

/* true when an interrupted demo has been here: the step's product is complete. */
static bool is_done(const struct demo *demo, const char *product)
{
    char path[PATH_ROOM];
    return demo->keeps && file_exists(in_dir(demo, product, path));
}

static enum status make_data(struct demo *demo)
{
    char out[PATH_ROOM];
    char seed[32];
    const char *const words[] = {"data",   "make", "modsum", "--out", in_dir(demo, "data", out),
                                 "--seed", seed,   NULL};
    (void)snprintf(seed, sizeof seed, "%" PRIu64, demo->seed);
    return is_done(demo, "data/train.jsonl") ? STATUS_OK : demo_command(demo, words, NULL);
}

static enum status make_model(struct demo *demo)
{
    char out[PATH_ROOM];
    char seed[32];
    const char *const words[] = {
        "model", "init", in_dir(demo, "model", out), "--preset", "demo", "--seed", seed, NULL};
    (void)snprintf(seed, sizeof seed, "%" PRIu64, demo->seed);
    return is_done(demo, "model/config.json") ? STATUS_OK : demo_command(demo, words, NULL);
}

static enum status cold_start(struct demo *demo, const char *file, const char *product)
{
    char path[PATH_ROOM];
    const char *const words[] = {"sft", in_dir(demo, file, path), NULL};
    return is_done(demo, product) ? STATUS_OK : demo_command(demo, words, NULL);
}

static enum status align(struct demo *demo)
{
    char path[PATH_ROOM];
    const char *const words[] = {"run", in_dir(demo, "run.yaml", path), NULL};
    return demo_command(demo, words, NULL); /* resumes by itself */
}

struct measured {
    double pass, length, acceptance;
};

/* model: a folder of DIR. */
static enum status measure(struct demo *demo, const char *model, struct measured *out)
{
    char path[PATH_ROOM];
    char folder[PATH_ROOM];
    char *text = NULL;
    const char *const words[] = {"eval",    in_dir(demo, "run.yaml", path),
                                 "--model", in_dir(demo, model, folder),
                                 "--json",  NULL};
    TRY(demo_command(demo, words, &text));
    const enum status status =
        demo_read_eval(text != NULL ? text : "", &out->pass, &out->length, &out->acceptance);
    memory_free(text);
    if (status == STATUS_OK) {
        (void)fprintf(demo->is_json ? stderr : stdout, "pass@1 %.3f, mean length %.1f tokens\n",
                      out->pass, out->length);
    }
    return status;
}

/* --- The demo --- */

static enum status prepare(struct demo *demo, bool is_forced)
{
    bool is_there = false;
    TRY(demo_is_there(demo->dir, &is_there));
    if (is_there && is_forced) {
        TRY(demo_clear(demo->dir));
    } else if (is_there && !demo->keeps) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "%s: holds an earlier demo; --keep goes on with it, --force starts over, "
                          "--dir takes another folder",
                          demo->dir);
    }
    TRY(folder_create(demo->dir));
    return demo_write_files(demo);
}

static enum status make_cold_model(struct demo *demo)
{
    TRY(make_data(demo));
    TRY(make_model(demo));
    TRY(cold_start(demo, "sft-phase1.yaml", "sft-phase1/config.json"));
    return cold_start(demo, "sft.yaml", "sft/config.json");
}

/* The last checkpoint is that of the last step. */
static enum status measure_and_align(struct demo *demo, struct demo_result *result)
{
    struct measured before = {0};
    struct measured after = {0};
    char last[64];
    (void)snprintf(last, sizeof last, "runs/rl/checkpoints/step_%zu", demo->steps);
    TRY(measure(demo, "sft", &before));
    TRY(align(demo));
    TRY(measure(demo, last, &after));
    result->pass_before = before.pass;
    result->length_before = before.length;
    result->acceptance_before = before.acceptance;
    result->pass_after = after.pass;
    result->length_after = after.length;
    result->acceptance_after = after.acceptance;
    return STATUS_OK;
}

static enum status run_demo(struct demo *demo, bool is_forced)
{
    struct demo_result result = {0};
    char database[PATH_ROOM];
    const int64_t started_us = clock_now_us();
    TRY(prepare(demo, is_forced));
    TRY(make_cold_model(demo));
    TRY(measure_and_align(demo, &result));
    TRY(demo_read_run(in_dir(demo, "runs/rl/run.db", database), &result));
    result.seconds = (double)(clock_now_us() - started_us) * 1e-6;
    return demo->is_json ? demo_print_json(demo, &result) : demo_print_result(demo, &result);
}

/* "build/release/bin/hone" from the folder it lies below, else the whole path. */
static const char *path_from_here(const char *path)
{
    char here[PATH_ROOM];
    const size_t n = getcwd(here, sizeof here) != NULL ? strlen(here) : 0;
    const bool is_below = n > 1 && strncmp(path, here, n) == 0 && path[n] == '/';
    return is_below ? path + n + 1 : path;
}

int cmd_demo(int argc, char **argv)
{
    struct demo demo = {.dir = "demo", .seed = 42, .steps = STEPS_DEFAULT};
    struct cli_parse parse;
    bool is_forced = false;
    int code = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (!take_option(&demo, code, parse.value, &is_forced)) {
            return cli_usage_error(&command, "--%s: \"%.60s\": want %s",
                                   cli_option_of(&command, code)->name, parse.value,
                                   wanted_of(code));
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    process_catch_signals();
    enum status status = cli_own_path(&demo.own_path);
    if (status == STATUS_OK) {
        demo.shown_path = path_from_here(demo.own_path);
        status = run_demo(&demo, is_forced);
    }
    memory_free(demo.own_path);
    if (status == STATUS_OK) {
        return 0;
    }
    const int exit_code = cli_fail(command.name, status);
    return demo.exit_code != 0 ? demo.exit_code : exit_code;
}
