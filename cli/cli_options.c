/* Owns the command line's grammar: one table a command gives getopt_long its options and --help its
 * text. */
#include "cli/cli.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CODE_HELP 'h'

void cli_parse_begin(struct cli_parse *parse, const struct cli_command *command, int argc,
                     char **argv)
{
    *parse = (struct cli_parse){.command = command, .argc = argc, .argv = argv};
    optind = 0; /* start over, also after another command in this process */
    opterr = 0;
}

int cli_usage_error(const struct cli_command *command, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)fprintf(stderr, "hone %s: %s (see hone %s --help)\n", command->name, text, command->name);
    return 2;
}

static bool is_letter(int code)
{
    return code >= 'a' && code <= 'z';
}

static void print_option(const struct cli_option *option)
{
    char left[64];
    const bool is_short = is_letter(option->code);
    (void)snprintf(left, sizeof left, "%s--%s%s%s", is_short ? "-?, " : "    ", option->name,
                   option->argument != NULL ? " " : "",
                   option->argument != NULL ? option->argument : "");
    if (is_short) {
        left[1] = "abcdefghijklmnopqrstuvwxyz"[option->code - 'a'];
    }
    (void)printf("  %-28s %s\n", left, option->help);
}

static void print_help(const struct cli_command *command)
{
    const struct cli_option help = {CODE_HELP, "help", NULL, "show this text"};
    (void)printf("usage: hone %s %s%s\n\n%s\n\noptions:\n", command->name,
                 command->n_options > 0 ? "[options] " : "", command->arguments, command->summary);
    for (size_t i = 0; i < command->n_options; i++) {
        print_option(&command->options[i]);
    }
    print_option(&help);
    if (command->examples != NULL) {
        (void)printf("\nexamples:\n%s", command->examples);
    }
}

/* The table as getopt_long wants it. letters: at least 2 + 2 * CLI_OPTIONS_MAX bytes. */
static void fill_getopt(const struct cli_command *command, struct option *longs, char *letters)
{
    size_t n_letters = 0;
    letters[n_letters++] = ':'; /* a missing argument is told from an unknown option */
    for (size_t i = 0; i < command->n_options && i < CLI_OPTIONS_MAX; i++) {
        const struct cli_option *const option = &command->options[i];
        const bool has_argument = option->argument != NULL;
        longs[i] = (struct option){option->name, has_argument ? required_argument : no_argument,
                                   NULL, option->code};
        if (is_letter(option->code)) {
            letters[n_letters++] = (char)option->code;
            letters[n_letters] = ':';
            n_letters += has_argument;
        }
    }
    letters[n_letters++] = CODE_HELP;
    letters[n_letters] = '\0';
    longs[command->n_options] = (struct option){"help", no_argument, NULL, CODE_HELP};
}

static int finish_arguments(struct cli_parse *parse)
{
    const struct cli_command *const command = parse->command;
    parse->arguments = parse->argv + optind;
    parse->n_arguments = (size_t)(parse->argc - optind);
    if (parse->n_arguments < command->n_arguments_min) {
        parse->exit_code = cli_usage_error(command, "want %s", command->arguments);
        return -1;
    }
    if (parse->n_arguments > command->n_arguments_max) {
        parse->exit_code = cli_usage_error(command, "\"%.100s\" is one word too many",
                                           parse->arguments[command->n_arguments_max]);
        return -1;
    }
    return 0;
}

const struct cli_option *cli_option_of(const struct cli_command *command, int code)
{
    size_t i = 0;
    while (i + 1 < command->n_options && command->options[i].code != code) {
        i++;
    }
    return &command->options[i];
}

int cli_parse_next(struct cli_parse *parse)
{
    struct option longs[CLI_OPTIONS_MAX + 2] = {0};
    char letters[2 * CLI_OPTIONS_MAX + 4];
    fill_getopt(parse->command, longs, letters);
    const int code = getopt_long(parse->argc, parse->argv, letters, longs, NULL);
    parse->value = optarg;
    if (code == -1) {
        return finish_arguments(parse);
    }
    if (code == CODE_HELP) {
        print_help(parse->command);
        return -1;
    }
    if (code == '?' || code == ':') {
        const char *const word = parse->argv[optind - 1];
        parse->exit_code = cli_usage_error(
            parse->command, code == ':' ? "%.100s wants an argument" : "%.100s: no such option",
            word);
        return -1;
    }
    return code;
}
