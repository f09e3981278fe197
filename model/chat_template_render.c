/* Owns the chat templates: what stands around the messages, as the published templates have it.
 * Numbers of DeepSeek's differ in when the assistant's marker comes, in what becomes of thoughts in
 * earlier answers, and in the generation prompt; a row of `styles` says which is which. */
#include "model/chat_template_internal.h"
#include "model/tokenizer_text.h"

#include <string.h>

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"
#define THINK "<think>"
#define THINK_END "</think>"

/* --- Texts --- */

/* Where `part` first (or last) stands in text, NULL if nowhere. */
static const char *find_part(struct chat_text text, const char *part, bool wants_last)
{
    const size_t n = strlen(part);
    const char *found = NULL;

    for (size_t i = 0; i + n <= text.n; i++) {
        if (memcmp(text.text + i, part, n) != 0) {
            continue;
        }
        found = text.text + i;
        if (!wants_last) {
            break;
        }
    }
    return found;
}

/* What follows `part`, or all of text without it. */
static struct chat_text text_after(struct chat_text text, const char *part, bool wants_last)
{
    const char *at = find_part(text, part, wants_last);

    if (at == NULL) {
        return text;
    }
    const char *start = at + strlen(part);
    return (struct chat_text){start, (size_t)(text.text + text.n - start)};
}

static struct chat_text without_newlines(struct chat_text text, bool at_start, bool at_end)
{
    while (at_start && text.n > 0 && text.text[0] == '\n') {
        text = (struct chat_text){text.text + 1, text.n - 1};
    }
    while (at_end && text.n > 0 && text.text[text.n - 1] == '\n') {
        text.n--;
    }
    return text;
}

/* The trim of templates: White_Space and the four separators U+001C..1F. */
static struct chat_text trimmed(struct chat_text text)
{
    size_t before = 0;

    while (before != text.n) {
        before = text.n;
        const size_t left = text_leading_space(text.text, text.n);
        text = (struct chat_text){text.text + left, text.n - left};
        text.n -= text_trailing_space(text.text, text.n);
        while (text.n > 0 && text.text[0] >= 0x1C && text.text[0] <= 0x1F) {
            text = (struct chat_text){text.text + 1, text.n - 1};
        }
        while (text.n > 0 && text.text[text.n - 1] >= 0x1C && text.text[text.n - 1] <= 0x1F) {
            text.n--;
        }
    }
    return text;
}

static enum status put(struct builder *b, struct chat_text text)
{
    return builder_text(b, text.text, text.n);
}

static bool is_last(const struct chat *chat, size_t index)
{
    return index + 1 == chat->count;
}

/* --- raw --- */

static enum status render_raw(struct builder *b, const struct chat *chat)
{
    if (tokenizer_adds_bos(b->tokenizer)) {
        TRY(builder_id(b, tokenizer_bos(b->tokenizer)));
    }
    for (size_t i = 0; i < chat->count; i++) {
        TRY(builder_text(b, "\n\n", i > 0 ? 2 : 0));
        TRY(builder_text(b, chat->messages[i].content.text, chat->messages[i].content.n));
    }
    return builder_flush(b);
}

/* --- DeepSeek --- */

enum systems { SYSTEMS_ALL, SYSTEMS_LAST };
enum marker_place { MARKER_BEFORE_ANSWER, MARKER_AFTER_USER, MARKER_THINKS };
enum thoughts { THOUGHTS_KEPT, THOUGHTS_CUT_AT_LAST, THOUGHTS_CUT_AT_FIRST };
struct deepseek_style {
    enum systems
        systems; /* which system messages count; all of them come first, wherever they are */
    enum marker_place place;
    enum thoughts thoughts;
    bool opens_thought; /* the generation prompt begins a thought ... */
    bool has_newline;   /* ... and a line */
};

static const struct deepseek_style v3_style = {0};
static const struct deepseek_style v3_0324_style = {.place = MARKER_AFTER_USER};
static const struct deepseek_style r1_style = {
    .thoughts = THOUGHTS_CUT_AT_LAST, .opens_thought = true, .has_newline = true};
static const struct deepseek_style r1_first_style = {.thoughts = THOUGHTS_CUT_AT_LAST};
static const struct deepseek_style r1_0528_style = {.place = MARKER_AFTER_USER,
                                                    .thoughts = THOUGHTS_CUT_AT_LAST};
static const struct deepseek_style r1_distill_style = {.systems = SYSTEMS_LAST,
                                                       .thoughts = THOUGHTS_CUT_AT_LAST,
                                                       .opens_thought = true,
                                                       .has_newline = true};
static const struct deepseek_style v3_1_style = {.place = MARKER_THINKS,
                                                 .thoughts = THOUGHTS_CUT_AT_FIRST};
