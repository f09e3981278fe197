/* hone config: every setting with its value and where it came from; what a key means. */
#include "cli/cli.h"
#include "cli/commands.h"

#include "base/json.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

#define CODE_DEFAULTS 256
#define CODE_EXPLAIN 257
#define CODE_MARKDOWN 258

static const struct cli_option options[] = {
    {'s', "set", "KEY=VALUE", "override a setting; may be repeated"},
    {CODE_DEFAULTS, "defaults", NULL, "a complete file of the defaults, with comments"},
    {CODE_EXPLAIN, "explain", "KEY", "meaning, range and names elsewhere of one setting"},
    {CODE_MARKDOWN, "markdown", NULL, "the table of all settings, as in the README"},
    {'j', "json", NULL, "one object a setting"},
};
static const struct cli_command command = {
    .name = "config",
    .arguments = "[CONFIG]",
    .summary = "Shows every setting with its value and its origin: default, file and line,\n"
               "environment (HONE_SET_GRPO__EPSILON=0.3) or --set.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .n_arguments_max = 1,
    .examples = "  hone config run.yaml\n  hone config --explain grpo.epsilon_high\n"
                "  hone config --defaults > run.yaml\n",
};

struct config_options {
    struct cli_sets sets;
    const char *explain; /* NULL: not asked */
    bool is_defaults, is_markdown, is_json;
};

static enum status take_option(struct config_options *config, int code, const char *value)
{
    if (code == CODE_DEFAULTS) {
        config->is_defaults = true;
    } else if (code == CODE_EXPLAIN) {
        config->explain = value;
    } else if (code == CODE_MARKDOWN) {
        config->is_markdown = true;
    } else if (code == 'j') {
        config->is_json = true;
    } else {
        return cli_sets_add(&config->sets, value);
    }
    return STATUS_OK;
}

static enum status fill_line(struct json *object, const struct config_line *line)
{
    const struct {
        const char *key, *text;
    } fields[] = {{"key", line->key},   {"value", line->value}, {"origin", line->origin},
                  {"help", line->help}, {"range", line->range}, {"peers", line->peers}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        TRY(json_put(object, fields[i].key,
                     json_from_text(fields[i].text, strlen(fields[i].text))));
    }
    return STATUS_OK;
}

static enum status print_line_json(const struct config_line *line)
{
    struct json *object = json_object_create();
    const enum status status = fill_line(object, line);
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

static enum status print_lines(const struct run_config *config, bool is_json)
{
    struct config_line *lines = NULL;
    size_t n = 0;
    TRY(config_lines(config, &lines, &n));
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        if (is_json) {
            status = print_line_json(&lines[i]);
        } else {
            (void)printf("%-36s %-28s %s\n", lines[i].key, lines[i].value, lines[i].origin);
        }
    }
    config_lines_free(lines);
    return status;
}

static enum status explain(const char *key, bool is_json)
{
    struct config_line *line = NULL;
    const char *nearest = NULL;
    TRY(config_explain(key, &line, &nearest));
    if (line == NULL) {
        return status_set(STATUS_BAD_ARGUMENT, "%.100s: no such setting; nearest is %s", key,
                          nearest);
    }
    enum status status = STATUS_OK;
    if (is_json) {
        status = print_line_json(line);
    } else {
        (void)printf("%s: %s\n  default    %s\n  range      %s\n  elsewhere  %s\n", line->key,
                     line->help, line->value, line->range,
                     *line->peers != '\0' ? line->peers : "-");
    }
    config_lines_free(line);
    return status;
}

static enum status print_document(enum status (*make)(char **out))
{
    char *text = NULL;
    TRY(make(&text));
    (void)fputs(text, stdout);
    memory_free(text);
    return STATUS_OK;
}

static int show_values(const struct config_options *asked, const char *path)
{
    struct run_config *config = NULL;
    const int exit_code = cli_load_config(path, &asked->sets, CONFIG_ANY, &config);
    if (exit_code != 0) {
        return exit_code;
    }
    const enum status status = print_lines(config, asked->is_json);
    config_destroy(config);
    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}

int cmd_config(int argc, char **argv)
{
    struct config_options asked = {0};
    struct cli_parse parse;
    int code = 0;
    enum status status = STATUS_OK;
    cli_parse_begin(&parse, &command, argc, argv);
    while (status == STATUS_OK && (code = cli_parse_next(&parse)) > 0) {
        status = take_option(&asked, code, parse.value);
    }
    if (code < 0) {
        return parse.exit_code;
    }
    if (status == STATUS_OK && asked.explain != NULL) {
        status = explain(asked.explain, asked.is_json);
    } else if (status == STATUS_OK && asked.is_markdown) {
        status = print_document(config_table_markdown);
    } else if (status == STATUS_OK && asked.is_defaults) {
        status = print_document(config_defaults_yaml);
    } else if (status == STATUS_OK) {
        return show_values(&asked, parse.n_arguments > 0 ? parse.arguments[0] : NULL);
    }
    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
