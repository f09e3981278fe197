/* Owns the plain templates and the choice of a renderer. */
#include "model/chat_template_internal.h"

/* --- raw --- */

static enum status render_raw(struct builder *b, const struct chat *chat)
{
    if (tokenizer_adds_bos(b->tokenizer)) {
        TRY(builder_id(b, tokenizer_bos(b->tokenizer)));
    }
    for (size_t i = 0; i < chat->count; i++) {
        TRY(builder_line(b, i > 0 ? "\n\n" : ""));
        TRY(builder_text(b, chat->messages[i].content));
    }
    return STATUS_OK;
}

/* --- Llama 3 --- */

static enum status llama_header(struct builder *b, enum chat_role role)
{
    static const char *const names[] = {[CHAT_SYSTEM] = "system",
                                        [CHAT_USER] = "user",
                                        [CHAT_ASSISTANT] = "assistant",
                                        [CHAT_TOOL] = "tool"};

    TRY(builder_marker(b, "<|start_header_id|>"));
    TRY(builder_line(b, names[role]));
    TRY(builder_marker(b, "<|end_header_id|>"));
    return builder_line(b, "\n\n");
}

/* The assistant's header always follows, asked for or not: so the published template has it. */
static enum status render_llama(struct builder *b, const struct chat *chat, struct chat_end end)
{
    enum status status = STATUS_OK;

    if (chat->count > 0) {
        TRY(builder_marker(b, "<|begin_of_text|>"));
    }
    for (size_t i = 0; status == STATUS_OK && i < chat->count; i++) {
        TRY(llama_header(b, chat->messages[i].role));
        TRY(builder_text(b, chat_trimmed(chat->messages[i].content)));
        const bool is_open = end.is_open && chat_is_last(chat, i);
        status = is_open ? STATUS_OK : builder_marker(b, "<|eot_id|>");
    }
    TRY(status);
    return end.is_open ? STATUS_OK : llama_header(b, CHAT_ASSISTANT);
}

/* --- All of them --- */

static enum status refuse_tools(const struct chat *chat)
{
    if (chat->tools != NULL) {
        return status_set(STATUS_UNSUPPORTED,
                          "definitions of tools, for which this chat template has no place");
    }
    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].role == CHAT_TOOL || chat->messages[i].tool_calls != NULL) {
            return status_set(STATUS_UNSUPPORTED,
                              "message %zu: tool calls, which this chat template does not have", i);
        }
    }
    return STATUS_OK;
}

static enum status render_any(struct builder *b, enum chat_template template,
                              const struct chat *chat, struct chat_end end)
{
    if (chat_is_deepseek(template)) {
        return chat_render_deepseek(b, template, chat, end);
    }
    if (template == CHAT_TEMPLATE_QWEN3 || template == CHAT_TEMPLATE_QWEN3_NO_THINKING) {
        return chat_render_qwen3(b, chat, end);
    }
    TRY(refuse_tools(chat));
    if (template == CHAT_TEMPLATE_CHATML) {
        return chat_render_chatml(b, chat, end);
    }
    return template == CHAT_TEMPLATE_LLAMA_3 ? render_llama(b, chat, end) : render_raw(b, chat);
}

enum status chat_render(struct builder *b, enum chat_template template, const struct chat *chat,
                        struct chat_end end)
{
    TRY(render_any(b, template, chat, end));
    return builder_flush(b);
}
