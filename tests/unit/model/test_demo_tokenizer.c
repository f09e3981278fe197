/* The demo's vocabulary: written, loaded again, and one token a character. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/demo_tokenizer.h"
#include "model/tokenizer.h"
#include "tests/support/support.h"

#include <string.h>

#define PATH_ROOM 512

static struct tokenizer *load_demo(char *dir, size_t room)
{
    struct tokenizer *tokenizer;

    support_temp_dir(dir, room);
    assert_ok(demo_tokenizer_write(dir));
    assert_ok(tokenizer_load(dir, &tokenizer));
    return tokenizer;
}

static void the_vocabulary_has_64_tokens_and_known_ids(void **state)
{
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer = load_demo(dir, sizeof(dir));

    (void)state;
    assert_int_equal(tokenizer_vocab_size(tokenizer), 64);
    assert_int_equal(tokenizer_id(tokenizer, "<bos>"), 0);
    assert_int_equal(tokenizer_id(tokenizer, "<eos>"), 1);
    assert_int_equal(tokenizer_id(tokenizer, "<pad>"), 2);
    assert_int_equal(tokenizer_id(tokenizer, "0"), 3);
    assert_int_equal(tokenizer_id(tokenizer, "="), 13);
    assert_int_equal(tokenizer_id(tokenizer, "z"), 63);
    assert_int_equal(tokenizer_bos(tokenizer), 0);
    assert_int_equal(tokenizer_eos(tokenizer), 1);
    assert_true(tokenizer_adds_bos(tokenizer));
    assert_true(tokenizer_is_special(tokenizer, 0));
    assert_false(tokenizer_is_special(tokenizer, tokenizer_id(tokenizer, "<think>")));
    tokenizer_destroy(tokenizer);
    support_temp_dir_remove(dir);
}

static void a_worked_answer_is_fifteen_tokens_and_decodes_to_itself(void **state)
{
    static const char text[] = "<think>1368034925</think><answer>5</answer>";
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer = load_demo(dir, sizeof(dir));
    struct token_list list;
    char *back;
    size_t n;

    (void)state;
    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), true, &list));
    assert_int_equal(list.count, 15);
    assert_int_equal(list.ids[0], 14);
    assert_int_equal(list.ids[11], 15);
    assert_ok(tokenizer_decode(tokenizer, list.ids, list.count, true, true, &back, &n));
    assert_string_equal(back, text);
    memory_free(back);
    token_list_dispose(&list);
    tokenizer_destroy(tokenizer);
    support_temp_dir_remove(dir);
}

static void tags_in_plain_text_stay_characters(void **state)
{
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer = load_demo(dir, sizeof(dir));
    struct token_list list;

    (void)state;
    assert_ok(tokenizer_encode(tokenizer, "<think>", 7, false, &list));
    assert_int_equal(list.count, 7);
    assert_int_equal(list.n_dropped, 0);
    token_list_dispose(&list);
    tokenizer_destroy(tokenizer);
    support_temp_dir_remove(dir);
}

static void characters_without_a_token_are_dropped_and_counted(void **state)
{
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer = load_demo(dir, sizeof(dir));
    struct token_list list;

    (void)state;
    assert_ok(tokenizer_encode(tokenizer, "A1\xc3\xa9 2", 6, false, &list));
    assert_int_equal(list.count, 3);
    assert_int_equal(list.n_dropped, 2);
    token_list_dispose(&list);
    tokenizer_destroy(tokenizer);
    support_temp_dir_remove(dir);
}

static enum status attempt_write(void *dir)
{
    return demo_tokenizer_write(dir);
}

static void writing_survives_every_failed_allocation(void **state)
{
    char dir[PATH_ROOM];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    assert_true(support_fail_allocations(attempt_write, dir) > 10);
    support_temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vocabulary_has_64_tokens_and_known_ids),
        cmocka_unit_test(a_worked_answer_is_fifteen_tokens_and_decodes_to_itself),
        cmocka_unit_test(tags_in_plain_text_stay_characters),
        cmocka_unit_test(characters_without_a_token_are_dropped_and_counted),
        cmocka_unit_test(writing_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
