/* The command line's grammar. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/cli.h"

#include <string.h>

static const struct cli_option options[] = {
    {'s', "set", "KEY=VALUE", "set"},
    {300, "dry-run", NULL, "dry"},
};
static const struct cli_command command = {.name = "test",
                                           .arguments = "CONFIG",
                                           .summary = "A test.",
                                           .options = options,
                                           .n_options = 2,
                                           .n_arguments_min = 1,
                                           .n_arguments_max = 1};

/* Parses words; codes gets what was returned, the last is 0 or -1. */
static size_t parse(char **words, struct cli_parse *out, int *codes, const char **values)
{
    int argc = 0;
    size_t n = 0;
    while (words[argc] != NULL) {
        argc++;
    }
    cli_parse_begin(out, &command, argc, words);
    do {
        codes[n] = cli_parse_next(out);
        values[n] = out->value;
    } while (codes[n++] > 0);
    return n;
}

#define WORDS(...)                                                                                 \
    (char *[])                                                                                     \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static char word_test[] = "test", word_config[] = "run.yaml", word_long[] = "--set=a=1",
            word_short[] = "-s", word_value[] = "b=2", word_dry[] = "--dry-run",
            word_wrong[] = "--wet-run", word_more[] = "more.yaml", word_set[] = "--set";

static void options_and_words_may_be_mixed(void **state)
{
    (void)state;
    struct cli_parse out;
    int codes[8];
    const char *values[8];
    const size_t n =
        parse(WORDS(word_test, word_config, word_long, word_short, word_value, word_dry), &out,
              codes, values);
    assert_int_equal(n, 4);
    assert_int_equal(codes[0], 's');
    assert_string_equal(values[0], "a=1");
    assert_string_equal(values[1], "b=2");
    assert_int_equal(codes[2], 300);
    assert_int_equal(codes[3], 0);
    assert_int_equal(out.n_arguments, 1);
    assert_string_equal(out.arguments[0], "run.yaml");
}

static void wrong_usage_is_exit_code_2(void **state)
{
    (void)state;
    struct cli_parse out;
    int codes[8];
    const char *values[8];
    char **const cases[] = {
        WORDS(word_test),
        WORDS(word_test, word_config, word_wrong),
        WORDS(word_test, word_config, word_more),
        WORDS(word_test, word_config, word_set),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t n = parse(cases[i], &out, codes, values);
        assert_int_equal(codes[n - 1], -1);
        assert_int_equal(out.exit_code, 2);
    }
}

static void sets_have_a_limit(void **state)
{
    (void)state;
    struct cli_sets sets = {.count = CLI_SETS_MAX - 1};
    assert_int_equal(cli_sets_add(&sets, "a=1"), STATUS_OK);
    assert_int_equal(cli_sets_add(&sets, "a=1"), STATUS_BAD_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_words_may_be_mixed),
        cmocka_unit_test(wrong_usage_is_exit_code_2),
        cmocka_unit_test(sets_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
