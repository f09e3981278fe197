/* Rows: reading, columns, answers, identity, order, encoding, and what is refused with which line.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/demo_tokenizer.h"
#include "tests/support/support.h"
#include "trainer/dataset.h"

#include <stdio.h>
#include <string.h>

#define PATH_ROOM 512

static char dir[PATH_ROOM];
static struct tokenizer *demo;

static int setup(void **state)
{
    (void)state;
    support_temp_dir(dir, sizeof(dir));
    assert_ok(demo_tokenizer_write(dir));
    assert_ok(tokenizer_load(dir, &demo));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_destroy(demo);
    support_temp_dir_remove(dir);
    return 0;
}

static void write_bytes(const char *name, const char *text, size_t n)
{
    char path[PATH_ROOM + 64];

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_ok(file_write_atomic(path, text, n));
}

/* dataset_open of DIR/name. */
static enum status open_name(const char *name, const struct dataset_options *options,
                             struct dataset **out)
{
    char path[PATH_ROOM + 64];
    char *items[] = {path};
    const struct text_list paths = {items, 1};

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    return dataset_open(&paths, options, out);
}

static struct dataset *open_text(const char *text, const struct dataset_options *options)
{
    struct dataset *dataset;

    write_bytes("rows.jsonl", text, strlen(text));
    assert_ok(open_name("rows.jsonl", options, &dataset));
    return dataset;
}

static void expect_refused(const char *text, const struct dataset_options *options,
                           enum status status, const char *message)
{
    struct dataset *dataset;

    write_bytes("rows.jsonl", text, strlen(text));
    const size_t blocks = memory_live_blocks();
    assert_status(open_name("rows.jsonl", options, &dataset), status, message);
    assert_null(dataset);
    assert_int_equal(memory_live_blocks(), blocks);
}

static void expect_row(const char *text, const char *prompt, const char *answer, const char *source)
{
    const struct dataset_options options = {0};
    struct dataset *dataset = open_text(text, &options);
    struct dataset_row row;

    assert_ok(dataset_row_read(dataset, 0, &row));
    assert_string_equal(json_text(row.prompt, "(none)"), prompt);
    assert_string_equal(json_text(row.answer, "(none)"), answer);
    assert_string_equal(row.data_source, source);
    dataset_row_dispose(&row);
    dataset_close(dataset);
}

static void columns_of_other_systems_are_found(void **state)
{
    (void)state;
    expect_row("{\"prompt\":\"p\",\"answer\":\"a\",\"data_source\":\"s\"}\n", "p", "a", "s");
    expect_row("{\"data_source\":\"gsm8k\",\"prompt\":\"p\",\"reward_model\":{\"ground_truth\":"
               "\"7\",\"style\":\"rule\"}}\n",
               "p", "7", "gsm8k");
    expect_row("{\"question\":\"q\",\"answer\":\"2 + 2\\n#### 4 \\n\"}", "q", "4", "");
    expect_row("{\"problem\":\"q\",\"solution\":\"x\",\"task\":\"math\"}", "q", "x", "math");
    expect_row("{\"input\":\"i\",\"label\":null}", "i", "(none)", "");
    expect_row("{\"query\":\"i\",\"x\":1}", "i", "(none)", "");
    expect_row("{\"input\":\"i\",\"prompt\":\"p\",\"target\":\"####\"}", "p", "", "");
}

static void the_byte_order_mark_crlf_and_blank_lines_do_not_matter(void **state)
{
    const struct dataset_options options = {0};
    struct dataset *dataset =
        open_text("\xef\xbb\xbf{\"prompt\":\"a\"}\r\n\r\n  \n{\"prompt\":\"b\"}", &options);
    struct dataset_row row;

    (void)state;
    assert_int_equal(dataset_rows(dataset), 2);
    assert_ok(dataset_row_read(dataset, 1, &row));
    assert_string_equal(json_text(row.prompt, ""), "b");
    assert_int_equal(row.line, 4);
    dataset_row_dispose(&row);
    dataset_close(dataset);
}

