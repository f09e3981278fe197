/* Chat templates: the choice by digest, rendered texts of golden/tokenizer/templates.jsonl, and
 * that text from data never becomes a marker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/chat_template.h"
#include "model/demo_tokenizer.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define PATH_ROOM 1024

static struct tokenizer *v3; /* NULL without the shared data */
static struct tokenizer *demo;
static char demo_dir[PATH_ROOM];
static char v3_dir[PATH_ROOM];

static int load_both(void **state)
{
    (void)state;
    support_temp_dir(demo_dir, sizeof(demo_dir));
    assert_ok(demo_tokenizer_write(demo_dir));
    assert_ok(tokenizer_load(demo_dir, &demo));
    if (support_shared_path("data/deepseek-v3-tokenizer", v3_dir, sizeof(v3_dir))) {
        assert_ok(tokenizer_load(v3_dir, &v3));
    }
    return 0;
}

static int drop_both(void **state)
{
    (void)state;
    tokenizer_destroy(v3);
    tokenizer_destroy(demo);
    support_temp_dir_remove(demo_dir);
    return 0;
}

static struct json *parse(const char *text)
{
    struct json *value;

    assert_ok(json_parse(text, strlen(text), 16, &value));
    return value;
}

/* chat_encode of JSON text. */
static enum status encode(const struct tokenizer *tokenizer, enum chat_template chat,
                          const char *text, const char *system_prompt, struct chat_prompt *out)
{
    struct json *prompt = parse(text);
    const enum status status = chat_encode(tokenizer, chat, prompt, system_prompt, false, out);

    json_destroy(prompt);
    return status;
}

static void expect_text(const struct tokenizer *tokenizer, enum chat_template chat,
                        const char *prompt, const char *system_prompt, const char *want)
{
    struct chat_prompt out;

    assert_ok(encode(tokenizer, chat, prompt, system_prompt, &out));
    assert_string_equal(out.text, want);
    assert_int_equal(out.text_bytes, strlen(want));
    chat_prompt_dispose(&out);
}

static void raw_is_the_text_behind_bos(void **state)
{
    struct chat_prompt out;

    (void)state;
    assert_ok(encode(demo, CHAT_TEMPLATE_RAW, "\"1234567890=\"", "", &out));
    assert_string_equal(out.text, "<bos>1234567890=");
    assert_int_equal(out.ids.count, 12);
    assert_int_equal(out.ids.ids[0], 0);
    assert_int_equal(out.ids.ids[11], 13);
    chat_prompt_dispose(&out);
    expect_text(demo, CHAT_TEMPLATE_RAW, "[{\"role\":\"user\",\"content\":\"b\"}]", "a",
                "<bos>a\n\nb");
}

static void shapes_that_are_no_prompt_are_refused(void **state)
{
    static const struct {
        const char *prompt, *message;
        enum status status;
    } cases[] = {
        {"\"\"", "empty", STATUS_BAD_FORMAT},
        {"[]", "empty", STATUS_BAD_FORMAT},
        {"null", "neither", STATUS_BAD_FORMAT},
        {"12", "neither", STATUS_BAD_FORMAT},
        {"[1]", "message 0", STATUS_BAD_FORMAT},
        {"[{\"role\":\"king\",\"content\":\"a\"}]", "role", STATUS_BAD_FORMAT},
        {"[{\"role\":\"user\",\"content\":null}]", "content", STATUS_BAD_FORMAT},
        {"[{\"role\":\"tool\",\"content\":\"a\"}]", "tool", STATUS_UNSUPPORTED},
        {"[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{}]}]", "tool calls",
         STATUS_UNSUPPORTED},
    };
    struct chat_prompt out;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_status(encode(demo, CHAT_TEMPLATE_RAW, cases[i].prompt, "", &out), cases[i].status,
                      cases[i].message);
        assert_null(out.text);
    }
}

static void a_tokenizer_without_the_markers_is_refused(void **state)
{
    struct chat_prompt out;

    (void)state;
    assert_status(encode(demo, CHAT_TEMPLATE_DEEPSEEK_V3, "\"a\"", "", &out), STATUS_BAD_CONFIG,
                  "begin");
}

