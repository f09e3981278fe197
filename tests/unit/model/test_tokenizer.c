/* The tokenizer on small files written here: what is computed, what is refused, what it costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "model/tokenizer.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define PATH_ROOM 512
#define TEXT_ROOM 8192
#define BYTE_LEVEL                                                                                 \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false,"                      \
    "\"trim_offsets\":true}"
#define SPLIT(pattern)                                                                             \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"        \
    "\"" pattern "\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL "]}"

#define METASPACE(scheme)                                                                          \
    "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"" scheme                   \
    "\",\"split\":true}"

/* Parts of a tokenizer.json; NULL takes the ordinary one. */
struct parts {
    const char *vocab, *merges, *added, *normalizer, *pre_tokenizer, *decoder, *model_extra;
};

static const char *or_else(const char *text, const char *fallback)
{
    return text == NULL ? fallback : text;
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[PATH_ROOM + 64];

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_ok(file_write_atomic(path, text, strlen(text)));
}

static void write_parts(const char *dir, struct parts p)
{
    char text[TEXT_ROOM];
    const char *vocab = or_else(p.vocab, "{\"a\":0,\"b\":1,\"ab\":2,\"aba\":3,\"\\u0120\":4}");
    const int n = snprintf(
        text, sizeof(text),
        "{\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":null,"
        "\"decoder\":%s,\"model\":{\"type\":\"BPE\",%s\"vocab\":%s,\"merges\":%s}}",
        or_else(p.added, "[]"), or_else(p.normalizer, "null"), or_else(p.pre_tokenizer, BYTE_LEVEL),
        or_else(p.decoder, BYTE_LEVEL), or_else(p.model_extra, ""), vocab,
        or_else(p.merges, "[\"a b\",[\"ab\",\"a\"]]"));

    assert_true(n > 0 && (size_t)n < sizeof(text));
    write_file(dir, "tokenizer.json", text);
}

static void expect_load(struct parts p, enum status status, const char *message)
{
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer;

    support_temp_dir(dir, sizeof(dir));
    write_parts(dir, p);
    if (status == STATUS_OK) {
        assert_ok(tokenizer_load(dir, &tokenizer));
        tokenizer_destroy(tokenizer);
    } else {
        const size_t blocks = memory_live_blocks();
        assert_status(tokenizer_load(dir, &tokenizer), status, message);
        assert_null(tokenizer);
        assert_int_equal(memory_live_blocks(), blocks);
    }
    support_temp_dir_remove(dir);
}

static struct tokenizer *load_parts(struct parts p)
{
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer;

    support_temp_dir(dir, sizeof(dir));
    write_parts(dir, p);
    assert_ok(tokenizer_load(dir, &tokenizer));
    support_temp_dir_remove(dir);
    return tokenizer;
}

static void expect_ids(const struct tokenizer *tokenizer, const char *text, bool parse_special,
                       const char *want)
{
    struct token_list list;
    char got[512] = "";

    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), parse_special, &list));
    for (size_t i = 0; i < list.count; i++) {
        const size_t used = strlen(got);
        (void)snprintf(got + used, sizeof(got) - used, "%s%d", i > 0 ? "," : "", list.ids[i]);
    }
    token_list_dispose(&list);
    assert_string_equal(got, want);
}

static void the_lowest_rank_merges_first_and_leftmost_among_equals(void **state)
{
    struct tokenizer *tokenizer = load_parts((struct parts){0});

    (void)state;
    expect_ids(tokenizer, "", false, "");
    expect_ids(tokenizer, "ab", false, "2");
    expect_ids(tokenizer, "aba", false, "3");
    expect_ids(tokenizer, "abab", false, "2,2"); /* "a b" outranks "ab a" */
    expect_ids(tokenizer, "baab", false, "1,0,2");
    expect_ids(tokenizer, "ab a", false, "2,4,0");
    tokenizer_destroy(tokenizer);
}

static void ignore_merges_takes_entries_that_no_merge_reaches(void **state)
{
    const struct parts p = {.vocab = "{\"a\":0,\"b\":1,\"ba\":2}", .merges = "[]"};
    struct parts ignoring = p;
    struct tokenizer *tokenizer = load_parts(p);

    (void)state;
    expect_ids(tokenizer, "ba", false, "1,0");
    expect_ids(tokenizer, "ba", false, "1,0"); /* the second time the answer is remembered */
    tokenizer_destroy(tokenizer);
    ignoring.model_extra = "\"ignore_merges\":true,";
    tokenizer = load_parts(ignoring);
    expect_ids(tokenizer, "ba", false, "2");
    tokenizer_destroy(tokenizer);
}

