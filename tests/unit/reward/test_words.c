/* A command as words: quotes and backslashes of a shell, and no expansion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reward/words.h"
#include "tests/support/support.h"

#define WORDS_MAX 6

static void commands_are_split_like_a_shell_s(void **state)
{
    static const struct {
        const char *text;
        const char *words[WORDS_MAX];
    } cases[] = {
        {"python3 score.py", {"python3", "score.py"}},
        {"  a \t b\n", {"a", "b"}},
        {"a", {"a"}},
        {"jq -c '.a | .b'", {"jq", "-c", ".a | .b"}},
        {"a \"b c\" d", {"a", "b c", "d"}},
        {"a\"b c\"d'e f'", {"ab cde f"}},
        {"a '' b", {"a", "", "b"}},
        {"a \"\"", {"a", ""}},
        {"a\\ b c", {"a b", "c"}},
        {"a\\\\b", {"a\\b"}},
        {"'a\\b'", {"a\\b"}},
        {"\"a\\\"b\"", {"a\"b"}},
        {"\"it's\"", {"it's"}},
        {"'say \"x\"'", {"say \"x\""}},
        {"echo $HOME *.py `id` ~", {"echo", "$HOME", "*.py", "`id`", "~"}},
        {"a # b; c", {"a", "#", "b;", "c"}},
        {"a\\", {"a\\"}},
        {"\xc3\xa9 b", {"\xc3\xa9", "b"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct arena *arena = NULL;
        const char **words = NULL;
        size_t n = 0;
        assert_ok(arena_create(64, &arena));
        assert_ok(words_split(cases[i].text, arena, &words, &n));
        for (size_t w = 0; w < n; w++) {
            assert_non_null(cases[i].words[w]);
            assert_string_equal(words[w], cases[i].words[w]);
        }
        assert_null(cases[i].words[n]);
        assert_null(words[n]);
        arena_destroy(arena);
    }
}

static void open_quotes_and_empty_commands_are_refused(void **state)
{
    static const char *const texts[] = {"", "  \t", "a 'b", "a \"b", "\"a\\\"", "'"};
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct arena *arena = NULL;
        const char **words = NULL;
        size_t n = 0;
        assert_ok(arena_create(64, &arena));
        assert_status(words_split(texts[i], arena, &words, &n), STATUS_BAD_CONFIG,
                      i < 2 ? "empty" : "quote");
        arena_destroy(arena);
    }
}

static enum status attempt(void *context)
{
    struct arena *arena = NULL;
    const char **words = NULL;
    size_t n = 0;
    enum status status = arena_create(16, &arena);
    if (status == STATUS_OK) {
        status = words_split(context, arena, &words, &n);
    }
    arena_destroy(arena);
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    char text[] = "python3 'a rather long argument that needs another block of the arena' b c d";
    (void)state;
    assert_true(support_fail_allocations(attempt, text) >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_are_split_like_a_shell_s),
        cmocka_unit_test(open_quotes_and_empty_commands_are_refused),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
