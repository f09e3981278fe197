/* Chat templates: the choice by digest, tools, and that text from data never becomes a marker. The
 * texts of published templates are compared in tests/golden, where every added token is tried, too.
 */
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
        {"[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":1}]", "not a list",
         STATUS_BAD_FORMAT},
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

static void tools_stand_where_the_template_has_them(void **state)
{
    struct json *tools = parse("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]");
    struct json *prompt = parse("\"Hi\"");
    const struct chat_options options = {.tools = tools};
    struct tokenizer *qwen;
    struct chat_prompt out;
    char dir[PATH_ROOM];

    (void)state;
    if (v3 == NULL || !support_shared_path("data/qwen3-tokenizer", dir, sizeof(dir))) {
        skip();
    }
    assert_status(chat_encode_with(v3, CHAT_TEMPLATE_DEEPSEEK_V3, prompt, &options, &out),
                  STATUS_UNSUPPORTED, "tools");
    assert_status(chat_encode_with(demo, CHAT_TEMPLATE_RAW, prompt, &options, &out),
                  STATUS_UNSUPPORTED, "tools");
    assert_ok(tokenizer_load(dir, &qwen));
    assert_ok(chat_encode_with(qwen, CHAT_TEMPLATE_QWEN3, prompt, &options, &out));
    assert_non_null(strstr(out.text, "<tools>\n{\"type\": \"function\", \"function\": {\"name\": "
                                     "\"f\"}}\n</tools>"));
    chat_prompt_dispose(&out);
    tokenizer_destroy(qwen);
    json_destroy(tools);
    json_destroy(prompt);
}

static void deepseek_v2_has_words_for_turns(void **state)
{
    (void)state;
    if (v3 == NULL) {
        skip();
    }
    expect_text(v3, CHAT_TEMPLATE_DEEPSEEK_V2,
                "[{\"role\":\"user\",\"content\":\"Hi\"},"
                "{\"role\":\"assistant\",\"content\":\"Yes?\"},"
                "{\"role\":\"user\",\"content\":\"Go\"}]",
                "Be brief.",
                "<｜begin▁of▁sentence｜>Be brief.\n\nUser: Hi\n\nAssistant: "
                "Yes?<｜end▁of▁sentence｜>User: Go\n\nAssistant:");
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
        cmocka_unit_test(chatml_has_a_turn_for_every_message),
        cmocka_unit_test(tools_stand_where_the_template_has_them),
        cmocka_unit_test(deepseek_v2_has_words_for_turns),
        cmocka_unit_test(an_unknown_template_is_interpreted_and_data_stays_data),
        cmocka_unit_test(encoding_survives_every_failed_allocation),
        cmocka_unit_test(auto_goes_by_the_digest_of_the_template),
    };
    return cmocka_run_group_tests(tests, load_both, drop_both);
}
