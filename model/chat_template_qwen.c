/* Owns ChatML and Qwen3's chat template, which is ChatML with thoughts and tools. */
#include "model/chat_template_internal.h"

#include <string.h>

#define THINK "<think>"
#define THINK_END "</think>"

static enum status begin_turn(struct builder *b, const char *role)
{
    TRY(builder_marker(b, "<|im_start|>"));
    TRY(builder_line(b, role));
    return builder_line(b, "\n");
}

static enum status end_turn(struct builder *b, bool is_open)
{
    if (is_open) {
        return STATUS_OK;
    }
    TRY(builder_marker(b, "<|im_end|>"));
    return builder_line(b, "\n");
}

static const char *role_name(enum chat_role role)
{
    static const char *const names[] = {[CHAT_SYSTEM] = "system",
                                        [CHAT_USER] = "user",
                                        [CHAT_ASSISTANT] = "assistant",
                                        [CHAT_TOOL] = "tool"};

    return names[role];
}

/* --- ChatML --- */

enum status chat_render_chatml(struct builder *b, const struct chat *chat, struct chat_end end)
{
    for (size_t i = 0; i < chat->count; i++) {
        TRY(begin_turn(b, role_name(chat->messages[i].role)));
        TRY(builder_text(b, chat->messages[i].content));
        TRY(end_turn(b, end.is_open && chat_is_last(chat, i)));
    }
    return end.asks_for_answer ? begin_turn(b, "assistant") : STATUS_OK;
}

/* --- Qwen3: the tools' definitions --- */

static enum status render_tool_rules(struct builder *b)
{
    TRY(builder_line(b, "\n</tools>\n\nFor each function call, return a json object with function "
                        "name and arguments within "));
    TRY(builder_soft_marker(b, "<tool_call>"));
    TRY(builder_soft_marker(b, "</tool_call>"));
    TRY(builder_line(b, " XML tags:\n"));
    TRY(builder_soft_marker(b, "<tool_call>"));
    TRY(builder_line(b, "\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n"));
    TRY(builder_soft_marker(b, "</tool_call>"));
    return end_turn(b, false);
}

/* One system turn with the first message, if that is the system's, and the definitions. */
static enum status render_tools(struct builder *b, const struct chat *chat)
{
    const bool has_system = chat->count > 0 && chat->messages[0].role == CHAT_SYSTEM;

    TRY(begin_turn(b, "system"));
    if (has_system) {
        TRY(builder_text(b, chat->messages[0].content));
        TRY(builder_line(b, "\n\n"));
    }
    TRY(builder_line(b, "# Tools\n\nYou may call one or more functions to assist with the user "
                        "query.\n\nYou are provided with function signatures within <tools></tools>"
                        " XML tags:\n<tools>"));
    for (size_t i = 0; i < json_count(chat->tools); i++) {
        TRY(builder_line(b, "\n"));
        TRY(builder_json(b, json_at(chat->tools, i)));
    }
    return render_tool_rules(b);
}

/* --- Qwen3: answers --- */

static bool is_tool_response(struct chat_text text)
{
    static const char begin[] = "<tool_response>", end[] = "</tool_response>";
    const size_t n_begin = sizeof(begin) - 1, n_end = sizeof(end) - 1;

    return text.n >= n_end && memcmp(text.text, begin, n_begin) == 0 &&
           memcmp(text.text + text.n - n_end, end, n_end) == 0;
}

/* Index of the last question of the user's own, or of the last message. */
static size_t last_query(const struct chat *chat)
{
    for (size_t i = chat->count; i-- > 0;) {
        if (chat->messages[i].role == CHAT_USER && !is_tool_response(chat->messages[i].content)) {
            return i;
        }
    }
    return chat->count - 1;
}

/* Parts an answer into thought and rest, as the template's chain of splits does. */
static void part_thought(const struct chat_message *message, struct chat_text *thought,
                         struct chat_text *rest)
{
    const char *end = chat_find(message->content, THINK_END, false);

    *rest = message->content;
    *thought = (struct chat_text){"", 0};
    if (message->reasoning.text != NULL) {
        *thought = message->reasoning;
        return;
    }
    if (end == NULL) {
        return;
    }
    *rest = chat_without_newlines(chat_text_after(message->content, THINK_END, true), true, false);
    *thought = (struct chat_text){message->content.text, (size_t)(end - message->content.text)};
    *thought = chat_text_after(chat_without_newlines(*thought, false, true), THINK, true);
    *thought = chat_without_newlines(*thought, true, false);
}

static enum status render_call(struct builder *b, const struct json *call)
{
    const struct json *function = json_get(call, "function");
    const struct json *own = json_count(function) > 0 ? function : call;
    const struct chat_text name = chat_text_of(json_get(own, "name"));
    const struct json *arguments = json_get(own, "arguments");

