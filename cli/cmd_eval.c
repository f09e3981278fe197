/* `hone eval CONFIG|MODEL`: the command line. What is asked for becomes settings, so that it is
 * checked like any other; eval_run.c does the work. */
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text_buffer.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/eval_run.h"

#include <string.h>

#define SETTINGS_MAX 16u /* made of options */

enum {
    OPTION_MODEL = 'm',
    OPTION_FILE = 'f',
    OPTION_COUNT = 'n',
    OPTION_AT = 'k',
    OPTION_OUT = 'o',
    OPTION_REWARD = 'r',
    OPTION_SET = 's',
    OPTION_JSON = 'j',
    OPTION_TEMPERATURE = 256,
    OPTION_MAX_TOKENS,
    OPTION_SPECULATE
};

static const struct cli_option options[] = {
    {OPTION_MODEL, "model", "DIR", "evaluate this folder instead of model.path"},
    {OPTION_FILE, "file", "F.jsonl", "rows of this file instead of data.eval"},
    {OPTION_COUNT, "n", "N", "samples of a row (eval.num_generations)"},
    {OPTION_AT, "k", "LIST", "pass@K for these, such as 1,8 (powers of two up to N, and N)"},
    {OPTION_TEMPERATURE, "temperature", "T", "0 is greedy (eval.temperature)"},
    {OPTION_MAX_TOKENS, "max-tokens", "N", "of a completion (rollout.max_completion_length)"},
    {OPTION_SPECULATE, "speculate", "N", "MTP drafts; changes no result (rollout.speculate)"},
    {OPTION_REWARD, "reward", "SOURCE", "one scorer instead of rewards, such as builtin:numeric"},
    {OPTION_OUT, "out", "FILE", "write every sample there, an object a line"},
    {OPTION_SET, "set", "KEY=VALUE", "override a setting"},
    {OPTION_JSON, "json", NULL, "one object instead of the table"},
};
static const struct cli_command command = {
    .name = "eval",
    .arguments = "CONFIG|MODEL",
    .summary =
        "Measures a model on the rows of data.eval with the rewards of a configuration; with a\n"
        "model folder, --file and --reward none is needed. A sample passes when its first reward\n"
        "with a weight is 1 or more. pass@K is the unbiased estimate of the chance that one of K\n"
        "samples passes, from the N samples of each row; rows with a data source are also counted\n"
        "by source.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone eval run.yaml --model runs/rl/checkpoints/step_50 --json\n"
                "  hone eval model --file rows.jsonl --reward builtin:numeric -n 8 -k 1,4,8 \\\n"
                "    --temperature 1 --out samples.jsonl\n",
};

struct eval_words {
    struct cli_sets sets;
    struct text_buffer settings[SETTINGS_MAX]; /* what sets.items of ours point to */
    size_t n_settings;
    const char *model, *pass_at, *samples_path;
    bool wants_json;
};

static enum status put_text(struct text_buffer *out, const char *text)
{
    return text_buffer_put(out, text, strlen(text));
}

/* Adds the setting "before'value'after" as --set takes it: value as YAML text in single quotes. */
static enum status add_setting(struct eval_words *words, const char *before, const char *value,
                               const char *after)
{
    if (words->n_settings == SETTINGS_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "more than %u options", SETTINGS_MAX);
    }
    struct text_buffer *out = &words->settings[words->n_settings++];

    TRY(put_text(out, before));
    TRY(put_text(out, "'"));
    for (; *value != '\0'; value++) {
        TRY(text_buffer_put(out, value, 1));
        TRY(text_buffer_put(out, value, *value == '\'' ? 1 : 0));
    }
    TRY(put_text(out, "'"));
    TRY(put_text(out, after));
    return cli_sets_add(&words->sets, out->bytes);
}

/* A number is no text in quotes: what is not one is told by the setting's own check. */
static enum status add_number(struct eval_words *words, const char *before, const char *value)
{
    if (words->n_settings == SETTINGS_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "more than %u options", SETTINGS_MAX);
    }
    struct text_buffer *out = &words->settings[words->n_settings++];

    TRY(put_text(out, before));
    TRY(put_text(out, value));
    return cli_sets_add(&words->sets, out->bytes);
}

static enum status take_option(struct eval_words *words, int code, const char *value)
{
    switch (code) {
    case OPTION_SET:
        return cli_sets_add(&words->sets, value);
    case OPTION_FILE:
        return add_setting(words, "data.eval=[", value, "]");
    case OPTION_REWARD:
        return add_setting(words, "rewards=[{name: score, source: ", value, "}]");
    case OPTION_COUNT:
        return add_number(words, "eval.num_generations=", value);
    case OPTION_TEMPERATURE:
        return add_number(words, "eval.temperature=", value);
    case OPTION_MAX_TOKENS:
        return add_number(words, "rollout.max_completion_length=", value);
    case OPTION_SPECULATE:
        return add_number(words, "rollout.speculate=", value);
    case OPTION_MODEL:
        words->model = value;
        break;
    case OPTION_AT:
        words->pass_at = value;
        break;
    case OPTION_OUT:
        words->samples_path = value;
        break;
    default:
        words->wants_json = true;
    }
    return STATUS_OK;
}

/* path: NULL when the settings are all there is. */
static int load_and_evaluate(const char *path, const struct eval_words *words)
{
    struct run_config *config = NULL;
    enum log_level level = LOG_WARN;
    const int code = cli_load_config(path, &words->sets, CONFIG_EVAL, &config);

    if (code != 0) {
        return code;
    }
    const struct eval_request request = {.config = config,
                                         .pass_at = words->pass_at,
                                         .samples_path = words->samples_path,
                                         .wants_json = words->wants_json};
    enum status status = log_level_parse(config->log.level, &level);
    if (status == STATUS_OK) {
        log_setup("eval", level);
        process_catch_signals();
        status = eval_run(&request);
    }
    config_destroy(config);
    if (status == STATUS_CANCELLED && process_signal_caught() != 0) {
        return 128 + process_signal_caught();
    }
    return status == STATUS_OK ? 0 : cli_fail("eval", status);
}

/* A folder in place of a configuration is the model. */
static int evaluate(const char *argument, struct eval_words *words)
{
    const bool is_model = folder_exists(argument);
    const char *model = is_model ? argument : words->model;
    enum status status = STATUS_OK;

    if (is_model && words->model != NULL) {
        return cli_usage_error(&command, "%.100s is a model folder: --model is one too many",
                               argument);
    }
    if (model != NULL) {
        status = add_setting(words, "model.path=", model, "");
    }
    return status == STATUS_OK ? load_and_evaluate(is_model ? NULL : argument, words)
                               : cli_fail("eval", status);
}

int cmd_eval(int argc, char **argv)
{
    struct eval_words words = {.model = NULL};
    struct cli_parse parse;
    enum status status = STATUS_OK;
    int code = 0;

    cli_parse_begin(&parse, &command, argc, argv);
    while (status == STATUS_OK && (code = cli_parse_next(&parse)) > 0) {
        status = take_option(&words, code, parse.value);
    }
    if (status != STATUS_OK) {
        code = cli_fail("eval", status);
    } else {
        code = code < 0 ? parse.exit_code : evaluate(parse.arguments[0], &words);
    }
    for (size_t i = 0; i < words.n_settings; i++) {
        text_buffer_dispose(&words.settings[i]);
    }
    return code;
}