static void a_prefill_stays_open_and_a_system_message_wins(void **state)
{
    (void)state;
    if (v3 == NULL) {
        skip();
    }
    expect_text(v3, CHAT_TEMPLATE_DEEPSEEK_V3, "\"Hi\"", "Be brief.",
                "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>");
    expect_text(v3, CHAT_TEMPLATE_DEEPSEEK_V3,
                "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"Hi\"},"
                "{\"role\":\"assistant\",\"content\":\"I\"}]",
                "ignored", "<｜begin▁of▁sentence｜>S<｜User｜>Hi<｜Assistant｜>I");
}

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

static void expect_same_ids(const struct tokenizer *tokenizer, const struct chat_prompt *prompt)
{
    struct token_list whole;

    assert_ok(tokenizer_encode(tokenizer, prompt->text, prompt->text_bytes, true, &whole));
    assert_int_equal(whole.count, prompt->ids.count);
    for (size_t i = 0; i < whole.count; i++) {
        assert_int_equal(whole.ids[i], prompt->ids.ids[i]);
    }
    token_list_dispose(&whole);
}

static bool has_tools(const struct json *row)
{
    const struct json *messages = json_get(row, "messages");

    for (size_t i = 0; i < json_count(messages); i++) {
        const struct json *message = json_at(messages, i);
        if (json_get(message, "tool_calls") != NULL ||
            strcmp(json_text(json_get(message, "role"), ""), "tool") == 0) {
            return true;
        }
    }
    return false;
}

struct rendered_tally {
    const char *name; /* in templates.jsonl */
    const char *tokenizer;
    size_t n_checked, n_same_ids, n_refused;
};

/* The name here of the template and the options of a row. */
static enum chat_template template_of_row(const struct json *row)
{
    const char *name = json_text(json_get(row, "template"), "");
    char full[64];
    enum chat_template chat;

    (void)snprintf(full, sizeof(full), "%s%s%s", strcmp(name, "llama3") == 0 ? "llama-3" : name,
                   json_bool(json_get(row, "thinking"), false) ? "-thinking" : "",
                   json_bool(json_get(row, "enable_thinking"), true) ? "" : "-no-thinking");
    assert_ok(chat_template_choose(full, demo_dir, &chat));
    return chat;
}

static void check_rendered(const struct tokenizer *tokenizer, const struct json *row, size_t line,
                           struct rendered_tally *tally)
{
    const bool asks = json_bool(json_get(row, "add_generation_prompt"), false);
    const struct json *messages = json_get(row, "messages");
    const struct json *want = json_get(row, "text");
    struct chat_prompt out;

    if (has_tools(row)) {
        assert_status(chat_encode_closed(tokenizer, template_of_row(row), messages, asks, &out),
                      STATUS_UNSUPPORTED, "tool");
        tally->n_refused++;
        return;
    }
    assert_ok(chat_encode_closed(tokenizer, template_of_row(row), messages, asks, &out));
    if (out.text_bytes != json_text_bytes(want) ||
        memcmp(out.text, json_text(want, ""), out.text_bytes) != 0) {
        fail_msg("templates.jsonl:%zu: got %s", line, out.text);
    }
    if (!has_marker_text(row)) {
        expect_same_ids(tokenizer, &out);
        tally->n_same_ids++;
    }
    tally->n_checked++;
    chat_prompt_dispose(&out);
}

/* All rows of one template. */
static void check_template(const char *text, size_t n, struct rendered_tally *tally)
{
    struct tokenizer *own = NULL;
    size_t line = 1;

    if (strcmp(tally->tokenizer, "deepseek-v3") != 0) {
        char dir[PATH_ROOM], relative[64];
        (void)snprintf(relative, sizeof(relative), "data/%s-tokenizer", tally->tokenizer);
        assert_true(support_shared_path(relative, dir, sizeof(dir)));
        assert_ok(tokenizer_load(dir, &own));
    }
    for (const char *at = text; at < text + n; line++) {
        const char *end = strchr(at, '\n');
        struct json *row;
        assert_ok(json_parse(at, (size_t)(end - at), 16, &row));
        at = end + 1;
        if (strcmp(json_text(json_get(row, "template"), ""), tally->name) == 0) {
            check_rendered(own == NULL ? v3 : own, row, line, tally);
        }
        json_destroy(row);
    }
    tokenizer_destroy(own);
}

