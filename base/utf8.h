/* Owns the recognition of well-formed UTF-8; repairing is in json.h. */
#ifndef HONE_BASE_UTF8_H
#define HONE_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed sequence that begins at text (shortest form, no surrogates, at most
 * U+10FFFF), or 0 when there is none within n bytes. *code, if not NULL, gets the code point. */
size_t utf8_sequence(const char *text, size_t n, uint32_t *code);
/* Bytes that one U+FFFD stands for where utf8_sequence gave 0: the longest beginning of a sequence
 * that could still have become one, at least 1 (the Unicode standard's recommended practice). */
size_t utf8_broken(const char *text, size_t n);

#endif
