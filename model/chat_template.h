/* Owns the way from a dataset row's prompt to the policy's prompt ids: chat template, BOS,
 * injection safety (data-and-ui.md 2). Text from data never yields added tokens unless
 * parse_special; only the template's own markers do. */
#ifndef HONE_MODEL_CHAT_TEMPLATE_H
#define HONE_MODEL_CHAT_TEMPLATE_H

#include "base/json.h"
#include "base/status.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

enum chat_template {
    /* the text itself, BOS in front when the tokenizer adds one; several messages are joined by an
     * empty line */
    CHAT_TEMPLATE_RAW,
    CHAT_TEMPLATE_DEEPSEEK_V2,
    CHAT_TEMPLATE_DEEPSEEK_V3, /* model.md 13.4 */
    CHAT_TEMPLATE_DEEPSEEK_V3_0324,
    CHAT_TEMPLATE_DEEPSEEK_V3_1, /* answers at once; THINKING: thinks first */
    CHAT_TEMPLATE_DEEPSEEK_V3_1_THINKING,
    CHAT_TEMPLATE_DEEPSEEK_R1,
    CHAT_TEMPLATE_DEEPSEEK_R1_FIRST, /* before the generation prompt had <think> */
    CHAT_TEMPLATE_DEEPSEEK_R1_0528,
    CHAT_TEMPLATE_DEEPSEEK_R1_DISTILL,
    CHAT_TEMPLATE_CHATML,
    CHAT_TEMPLATE_LLAMA_3,
    CHAT_TEMPLATE_QWEN3,
    CHAT_TEMPLATE_JINJA,            /* the folder's own, interpreted: jinja.h */
    CHAT_TEMPLATE_QWEN3_NO_THINKING /* the generation prompt has an empty thought */
};

/* name: "raw", "deepseek-v3" ... (chat_template_choose.c has the list), a path that ends in
 * ".jinja", or "auto": by digest of DIR's chat template; a folder without a template is raw.
 * Errors: BAD_CONFIG for an unknown name, IO, UNSUPPORTED for a template that cannot be interpreted
 * (says where, and which names can be set). */
MUST_CHECK enum status chat_template_choose(const char *name, const char *dir,
                                            enum chat_template *out);
/* The same, and gives the tokenizer the template of a ".jinja" file to render with. */
MUST_CHECK enum status chat_template_open(const char *name, const char *dir,
                                          struct tokenizer *tokenizer, enum chat_template *out);

/* DIR's template if it is not one known by name, else NULL. Caller destroys *out. Errors: IO,
 * BAD_FORMAT with line:column. */
struct jinja;
MUST_CHECK enum status chat_template_compile(const char *dir, struct jinja **out);

struct chat_prompt {
    char *text; /* rendered, special tokens spelled out; NUL-terminated */
    size_t text_bytes;
    struct token_list ids;
};
struct chat_options {
    const char *system_prompt; /* "" or NULL: none; gives way to a system message of the list */
    const struct json *tools;  /* definitions of tools, a list; NULL or null: none */
    /* NULL, or an object of what else a template asks for, such as thinking or enable_thinking */
    const struct json *variables;
    bool parse_special;   /* the messages' texts may yield added tokens */
    bool is_closed;       /* every assistant turn ends, and empty texts are allowed ... */
    bool asks_for_answer; /* ... and then the generation prompt follows only if this says so */
};
/* prompt: a JSON string (one user turn) or a list of {role, content}, which may have tool_calls and
 * messages of the role "tool". A last message of the assistant without tool calls is a prefill: it
 * stays open; otherwise the generation prompt follows. Caller disposes *out. Errors: BAD_FORMAT
 * (wrong shape, empty, or refused by the template), BAD_CONFIG (the tokenizer lacks a marker of the
 * template, which is named), UNSUPPORTED (tools that the template does not have). */
MUST_CHECK enum status chat_encode_with(const struct tokenizer *tokenizer, enum chat_template chat,
                                        const struct json *prompt,
                                        const struct chat_options *options,
                                        struct chat_prompt *out);
/* With a system prompt and parse_special only. */
MUST_CHECK enum status chat_encode(const struct tokenizer *tokenizer, enum chat_template chat,
                                   const struct json *prompt, const char *system_prompt,
                                   bool parse_special, struct chat_prompt *out);
void chat_prompt_dispose(struct chat_prompt *prompt);

#endif