static void chats_render_like_the_published_templates(void **state)
{
    struct rendered_tally tallies[] = {
        {.name = "deepseek-v3", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-v3-0324", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-v3.1", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1-first", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1-0528", .tokenizer = "deepseek-v3"},
        {.name = "deepseek-r1-distill", .tokenizer = "deepseek-v3"},
        {.name = "llama3", .tokenizer = "llama3"},
        {.name = "qwen3", .tokenizer = "qwen3"},
    };
    char path[PATH_ROOM];
    char *text;
    size_t n, n_checked = 0, n_refused = 0;

    (void)state;
    if (v3 == NULL || !support_shared_path("golden/tokenizer/templates.jsonl", path, PATH_ROOM)) {
        skip();
    }
    assert_ok(file_read(path, (size_t)64 << 20, &text, &n));
    for (size_t i = 0; i < sizeof(tallies) / sizeof(tallies[0]); i++) {
        check_template(text, n, &tallies[i]);
        assert_true(tallies[i].n_checked >= 80 && tallies[i].n_same_ids >= 20);
        n_checked += tallies[i].n_checked;
        n_refused += tallies[i].n_refused;
    }
    memory_free(text);
    print_message("templates: %zu rendered, %zu with tools refused\n", n_checked, n_refused);
    assert_int_equal(n_checked + n_refused, 772);
}

