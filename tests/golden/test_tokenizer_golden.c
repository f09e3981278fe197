/* Ids and texts of real and small tokenizers, made with the tokenizers library 0.23
 * (golden/tokenizer/README.md of the shared data). Everything is compared exactly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/tokenizer.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define PATH_ROOM 1024
#define FILE_BYTES_MAX ((size_t)64 << 20)

struct tally {
    size_t n_rows, n_wrong;
};

static void report_wrong(struct tally *tally, const char *path, size_t line, const char *what)
{
    tally->n_wrong++;
    if (tally->n_wrong <= 5) {
        print_message("%s:%zu: %s differs\n", path, line, what);
    }
}

static bool same_ids(const struct token_list *got, const struct json *want)
{
    bool is_same = got->count == json_count(want);

    for (size_t i = 0; is_same && i < got->count; i++) {
        is_same = got->ids[i] == json_int(json_at(want, i), -1);
    }
    return is_same;
}

static bool encodes(const struct tokenizer *tokenizer, const struct json *row)
{
    const struct json *text = json_get(row, "text");
    struct token_list list;

    const struct encode_options options = {
        .parse_special = true,
        .add_special = json_bool(json_get(row, "add_special_tokens"), false)};

    if (text == NULL) {
        return true; /* a row of decode.jsonl */
    }
    assert_ok(tokenizer_encode_with(tokenizer, json_text(text, ""), json_text_bytes(text), options,
                                    &list));
    const bool is_same = same_ids(&list, json_get(row, "ids"));
    token_list_dispose(&list);
    return is_same;
}

static bool decodes(const struct tokenizer *tokenizer, const struct json *row, const char *key,
                    bool skip_special)
{
    const struct json *want = json_get(row, key);
    const struct json *ids = json_get(row, "ids");
    int32_t *list;
    char *text;
    size_t n;

    assert_ok(memory_alloc(json_count(ids), sizeof(*list), &list));
    for (size_t i = 0; i < json_count(ids); i++) {
        list[i] = (int32_t)json_int(json_at(ids, i), -1);
    }
    assert_ok(tokenizer_decode(tokenizer, list, json_count(ids), skip_special, true, &text, &n));
    const bool is_same =
        n == json_text_bytes(want) && memcmp(text, json_text(want, ""), n) == 0 && text[n] == '\0';
    memory_free(text);
    memory_free(list);
    return is_same;
}

static void check_row(const struct tokenizer *tokenizer, const char *path, size_t line,
                      const struct json *row, struct tally *tally)
{
    tally->n_rows++;
    if (!encodes(tokenizer, row)) {
        report_wrong(tally, path, line, "ids");
    }
    if (!decodes(tokenizer, row, "decoded", false)) {
        report_wrong(tally, path, line, "decoded");
    }
    if (!decodes(tokenizer, row, "decoded_skip", true)) {
        report_wrong(tally, path, line, "decoded_skip");
    }
}

static void check_file(const struct tokenizer *tokenizer, const char *path, struct tally *tally)
{
    char *text;
    size_t n;
    size_t line = 1;

    assert_ok(file_read(path, FILE_BYTES_MAX, &text, &n));
    for (char *at = text; at < text + n; line++) {
        char *end = strchr(at, '\n');
        end = end == NULL ? text + n : end;
        struct json *row;
        assert_ok(json_parse_with_nul(at, (size_t)(end - at), 16, &row));
        check_row(tokenizer, path, line, row, tally);
        json_destroy(row);
        at = end + 1;
    }
    memory_free(text);
}

static void check_real(const char *name)
{
    static const char *const files[] = {"cases", "decode", "nul"};
    char dir[PATH_ROOM], relative[PATH_ROOM], path[PATH_ROOM];
    struct tally tally = {0};
    struct tokenizer *tokenizer;

    (void)snprintf(relative, sizeof(relative), "data/%s-tokenizer", name);
    if (!support_shared_path(relative, dir, sizeof(dir))) {
        skip();
    }
    const int64_t start = clock_now_us();
    assert_ok(tokenizer_load(dir, &tokenizer));
    print_message("%s: loaded in %.0f ms\n", name, (double)(clock_now_us() - start) / 1e3);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        (void)snprintf(relative, sizeof(relative), "golden/tokenizer/%s/%s.jsonl", name, files[i]);
        assert_true(support_shared_path(relative, path, sizeof(path)));
        check_file(tokenizer, path, &tally);
    }
    tokenizer_destroy(tokenizer);
    print_message("%s: %zu rows, %zu differences\n", name, tally.n_rows, tally.n_wrong);
    assert_true(tally.n_rows > 1000);
    assert_int_equal(tally.n_wrong, 0);
}