static void an_added_token_is_never_given_for_plain_text(void **state)
{
    const struct parts p = {.vocab = "{\"<\":0,\"x\":1,\">\":2,\"<x>\":3}",
                            .merges = "[]",
                            .added = "[{\"id\":3,\"content\":\"<x>\",\"normalized\":false}]",
                            .model_extra = "\"ignore_merges\":true,"};
    struct tokenizer *tokenizer = load_parts(p);

    (void)state;
    expect_ids(tokenizer, "<x>", true, "3");
    expect_ids(tokenizer, "<x>", false, "0,1,2");
    tokenizer_destroy(tokenizer);
}

static void a_long_run_takes_no_quadratic_time(void **state)
{
    struct tokenizer *tokenizer = load_parts((struct parts){0});
    const size_t n = 2000000;
    struct token_list list;
    char *text;

    (void)state;
    assert_ok(memory_alloc(n, 1, &text));
    for (size_t i = 0; i < n; i++) {
        text[i] = i % 2 == 0 ? 'a' : 'b';
    }
    const int64_t start = clock_now_us();
    assert_ok(tokenizer_encode(tokenizer, text, n, false, &list));
    assert_true(clock_now_us() - start < 5000000);
    assert_int_equal(list.count, n / 2);
    token_list_dispose(&list);
    memory_free(text);
    tokenizer_destroy(tokenizer);
}

static void long_and_short_pieces_merge_alike(void **state)
{
    struct tokenizer *tokenizer = load_parts((struct parts){0});
    char text[200];

    (void)state;
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (i * i / 3) % 5 < 3 ? 'a' : 'b';
    }
    for (size_t n = 1; n <= sizeof(text); n++) {
        struct token_list list;
        char *back;
        size_t n_back;
        assert_ok(tokenizer_encode(tokenizer, text, n, false, &list));
        assert_ok(tokenizer_decode(tokenizer, list.ids, list.count, false, false, &back, &n_back));
        assert_int_equal(n_back, n);
        assert_int_equal(memcmp(back, text, n), 0);
        for (size_t i = 0; i + 1 < list.count; i++) {
            assert_false(list.ids[i] == 0 && list.ids[i + 1] == 1); /* no rule is left over */
        }
        memory_free(back);
        token_list_dispose(&list);
    }
    tokenizer_destroy(tokenizer);
}

static void broken_utf8_is_repaired_on_the_way_in(void **state)
{
    struct tokenizer *tokenizer = load_parts((struct parts){
        .vocab = "{\"a\":0,\"\xc3\xaf\":1,\"\xc2\xbf\":2,\"\xc2\xbd\":3}", .merges = "[]"});

    (void)state;
    expect_ids(tokenizer, "a\xff", false, "0,1,2,3"); /* U+FFFD is EF BF BD */
    tokenizer_destroy(tokenizer);
}

static void files_that_are_damaged_are_refused(void **state)
{
    (void)state;
    expect_load((struct parts){.merges = "[\"a c\"]"}, STATUS_BAD_FORMAT, "merge 0");
    expect_load((struct parts){.merges = "[\"b a\"]"}, STATUS_BAD_FORMAT, "what they make");
    expect_load((struct parts){.merges = "[\"ab\"]"}, STATUS_BAD_FORMAT, "not a pair");
    expect_load((struct parts){.merges = "[\"a b a\"]"}, STATUS_BAD_FORMAT, "not a pair");
    expect_load((struct parts){.merges = "[[\"\",\"a\"]]"}, STATUS_BAD_FORMAT, "not a pair");
    expect_load((struct parts){.merges = "[1]"}, STATUS_BAD_FORMAT, "not a pair");
    expect_load((struct parts){.merges = "{}"}, STATUS_BAD_FORMAT, "model.merges");
    expect_load((struct parts){.vocab = "{\"a\":0,\"b\":0}", .merges = "[]"}, STATUS_BAD_FORMAT,
                "both have id 0");
    expect_load((struct parts){.vocab = "{\"a\":-1}", .merges = "[]"}, STATUS_BAD_FORMAT, "id");
    expect_load((struct parts){.vocab = "{\"a\":1048576}", .merges = "[]"}, STATUS_BAD_FORMAT,
                "1048575");
    expect_load((struct parts){.vocab = "{\"a\":\"0\"}", .merges = "[]"}, STATUS_BAD_FORMAT, "id");
    expect_load((struct parts){.vocab = "{\"a\":0,\"a\":1}", .merges = "[]"}, STATUS_BAD_FORMAT,
                "tokenizer.json");
    expect_load((struct parts){.vocab = "[]"}, STATUS_BAD_FORMAT, "model.vocab");
    expect_load((struct parts){.added = "[{\"id\":1,\"content\":\"<x>\"}]"}, STATUS_BAD_FORMAT,
                "both have id 1");
    expect_load((struct parts){.added = "[{\"id\":9}]"}, STATUS_BAD_FORMAT, "no content");
    expect_load((struct parts){.model_extra = "\"unk_token\":\"?\","}, STATUS_BAD_FORMAT,
                "unk_token");
    expect_load((struct parts){.pre_tokenizer = "{\"type\":\"Metaspace\"}"}, STATUS_BAD_FORMAT,
                "replacement");
    expect_load((struct parts){.normalizer = "{\"type\":\"Replace\",\"content\":\"\"}"},
                STATUS_BAD_FORMAT, "no pattern");
    expect_load((struct parts){.decoder = "{\"type\":\"Strip\",\"content\":\"ab\"}"},
                STATUS_BAD_FORMAT, "Strip");
}

