/* Chat templates: the rendered conversations of golden/tokenizer/templates.jsonl of the shared data
 * (its README says what made them), and that no text of a row becomes an added token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text_buffer.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "model/tokenizer_config.h"
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

/* --- Rendering --- */

/* A template of templates.jsonl: the name it has here, and whose tokenizer it is encoded with. */
struct template_case {
    const char *name, *own_name, *tokenizer;
    bool is_published; /* the tokenizer's folder has its text, which is interpreted as well */
    size_t n_rows;
};

/* Marker-like text in a message, which stays text in ids and is a marker to who encodes the whole.
 */
static bool has_marker_text(const struct json *row)
{
    const struct json *messages = json_get(row, "messages");

    for (size_t i = 0; i < json_count(messages); i++) {
        const char *content = json_text(json_get(json_at(messages, i), "content"), "");
        if (strstr(content, "｜") != NULL || strstr(content, "<|") != NULL ||
            strstr(content, "think>") != NULL || strstr(content, "<tool") != NULL) {
            return true;
        }
    }
    return false;
}

static void render_row(const struct tokenizer *tokenizer, enum chat_template chat,
                       const struct json *row, struct chat_prompt *out)
{
    const struct chat_options options = {
        .variables = row,
        .tools = json_get(row, "tools"),
        .is_closed = true,
        .asks_for_answer = json_bool(json_get(row, "add_generation_prompt"), false)};

    assert_ok(chat_encode_with(tokenizer, chat, json_get(row, "messages"), &options, out));
}

static bool is_rendered(const struct tokenizer *tokenizer, enum chat_template chat,
                        const struct json *row)
{
    const struct json *want = json_get(row, "text");
    struct chat_prompt out;
    struct token_list whole;
    bool is_same;

    render_row(tokenizer, chat, row, &out);
    is_same = out.text_bytes == json_text_bytes(want) &&
              memcmp(out.text, json_text(want, ""), out.text_bytes) == 0;
    if (!has_marker_text(row)) {
        assert_ok(tokenizer_encode(tokenizer, out.text, out.text_bytes, true, &whole));
        is_same = is_same && whole.count == out.ids.count &&
                  memcmp(whole.ids, out.ids.ids, whole.count * sizeof(*whole.ids)) == 0;
        token_list_dispose(&whole);
    }
    chat_prompt_dispose(&out);
    return is_same;
}

static void check_rows(const struct tokenizer *tokenizer, enum chat_template chat, const char *text,
                       struct template_case *item, struct tally *tally)
{
    size_t line = 1;

    item->n_rows = 0;
    for (const char *at = text; *at != '\0'; line++) {
        const char *end = strchr(at, '\n');
        struct json *row;
        assert_non_null(end);
        assert_ok(json_parse(at, (size_t)(end - at), 16, &row));
        at = end + 1;
        if (strcmp(json_text(json_get(row, "template"), ""), item->name) == 0) {
            item->n_rows++;
            tally->n_rows++;
            if (!is_rendered(tokenizer, chat, row)) {
                report_wrong(tally, "templates.jsonl", line, item->name);
            }
        }
        json_destroy(row);
    }
}

/* The folder's template as a file of its own, so that it is interpreted. */
static void write_template(const char *dir, const char *path)
{
    struct json *config;

    assert_ok(tokenizer_config_load(dir, &config));
    const struct json *template = json_get(config, "chat_template");
    assert_ok(file_write_atomic(path, json_text(template, ""), json_text_bytes(template)));
    json_destroy(config);
}

static void check_template(struct template_case *item, const char *rows, const char *temp,
                           struct tally tallies[2])
{
    char relative[PATH_ROOM], dir[PATH_ROOM], path[PATH_ROOM];
    struct tokenizer *tokenizer;
    enum chat_template chat;

    (void)snprintf(relative, sizeof(relative), "data/%s-tokenizer", item->tokenizer);
    assert_true(support_shared_path(relative, dir, sizeof(dir)));
    assert_ok(tokenizer_load(dir, &tokenizer));
    assert_ok(chat_template_open(item->own_name, dir, tokenizer, &chat));
    check_rows(tokenizer, chat, rows, item, &tallies[0]);
    if (item->is_published) {
        assert_true((size_t)snprintf(path, sizeof(path), "%s/own.jinja", temp) < sizeof(path));
        write_template(dir, path);
        assert_ok(chat_template_open(path, dir, tokenizer, &chat));
        assert_int_equal(chat, CHAT_TEMPLATE_JINJA);
        check_rows(tokenizer, chat, rows, item, &tallies[1]);
    }
    tokenizer_destroy(tokenizer);
}

