/* Owns regular expressions of pre-tokenizers: patterns written for Oniguruma (Ruby syntax), run by
 * PCRE2. Where the two differ the pattern is rewritten or refused, never run with another meaning.
 */
#ifndef HONE_MODEL_TOKENIZER_REGEX_H
#define HONE_MODEL_TOKENIZER_REGEX_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct tokenizer_regex; /* compiled; shared by threads */
struct regex_matcher;   /* the working memory of one thread */

/* is_literal: the text itself. Errors: UNSUPPORTED (a construct that PCRE2 would read otherwise, or
 * cannot compile: named), NO_MEMORY. */
MUST_CHECK enum status tokenizer_regex_create(const char *pattern, size_t n, bool is_literal,
                                              struct tokenizer_regex **out);
void tokenizer_regex_destroy(struct tokenizer_regex *regex);

MUST_CHECK enum status regex_matcher_create(struct regex_matcher **out);
void regex_matcher_destroy(struct regex_matcher *matcher);

struct regex_hit {
    bool is_found;
    size_t start, end;
};
/* The first match in valid UTF-8 text[0..n) that begins at `from` or later. Look-around sees
 * text[0..n) and nothing else. Errors: BAD_FORMAT when the match limits are hit. */
MUST_CHECK enum status tokenizer_regex_next(const struct tokenizer_regex *regex,
                                            struct regex_matcher *matcher, const char *text,
                                            size_t n, size_t from, struct regex_hit *hit);

#endif
