/* Owns DeepSeek's chat templates. From V3 on they differ in when the assistant's marker comes, in
 * what becomes of thoughts in earlier answers, in the generation prompt and in how tool calls are
 * written; a row of `styles` says which is which. Oddities of the published templates are kept: a
 * model was trained with them. */
#include "model/chat_template_internal.h"

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"
#define THINK "<think>"
#define THINK_END "</think>"
#define CALLS_BEGIN "<｜tool▁calls▁begin｜>"
#define CALLS_END "<｜tool▁calls▁end｜>"
#define CALL_BEGIN "<｜tool▁call▁begin｜>"
#define CALL_END "<｜tool▁call▁end｜>"
#define OUTPUTS_BEGIN "<｜tool▁outputs▁begin｜>"
#define OUTPUTS_END "<｜tool▁outputs▁end｜>"
#define OUTPUT_BEGIN "<｜tool▁output▁begin｜>"
#define OUTPUT_END "<｜tool▁output▁end｜>"
#define TOOL_SEP "<｜tool▁sep｜>"

enum systems { SYSTEMS_ALL, SYSTEMS_LAST };
enum marker_place { MARKER_BEFORE_ANSWER, MARKER_AFTER_USER, MARKER_THINKS };
enum thoughts { THOUGHTS_KEPT, THOUGHTS_CUT_AT_LAST, THOUGHTS_CUT_AT_FIRST };
enum tools {
    TOOLS_REFUSED,
    TOOLS_V3, /* the row of calls is closed by its second call, and again by each that follows */
    TOOLS_R1,
    TOOLS_V3_1
};
struct deepseek_style {
    enum systems
        systems; /* which system messages count; all of them come first, wherever they are */
    enum marker_place place;
    enum thoughts thoughts;
    bool opens_thought; /* the generation prompt begins a thought ... */
    bool has_newline;   /* ... and a line */
    enum tools tools;
};

static const struct deepseek_style v3_style = {.tools = TOOLS_V3};
static const struct deepseek_style v3_0324_style = {.place = MARKER_AFTER_USER};
static const struct deepseek_style r1_style = {.thoughts = THOUGHTS_CUT_AT_LAST,
                                               .opens_thought = true,
                                               .has_newline = true,
                                               .tools = TOOLS_R1};
static const struct deepseek_style r1_first_style = {.thoughts = THOUGHTS_CUT_AT_LAST};
static const struct deepseek_style r1_0528_style = {.place = MARKER_AFTER_USER,
                                                    .thoughts = THOUGHTS_CUT_AT_LAST};
static const struct deepseek_style r1_distill_style = {.systems = SYSTEMS_LAST,
                                                       .thoughts = THOUGHTS_CUT_AT_LAST,
                                                       .opens_thought = true,
                                                       .has_newline = true};
static const struct deepseek_style v3_1_style = {
    .place = MARKER_THINKS, .thoughts = THOUGHTS_CUT_AT_FIRST, .tools = TOOLS_V3_1};
static const struct deepseek_style v3_1_thinking_style = {.place = MARKER_THINKS,
                                                          .thoughts = THOUGHTS_CUT_AT_FIRST,
                                                          .opens_thought = true,
                                                          .tools = TOOLS_V3_1};

/* What a template remembers from message to message. */
struct progress {
    struct builder *b;
    const struct deepseek_style *style;
    bool follows_user;   /* the last message was the user's */
    bool has_calls;      /* a row of calls has begun */
    bool follows_output; /* the last message was a tool's */
    bool has_outputs;    /* a row of outputs has begun */
};

/* --- Systems --- */

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
        TRY(builder_text(b, last));
        is_first = false;
    }
    return systems == SYSTEMS_LAST ? builder_text(b, last) : STATUS_OK;
}

/* --- Tools --- */

/* The assistant's marker of a turn that follows the user's, or none. */
static enum status render_answer_marker(const struct progress *p, bool goes_on)
{
    const struct deepseek_style *style = p->style;

    if (style->place == MARKER_BEFORE_ANSWER) {
        return builder_marker(p->b, p->follows_output ? OUTPUTS_END : ASSISTANT);
    }
    if (style->place == MARKER_AFTER_USER || !p->follows_user) {
        return STATUS_OK;
    }
    TRY(builder_marker(p->b, ASSISTANT));
    return builder_soft_marker(p->b, goes_on && style->opens_thought ? THINK : THINK_END);
}

static enum status render_markers(struct builder *b, const char *first, const char *second)
{
    TRY(builder_marker(b, first));
    return builder_marker(b, second);
}

