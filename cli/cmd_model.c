/* Owns `hone model`: the choice between init, inspect, check and convert. */
#include "cli/commands.h"
#include "cli/model_command.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} words[] = {
    {"init", "write a fresh model folder from a preset or a config.json", model_init_command},
    {"inspect", "show shapes, parameters and cache size of a model folder", model_inspect_command},
    {"check", "verify a model folder, alone or against known numbers", model_check_command},
    {"convert", "store a model folder or GGUF file in another type: f32, bf16 or fp8",
     model_convert_command},
};
#define N_WORDS (sizeof(words) / sizeof(words[0]))

static void print_help(FILE *stream)
{
    (void)fprintf(stream, "usage: hone model WORD ...\n\n");
    for (size_t i = 0; i < N_WORDS; i++) {
        (void)fprintf(stream, "  hone model %-8s %s\n", words[i].name, words[i].summary);
    }
    (void)fprintf(stream, "\nhone model WORD --help shows its options.\n");
}

int cmd_model(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";

    for (size_t i = 0; i < N_WORDS; i++) {
        if (strcmp(words[i].name, word) == 0) {
            return words[i].run(argc - 1, argv + 1);
        }
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_help(stdout);
        return 0;
    }
    (void)fprintf(stderr, "hone model: %s%s%s (see hone model --help)\n",
                  word[0] == '\0' ? "want " : "no word \"", word[0] == '\0' ? "a word" : word,
                  word[0] == '\0' ? ": init, inspect, check or convert"
                                  : "\"; there are init, inspect, check, convert");
    return 2;
}