static const struct deepseek_style v3_1_thinking_style = {
    .place = MARKER_THINKS, .thoughts = THOUGHTS_CUT_AT_FIRST, .opens_thought = true};

static enum status render_systems(struct builder *b, const struct chat *chat, enum systems systems)
{
    struct chat_text last = {"", 0};
    bool is_first = true;

    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].role != CHAT_SYSTEM) {
            continue;
        }
        last = chat->messages[i].content;
        if (systems == SYSTEMS_LAST) {
            continue;
        }
        TRY(builder_line(b, is_first ? "" : "\n\n"));
        TRY(put(b, last));
        is_first = false;
    }
    return systems == SYSTEMS_LAST ? put(b, last) : STATUS_OK;
}

/* The assistant's marker of a turn that follows the user's, or none. */
static enum status render_answer_marker(struct builder *b, const struct deepseek_style *style,
                                        bool follows_user, bool goes_on)
{
    if (style->place == MARKER_BEFORE_ANSWER) {
        return builder_marker(b, ASSISTANT);
    }
    if (style->place == MARKER_AFTER_USER || !follows_user) {
        return STATUS_OK;
    }
    TRY(builder_marker(b, ASSISTANT));
    return builder_soft_marker(b, goes_on && style->opens_thought ? THINK : THINK_END);
}

static enum status render_answer(struct builder *b, const struct deepseek_style *style,
                                 const struct chat_message *message, bool follows_user,
                                 bool is_open)
{
    struct chat_text text = message->content;

    TRY(render_answer_marker(b, style, follows_user, message->is_prefix || is_open));
    if (style->thoughts != THOUGHTS_KEPT && !is_open) {
        text = text_after(text, THINK_END, style->thoughts == THOUGHTS_CUT_AT_LAST);
    }
    TRY(put(b, text));
    return is_open ? STATUS_OK : builder_marker(b, EOS);
}

static enum status render_user(struct builder *b, const struct deepseek_style *style,
                               const struct chat_message *message)
{
    TRY(builder_marker(b, USER));
    TRY(put(b, message->content));
    return style->place == MARKER_AFTER_USER ? builder_marker(b, ASSISTANT) : STATUS_OK;
}

static enum status render_question(struct builder *b, const struct deepseek_style *style,
                                   bool follows_user)
{
    const bool has_marker = style->place == MARKER_AFTER_USER && follows_user;

    if (style->place == MARKER_THINKS) {
        return follows_user ? render_answer_marker(b, style, true, true) : STATUS_OK;
    }
    if (!has_marker) {
        TRY(builder_marker(b, ASSISTANT));
    }
    if (style->opens_thought) {
        TRY(builder_soft_marker(b, THINK));
    }
    return builder_line(b, style->has_newline ? "\n" : "");
}

static enum status render_deepseek(struct builder *b, const struct deepseek_style *style,
                                   const struct chat *chat, struct chat_end end)
{
    enum status status = STATUS_OK;
    bool follows_user = false;

    TRY(builder_marker(b, BOS));
    TRY(render_systems(b, chat, style->systems));
    for (size_t i = 0; status == STATUS_OK && i < chat->count; i++) {
        const struct chat_message *message = &chat->messages[i];
        if (message->role == CHAT_SYSTEM) {
            continue;
        }
        const bool is_user = message->role == CHAT_USER;
        status = is_user ? render_user(b, style, message)
                         : render_answer(b, style, message, follows_user,
                                         end.is_open && is_last(chat, i));
        follows_user = is_user;
    }
    TRY(status);
    return end.asks_for_answer ? render_question(b, style, follows_user) : STATUS_OK;
}

/* --- ChatML and Llama --- */

static const char *role_name(enum chat_role role)
{
    static const char *const names[] = {
        [CHAT_SYSTEM] = "system", [CHAT_USER] = "user", [CHAT_ASSISTANT] = "assistant"};

    return names[role];
}

static enum status begin_turn(struct builder *b, enum chat_role role)
{
    TRY(builder_marker(b, "<|im_start|>"));
    TRY(builder_line(b, role_name(role)));
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

static enum status render_chatml(struct builder *b, const struct chat *chat, struct chat_end end)
{
    for (size_t i = 0; i < chat->count; i++) {
        TRY(begin_turn(b, chat->messages[i].role));
        TRY(put(b, chat->messages[i].content));
        TRY(end_turn(b, end.is_open && is_last(chat, i)));
    }
    return end.asks_for_answer ? begin_turn(b, CHAT_ASSISTANT) : STATUS_OK;
}

static enum status llama_header(struct builder *b, enum chat_role role)
{
    TRY(builder_marker(b, "<|start_header_id|>"));
    TRY(builder_line(b, role_name(role)));
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
        TRY(put(b, trimmed(chat->messages[i].content)));
        const bool is_open = end.is_open && is_last(chat, i);
        status = is_open ? STATUS_OK : builder_marker(b, "<|eot_id|>");
    }
    TRY(status);
    return end.is_open ? STATUS_OK : llama_header(b, CHAT_ASSISTANT);
}

