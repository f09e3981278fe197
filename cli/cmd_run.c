/* hone run: checks everything first, takes the run folder, then supervises the processes. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/supervisor.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "reward/reward.h"
#include "rollout/rollout.h"
#include "trainer/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CODE_DRY_RUN 256

static const struct cli_option options[] = {
    {'s', "set", "KEY=VALUE", "override a setting, e.g. grpo.epsilon=0.3; may be repeated"},
    {CODE_DRY_RUN, "dry-run", NULL, "check everything, print what would happen, and stop"},
    {'j', "json", NULL, "progress as one JSON object a step, memory as one at the end"},
};
static const struct cli_command command = {
    .name = "run",
    .arguments = "CONFIG",
    .summary =
        "Trains a model with GRPO: starts the trainer, the rollout workers and the reward\n"
        "service on this machine, restarts what dies, and resumes where an earlier run of\n"
        "the same name stopped. SIGTERM, Ctrl-C or a closed terminal writes a checkpoint first\n"
        "(exit code 75); SIGUSR2 shows what each process waits for.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone run run.yaml --dry-run\n"
                "  hone run run.yaml --set run.name=again --set run.max_steps=5\n",
};

struct run_options {
    const char *config_path;
    struct cli_sets sets;
    bool is_dry, is_json;
};

static int parse_run(int argc, char **argv, struct run_options *out, int *exit_code)
{
    struct cli_parse parse;
    int code = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (code == CODE_DRY_RUN) {
            out->is_dry = true;
        } else if (code == 'j') {
            out->is_json = true;
        } else if (cli_sets_add(&out->sets, parse.value) != STATUS_OK) {
            *exit_code = cli_usage_error(&command, "%s", status_message());
            return -1;
        }
    }
    *exit_code = parse.exit_code;
    if (code == 0) {
        out->config_path = parse.arguments[0];
    }
    return code;
}

/* --- The run folder --- */

/* The highest step that has a checkpoint, 0 without any. */
static enum status last_checkpoint(const char *run_dir, unsigned long long *out)
{
    char *path = NULL;
    struct file_list list = {0};
    *out = 0;
    TRY(run_checkpoints_path(run_dir, &path));
    const enum status status = folder_exists(path) ? file_list(path, &list) : STATUS_OK;
    for (size_t i = 0; i < list.count; i++) {
        const char *const name = list.names[i];
        const bool is_whole = strncmp(name, "step_", 5) == 0 && strchr(name, '.') == NULL;
        const unsigned long long step = is_whole ? strtoull(name + 5, NULL, 10) : 0;
        *out = step > *out ? step : *out;
    }
    file_list_free(&list);
    memory_free(path);
    return status;
}

/* run.resume: never must not touch an earlier run, must needs one. */
static enum status check_resume(const struct run_config *config, const char *run_dir)
{
    unsigned long long step = 0;
    char *database = NULL;
    TRY(last_checkpoint(run_dir, &step));
    TRY(run_database_path(run_dir, &database));
    const bool has_database = file_exists(database);
    memory_free(database);
    if (config->run.resume == RESUME_NEVER && (step > 0 || has_database)) {
        return status_set(STATUS_BAD_CONFIG,
                          "%s: holds an earlier run; run.resume: never does not go on with it. "
                          "Take another run.name, or remove the folder",
                          run_dir);
    }
    if (config->run.resume == RESUME_MUST && step == 0) {
        return status_set(STATUS_BAD_CONFIG, "%s: no checkpoint, which run.resume: must wants",
                          run_dir);
    }
    return STATUS_OK;
}

/* "pid 12 on host since 2026-01-31 12:00:00": what whoever finds the folder in use is told. */
static void holder_text(char *out, size_t room)
{
    char host[64] = "unknown host";
    char since[32] = "";
    const time_t now = time(NULL);
    struct tm parts;
    (void)gethostname(host, sizeof host - 1);
    if (localtime_r(&now, &parts) != NULL) {
        (void)strftime(since, sizeof since, "%Y-%m-%d %H:%M:%S", &parts);
    }
    (void)snprintf(out, room, "pid %ld on %s since %s", (long)getpid(), host, since);
}

static enum status take_folder(const char *run_dir, struct file_lock **out)
{
    char holder[160];
    char *path = NULL;
    TRY(folder_create(run_dir));
    TRY(path_join(run_dir, "LOCK", &path));
    holder_text(holder, sizeof holder);
    const enum status status = file_lock_acquire(path, holder, out);
    memory_free(path);
    return status;
}

static enum status write_config(const struct run_config *config, const char *run_dir)
{
    struct json *json = NULL;
    char *text = NULL;
    char *path = NULL;
    size_t n = 0;
    TRY(config_to_json(config, &json));
    enum status status = json_print(json, &text, &n);
    json_destroy(json);
    if (status == STATUS_OK) {
        status = path_join(run_dir, "config.json", &path);
    }
    if (status == STATUS_OK) {
        status = file_write_atomic(path, text, n);
    }
    memory_free(path);
    memory_free(text);
    return status;
}

/* --- The run --- */