static void components_that_are_not_computed_are_refused_by_name(void **state)
{
    (void)state;
    expect_load((struct parts){.normalizer = "{\"type\":\"Precompiled\"}"}, STATUS_UNSUPPORTED,
                "normalizer Precompiled");
    expect_load((struct parts){.pre_tokenizer = "{\"type\":\"Whitespace\"}"}, STATUS_UNSUPPORTED,
                "pre_tokenizer Whitespace");
    expect_load((struct parts){.decoder = "{\"type\":\"WordPiece\"}"}, STATUS_UNSUPPORTED,
                "decoder WordPiece");
    expect_load((struct parts){.model_extra = "\"byte_fallback\":true,"}, STATUS_UNSUPPORTED,
                "byte_fallback");
    expect_load(
        (struct parts){.normalizer = "{\"type\":\"Strip\"}", .pre_tokenizer = METASPACE("first")},
        STATUS_UNSUPPORTED, "first");
    expect_load((struct parts){.pre_tokenizer = METASPACE("last")}, STATUS_UNSUPPORTED, "last");
    expect_load((struct parts){.pre_tokenizer = SPLIT("[a&&b]")}, STATUS_UNSUPPORTED, "&&");
    expect_load((struct parts){.pre_tokenizer = SPLIT("\\\\w+")}, STATUS_UNSUPPORTED, "\\w");
    expect_load((struct parts){.pre_tokenizer = SPLIT("(?R)")}, STATUS_UNSUPPORTED, "group");
    expect_load((struct parts){.pre_tokenizer = SPLIT("(*LIMIT_MATCH=1)a")}, STATUS_UNSUPPORTED,
                "(*");
    expect_load((struct parts){.pre_tokenizer = SPLIT("a{1,2}+")}, STATUS_UNSUPPORTED,
                "repetition");
    expect_load((struct parts){.pre_tokenizer = SPLIT("(a")}, STATUS_UNSUPPORTED, "pattern");
    expect_load((struct parts){.pre_tokenizer = SPLIT("\\\\p{L}+|[^\\\\s]")}, STATUS_OK, NULL);
}

/* A vocabulary of characters: words begin with a low line, others are bytes or unknown. */
static const struct parts text_parts = {
    .vocab = "{\"?\":0,\"_\":1,\"a\":2,\"_a\":3,\"<0xC3>\":4,\"<0xA4>\":5}",
    .merges = "[\"_ a\"]",
    .added = "[{\"id\":9,\"content\":\"<x>\",\"normalized\":false}]",
    .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
                  "{\"type\":\"Lowercase\"}]}",
    .pre_tokenizer = METASPACE("first"),
    .decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
               "{\"String\":\"_\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
               "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,"
               "\"stop\":0}]}",
    .model_extra = "\"unk_token\":\"?\",\"byte_fallback\":true,\"fuse_unk\":true,"};

static void characters_without_a_token_are_bytes_or_unknown(void **state)
{
    static const int32_t broken[] = {1, 2, 4};
    struct tokenizer *tokenizer = load_parts(text_parts);
    char *text;
    size_t n;

    (void)state;
    expect_ids(tokenizer, "a A", true, "3,3");
    expect_ids(tokenizer,
               "a\xc3\xa4zz\xe2\x82\xac"
               "a",
               true, "3,4,5,0,2");
    assert_ok(tokenizer_decode(tokenizer, broken, 3, false, true, &text, &n));
    assert_string_equal(text, "a\xEF\xBF\xBD");
    memory_free(text);
    assert_ok(tokenizer_decode(tokenizer, broken, 3, false, false, &text, &n));
    assert_string_equal(text, "a\xC3");
    memory_free(text);
    tokenizer_destroy(tokenizer);
}

