/* Owns reading a prompt's messages and handing back its text and ids. */
#include "base/memory.h"
#include "model/chat_template_internal.h"

#include <string.h>

#define MESSAGES_MAX 4096u

/* --- Messages --- */

static enum status read_role(const struct json *value, size_t index, enum chat_role *out)
{
    static const char *const names[] = {
        [CHAT_SYSTEM] = "system", [CHAT_USER] = "user", [CHAT_ASSISTANT] = "assistant"};
    const char *role = json_text(value, "");

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(role, names[i]) == 0) {
            *out = (enum chat_role)i;
            return STATUS_OK;
        }
    }
    if (strcmp(role, "tool") == 0) {
        return status_set(STATUS_UNSUPPORTED, "message %zu: tool output in a prompt", index);
    }
    return status_set(STATUS_BAD_FORMAT,
                      "message %zu: role \"%.32s\", want system, user, assistant", index, role);
}

static enum status read_message(const struct json *value, size_t index, struct chat_message *out)
{
    const struct json *content = json_get(value, "content");

    if (!json_is(value, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "message %zu is not {role, content}", index);
    }
    if (json_count(json_get(value, "tool_calls")) > 0) {
        return status_set(STATUS_UNSUPPORTED, "message %zu: tool calls in a prompt", index);
    }
    TRY(read_role(json_get(value, "role"), index, &out->role));
    if (!json_is(content, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT, "message %zu: its content is not a text", index);
    }
    const struct json *reasoning = json_get(value, "reasoning_content");
    out->content = (struct chat_text){json_text(content, ""), json_text_bytes(content)};
    out->reasoning = (struct chat_text){json_text(reasoning, NULL), json_text_bytes(reasoning)};
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
        chat->messages[0] = (struct chat_message){
            .role = CHAT_USER, .content = {json_text(prompt, ""), json_text_bytes(prompt)}};
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
        if (chat->messages[i].content.n > 0) {
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

static bool ends_with_assistant(const struct chat *chat)
{
    return chat->messages != NULL && chat->count > 0 &&
           chat->messages[chat->count - 1].role == CHAT_ASSISTANT;
}

enum status chat_encode(const struct tokenizer *tokenizer, enum chat_template chat,
                        const struct json *prompt, const char *system_prompt, bool parse_special,
                        struct chat_prompt *out)
{
    struct builder b = {
        .tokenizer = tokenizer, .parse_special = parse_special, .is_at_beginning = true};
    struct chat messages = {0};

    *out = (struct chat_prompt){0};
    if (chat == CHAT_TEMPLATE_JINJA) {
        const struct jinja_chat own = {.prompt = prompt,
                                       .system_prompt = system_prompt,
                                       .parse_special = parse_special,
                                       .can_be_open = true};
        return chat_encode_jinja(tokenizer, &own, out);
    }
    enum status status = read_chat(prompt, system_prompt, &messages);
    if (status == STATUS_OK && json_count(prompt) == 0 && json_text_bytes(prompt) == 0) {
        status = status_set(STATUS_BAD_FORMAT, "the prompt is empty");
    }
    if (status == STATUS_OK && !has_text(&messages)) {
        status = status_set(STATUS_BAD_FORMAT, "no message of the prompt has any text");
    }
    if (status == STATUS_OK) {
        const bool is_open = ends_with_assistant(&messages);
        const struct chat_end end = {.is_open = is_open, .asks_for_answer = !is_open};
        status = render(&b, chat, &messages, end, out);
    }
    memory_free(messages.messages);
    return status;
}

enum status chat_encode_closed(const struct tokenizer *tokenizer, enum chat_template chat,
                               const struct json *prompt, bool add_generation_prompt,
                               struct chat_prompt *out)
{
    struct builder b = {.tokenizer = tokenizer, .is_at_beginning = true};
    const struct chat_end end = {.asks_for_answer = add_generation_prompt};
    struct chat messages = {0};

    *out = (struct chat_prompt){0};
    if (chat == CHAT_TEMPLATE_JINJA) {
        const struct jinja_chat own = {.prompt = prompt, .asks_for_answer = add_generation_prompt};
        return chat_encode_jinja(tokenizer, &own, out);
    }
    enum status status = read_chat(prompt, "", &messages);
    if (status == STATUS_OK) {
        status = render(&b, chat, &messages, end, out);
    }
    memory_free(messages.messages);
    return status;
}

void chat_prompt_dispose(struct chat_prompt *prompt)
{
    memory_free(prompt->text);
    token_list_dispose(&prompt->ids);
    *prompt = (struct chat_prompt){0};
}
