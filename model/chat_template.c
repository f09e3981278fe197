/* Owns reading a prompt's messages and handing back its text and ids. */
#include "base/memory.h"
#include "model/chat_template_internal.h"

#include <string.h>

#define MESSAGES_MAX 4096u

/* --- Messages --- */

static enum status read_role(const struct json *value, size_t index, enum chat_role *out)
{
    static const char *const names[] = {[CHAT_SYSTEM] = "system",
                                        [CHAT_USER] = "user",
                                        [CHAT_ASSISTANT] = "assistant",
                                        [CHAT_TOOL] = "tool"};
    const char *role = json_text(value, "");

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(role, names[i]) == 0) {
            *out = (enum chat_role)i;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_BAD_FORMAT,
                      "message %zu: role \"%.32s\", want system, user, assistant or tool", index,
                      role);
}

static enum status read_tool_calls(const struct json *value, size_t index, struct chat_message *out)
{
    const struct json *calls = json_get(value, "tool_calls");

    if (json_is(calls, JSON_NULL) || out->role != CHAT_ASSISTANT) {
        return STATUS_OK;
    }
    if (!json_is(calls, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "message %zu: its tool_calls are not a list", index);
    }
    out->tool_calls = calls;
    return STATUS_OK;
}

static enum status read_message(const struct json *value, size_t index, struct chat_message *out)
{
    const struct json *content = json_get(value, "content");

    if (!json_is(value, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "message %zu is not {role, content}", index);
    }
    TRY(read_role(json_get(value, "role"), index, &out->role));
    TRY(read_tool_calls(value, index, out));
    if (!json_is(content, JSON_STRING) &&
        !(json_is(content, JSON_NULL) && out->tool_calls != NULL)) {
        return status_set(STATUS_BAD_FORMAT, "message %zu: its content is not a text", index);
    }
    out->content = chat_text_of(content);
    out->reasoning = chat_text_of(json_get(value, "reasoning_content"));
    out->is_prefix = json_bool(json_get(value, "prefix"), false);
    return STATUS_OK;
}

static bool has_system(const struct chat *chat)
{
    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].role == CHAT_SYSTEM) {
            return true;
        }
    }
    return false;
}

/* Fills chat->messages, which has room for one more than the prompt holds. */
static enum status read_messages(const struct json *prompt, struct chat *chat)
{
    if (json_is(prompt, JSON_STRING)) {
        chat->messages[0] =
            (struct chat_message){.role = CHAT_USER, .content = chat_text_of(prompt)};
        chat->count = 1;
    }
    for (size_t i = 0; i < json_count(prompt); i++) {
        TRY(read_message(json_at(prompt, i), i, &chat->messages[i]));
        chat->count++;
    }
    return STATUS_OK;
}

static bool has_text(const struct chat *chat)
{
    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].content.n > 0 || chat->messages[i].tool_calls != NULL) {
            return true;
        }
    }
    return false;
}

/* Caller frees chat->messages. The texts are borrowed from prompt and system_prompt. */
static enum status read_chat(const struct json *prompt, const char *system_prompt,
                             struct chat *chat)
{
    const size_t n = json_is(prompt, JSON_ARRAY) ? json_count(prompt) : 1;

    *chat = (struct chat){0};
    if (!json_is(prompt, JSON_STRING) && !json_is(prompt, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "the prompt is neither a text nor a list of messages");
    }
    if (n > MESSAGES_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%zu messages, want at most %u", n, MESSAGES_MAX);
    }
    TRY(memory_alloc(n + 1, sizeof(*chat->messages), &chat->messages));
    TRY(read_messages(prompt, chat));
    if (system_prompt != NULL && *system_prompt != '\0' && !has_system(chat)) {
        memmove(chat->messages + 1, chat->messages, chat->count * sizeof(*chat->messages));
        chat->messages[0] = (struct chat_message){
            .role = CHAT_SYSTEM, .content = {system_prompt, strlen(system_prompt)}};
        chat->count++;
    }
    return STATUS_OK;
}

/* --- Rendering --- */