static void print_arithmetic(const struct run_config *config, const char *run_dir)
{
    const size_t n_samples = config->grpo.prompts_per_step * config->grpo.num_generations;
    (void)printf("%zu prompts x %zu = %zu samples = %zu pass%s x %zu update%s\n",
                 config->grpo.prompts_per_step, config->grpo.num_generations, n_samples,
                 config->grpo.num_iterations, config->grpo.num_iterations == 1 ? "" : "es",
                 config->grpo.num_minibatches, config->grpo.num_minibatches == 1 ? "" : "s");
    (void)printf("%zu steps, %zu rollout worker%s, run folder %s\n", config->run.max_steps,
                 config->rollout.workers, config->rollout.workers == 1 ? "" : "s", run_dir);
    (void)fflush(stdout);
}

/* All that can be known to be wrong before a process is started. */
static enum status check_all(const struct run_config *config, const char *run_dir,
                             enum log_level level)
{
    TRY(check_resume(config, run_dir));
    TRY(cli_check_model(config->model.path, true));
    TRY(trainer_check(config));
    TRY(rollout_check(config));
    log_setup("", LOG_ERROR); /* what a scorer's start warns of is in the message too */
    const enum status status = reward_check(config);
    log_setup("", level);
    return status;
}

/* Last on stdout, whatever the end; without memory for an object it is left out. */
static void print_memory(const struct run_memory *memory, bool is_json)
{
    char text[256];
    struct json *const object = is_json ? run_memory_json(memory) : NULL;
    if (object != NULL && cli_print_json(object) != STATUS_OK) {
        (void)fprintf(stderr, "hone run: %s\n", status_message());
    }
    if (!is_json && *run_memory_text(memory, text, sizeof text) != '\0') {
        (void)printf("memory: %s\n", text);
    }
}

/* How it ended and where the result is; step_before: of the last checkpoint at the start. */
static enum status print_result(const struct run_config *config, const struct run_options *run,
                                const char *run_dir, unsigned long long step_before, int exit_code)
{
    unsigned long long step = 0;
    char *path = NULL;
    TRY(last_checkpoint(run_dir, &step));
    if (exit_code == status_exit_code(STATUS_CANCELLED)) {
        (void)fprintf(stderr, "hone run: interrupted after step %llu; the same command continues\n",
                      step);
    }
    if (exit_code != 0 || run->is_json || step == 0) {
        return STATUS_OK;
    }
    TRY(run_checkpoints_path(run_dir, &path));
    if (step == step_before) {
        (void)printf("finished: run.max_steps is %zu, give more to go on\n", config->run.max_steps);
    }
    (void)printf("model after step %llu: %s/step_%llu\n", step, path, step);
    memory_free(path);
    return STATUS_OK;
}

static enum status train_locked(const struct run_config *config, const char *run_dir,
                                const struct run_options *run, int *exit_code)
{
    struct run_memory memory;
    unsigned long long step_before = 0;
    const struct supervisor_options supervisor = {.config_path = run->config_path,
                                                  .sets = &run->sets,
                                                  .run_dir = run_dir,
                                                  .n_workers = config->rollout.workers,
                                                  .is_json = run->is_json};
    TRY(last_checkpoint(run_dir, &step_before));
    TRY(write_config(config, run_dir));
    const enum status status = supervisor_run(&supervisor, &memory, exit_code);
    print_memory(&memory, run->is_json);
    TRY(status);
    return print_result(config, run, run_dir, step_before, *exit_code);
}

static enum status train(const struct run_config *config, const char *run_dir,
                         const struct run_options *run, int *exit_code)
{
    struct file_lock *lock = NULL;
    TRY(take_folder(run_dir, &lock));
    const enum status status = train_locked(config, run_dir, run, exit_code);
    file_lock_release(lock);
    return status;
}

static enum status run_config(const struct run_config *config, const struct run_options *run,
                              int *exit_code)
{
    char *run_dir = NULL;
    enum log_level level = LOG_INFO;
    TRY(log_level_parse(config->log.level, &level));
    level = run->is_dry || level == LOG_DEBUG ? level : LOG_WARN;
    log_setup("", level);
    TRY(cli_run_dir(config, &run_dir));
    enum status status = check_all(config, run_dir, level);
    if (status == STATUS_OK && !run->is_json) {
        print_arithmetic(config, run_dir);
    }
    if (status == STATUS_OK && !run->is_dry) {
        status = train(config, run_dir, run, exit_code);
    }
    memory_free(run_dir);
    return status;
}

int cmd_run(int argc, char **argv)
{
    struct run_options run = {0};
    struct run_config *config = NULL;
    int exit_code = 0;
    if (parse_run(argc, argv, &run, &exit_code) < 0) {
        return exit_code;
    }
    exit_code = cli_load_config(run.config_path, &run.sets, CONFIG_RUN, &config);
    if (exit_code != 0) {
        return exit_code;
    }
    const enum status status = run_config(config, &run, &exit_code);
    config_destroy(config);
    (void)fflush(stdout);
    clearerr(stdout); /* the result is in the run folder */
    return status == STATUS_OK ? exit_code : cli_fail(command.name, status);
}