/* --- Qwen3 --- */

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
    const char *end = find_part(message->content, THINK_END, false);

    *rest = message->content;
    *thought = (struct chat_text){"", 0};
    if (message->reasoning.text != NULL) {
        *thought = message->reasoning;
        return;
    }
    if (end == NULL) {
        return;
    }
    *rest = without_newlines(text_after(message->content, THINK_END, true), true, false);
    *thought = (struct chat_text){message->content.text, (size_t)(end - message->content.text)};
    *thought = text_after(without_newlines(*thought, false, true), THINK, true);
    *thought = without_newlines(*thought, true, false);
}

/* Thoughts stay only behind the last question; the very last answer always has a place for them. */
static enum status qwen3_answer(struct builder *b, const struct chat *chat, size_t index)
{
    struct chat_text thought, rest;

    part_thought(&chat->messages[index], &thought, &rest);
    if (index <= last_query(chat) || (!is_last(chat, index) && thought.n == 0)) {
        return put(b, rest);
    }
    TRY(builder_soft_marker(b, THINK));
    TRY(builder_line(b, "\n"));
    TRY(put(b, without_newlines(thought, true, true)));
    TRY(builder_line(b, "\n"));
    TRY(builder_soft_marker(b, THINK_END));
    TRY(builder_line(b, "\n\n"));
    return put(b, without_newlines(rest, true, false));
}

static enum status qwen3_question(struct builder *b, bool is_thinking)
{
    TRY(begin_turn(b, CHAT_ASSISTANT));
    if (is_thinking) {
        return STATUS_OK;
    }
    TRY(builder_soft_marker(b, THINK));
    TRY(builder_line(b, "\n\n"));
    TRY(builder_soft_marker(b, THINK_END));
    return builder_line(b, "\n\n");
}

static enum status render_qwen3(struct builder *b, const struct chat *chat, struct chat_end end,
                                bool is_thinking)
{
    enum status status = STATUS_OK;

    for (size_t i = 0; status == STATUS_OK && i < chat->count; i++) {
        const struct chat_message *message = &chat->messages[i];
        const bool is_open = end.is_open && is_last(chat, i);
        const bool is_answer = message->role == CHAT_ASSISTANT && !is_open;
        TRY(begin_turn(b, message->role));
        status = is_answer ? qwen3_answer(b, chat, i) : put(b, message->content);
        status = status == STATUS_OK ? end_turn(b, is_open) : status;
    }
    TRY(status);
    return end.asks_for_answer ? qwen3_question(b, is_thinking) : STATUS_OK;
}

/* --- All of them --- */

/* NULL: none of DeepSeek's. */
static const struct deepseek_style *style_of(enum chat_template template)
{
    static const struct deepseek_style *const styles[] = {
        [CHAT_TEMPLATE_DEEPSEEK_V3] = &v3_style,
        [CHAT_TEMPLATE_DEEPSEEK_V3_0324] = &v3_0324_style,
        [CHAT_TEMPLATE_DEEPSEEK_V3_1] = &v3_1_style,
        [CHAT_TEMPLATE_DEEPSEEK_V3_1_THINKING] = &v3_1_thinking_style,
        [CHAT_TEMPLATE_DEEPSEEK_R1] = &r1_style,
        [CHAT_TEMPLATE_DEEPSEEK_R1_FIRST] = &r1_first_style,
        [CHAT_TEMPLATE_DEEPSEEK_R1_0528] = &r1_0528_style,
        [CHAT_TEMPLATE_DEEPSEEK_R1_DISTILL] = &r1_distill_style,
    };

    return (size_t) template <sizeof(styles) / sizeof(styles[0]) ? styles[template] : NULL;
}

static enum status render_any(struct builder *b, enum chat_template template,
                              const struct chat *chat, struct chat_end end)
{
    const struct deepseek_style *style = style_of(template);

    if (style != NULL) {
        return render_deepseek(b, style, chat, end);
    }
    if (template == CHAT_TEMPLATE_CHATML) {
        return render_chatml(b, chat, end);
    }
    if (template == CHAT_TEMPLATE_LLAMA_3) {
        return render_llama(b, chat, end);
    }
    if (template == CHAT_TEMPLATE_RAW) {
        return render_raw(b, chat);
    }
    return render_qwen3(b, chat, end, template == CHAT_TEMPLATE_QWEN3);
}

enum status chat_render(struct builder *b, enum chat_template template, const struct chat *chat,
                        struct chat_end end)
{
    TRY(render_any(b, template, chat, end));
    return builder_flush(b);
}
