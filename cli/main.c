/* hone: finds the subcommand and calls it. */
#include "base/process.h"
#include "base/status.h"
#include "cli/commands.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"run", cmd_run, "train: supervisor, trainer, rollout workers and reward service"},
    {"demo", cmd_demo, "make data and a tiny model, cold-start it, align it, show the curve"},
    {"trainer", cmd_trainer, "the trainer alone (started by run)"},
    {"rollout", cmd_rollout, "one rollout worker alone"},
    {"reward", cmd_reward, "the reward service alone"},
    {"sft", cmd_sft, "supervised training, for a cold start"},
    {"eval", cmd_eval, "measure a model on held-out rows"},
    {"generate", cmd_generate, "try a prompt"},
    {"model", cmd_model, "init, inspect or check a model folder"},
    {"data", cmd_data, "make or check data"},
    {"tok", cmd_tok, "texts to token ids and back"},
    {"db", cmd_db, "ask a run's database in SQL"},
    {"show", cmd_show, "a step, group or sample of a run"},
    {"config", cmd_config, "every setting with its value and origin"},
    {"doctor", cmd_doctor, "what this machine has and what is missing"},
    {"bench", cmd_bench, "speed of the kernels as a share of the machine's peak"},
    {"version", cmd_version, "version, build and libraries"},
};
static const size_t n_commands = sizeof commands / sizeof commands[0];

static void print_commands(FILE *stream)
{
    (void)fprintf(stream, "usage: hone COMMAND ...\n\n"
                          "Aligns DeepSeek-architecture language models with GRPO.\n\n");
    for (size_t i = 0; i < n_commands; i++) {
        (void)fprintf(stream, "  %-10s %s\n", commands[i].name, commands[i].help);
    }
    (void)fprintf(stream, "\n`hone COMMAND --help` shows a command's options. Begin with "
                          "`hone demo`.\n");
}

/* How many letters two words share at the same distance from the start, or from the end: enough to
 * tell "trian" means "train...". */
static size_t likeness(const char *a, const char *b)
{
    const size_t n_a = strlen(a);
    const size_t n_b = strlen(b);
    size_t n_front = 0;
    size_t n_back = 0;
    for (size_t i = 0; i < n_a && i < n_b; i++) {
        n_front += a[i] == b[i];
        n_back += a[n_a - 1 - i] == b[n_b - 1 - i];
    }
    return n_front > n_back ? n_front : n_back;
}

static int unknown_command(const char *name)
{
    const struct command *nearest = &commands[0];
    for (size_t i = 1; i < n_commands; i++) {
        if (likeness(name, commands[i].name) > likeness(name, nearest->name)) {
            nearest = &commands[i];
        }
    }
    const bool is_near = 2 * likeness(name, nearest->name) >= strlen(name);
    (void)fprintf(stderr, "hone: %.60s: no such command%s%s (see hone --help)\n", name,
                  is_near ? "; nearest is " : "", is_near ? nearest->name : "");
    return 2;
}

/* What a command printed is its result: half of it is a failure, unless the reader wanted no more.
 */
static int finish(int exit_code)
{
    errno = 0;
    if ((fflush(stdout) == 0 && ferror(stdout) == 0) || exit_code != 0 || errno == EPIPE) {
        return exit_code;
    }
    (void)fprintf(stderr, "hone: the output cannot be written%s%s\n", errno != 0 ? ": " : "",
                  errno != 0 ? strerror(errno) : "");
    return status_exit_code(errno == ENOSPC ? STATUS_NO_SPACE : STATUS_IO);
}

int main(int argc, char **argv)
{
    process_ignore_questions();
    if (argc < 2) {
        print_commands(stderr);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_commands(stdout);
        return finish(0);
    }
    if (strcmp(name, "--version") == 0) {
        name = "version";
    }
    for (size_t i = 0; i < n_commands; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return finish(commands[i].run(argc - 1, argv + 1));
        }
    }
    return unknown_command(name);
}