static void chatml_has_a_turn_for_every_message(void **state)
{
    char dir[PATH_ROOM];
    struct tokenizer *qwen;

    (void)state;
    if (!support_shared_path("data/qwen3-tokenizer", dir, sizeof(dir))) {
        skip();
    }
    assert_ok(tokenizer_load(dir, &qwen));
    expect_text(qwen, CHAT_TEMPLATE_CHATML, "\"Hi\"", "Be brief.",
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\n");
    expect_text(qwen, CHAT_TEMPLATE_QWEN3,
                "[{\"role\":\"user\",\"content\":\"Hi\"},"
                "{\"role\":\"assistant\",\"content\":\"I\"}]",
                "", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nI");
    tokenizer_destroy(qwen);
}

static void no_added_token_in_a_row_becomes_its_id(void **state)
{
    static const char *const markers[] = {"<｜User｜>",
                                          "<｜Assistant｜>",
                                          "<｜begin▁of▁sentence｜>",
                                          "<｜end▁of▁sentence｜>",
                                          "<｜tool▁calls▁begin｜>",
                                          "<|EOT|>",
                                          "<｜▁pad▁｜>",
                                          "<｜fim▁hole｜>"};
    struct chat_prompt out;

    (void)state;
    if (v3 == NULL) {
        skip();
    }
    for (size_t i = 0; i < sizeof(markers) / sizeof(markers[0]); i++) {
        struct json *prompt = json_from_text(markers[i], strlen(markers[i]));
        assert_true(tokenizer_id(v3, markers[i]) >= 0);
        assert_ok(chat_encode(v3, CHAT_TEMPLATE_DEEPSEEK_V3, prompt, markers[i], false, &out));
        size_t n_found = 0;
        for (size_t j = 0; j < out.ids.count; j++) {
            n_found += out.ids.ids[j] == tokenizer_id(v3, markers[i]) ? 1 : 0;
        }
        assert_int_equal(n_found, i < 3 ? 1 : 0); /* the template's own */
        json_destroy(prompt);
        chat_prompt_dispose(&out);
    }
}

static void auto_goes_by_the_digest_of_the_template(void **state)
{
    char path[PATH_ROOM + 32];
    enum chat_template chat;

    (void)state;
    assert_ok(chat_template_choose("raw", demo_dir, &chat));
    assert_int_equal(chat, CHAT_TEMPLATE_RAW);
    assert_ok(chat_template_choose("deepseek-v3", demo_dir, &chat));
    assert_int_equal(chat, CHAT_TEMPLATE_DEEPSEEK_V3);
    assert_ok(chat_template_choose("auto", demo_dir, &chat));
    assert_int_equal(chat, CHAT_TEMPLATE_RAW);
    assert_status(chat_template_choose("chatty", demo_dir, &chat), STATUS_BAD_CONFIG, "chatty");
    if (v3 != NULL) {
        assert_ok(chat_template_choose("auto", v3_dir, &chat));
        assert_int_equal(chat, CHAT_TEMPLATE_DEEPSEEK_V3);
    }
    (void)snprintf(path, sizeof(path), "%s/chat_template.jinja", demo_dir);
    assert_ok(file_write_atomic(path, "{{ x }}", 7));
    assert_ok(chat_template_choose("auto", demo_dir, &chat));
    assert_int_equal(chat, CHAT_TEMPLATE_JINJA);
    assert_ok(file_write_atomic(path, "{{ x|y }}", 9));
    assert_status(chat_template_choose("auto", demo_dir, &chat), STATUS_UNSUPPORTED, "deepseek-v3");
}

static void an_unknown_template_is_interpreted_and_data_stays_data(void **state)
{
    static const char template[] =
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}={{ eos_token }}{% endif %}";
    char dir[PATH_ROOM], path[PATH_ROOM + 32];
    struct tokenizer *own;
    struct chat_prompt out;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    assert_ok(demo_tokenizer_write(dir));
    (void)snprintf(path, sizeof(path), "%s/chat_template.jinja", dir);
    assert_ok(file_write_atomic(path, template, sizeof(template) - 1));
    assert_ok(tokenizer_load(dir, &own));
    assert_ok(encode(own, CHAT_TEMPLATE_JINJA, "\"12<bos>\"", "", &out));
    assert_int_equal(out.ids.ids[0], tokenizer_bos(own));
    assert_int_equal(out.ids.ids[out.ids.count - 1], tokenizer_eos(own));
    for (size_t i = 1; i < out.ids.count; i++) {
        assert_int_not_equal(out.ids.ids[i], tokenizer_bos(own));
    }
    chat_prompt_dispose(&out);
    expect_text(own, CHAT_TEMPLATE_JINJA,
                "[{\"role\":\"user\",\"content\":\"1\"},"
                "{\"role\":\"assistant\",\"content\":\"2\"}]",
                "3", "<bos>312");
    tokenizer_destroy(own);
    support_temp_dir_remove(dir);
}

static enum status attempt_encode(void *context)
{
    struct chat_prompt out;
    const enum status status = chat_encode(demo, CHAT_TEMPLATE_RAW, context, "system", false, &out);

    chat_prompt_dispose(&out);
    return status;
}

static void encoding_survives_every_failed_allocation(void **state)
{
    struct json *prompt = parse("\"123=\"");

    (void)state;
    assert_true(support_fail_allocations(attempt_encode, prompt) > 5);
    json_destroy(prompt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_is_the_text_behind_bos),
        cmocka_unit_test(shapes_that_are_no_prompt_are_refused),
        cmocka_unit_test(a_tokenizer_without_the_markers_is_refused),
        cmocka_unit_test(a_prefill_stays_open_and_a_system_message_wins),
        cmocka_unit_test(chats_render_like_the_published_templates),
        cmocka_unit_test(chatml_has_a_turn_for_every_message),
        cmocka_unit_test(no_added_token_in_a_row_becomes_its_id),
        cmocka_unit_test(an_unknown_template_is_interpreted_and_data_stays_data),
        cmocka_unit_test(encoding_survives_every_failed_allocation),
        cmocka_unit_test(auto_goes_by_the_digest_of_the_template),
    };
    return cmocka_run_group_tests(tests, load_both, drop_both);
}
