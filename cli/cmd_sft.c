/* hone sft: supervised training of a model on prompt and completion rows. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/progress.h"

#include "base/log.h"
#include "base/process.h"
#include "trainer/trainer.h"

#include <stdio.h>

static const struct cli_option options[] = {
    {'s', "set", "KEY=VALUE", "override a setting, e.g. sft.max_steps=100; may be repeated"},
    {'j', "json", NULL, "progress as one JSON object a step"},
};
static const struct cli_command command = {
    .name = "sft",
    .arguments = "CONFIG",
    .summary = "Trains a model on rows of prompt and completion (or messages) and writes it to\n"
               "sft.output.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone sft sft.yaml --set sft.max_steps=200\n",
};

static enum status train(const struct run_config *config, bool is_json)
{
    struct progress progress;
    struct sft_report last = {0};
    char text[512];
    enum log_level level = LOG_INFO;
    TRY(log_level_parse(config->log.level, &level));
    log_setup("", level);
    TRY(cli_check_model(config->model.path, true));
    progress_begin(&progress, is_json, config->log.every_steps);
    const enum status status = sft_main(config, progress_sft, &progress, &last);
    progress_end(&progress);
    if (status == STATUS_OK && !is_json) {
        (void)printf("%s: %s\n", config->sft.output, progress_sft_text(&last, text, sizeof text));
    }
    return status;
}

int cmd_sft(int argc, char **argv)
{
    struct cli_parse parse;
    struct cli_sets sets = {0};
    struct run_config *config = NULL;
    bool is_json = false;
    int code = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (code == 'j') {
            is_json = true;
        } else if (cli_sets_add(&sets, parse.value) != STATUS_OK) {
            return cli_usage_error(&command, "%s", status_message());
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    const int exit_code = cli_load_config(parse.arguments[0], &sets, CONFIG_SFT, &config);
    if (exit_code != 0) {
        return exit_code;
    }
    process_catch_signals();
    const enum status status = train(config, is_json);
    config_destroy(config);
    if (status == STATUS_CANCELLED) {
        (void)cli_fail(command.name, status);
        return 128 + process_signal_caught(); /* there is no checkpoint to go on from */
    }
    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