/* The texts of a call of {type, function: {name, arguments}}; type may be missing if not needed. */
struct call_texts {
    struct chat_text type, name, arguments;
};
static enum status read_call(const struct json *call, bool needs_type, struct call_texts *out)
{
    const struct json *function = json_get(call, "function");

    out->type = chat_text_of(json_get(call, "type"));
    out->name = chat_text_of(json_get(function, "name"));
    out->arguments = chat_text_of(json_get(function, "arguments"));
    if (out->name.text == NULL || out->arguments.text == NULL ||
        (needs_type && out->type.text == NULL)) {
        return status_set(STATUS_BAD_FORMAT, "a tool call is not {type, function: {name, "
                                             "arguments}} of texts");
    }
    return STATUS_OK;
}

/* One call, behind the marker that begins it. */
static enum status render_call(struct builder *b, enum tools tools, const struct json *call)
{
    const bool is_plain = tools == TOOLS_V3_1;
    struct call_texts texts;

    TRY(read_call(call, !is_plain, &texts));
    TRY(builder_text(b, is_plain ? texts.name : texts.type));
    TRY(builder_marker(b, TOOL_SEP));
    if (!is_plain) {
        TRY(builder_text(b, texts.name));
        TRY(builder_line(b, "\n```json\n"));
    }
    TRY(builder_text(b, texts.arguments));
    TRY(builder_line(b, is_plain ? "" : "\n```"));
    return builder_marker(b, CALL_END);
}

/* What stands before the first call of a row. */
static enum status begin_calls(struct progress *p, const struct chat_message *message)
{
    if (p->style->tools != TOOLS_V3_1) {
        TRY(builder_marker(p->b, ASSISTANT));
    }
    if (message->content.text != NULL) {
        TRY(builder_text(p->b, message->content));
    }
    p->has_calls = true;
    return render_markers(p->b, CALLS_BEGIN, CALL_BEGIN);
}

/* One call with what stands around it. */
static enum status render_next_call(struct progress *p, const struct chat_message *message,
                                    const struct json *call)
{
    const enum tools tools = p->style->tools;
    const bool is_first = !p->has_calls;

    if (is_first) {
        TRY(begin_calls(p, message));
    } else {
        TRY(builder_line(p->b, tools == TOOLS_V3_1 ? "" : "\n"));
        TRY(builder_marker(p->b, CALL_BEGIN));
    }
    TRY(render_call(p->b, tools, call));
    return tools == TOOLS_V3 && !is_first ? render_markers(p->b, CALLS_END, EOS) : STATUS_OK;
}

static enum status render_calls(struct progress *p, const struct chat_message *message)
{
    const enum tools tools = p->style->tools;

    if (tools == TOOLS_V3_1) {
        TRY(render_answer_marker(p, false));
        p->has_calls = false;
    }
    p->follows_user = false;
    p->follows_output = false;
    for (size_t i = 0; i < json_count(message->tool_calls); i++) {
        TRY(render_next_call(p, message, json_at(message->tool_calls, i)));
    }
    return tools == TOOLS_V3 ? STATUS_OK : render_markers(p->b, CALLS_END, EOS);
}

static enum status render_output(struct progress *p, const struct chat_message *message)
{
    if (p->style->tools != TOOLS_V3_1) {
        TRY(p->has_outputs ? builder_line(p->b, p->style->tools == TOOLS_V3 ? "\n" : "")
                           : builder_marker(p->b, OUTPUTS_BEGIN));
    }
    TRY(builder_marker(p->b, OUTPUT_BEGIN));
    TRY(builder_text(p->b, message->content));
    p->has_outputs = true;
    p->follows_output = true;
    p->follows_user = false;
    return builder_marker(p->b, OUTPUT_END);
}

/* --- Turns --- */

static enum status render_answer(struct progress *p, const struct chat_message *message,
                                 bool is_open)
{
    const enum thoughts thoughts = p->style->thoughts;
    struct chat_text text = message->content;

    TRY(render_answer_marker(p, message->is_prefix || is_open));
    if (thoughts != THOUGHTS_KEPT && !is_open && !p->follows_output) {
        text = chat_text_after(text, THINK_END, thoughts == THOUGHTS_CUT_AT_LAST);
    }
    p->follows_output = false;
    p->follows_user = false;
    TRY(builder_text(p->b, text));
    return is_open ? STATUS_OK : builder_marker(p->b, EOS);
}

static enum status render_user(struct progress *p, const struct chat_message *message)
{
    p->follows_user = true;
    p->follows_output = false;
    TRY(builder_marker(p->b, USER));
    TRY(builder_text(p->b, message->content));
    return p->style->place == MARKER_AFTER_USER ? builder_marker(p->b, ASSISTANT) : STATUS_OK;
}

