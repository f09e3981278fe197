/* Owns what the files of chat templates share: messages, the builder, and the renderers.
 * Nothing outside model/chat_template*.c includes it. */
#ifndef HONE_MODEL_CHAT_TEMPLATE_INTERNAL_H
#define HONE_MODEL_CHAT_TEMPLATE_INTERNAL_H

#include "base/text_buffer.h"
#include "model/bpe.h"
#include "model/chat_template.h"

#include <stdbool.h>
#include <stddef.h>

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };
struct chat_text {
    const char *text; /* borrowed; NULL: none */
    size_t n;
};
struct chat_message {
    enum chat_role role;
    struct chat_text content;      /* none only with tool calls */
    struct chat_text reasoning;    /* "reasoning_content" */
    const struct json *tool_calls; /* a list, or NULL */
    bool is_prefix;                /* "prefix": the answer goes on from here */
};
struct chat {
    struct chat_message *messages;
    size_t count;
    const struct json *tools; /* definitions; NULL: none */
    bool thinks;              /* of templates that can do both */
};
/* What follows the last message. */
struct chat_end {
    bool is_open;         /* a last assistant message does not end: the policy continues it */
    bool asks_for_answer; /* the generation prompt follows */
};

/* --- Texts (chat_template_text.c) --- */

/* Where `part` first (or last) stands in text, NULL if nowhere. */
const char *chat_find(struct chat_text text, const char *part, bool wants_last);
/* What follows `part`, or all of text without it. */
struct chat_text chat_text_after(struct chat_text text, const char *part, bool wants_last);
struct chat_text chat_without_newlines(struct chat_text text, bool at_start, bool at_end);
/* The trim of templates: White_Space and the four separators U+001C..1F. */
struct chat_text chat_trimmed(struct chat_text text);
/* A text of JSON, none if it is something else. */
struct chat_text chat_text_of(const struct json *value);
bool chat_is_last(const struct chat *chat, size_t index);

/* --- The builder (chat_template_builder.c) --- */

/* A prompt is built as pieces that are either a marker of the template, which is its one id, or
 * text, which is encoded on its own: so text never yields a marker, and the whole equals what
 * encoding the rendered text would give. */
struct builder {
    const struct tokenizer *tokenizer;
    bool parse_special;
    struct text_buffer text;
    size_t encoded;       /* text[0 .. encoded) is in ids */
    bool is_at_beginning; /* what is encoded next counts as the beginning of a text */
    struct id_buffer ids;
};
/* Encodes the text since the last marker. */
MUST_CHECK enum status builder_flush(struct builder *b);
/* Errors: BAD_CONFIG when the tokenizer has no such token. */
MUST_CHECK enum status builder_marker(struct builder *b, const char *marker);
/* The same where a tokenizer may lack the token: then it is text. */
MUST_CHECK enum status builder_soft_marker(struct builder *b, const char *marker);
MUST_CHECK enum status builder_id(struct builder *b, int32_t id);
MUST_CHECK enum status builder_text(struct builder *b, struct chat_text text);
MUST_CHECK enum status builder_line(struct builder *b, const char *text); /* up to its NUL */
MUST_CHECK enum status builder_json(struct builder *b, const struct json *value); /* as tojson */

/* --- The templates --- */

MUST_CHECK enum status chat_render(struct builder *b, enum chat_template template,
                                   const struct chat *chat, struct chat_end end);
/* chat_template_deepseek.c; false: none of DeepSeek's. */
bool chat_is_deepseek(enum chat_template template);
MUST_CHECK enum status chat_render_deepseek(struct builder *b, enum chat_template template,
                                            const struct chat *chat, struct chat_end end);
/* chat_template_qwen.c */
MUST_CHECK enum status chat_render_chatml(struct builder *b, const struct chat *chat,
                                          struct chat_end end);
MUST_CHECK enum status chat_render_qwen3(struct builder *b, const struct chat *chat,
                                         struct chat_end end);

/* --- The folder's own template (chat_template_jinja.c) --- */

MUST_CHECK enum status chat_encode_jinja(const struct tokenizer *tokenizer,
                                         const struct json *prompt,
                                         const struct chat_options *options,
                                         struct chat_prompt *out);

#endif