static void deepseek_v3_ids_and_texts_are_exact(void **state)
{
    (void)state;
    check_real("deepseek-v3");
}

static void llama3_ids_and_texts_are_exact(void **state)
{
    (void)state;
    check_real("llama3");
}

static void qwen3_ids_and_texts_are_exact(void **state)
{
    (void)state;
    check_real("qwen3");
}

/* Texts whose ids a second implementation gave (model.md 13.3). */
static const struct {
    const char *text, *ids;
} known_ids[] = {
    {"hello world", "33310,2058"},
    {"Hello, world! 1234567", "19923,14,2058,3,223,6895,18009,25"},
    {"  two  spaces\n\n\tTab\r\nend  ", "223,1234,223,13564,271,200,36440,204,201,523,262"},
    {"3.14159 x=10**9", "21,16,9926,3318,1527,31,553,666,27"},
    {"DeepSeek-V3的参数量是671B。", "53091,4374,1465,13582,21,301,2294,9853,389,26612,36,320"},
    {"カタカナ・ひらがな", "15961,11767,15961,27071,4825,40259,4970,2936,2942"},
    {"naïve café Ａ１２", "2720,91223,57664,223,65503,127167"},
    {"#include <stdio.h>\nint main(){return 0;}",
     "6201,818,21968,5196,1018,650,1840,65524,3916,223,18,83256"},
    {"it's I'LL don't", "279,734,342,9,3699,2090,1664"},
    {"<｜User｜>Hi<｜Assistant｜>", "128803,23166,128804"},
    {"👍🏽 emoji", "92526,40965,124,980,82644"},
    {"a  1", "67,262,19"},
    {" \n", "539"},
};

static void deepseek_v3_gives_the_ids_of_the_specification(void **state)
{
    char dir[PATH_ROOM];
    struct tokenizer *tokenizer;

    (void)state;
    if (!support_shared_path("data/deepseek-v3-tokenizer", dir, sizeof(dir))) {
        skip();
    }
    assert_ok(tokenizer_load(dir, &tokenizer));
    for (size_t i = 0; i < sizeof(known_ids) / sizeof(known_ids[0]); i++) {
        struct token_list list;
        char got[256] = "";
        assert_ok(
            tokenizer_encode(tokenizer, known_ids[i].text, strlen(known_ids[i].text), true, &list));
        for (size_t j = 0; j < list.count; j++) {
            const size_t used = strlen(got);
            (void)snprintf(got + used, sizeof(got) - used, "%s%d", j > 0 ? "," : "", list.ids[j]);
        }
        assert_string_equal(got, known_ids[i].ids);
        token_list_dispose(&list);
    }
    tokenizer_destroy(tokenizer);
}

static void check_small(const char *name, struct tally *tally)
{
    char relative[PATH_ROOM], dir[PATH_ROOM], path[PATH_ROOM];
    struct tokenizer *tokenizer;

    (void)snprintf(relative, sizeof(relative), "golden/tokenizer/%s", name);
    assert_true(support_shared_path(relative, dir, sizeof(dir)));
    assert_ok(tokenizer_load(dir, &tokenizer));
    assert_true((size_t)snprintf(path, sizeof(path), "%s/cases.jsonl", dir) < sizeof(path));
    check_file(tokenizer, path, tally);
    tokenizer_destroy(tokenizer);
}

static void small_tokenizers_are_exact(void **state)
{
    char dir[PATH_ROOM];
    struct file_list list;
    struct tally tally = {0};
    size_t n_exact = 0;

    (void)state;
    if (!support_shared_path("golden/tokenizer", dir, sizeof(dir))) {
        skip();
    }
    assert_ok(file_list(dir, &list));
    for (size_t i = 0; i < list.count; i++) {
        if (strncmp(list.names[i], "small-", 6) == 0) {
            check_small(list.names[i], &tally);
            n_exact++;
        }
    }
    file_list_free(&list);
    print_message("small tokenizers: %zu, %zu rows, %zu differences\n", n_exact, tally.n_rows,
                  tally.n_wrong);
    assert_true(n_exact >= 34);
    assert_int_equal(tally.n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deepseek_v3_gives_the_ids_of_the_specification),
        cmocka_unit_test(deepseek_v3_ids_and_texts_are_exact),
        cmocka_unit_test(llama3_ids_and_texts_are_exact),
        cmocka_unit_test(qwen3_ids_and_texts_are_exact),
        cmocka_unit_test(small_tokenizers_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