static void every_rendered_conversation_is_exact(void **state)
{
    struct template_case cases[] = {
        {.name = "deepseek-v3",
         .own_name = "auto",
         .tokenizer = "deepseek-v3",
         .is_published = true},
        {.name = "deepseek-v3-0324", .own_name = "deepseek-v3-0324", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-v3.1", .own_name = "deepseek-v3.1", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1", .own_name = "deepseek-r1", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1-first", .own_name = "deepseek-r1-first", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1-0528", .own_name = "deepseek-r1-0528", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1-distill",
         .own_name = "deepseek-r1-distill",
         .tokenizer = "deepseek-v3"},
        {.name = "llama3", .own_name = "auto", .tokenizer = "llama3", .is_published = true},
        {.name = "qwen3", .own_name = "auto", .tokenizer = "qwen3", .is_published = true},
    };
    char path[PATH_ROOM], temp[PATH_ROOM];
    struct tally tallies[2] = {{0}};
    char *text;
    size_t n;

    (void)state;
    if (!support_shared_path("golden/tokenizer/templates.jsonl", path, sizeof(path))) {
        skip();
    }
    support_temp_dir(temp, sizeof(temp));
    assert_ok(file_read(path, FILE_BYTES_MAX, &text, &n));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_template(&cases[i], text, temp, tallies);
        assert_true(cases[i].n_rows >= 80);
    }
    memory_free(text);
    support_temp_dir_remove(temp);
    print_message("templates: %zu rows by name, %zu interpreted, %zu and %zu differences\n",
                  tallies[0].n_rows, tallies[1].n_rows, tallies[0].n_wrong, tallies[1].n_wrong);
    assert_int_equal(tallies[0].n_rows, 772);
    assert_int_equal(tallies[1].n_rows, 260);
    assert_int_equal(tallies[0].n_wrong + tallies[1].n_wrong, 0);
}

/* --- Injection --- */

/* Every added token of the tokenizer, one behind the other. */
static struct json *all_added_tokens(const struct json *added)
{
    struct text_buffer text = {0};

    for (size_t i = 0; i < json_count(added); i++) {
        const struct json *content = json_get(json_at(added, i), "content");
        assert_ok(text_buffer_put(&text, json_text(content, ""), json_text_bytes(content)));
        assert_ok(text_buffer_put(&text, " x", i % 2 == 0 ? 0 : 2));
    }
    struct json *all = json_from_text(text.bytes, text.count);
    text_buffer_dispose(&text);
    return all;
}

static void count_ids(const struct token_list *list, size_t *counts, size_t n)
{
    for (size_t i = 0; i < list->count; i++) {
        assert_true((size_t)list->ids[i] < n);
        counts[list->ids[i]]++;
    }
}

/* A prompt of all added tokens has as many of each as the same template gives to a harmless one. */
static void expect_no_injection(struct tokenizer *tokenizer, const struct json *added,
                                const char *dir, const char *name)
{
    const size_t n = tokenizer_vocab_size(tokenizer);
    struct json *prompts[] = {all_added_tokens(added), json_from_text("x", 1)};
    size_t *counts[2];
    enum chat_template chat;

    assert_ok(chat_template_open(name, dir, tokenizer, &chat));
    for (size_t i = 0; i < 2; i++) {
        struct chat_prompt out;
        assert_ok(memory_alloc(n, sizeof(**counts), &counts[i]));
        assert_ok(chat_encode(tokenizer, chat, prompts[i], json_text(prompts[i], ""), false, &out));
        count_ids(&out.ids, counts[i], n);
        chat_prompt_dispose(&out);
        json_destroy(prompts[i]);
    }
    for (size_t i = 0; i < json_count(added); i++) {
        const char *content = json_text(json_get(json_at(added, i), "content"), "");
        const int32_t id = tokenizer_id(tokenizer, content);
        /* "à" and its like are ordinary characters as well */
        if (strlen(content) > 2 && counts[0][id] != counts[1][id]) {
            fail_msg("%s: %s came out of data", name, content);
        }
    }
    memory_free(counts[0]);
    memory_free(counts[1]);
}

static void check_injection(const char *tokenizer_name, const char *const *names, size_t n_names)
{
    char relative[PATH_ROOM], dir[PATH_ROOM], path[PATH_ROOM];
    struct tokenizer *tokenizer;
    struct json *file;

    (void)snprintf(relative, sizeof(relative), "data/%s-tokenizer", tokenizer_name);
    assert_true(support_shared_path(relative, dir, sizeof(dir)));
    (void)snprintf(relative, sizeof(relative), "data/%s-tokenizer/tokenizer.json", tokenizer_name);
    assert_true(support_shared_path(relative, path, sizeof(path)));
    assert_ok(tokenizer_load(dir, &tokenizer));
    assert_ok(json_load(path, FILE_BYTES_MAX, 64, &file));
    for (size_t i = 0; i < n_names; i++) {
        expect_no_injection(tokenizer, json_get(file, "added_tokens"), dir, names[i]);
    }
    json_destroy(file);
    tokenizer_destroy(tokenizer);
}

static void no_added_token_in_a_row_becomes_its_id(void **state)
{
    static const char template[] = "{{ bos_token }}{% for m in messages %}{{ m.content }}|"
                                   "{% endfor %}{{ eos_token }}";
    char temp[PATH_ROOM], path[PATH_ROOM];

    (void)state;
    if (!support_shared_path("golden/tokenizer/templates.jsonl", path, sizeof(path))) {
        skip();
    }
    support_temp_dir(temp, sizeof(temp));
    assert_true((size_t)snprintf(path, sizeof(path), "%s/own.jinja", temp) < sizeof(path));
    assert_ok(file_write_atomic(path, template, sizeof(template) - 1));
    const char *const deepseek[] = {"deepseek-v3", "deepseek-v2", "deepseek-v3.1",
                                    "deepseek-r1", "raw",         path};
    const char *const llama[] = {"llama-3", "raw", path};
    const char *const qwen[] = {"qwen3", "chatml", path};
    check_injection("deepseek-v3", deepseek, 6);
    check_injection("llama3", llama, 3);
    check_injection("qwen3", qwen, 3);
    support_temp_dir_remove(temp);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rendered_conversation_is_exact),
        cmocka_unit_test(no_added_token_in_a_row_becomes_its_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