static void only_the_first_word_of_all_is_marked(void **state)
{
    struct tokenizer *tokenizer = load_parts(text_parts);
    struct token_list list;

    (void)state;
    expect_ids(tokenizer, "a<x>a", true, "3,9,2");
    expect_ids(tokenizer, "<x>a", true, "9,2");
    assert_ok(tokenizer_encode_with(tokenizer, "a", 1,
                                    (struct encode_options){.is_continued = true}, &list));
    assert_int_equal(list.count, 1);
    assert_int_equal(list.ids[0], 2);
    token_list_dispose(&list);
    tokenizer_destroy(tokenizer);
}

static void the_config_gives_bos_and_eos_and_survives_huge_integers(void **state)
{
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    write_parts(dir, (struct parts){.added = "[{\"id\":7,\"content\":\"<s>\",\"special\":true}]"});
    write_file(dir, "tokenizer_config.json",
               "{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"ab\","
               "\"model_max_length\":1000000000000000019884624838656,\"x\":1.5e3}");
    assert_ok(tokenizer_load(dir, &tokenizer));
    assert_int_equal(tokenizer_vocab_size(tokenizer), 8);
    assert_int_equal(tokenizer_bos(tokenizer), 7);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_true(tokenizer_adds_bos(tokenizer));
    tokenizer_destroy(tokenizer);
    write_file(dir, "tokenizer_config.json", "{\"add_bos_token\":true}");
    assert_status(tokenizer_load(dir, &tokenizer), STATUS_BAD_FORMAT, "bos_token");
    support_temp_dir_remove(dir);
    assert_status(tokenizer_load(dir, &tokenizer), STATUS_IO, "tokenizer.json");
}

static void unknown_ids_decode_to_nothing(void **state)
{
    const int32_t ids[] = {0, -5, 99, 5, 2};
    struct tokenizer *tokenizer =
        load_parts((struct parts){.added = "[{\"id\":6,\"content\":\"!\"}]"});
    char *text;
    size_t n;

    (void)state;
    assert_ok(tokenizer_decode(tokenizer, ids, 5, false, true, &text, &n));
    assert_string_equal(text, "aab");
    memory_free(text);
    tokenizer_destroy(tokenizer);
}

struct load_attempt {
    char dir[PATH_ROOM];
};

static enum status attempt_load(void *context)
{
    const struct load_attempt *attempt = context;
    struct tokenizer *tokenizer;
    struct token_list list = {0};
    char *text = NULL;
    size_t n;

    TRY(tokenizer_load(attempt->dir, &tokenizer));
    enum status status = tokenizer_encode(tokenizer, "aba <x> \xc3\xa4", 10, true, &list);
    if (status == STATUS_OK) {
        status = tokenizer_decode(tokenizer, list.ids, list.count, false, true, &text, &n);
    }
    memory_free(text);
    token_list_dispose(&list);
    tokenizer_destroy(tokenizer);
    return status;
}

static void loading_and_encoding_survive_every_failed_allocation(void **state)
{
    struct load_attempt attempt;

    (void)state;
    support_temp_dir(attempt.dir, sizeof(attempt.dir));
    write_parts(attempt.dir, (struct parts){.added = "[{\"id\":7,\"content\":\"<x>\"}]",
                                            .normalizer = "{\"type\":\"NFC\"}",
                                            .pre_tokenizer = SPLIT("\\\\p{L}+")});
    assert_true(support_fail_allocations(attempt_load, &attempt) > 20);
    write_parts(attempt.dir, text_parts);
    assert_true(support_fail_allocations(attempt_load, &attempt) > 20);
    support_temp_dir_remove(attempt.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_rank_merges_first_and_leftmost_among_equals),
        cmocka_unit_test(ignore_merges_takes_entries_that_no_merge_reaches),
        cmocka_unit_test(an_added_token_is_never_given_for_plain_text),
        cmocka_unit_test(a_long_run_takes_no_quadratic_time),
        cmocka_unit_test(long_and_short_pieces_merge_alike),
        cmocka_unit_test(broken_utf8_is_repaired_on_the_way_in),
        cmocka_unit_test(files_that_are_damaged_are_refused),
        cmocka_unit_test(components_that_are_not_computed_are_refused_by_name),
        cmocka_unit_test(characters_without_a_token_are_bytes_or_unknown),
        cmocka_unit_test(only_the_first_word_of_all_is_marked),
        cmocka_unit_test(the_config_gives_bos_and_eos_and_survives_huge_integers),
        cmocka_unit_test(unknown_ids_decode_to_nothing),
        cmocka_unit_test(loading_and_encoding_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
