/* Owns what the files of chat templates share: messages, the builder, and the renderers' table.
 * Nothing outside model/chat_template*.c includes it. */
#ifndef HONE_MODEL_CHAT_TEMPLATE_INTERNAL_H
#define HONE_MODEL_CHAT_TEMPLATE_INTERNAL_H

#include "base/text_buffer.h"
#include "model/bpe.h"
#include "model/chat_template.h"

#include <stdbool.h>
#include <stddef.h>

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };
struct chat_text {
    const char *text; /* borrowed */
    size_t n;
};
struct chat_message {
    enum chat_role role;
    struct chat_text content;
    struct chat_text reasoning; /* "reasoning_content"; text NULL: none */
    bool is_prefix;             /* "prefix": the answer goes on from here */
};
struct chat {
    struct chat_message *messages;
    size_t count;
};
/* What follows the last message. */
struct chat_end {
    bool is_open;         /* a last assistant message does not end: the policy continues it */
    bool asks_for_answer; /* the generation prompt follows */
};

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
MUST_CHECK enum status builder_text(struct builder *b, const char *text, size_t n);
MUST_CHECK enum status builder_line(struct builder *b, const char *text); /* up to its NUL */

/* --- The templates (chat_template_render.c) --- */

MUST_CHECK enum status chat_render(struct builder *b, enum chat_template template,
                                   const struct chat *chat, struct chat_end end);

/* --- The folder's own template (chat_template_jinja.c) --- */

struct jinja_chat {
    const struct json *prompt;
    const char *system_prompt;
    bool parse_special;
    bool can_be_open;     /* a last answer stays open, else the generation prompt follows */
    bool asks_for_answer; /* without can_be_open */
};
MUST_CHECK enum status chat_encode_jinja(const struct tokenizer *tokenizer,
                                         const struct jinja_chat *chat, struct chat_prompt *out);

#endif