static void equal_rows_have_one_identity_whatever_their_spelling(void **state)
{
    const struct dataset_options options = {0};
    struct dataset *dataset =
        open_text("{\"prompt\":\"a\",\"n\":1}\n{ \"n\": 1, \"prompt\":\"\\u0061\"}\n"
                  "{\"prompt\":\"b\",\"n\":1}\n",
                  &options);
    const struct dataset_encoding encoding = {.tokenizer = demo, .eos_id = -1};
    struct dataset_row first, second;
    struct dataset_counts counts;

    (void)state;
    assert_ok(dataset_row_read(dataset, 0, &first));
    assert_ok(dataset_row_read(dataset, 1, &second));
    assert_string_equal(first.sha, second.sha);
    dataset_row_dispose(&first);
    dataset_row_dispose(&second);
    assert_ok(dataset_prepare(dataset, &encoding, &counts));
    assert_int_equal(counts.n_duplicates, 1);
    assert_int_equal(counts.n_usable, 3);
    dataset_close(dataset);
}

static void broken_lines_are_named_by_file_line_and_column(void **state)
{
    const struct dataset_options options = {0};

    (void)state;
    expect_refused("{\"prompt\":\"a\"}\n{\"prompt\":}\n", &options, STATUS_BAD_FORMAT,
                   "rows.jsonl:2:11:");
    expect_refused("{\"prompt\":\"a\"}\n[1]\n", &options, STATUS_BAD_FORMAT, "rows.jsonl:2:1:");
    expect_refused("{\"prompt\":\"a\",\"prompt\":\"b\"}\n", &options, STATUS_BAD_FORMAT,
                   "rows.jsonl:1:");
    expect_refused("{\"prompt\":\"\xff\"}\n", &options, STATUS_BAD_FORMAT, "rows.jsonl:1:");
    expect_refused(
        "{\"prompt\":\"a\"}\n{\"prompt\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]"
        "]]]]]]]]]]]]]]]]]]}\n",
        &options, STATUS_BAD_FORMAT, "rows.jsonl:2:");
    expect_refused("\n\n", &options, STATUS_BAD_CONFIG, "no rows");
    expect_refused("", &options, STATUS_BAD_CONFIG, "no rows");
}

static void a_line_over_16_mib_is_refused(void **state)
{
    const struct dataset_options options = {0};
    const size_t n = ((size_t)16 << 20) + 1;
    struct dataset *dataset;
    char *text;

    (void)state;
    assert_ok(memory_alloc(n, 1, &text));
    for (size_t i = 0; i < n; i++) {
        text[i] = 'x';
    }
    write_bytes("long.jsonl", text, n);
    memory_free(text);
    assert_status(open_name("long.jsonl", &options, &dataset), STATUS_BAD_FORMAT,
                  "long.jsonl:1:16777217");
}

static void a_missing_column_names_the_line_and_what_is_there(void **state)
{
    const struct dataset_options plain = {0};
    const struct dataset_options given = {.prompt_key = "auto", .answer_key = "meta.gold"};
    const struct dataset_options needy = {.needs_answer = true};
    const struct dataset_options sft = {.use = DATASET_SFT};

    (void)state;
    expect_refused("{\"text\":\"a\",\"id\":1}\n", &plain, STATUS_BAD_CONFIG,
                   "rows.jsonl:1: no prompt column; looked for prompt, messages, question, "
                   "problem, input, query; columns present: text, id");
    expect_refused("{\"prompt\":\"a\"}\n{\"x\":1}\n", &plain, STATUS_BAD_CONFIG,
                   "rows.jsonl:2: no prompt column; looked for prompt; columns present: x");
    expect_refused("{\"prompt\":\"a\",\"meta\":{\"gold\":1}}\n{\"prompt\":\"b\",\"meta\":{}}\n",
                   &given, STATUS_BAD_CONFIG,
                   "rows.jsonl:2: no answer column; looked for meta.gold");
    expect_refused("{\"prompt\":\"a\"}\n", &needy, STATUS_BAD_CONFIG,
                   "rows.jsonl:1: no answer column; looked for answer, ground_truth,");
    expect_refused("{\"prompt\":\"a\"}\n", &sft, STATUS_BAD_CONFIG,
                   "rows.jsonl:1: no completion column; looked for completion");
}

static void files_of_other_kinds_are_refused_with_what_to_do(void **state)
{
    const struct dataset_options options = {0};
    struct dataset *dataset;

    (void)state;
    assert_status(open_name("a.parquet", &options, &dataset), STATUS_UNSUPPORTED, "duckdb");
    assert_status(open_name("a.jsonl.zst", &options, &dataset), STATUS_UNSUPPORTED, "unpack");
    assert_status(open_name("absent.jsonl", &options, &dataset), STATUS_IO, "absent.jsonl");
    assert_status(open_name("absent-*.jsonl", &options, &dataset), STATUS_IO, "no file matches");
}

