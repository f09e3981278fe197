/* Owns what every subcommand shares: options from one table (parser and --help), failing with the
 * right exit code, loading the configuration, and what the terminal can show. */
#ifndef HONE_CLI_CLI_H
#define HONE_CLI_CLI_H

#include "base/status.h"
#include "configs/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* --- Options ---
 *
 *   struct cli_parse parse;
 *   int code = 0;
 *   cli_parse_begin(&parse, &command, argc, argv);
 *   while ((code = cli_parse_next(&parse)) > 0) {
 *       if (code == 'j') ...            (parse.value: its argument)
 *   }
 *   if (code < 0) {
 *       return parse.exit_code;         (--help was shown, or the usage was wrong)
 *   }
 *   parse.arguments[0 .. parse.n_arguments) are the words without a dash. */

struct cli_option {
    int code;             /* a letter is also the short option; from 256 on: long only */
    const char *name;     /* "--name" without the dashes */
    const char *argument; /* what --help calls its argument, NULL for a flag */
    const char *help;
};
struct cli_command {
    const char *name;      /* "run" */
    const char *arguments; /* "CONFIG", for --help */
    const char *summary;
    const struct cli_option *options; /* --help is there by itself */
    size_t n_options;
    size_t n_arguments_min, n_arguments_max;
    const char *examples; /* lines for --help, or NULL */
};
#define CLI_OPTIONS_MAX 24u

struct option; /* of getopt.h */
struct cli_parse {
    const struct cli_command *command;
    int argc;
    char **argv;
    const char *value; /* argument of the option just returned */
    int exit_code;
    char **arguments;
    size_t n_arguments;
};
void cli_parse_begin(struct cli_parse *parse, const struct cli_command *command, int argc,
                     char **argv);
/* The next option's code; 0 after the last (arguments are set then); -1: leave with exit_code. */
int cli_parse_next(struct cli_parse *parse);
/* The option with this code, which the command has. */
const struct cli_option *cli_option_of(const struct cli_command *command, int code);
/* Says "hone NAME: message", points to --help and returns exit code 2. */
int cli_usage_error(const struct cli_command *command, const char *format, ...) PRINTF_LIKE(2, 3);

/* --- Failing --- */

/* Prints "hone NAME: <message of this thread>" to stderr and returns the status's exit code. */
int cli_fail(const char *name, enum status status);

/* --- What the user named --- */

/* The folder has the files of a model. Errors: BAD_ARGUMENT (there is no folder), BAD_FORMAT (a
 * file is missing). */
MUST_CHECK enum status cli_check_model(const char *dir, bool needs_tokenizer);

/* --- Configuration --- */

#define CLI_SETS_MAX 256u
/* --set options in their order; texts borrowed from argv. */
struct cli_sets {
    const char *items[CLI_SETS_MAX];
    size_t count;
};
/* Errors: BAD_ARGUMENT after CLI_SETS_MAX. */
MUST_CHECK enum status cli_sets_add(struct cli_sets *sets, const char *set);
/* Loads path (NULL: defaults); every mistake is printed to stderr, one a line. Returns 0 or the
 * exit code; the caller destroys *out with config_destroy. */
int cli_load_config(const char *path, const struct cli_sets *sets, enum config_use use,
                    struct run_config **out);
/* output_dir/name; caller frees. */
MUST_CHECK enum status cli_run_dir(const struct run_config *config, char **out);

/* --- Output --- */

/* One JSON value as a line on stdout. Takes the reference. */
MUST_CHECK enum status cli_print_json(struct json *value);
/* stdout is a terminal that understands escape sequences (not TERM=dumb). */
bool cli_is_terminal(FILE *stream);
bool cli_uses_color(FILE *stream); /* the same, and NO_COLOR is not set */
size_t cli_columns(void);          /* COLUMNS, or the terminal's width, or 80 */
/* "18.2k", "3.2M"; out of at least 16 bytes; returns out. */
const char *cli_count_text(double value, char *out, size_t room);
/* "12s", "3m20s", "2h10m"; returns out. */
const char *cli_seconds_text(double seconds, char *out, size_t room);
/* Path of this program, to start it again. Caller frees. */
MUST_CHECK enum status cli_own_path(char **out);

#endif