static enum status build(struct builder *b, enum chat_template template, const struct chat *chat,
                         struct chat_end end, struct chat_prompt *out)
{
    TRY(chat_render(b, template, chat, end));
    out->text = b->text.bytes;
    out->text_bytes = b->text.count;
    out->ids = (struct token_list){b->ids.ids, b->ids.count, b->ids.n_dropped};
    return STATUS_OK;
}

static enum status render(struct builder *b, enum chat_template template, const struct chat *chat,
                          struct chat_end end, struct chat_prompt *out)
{
    *out = (struct chat_prompt){0};
    const enum status status = build(b, template, chat, end, out);
    if (status != STATUS_OK) {
        text_buffer_dispose(&b->text);
        id_buffer_dispose(&b->ids);
    }
    return status;
}

/* The last message is an answer that can go on. */
static bool is_begun(const struct chat *chat)
{
    const struct chat_message *last = chat->count > 0 ? &chat->messages[chat->count - 1] : NULL;

    return last != NULL && last->role == CHAT_ASSISTANT && last->tool_calls == NULL;
}

static enum status check_texts(const struct json *prompt, const struct chat *chat)
{
    if (json_count(prompt) == 0 && json_text_bytes(prompt) == 0) {
        return status_set(STATUS_BAD_FORMAT, "the prompt is empty");
    }
    if (!has_text(chat)) {
        return status_set(STATUS_BAD_FORMAT, "no message of the prompt has any text");
    }
    return STATUS_OK;
}

/* What the templates that can do both are told, else what their name says. */
static bool thinks(enum chat_template chat, const struct json *variables)
{
    if (chat == CHAT_TEMPLATE_QWEN3 || chat == CHAT_TEMPLATE_QWEN3_NO_THINKING) {
        return json_bool(json_get(variables, "enable_thinking"), chat == CHAT_TEMPLATE_QWEN3);
    }
    return json_bool(json_get(variables, "thinking"), chat == CHAT_TEMPLATE_DEEPSEEK_V3_1_THINKING);
}

static enum status encode(const struct tokenizer *tokenizer, enum chat_template template,
                          const struct json *prompt, const struct chat_options *options,
                          struct chat *chat, struct chat_prompt *out)
{
    struct builder b = {
        .tokenizer = tokenizer, .parse_special = options->parse_special, .is_at_beginning = true};

    TRY(read_chat(prompt, options->system_prompt, chat));
    TRY(options->is_closed ? STATUS_OK : check_texts(prompt, chat));
    chat->tools = json_count(options->tools) > 0 ? options->tools : NULL;
    chat->thinks = thinks(template, options->variables);
    const bool is_open = !options->is_closed && is_begun(chat);
    const struct chat_end end = {.is_open = is_open,
                                 .asks_for_answer =
                                     options->is_closed ? options->asks_for_answer : !is_open};
    return render(&b, template, chat, end, out);
}

enum status chat_encode_with(const struct tokenizer *tokenizer, enum chat_template chat,
                             const struct json *prompt, const struct chat_options *options,
                             struct chat_prompt *out)
{
    struct chat messages = {0};

    *out = (struct chat_prompt){0};
    if (!json_is(options->tools, JSON_NULL) && !json_is(options->tools, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "the definitions of tools are not a list");
    }
    if (chat == CHAT_TEMPLATE_JINJA) {
        return chat_encode_jinja(tokenizer, prompt, options, out);
    }
    const enum status status = encode(tokenizer, chat, prompt, options, &messages, out);
    memory_free(messages.messages);
    return status;
}

enum status chat_encode(const struct tokenizer *tokenizer, enum chat_template chat,
                        const struct json *prompt, const char *system_prompt, bool parse_special,
                        struct chat_prompt *out)
{
    const struct chat_options options = {.system_prompt = system_prompt,
                                         .parse_special = parse_special};

    return chat_encode_with(tokenizer, chat, prompt, &options, out);
}

void chat_prompt_dispose(struct chat_prompt *prompt)
{
    memory_free(prompt->text);
    token_list_dispose(&prompt->ids);
    *prompt = (struct chat_prompt){0};
}