static void a_glob_opens_files_by_name_and_each_has_its_own_keys(void **state)
{
    const struct dataset_options options = {0};
    struct dataset *dataset;
    struct dataset_row row;

    (void)state;
    write_bytes("part-2.jsonl", "{\"question\":\"b\"}\n", 17);
    write_bytes("part-1.jsonl", "{\"prompt\":\"a\"}\n", 15);
    assert_ok(open_name("part-*.jsonl", &options, &dataset));
    assert_int_equal(dataset_files(dataset), 2);
    assert_string_equal(dataset_file_at(dataset, 0).prompt_key, "prompt");
    assert_string_equal(dataset_file_at(dataset, 1).prompt_key, "question");
    assert_ok(dataset_row_read(dataset, 1, &row));
    assert_string_equal(json_text(row.prompt, ""), "b");
    dataset_row_dispose(&row);
    dataset_close(dataset);
}

static void rows_that_cannot_be_used_are_counted_by_reason(void **state)
{
    const struct dataset_options options = {0};
    struct dataset *dataset =
        open_text("{\"prompt\":\"12=\",\"answer\":\"3\"}\n{\"prompt\":\"123456=\"}\n"
                  "{\"prompt\":\" \"}\n{\"prompt\":null}\n{\"prompt\":[]}\n{\"prompt\":\"A\"}\n",
                  &options);
    const struct dataset_encoding encoding = {
        .tokenizer = demo, .eos_id = -1, .max_prompt_length = 5};
    struct dataset_counts counts;
    char text[256];

    (void)state;
    assert_ok(dataset_prepare(dataset, &encoding, &counts));
    assert_int_equal(counts.n_rows, 6);
    assert_int_equal(counts.n_usable, 1);
    assert_int_equal(counts.n_too_long, 1);
    assert_int_equal(counts.n_empty, 3);
    assert_int_equal(counts.n_unencodable, 1);
    assert_int_equal(counts.n_without_answer, 5);
    assert_int_equal(counts.longest_prompt, 8);
    assert_string_equal(dataset_counts_text(&counts, text, sizeof(text)),
                        "6 rows, 1 usable, 1 too long, 3 empty, 1 with characters the tokenizer "
                        "lacks, 5 without answer (kept)");
    assert_int_equal(dataset_row_at(dataset, 1, 12345, true), 0);
    dataset_close(dataset);
}

static void nothing_usable_says_how_many_were_what(void **state)
{
    const struct dataset_options options = {0};
    struct dataset *dataset = open_text("{\"prompt\":\"123\"}\n{\"prompt\":\"\"}\n", &options);
    const struct dataset_encoding encoding = {
        .tokenizer = demo, .eos_id = -1, .max_prompt_length = 2};
    struct dataset_counts counts;

    (void)state;
    assert_status(dataset_prepare(dataset, &encoding, &counts), STATUS_BAD_CONFIG,
                  "no usable rows: 2 rows, 0 usable, 1 too long, 1 empty, 2 without answer (kept) "
                  "(longest prompt 4 tokens, max_prompt_length 2)");
    dataset_close(dataset);
    dataset = open_text("{\"prompt\":\"1\"}\n{\"prompt\":7}\n", &options);
    assert_status(dataset_prepare(dataset, &encoding, &counts), STATUS_BAD_FORMAT, "rows.jsonl:2:");
    dataset_close(dataset);
}

static void an_epoch_is_a_permutation_and_the_next_one_another(void **state)
{
    const struct dataset_options options = {0};
    const struct dataset_encoding encoding = {.tokenizer = demo, .eos_id = -1};
    char text[2000] = "";
    struct dataset_counts counts;
    size_t n_same = 0;

    (void)state;
    for (int i = 0; i < 50; i++) {
        const size_t used = strlen(text);
        (void)snprintf(text + used, sizeof(text) - used, "{\"prompt\":\"%d\"}\n", i);
    }
    struct dataset *dataset = open_text(text, &options);
    assert_ok(dataset_prepare(dataset, &encoding, &counts));
    unsigned seen[50] = {0};
    for (uint64_t cursor = 0; cursor < 50; cursor++) {
        const size_t row = dataset_row_at(dataset, 7, cursor, true);
        seen[row]++;
        n_same += row == dataset_row_at(dataset, 7, cursor + 50, true) ? 1 : 0;
        assert_int_equal(dataset_row_at(dataset, 7, cursor + 100, false), cursor);
    }
    for (size_t i = 0; i < 50; i++) {
        assert_int_equal(seen[i], 1);
    }
    assert_true(n_same < 10);
    dataset_close(dataset);
}