    if (name.text == NULL || arguments == NULL) {
        return status_set(STATUS_BAD_FORMAT,
                          "a tool call is not {function: {name, arguments}} with a text as name");
    }
    TRY(builder_soft_marker(b, "<tool_call>"));
    TRY(builder_line(b, "\n{\"name\": \""));
    TRY(builder_text(b, name));
    TRY(builder_line(b, "\", \"arguments\": "));
    TRY(json_is(arguments, JSON_STRING) ? builder_text(b, chat_text_of(arguments))
                                        : builder_json(b, arguments));
    TRY(builder_line(b, "}\n"));
    return builder_soft_marker(b, "</tool_call>");
}

static enum status render_thought(struct builder *b, struct chat_text thought)
{
    TRY(builder_soft_marker(b, THINK));
    TRY(builder_line(b, "\n"));
    TRY(builder_text(b, chat_without_newlines(thought, true, true)));
    TRY(builder_line(b, "\n"));
    TRY(builder_soft_marker(b, THINK_END));
    return builder_line(b, "\n\n");
}

/* Thoughts stay only behind the last question; the very last answer always has a place for them. */
static enum status render_answer(struct builder *b, const struct chat *chat, size_t index)
{
    const struct chat_message *message = &chat->messages[index];
    struct chat_text thought, rest;

    part_thought(message, &thought, &rest);
    const bool has_text = rest.n > 0;
    if (index > last_query(chat) && (chat_is_last(chat, index) || thought.n > 0)) {
        TRY(render_thought(b, thought));
        rest = chat_without_newlines(rest, true, false);
    }
    TRY(builder_text(b, rest));
    for (size_t i = 0; i < json_count(message->tool_calls); i++) {
        TRY(builder_line(b, has_text || i > 0 ? "\n" : ""));
        TRY(render_call(b, json_at(message->tool_calls, i)));
    }
    return STATUS_OK;
}

/* Neighbouring outputs of tools are one turn of the user's. */
static enum status render_output(struct builder *b, const struct chat *chat, size_t index)
{
    const bool is_first = index == 0 || chat->messages[index - 1].role != CHAT_TOOL;
    const bool ends = chat_is_last(chat, index) || chat->messages[index + 1].role != CHAT_TOOL;

    if (is_first) {
        TRY(builder_marker(b, "<|im_start|>"));
        TRY(builder_line(b, "user"));
    }
    TRY(builder_line(b, "\n"));
    TRY(builder_soft_marker(b, "<tool_response>"));
    TRY(builder_line(b, "\n"));
    TRY(builder_text(b, chat->messages[index].content));
    TRY(builder_line(b, "\n"));
    TRY(builder_soft_marker(b, "</tool_response>"));
    return ends ? end_turn(b, false) : STATUS_OK;
}

static enum status render_question(struct builder *b, bool thinks)
{
    TRY(begin_turn(b, "assistant"));
    if (thinks) {
        return STATUS_OK;
    }
    TRY(builder_soft_marker(b, THINK));
    TRY(builder_line(b, "\n\n"));
    TRY(builder_soft_marker(b, THINK_END));
    return builder_line(b, "\n\n");
}

static enum status render_message(struct builder *b, const struct chat *chat, size_t index,
                                  bool is_open)
{
    const struct chat_message *message = &chat->messages[index];

    if (message->role == CHAT_TOOL) {
        return render_output(b, chat, index);
    }
    TRY(begin_turn(b, role_name(message->role)));
    TRY(message->role == CHAT_ASSISTANT && !is_open ? render_answer(b, chat, index)
                                                    : builder_text(b, message->content));
    return end_turn(b, is_open);
}

static enum status check_contents(const struct chat *chat)
{
    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].content.text == NULL) {
            return status_set(STATUS_BAD_FORMAT,
                              "message %zu: this chat template wants a text as content", i);
        }
    }
    return STATUS_OK;
}

enum status chat_render_qwen3(struct builder *b, const struct chat *chat, struct chat_end end)
{
    const bool has_tools = json_count(chat->tools) > 0;
    const bool has_system = chat->count > 0 && chat->messages[0].role == CHAT_SYSTEM;

    TRY(check_contents(chat));
    TRY(has_tools ? render_tools(b, chat) : STATUS_OK);
    for (size_t i = has_tools && has_system ? 1 : 0; i < chat->count; i++) {
        TRY(render_message(b, chat, i, end.is_open && chat_is_last(chat, i)));
    }
    return end.asks_for_answer ? render_question(b, chat->thinks) : STATUS_OK;
}
