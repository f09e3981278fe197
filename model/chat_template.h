/* Owns the way from a dataset row's prompt to the policy's prompt ids: chat template, BOS,
 * injection safety (data-and-ui.md 2). Text from data never yields added tokens unless
 * parse_special; only the template's own markers do. */
#ifndef HONE_MODEL_CHAT_TEMPLATE_H
#define HONE_MODEL_CHAT_TEMPLATE_H

#include "base/json.h"
#include "base/status.h"
#include "model/tokenizer.h"

enum chat_template {
    /* the text itself, BOS in front when the tokenizer adds one; several messages are joined by an
     * empty line */
    CHAT_TEMPLATE_RAW,
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

/* name: "raw", "deepseek-v3" ... (chat_template_choose.c has the list), or "auto": by digest of
 * DIR's chat template; a folder without a template is raw. Errors: BAD_CONFIG for an unknown name,
 * UNSUPPORTED for a template that is not known here (says which names can be set). */
MUST_CHECK enum status chat_template_choose(const char *name, const char *dir,
                                            enum chat_template *out);

/* DIR's template if it is not one known by name, else NULL. Caller destroys *out. Errors: IO,
 * BAD_FORMAT with line:column. */
struct jinja;
MUST_CHECK enum status chat_template_compile(const char *dir, struct jinja **out);

struct chat_prompt {
    char *text; /* rendered, special tokens spelled out; NUL-terminated */
    size_t text_bytes;
    struct token_list ids;
};
/* prompt: a JSON string (one user turn) or a list of {role, content}. A last message of the
 * assistant is a prefill: it stays open; otherwise the generation prompt follows. system_prompt may
 * be "" or NULL and gives way to a system message of the list. Caller disposes *out. Errors:
 * BAD_FORMAT (wrong shape, empty), BAD_CONFIG (the tokenizer lacks a marker of the template, which
 * is named), UNSUPPORTED (tool calls). */
MUST_CHECK enum status chat_encode(const struct tokenizer *tokenizer, enum chat_template chat,
                                   const struct json *prompt, const char *system_prompt,
                                   bool parse_special, struct chat_prompt *out);
/* The same as closed text: every assistant turn ends, empty texts are allowed, and the generation
 * prompt comes only if asked for. tokenizer is needed for BOS of "raw". Caller disposes *out. */
MUST_CHECK enum status chat_encode_closed(const struct tokenizer *tokenizer,
                                          enum chat_template chat, const struct json *prompt,
                                          bool add_generation_prompt, struct chat_prompt *out);
void chat_prompt_dispose(struct chat_prompt *prompt);

#endif