static void an_example_is_prompt_completion_and_eos(void **state)
{
    const struct dataset_options options = {.use = DATASET_SFT};
    struct dataset *dataset =
        open_text("{\"prompt\":\"<think>=\",\"completion\":\"<answer>7</answer>\"}\n"
                  "{\"prompt\":\"1\",\"completion\":[{\"role\":\"assistant\",\"content\":\"2\"}]}\n"
                  "{\"prompt\":\"1\",\"completion\":\"\"}\n",
                  &options);
    const struct dataset_encoding encoding = {.tokenizer = demo, .eos_id = -1};
    struct dataset_counts counts;
    struct dataset_row row;
    struct dataset_example example;

    (void)state;
    assert_ok(dataset_prepare(dataset, &encoding, &counts));
    assert_int_equal(counts.n_usable, 2);
    assert_int_equal(counts.n_empty, 1);
    assert_int_equal(counts.longest_total, 13);
    assert_ok(dataset_row_read(dataset, 0, &row));
    assert_ok(dataset_encode_example(dataset, &row, &example));
    assert_int_equal(example.n_prompt, 9); /* BOS, 7 characters of text, "=" */
    assert_int_equal(example.tokens.count, 13);
    assert_int_equal(example.tokens.ids[9], tokenizer_id(demo, "<answer>"));
    assert_int_equal(example.tokens.ids[12], tokenizer_eos(demo));
    dataset_example_dispose(&example);
    dataset_row_dispose(&row);
    dataset_close(dataset);
}

static void a_nul_in_a_row_is_text(void **state)
{
    const struct dataset_options options = {0};
    struct dataset *dataset = open_text("{\"prompt\":\"a\\u0000b\"}\n", &options);
    struct dataset_row row;

    (void)state;
    assert_ok(dataset_row_read(dataset, 0, &row));
    assert_int_equal(json_text_bytes(row.prompt), 3);
    dataset_row_dispose(&row);
    dataset_close(dataset);
}

static enum status attempt_use(void *context)
{
    const struct dataset_options options = {.use = DATASET_SFT, .answer_key = "answer"};
    const struct dataset_encoding encoding = {
        .tokenizer = demo, .eos_id = -1, .system_prompt = "s"};
    struct dataset *dataset;
    struct dataset_counts counts;

    TRY(open_name(context, &options, &dataset));
    const enum status status = dataset_prepare(dataset, &encoding, &counts);
    dataset_close(dataset);
    return status;
}

static void opening_and_preparing_survive_every_failed_allocation(void **state)
{
    static const char text[] = "{\"prompt\":\"1\",\"completion\":\"2\",\"answer\":\"#### 3\"}\n";
    char name[] = "rows.jsonl";

    (void)state;
    write_bytes(name, text, strlen(text));
    assert_true(support_fail_allocations(attempt_use, name) > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_of_other_systems_are_found),
        cmocka_unit_test(the_byte_order_mark_crlf_and_blank_lines_do_not_matter),
        cmocka_unit_test(equal_rows_have_one_identity_whatever_their_spelling),
        cmocka_unit_test(broken_lines_are_named_by_file_line_and_column),
        cmocka_unit_test(a_line_over_16_mib_is_refused),
        cmocka_unit_test(a_missing_column_names_the_line_and_what_is_there),
        cmocka_unit_test(files_of_other_kinds_are_refused_with_what_to_do),
        cmocka_unit_test(a_glob_opens_files_by_name_and_each_has_its_own_keys),
        cmocka_unit_test(rows_that_cannot_be_used_are_counted_by_reason),
        cmocka_unit_test(nothing_usable_says_how_many_were_what),
        cmocka_unit_test(an_epoch_is_a_permutation_and_the_next_one_another),
        cmocka_unit_test(an_example_is_prompt_completion_and_eos),
        cmocka_unit_test(a_nul_in_a_row_is_text),
        cmocka_unit_test(opening_and_preparing_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