static enum status render_message(struct progress *p, const struct chat_message *message,
                                  bool is_open)
{
    /* V3 looks at the calls of a message without a text only */
    const bool has_calls = message->tool_calls != NULL &&
                           (p->style->tools != TOOLS_V3 || message->content.text == NULL);

    switch (message->role) {
    case CHAT_USER:
        return render_user(p, message);
    case CHAT_TOOL:
        return render_output(p, message);
    case CHAT_ASSISTANT:
        return has_calls ? render_calls(p, message) : render_answer(p, message, is_open);
    case CHAT_SYSTEM:
        break;
    }
    return STATUS_OK;
}

static enum status render_question(const struct progress *p)
{
    const struct deepseek_style *style = p->style;
    const bool has_marker = style->place == MARKER_AFTER_USER && p->follows_user;

    if (style->place == MARKER_THINKS) {
        return p->follows_user ? render_answer_marker(p, true) : STATUS_OK;
    }
    if (p->follows_output) {
        return STATUS_OK;
    }
    if (!has_marker) {
        TRY(builder_marker(p->b, ASSISTANT));
    }
    if (style->opens_thought) {
        TRY(builder_soft_marker(p->b, THINK));
    }
    return builder_line(p->b, style->has_newline ? "\n" : "");
}

static enum status check_tools(const struct deepseek_style *style, const struct chat *chat)
{
    if (chat->tools != NULL) {
        return status_set(STATUS_UNSUPPORTED, "this chat template has no place for definitions of "
                                              "tools; they can stand in the system message");
    }
    for (size_t i = 0; i < chat->count && style->tools == TOOLS_REFUSED; i++) {
        if (chat->messages[i].role == CHAT_TOOL || chat->messages[i].tool_calls != NULL) {
            return status_set(STATUS_UNSUPPORTED,
                              "message %zu: this chat template is known without tools", i);
        }
    }
    return STATUS_OK;
}

static enum status render_styled(struct builder *b, const struct deepseek_style *style,
                                 const struct chat *chat, struct chat_end end)
{
    struct progress p = {.b = b, .style = style};

    TRY(check_tools(style, chat));
    TRY(builder_marker(b, BOS));
    TRY(render_systems(b, chat, style->systems));
    for (size_t i = 0; i < chat->count; i++) {
        TRY(render_message(&p, &chat->messages[i], end.is_open && chat_is_last(chat, i)));
    }
    if (p.follows_output && style->place == MARKER_BEFORE_ANSWER) {
        TRY(builder_marker(b, OUTPUTS_END));
    }
    return end.asks_for_answer ? render_question(&p) : STATUS_OK;
}

/* --- V2: words for markers --- */

static enum status render_v2_message(struct builder *b, const struct chat_message *message,
                                     bool is_open)
{
    if (message->role == CHAT_ASSISTANT) {
        TRY(builder_line(b, "Assistant: "));
        TRY(builder_text(b, message->content));
        return is_open ? STATUS_OK : builder_marker(b, EOS);
    }
    TRY(builder_line(b, message->role == CHAT_USER ? "User: " : ""));
    TRY(builder_text(b, message->content));
    return builder_line(b, "\n\n");
}

static enum status render_v2(struct builder *b, const struct chat *chat, struct chat_end end)
{
    static const struct deepseek_style style = {0};

    TRY(check_tools(&style, chat));
    TRY(builder_marker(b, BOS));
    for (size_t i = 0; i < chat->count; i++) {
        TRY(render_v2_message(b, &chat->messages[i], end.is_open && chat_is_last(chat, i)));
    }
    return builder_line(b, end.asks_for_answer ? "Assistant:" : "");
}

/* --- All of them --- */

/* NULL: none of these. */
static const struct deepseek_style *style_of(enum chat_template template, bool thinks)
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
    const size_t index = (size_t) template;
    const struct deepseek_style *style =
        index < sizeof(styles) / sizeof(styles[0]) ? styles[index] : NULL;

    if (style == &v3_1_style || style == &v3_1_thinking_style) {
        return thinks ? &v3_1_thinking_style : &v3_1_style;
    }
    return style;
}

bool chat_is_deepseek(enum chat_template template)
{
    return template == CHAT_TEMPLATE_DEEPSEEK_V2 || style_of(template, false) != NULL;
}

enum status chat_render_deepseek(struct builder *b, enum chat_template template,
                                 const struct chat *chat, struct chat_end end)
{
    if (template == CHAT_TEMPLATE_DEEPSEEK_V2) {
        return render_v2(b, chat, end);
    }
    return render_styled(b, style_of(template, chat->thinks), chat, end);
}
