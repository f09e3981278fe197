/* Owns what the tokenizer needs to know of text: the two character classes of added tokens, the
 * normal forms, lower case and marks (utf8proc). */
#ifndef HONE_MODEL_TOKENIZER_TEXT_H
#define HONE_MODEL_TOKENIZER_TEXT_H

#include "base/status.h"
#include "base/text_buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool text_is_utf8(const char *text, size_t n);

/* White_Space of Unicode, which is not what C or PCRE2 call space. */
bool code_point_is_space(uint32_t code_point);
/* Letters, marks, decimal digits, connector punctuation and joiners. */
bool code_point_is_word(uint32_t code_point);

/* Bytes of white space at the start or the end of valid UTF-8. */
size_t text_leading_space(const char *text, size_t n);
size_t text_trailing_space(const char *text, size_t n);
/* Whether the first or the last character of valid UTF-8 is a word character. */
bool text_starts_with_word(const char *text, size_t n);
bool text_ends_with_word(const char *text, size_t n);

enum text_form { TEXT_NFC, TEXT_NFD, TEXT_NFKC, TEXT_NFKD };
/* Each appends a form of text[0..n), valid UTF-8, to *out. Errors: NO_MEMORY. */
MUST_CHECK enum status text_normalize(enum text_form form, const char *text, size_t n,
                                      struct text_buffer *out);
/* Lower case, character by character, without context. */
MUST_CHECK enum status text_lower(const char *text, size_t n, struct text_buffer *out);
/* Without its marks (categories Mn, Mc, Me). */
MUST_CHECK enum status text_without_marks(const char *text, size_t n, struct text_buffer *out);

#endif
