/* hone trainer, hone rollout, hone reward: one process of a run each, as `hone run` starts them. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/progress.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "reward/reward.h"
#include "rollout/rollout.h"
#include "trainer/trainer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct cli_option options[] = {
    {'r', "run-dir", "DIR", "run folder (default: run.output_dir/run.name)"},
    {'n', "name", "NAME", "of a rollout worker, unique among the living (default: w0)"},
    {'l', "log", "FILE", "append the log to FILE instead of stderr"},
    {'s', "set", "KEY=VALUE", "override a setting"},
    {'j', "json", NULL, "progress as one JSON object a step"},
};
#define ROLE_COMMAND(command_name, text)                                                           \
    {                                                                                              \
        .name = (command_name), .arguments = "CONFIG", .summary = (text), .options = options,      \
        .n_options = sizeof options / sizeof options[0], .n_arguments_min = 1,                     \
        .n_arguments_max = 1                                                                       \
    }
static const struct cli_command trainer_command =
    ROLE_COMMAND("trainer", "Trains: picks prompts, waits for scored groups, updates the weights.");
static const struct cli_command rollout_command =
    ROLE_COMMAND("rollout", "Samples completions for the trainer of the run folder.");
static const struct cli_command reward_command =
    ROLE_COMMAND("reward", "Scores completions and writes the run's database.");

struct role_options {
    const char *config_path;
    const char *run_dir, *name, *log_file; /* NULL: the default */
    struct cli_sets sets;
    bool is_json;
};

/* 0, or -1 with *exit_code. */
static int parse_role(const struct cli_command *command, int argc, char **argv,
                      struct role_options *out, int *exit_code)
{
    struct cli_parse parse;
    int code = 0;
    cli_parse_begin(&parse, command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (code == 'r') {
            out->run_dir = parse.value;
        } else if (code == 'n') {
            out->name = parse.value;
        } else if (code == 'l') {
            out->log_file = parse.value;
        } else if (code == 'j') {
            out->is_json = true;
        } else if (cli_sets_add(&out->sets, parse.value) != STATUS_OK) {
            *exit_code = cli_usage_error(command, "%s", status_message());
            return -1;
        }
    }
    *exit_code = parse.exit_code;
    if (code == 0) {
        out->config_path = parse.arguments[0];
    }
    return code;
}

static enum status log_to_file(const char *path)
{
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0 || dup2(fd, STDERR_FILENO) < 0) {
        return status_set(STATUS_IO, "%s: cannot write the log: %s", path, strerror(errno));
    }
    (void)close(fd); /* fd 2 has it now */
    return STATUS_OK;
}

typedef enum status role_body(const struct run_config *config, const char *run_dir,
                              const struct role_options *role);

static enum status run_in_folder(const struct run_config *config, const char *process_name,
                                 const struct role_options *role, role_body *body)
{
    enum log_level level = LOG_INFO;
    char *run_dir = NULL;
    TRY(log_level_parse(config->log.level, &level));
    log_setup(process_name, level);
    if (role->run_dir != NULL) {
        TRY(memory_copy_text(role->run_dir, strlen(role->run_dir), &run_dir));
    } else {
        TRY(cli_run_dir(config, &run_dir));
    }
    enum status status = folder_create(run_dir);
    if (status == STATUS_OK) {
        status = body(config, run_dir, role);
    }
    memory_free(run_dir);
    return status;
}

static int role_main(const struct cli_command *command, int argc, char **argv, role_body *body)
{
    struct role_options role = {0};
    struct run_config *config = NULL;
    int exit_code = 0;
    if (parse_role(command, argc, argv, &role, &exit_code) < 0) {
        return exit_code;
    }
    if (role.log_file != NULL && log_to_file(role.log_file) != STATUS_OK) {
        return cli_fail(command->name, STATUS_IO);
    }
    exit_code = cli_load_config(role.config_path, &role.sets, CONFIG_RUN, &config);
    if (exit_code != 0) {
        return exit_code;
    }
    process_catch_signals();
    const char *const process_name = role.name != NULL ? role.name : command->name;
    const enum status status = run_in_folder(config, process_name, &role, body);
    config_destroy(config);
    return status == STATUS_OK ? 0 : cli_fail(command->name, status);
}

static enum status run_trainer(const struct run_config *config, const char *run_dir,
                               const struct role_options *role)
{
    struct progress progress;
    progress_begin(&progress, role->is_json, config->log.every_steps);
    const enum status status = trainer_main(config, run_dir, progress_step, &progress);
    progress_end(&progress);
    return status;
}

static enum status run_rollout(const struct run_config *config, const char *run_dir,
                               const struct role_options *role)
{
    return rollout_main(config, run_dir, role->name != NULL ? role->name : "w0");
}

static enum status run_reward(const struct run_config *config, const char *run_dir,
                              const struct role_options *role)
{
    (void)role; /* it has no name and no progress */
    return reward_main(config, run_dir);
}

int cmd_trainer(int argc, char **argv)
{
    return role_main(&trainer_command, argc, argv, run_trainer);
}

int cmd_rollout(int argc, char **argv)
{
    return role_main(&rollout_command, argc, argv, run_rollout);
}

int cmd_reward(int argc, char **argv)
{
    return role_main(&reward_command, argc, argv, run_reward);
}
