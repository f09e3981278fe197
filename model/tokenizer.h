/* Owns text <-> token ids: tokenizer.json of byte-level BPE models (model.md 13) on PCRE2, and the
 * BOS rule of tokenizer_config.json. */
#ifndef HONE_MODEL_TOKENIZER_H
#define HONE_MODEL_TOKENIZER_H

#include "base/hash.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* Reads DIR/tokenizer.json (required) and DIR/tokenizer_config.json (optional). Errors: IO (names
 * the file), BAD_FORMAT (what is wrong), UNSUPPORTED (a component this build does not have, named).
 */
MUST_CHECK enum status tokenizer_load(const char *dir, struct tokenizer **out);
void tokenizer_destroy(struct tokenizer *tokenizer);

size_t tokenizer_vocab_size(const struct tokenizer *tokenizer); /* one past the last id */
bool tokenizer_adds_bos(
    const struct tokenizer *tokenizer); /* tokenizer_config.json: add_bos_token */
int32_t tokenizer_id(const struct tokenizer *tokenizer,
                     const char *token); /* by content (bos, "<think>"...), -1: none */
int32_t tokenizer_bos(const struct tokenizer *tokenizer); /* tokenizer_config.json, -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id); /* special = true */
struct digest256
tokenizer_digest(const struct tokenizer *tokenizer); /* of tokenizer.json's bytes */

/* The chat template of DIR, compiled, or NULL when it has none, has one known by name, or has one
 * that does not compile (chat_template_choose says why). Borrowed. */
struct jinja;
const struct jinja *tokenizer_chat_template(const struct tokenizer *tokenizer);
/* Takes a compiled template in the place of the folder's; before the tokenizer is shared. */
void tokenizer_adopt_chat_template(struct tokenizer *tokenizer, struct jinja *program);
/* Content of a token, "" with n 0 for an unknown id. Borrowed. */
const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id, size_t *n);

struct token_list {
    int32_t *ids;
    size_t count;
    size_t n_dropped; /* characters without any token (possible only in tiny vocabularies) */
};
/* parse_special: added tokens in the text become their ids; else they are plain text (injection
 * safety). No BOS is added. Caller disposes *out with token_list_dispose. */
MUST_CHECK enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text,
                                        size_t n, bool parse_special, struct token_list *out);
/* The same with a choice. add_special: what the file's post-processor puts around a text.
 * is_continued: the text follows other text or tokens, which matters to tokenizers that mark the
 * first word only. */
struct encode_options {
    bool parse_special, add_special, is_continued;
    /* NULL, or (n) for valid UTF-8: with parse_special, added tokens are seen only where every byte
     * is marked (after a normalizer only those that are searched before it) */
    const unsigned char *marks;
};
MUST_CHECK enum status tokenizer_encode_with(const struct tokenizer *tokenizer, const char *text,
                                             size_t n, struct encode_options options,
                                             struct token_list *out);
void token_list_dispose(struct token_list *list);
/* Text of ids (unknown ids contribute nothing). skip_special drops tokens with special = true. raw
 * bytes: invalid UTF-8 is kept (`repair` false) or becomes U+FFFD, one per maximal subpart (true).
 * Caller frees *out with memory_free. */
MUST_CHECK enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids,
                                        size_t count, bool skip_special, bool repair, char **out,
                                        size_t *n_out);

#endif
